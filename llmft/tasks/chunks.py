"""Chunks of documents that are too long to be read at once. A teacher reads a query's chunk instead of its document.

A chunk is named `<document>#<start>-<end>-<hash>`: its character range in the document, and eight hex digits of its text. So the
id gives its position no matter how the document was cut, and a later change of the document is detected.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from llmft.errors import InputError, quote
from llmft.tasks.texts import content_hash

ENDS = tuple(map(re.compile, (r"\n(?:[^\S\n]*\n)+", r"[.!?][\"')\]]*\s+|[。！？]\s*", r"\n", r"\s+")))
"""Preferred ends of a chunk, best first: of a paragraph, a sentence, a line, a word."""
PLACE = re.compile(r"(\d{1,12})-(\d{1,12})-([0-9a-f]{8})")
"""A chunk's place in its document, as written in files."""
WORD = r"(?u)\w+"


class Chunk(NamedTuple):
    """The characters `start` to `end` of a document."""

    document: str
    start: int
    end: int
    text: str

    @property
    def place(self) -> str:
        """Its place in the document."""
        return f"{self.start}-{self.end}-{content_hash(self.text)}"

    @property
    def id(self) -> str:
        """Its id, which serves as a document name."""
        return f"{self.document}#{self.place}"


def cut(document: str, text: str, length: Callable[[str], int], size: int, overlap: int) -> list[Chunk]:
    """The chunks of a document, in order. Each begins and ends at a paragraph, a sentence, a line or a word if possible. White
    space at the end of chunks is dropped; everything else in the document is in some chunk.

    Args:
        length: function that returns the number of tokens of a text.
        size: maximum tokens of a chunk; a single character with more is still a chunk.
        overlap: maximum tokens that a chunk shares with the previous one, less than half of `size`.
    """
    ends = [[match.end() for match in kind.finditer(text)] for kind in ENDS]
    chunks: list[Chunk] = []
    start, total = 0, len(text.rstrip())
    while start < total:
        stop, before = _furthest(text, start, length, size), chunks[-1].end if chunks else 0
        if stop < total:
            stop = _good_end(text, start, stop, ends, length, size, least=before)
        part = text[start:stop].rstrip()
        new = part and start + len(part) > before  # else it is white space, or contained in the previous chunk
        if new:
            chunks.append(Chunk(document, start, start + len(part), part))
        start = _good_start(text, start, stop, ends, length, overlap) if new and overlap and stop < total else stop
    return chunks


def _furthest(text: str, start: int, length: Callable[[str], int], size: int) -> int:
    """The furthest end of a text from `start` with at most `size` tokens."""
    reach = start + 4 * size
    while reach < len(text) and length(text[start:reach]) <= size:
        reach = start + 2 * (reach - start)
    stops = range(start + 1, min(reach, len(text)) + 1)
    return start + max(1, bisect_right(stops, size, key=lambda stop: length(text[start:stop])))


def _good_end(
    text: str, start: int, stop: int, ends: Sequence[list[int]], length: Callable[[str], int], size: int, *, least: int
) -> int:
    """The last good end up to `stop`, unless it would leave less than half of the text, or nothing after `least`."""
    for kind in ends:
        for end in reversed(kind[bisect_right(kind, max(least, (start + stop) // 2)) : bisect_right(kind, stop)]):
            if length(text[start:end].rstrip()) <= size:
                return end
    return stop


def _good_start(text: str, start: int, stop: int, ends: Sequence[list[int]], length: Callable[[str], int], overlap: int) -> int:
    """The first good start of a chunk that shares at most `overlap` tokens with the one from `start` to `stop`."""
    first = bisect_left(range(start + 1, stop), -overlap, key=lambda place: -length(text[place:stop].rstrip())) + start + 1
    for kind in ends:
        place = bisect_left(kind, first)
        if place < len(kind) and kind[place] < stop:
            return kind[place]
    return stop


def widened(chunk: Chunk, chunks: Sequence[Chunk], text: str, neighbours: int) -> Chunk:
    """The chunk extended by a number of neighbouring chunks before and after those that it shares text with.

    Args:
        chunks: all chunks of the document.
        text: the document's text.
    """
    if not neighbours:
        return chunk
    shared = [i for i, other in enumerate(chunks) if other.start < chunk.end and chunk.start < other.end]
    start = min(chunk.start, chunks[max(0, shared[0] - neighbours)].start)
    end = max(chunk.end, chunks[min(len(chunks) - 1, shared[-1] + neighbours)].end)
    return Chunk(chunk.document, start, end, text[start:end])


def read_chunk(document: str, text: str, place: object, where: str) -> Chunk:
    """The chunk of a document that a cell names.

    Args:
        where: flag and row, for the error.

    Raises:
        InputError: the cell is not a chunk's place, or the document's text there is different.
    """
    match = PLACE.fullmatch(place) if isinstance(place, str) else None
    if match is None:
        raise InputError(f"{where}: column chunk holds {quote(place)}, which is not a place in a document; drop the column")
    chunk = Chunk(document, int(match[1]), int(match[2]), text[int(match[1]) : int(match[2])])
    if chunk.place != place:
        raise InputError(
            f"{where}: chunk {place} of {document} does not match its text: the document has changed; write the queries again, "
            "or drop the column"
        )
    return chunk


def passages(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence of a text, without white space; of each paragraph if it has no sentences."""
    ends = {match.end() for kind in ENDS[:2] for match in kind.finditer(text)}
    spans = []
    for start, end in pairwise(sorted({0, len(text), *ends})):
        part = text[start:end]
        if part.strip():
            spans.append((end - len(part.lstrip()), start + len(part.rstrip())))
    return spans


def closest(texts: Sequence[str], queries: Sequence[str], allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """For each of M queries, which of N texts shares most words with it, rare words counting more (tf-idf, cosine): (M,), the
    first among equals; and their similarity, (M,), 0 if they share no words.

    Args:
        allowed: (M, N) which texts are allowed for a query; None for all.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=WORD, sublinear_tf=True)
    try:
        known = vectorizer.fit_transform(texts)
    except ValueError:  # there are no words at all
        return np.zeros(len(queries), int), np.zeros(len(queries))
    similarity = (vectorizer.transform(queries) @ known.T).toarray()
    if allowed is not None:
        similarity = np.where(allowed, similarity, -1.0)
    nearest = similarity.argmax(1)
    return nearest, similarity[np.arange(len(queries)), nearest]

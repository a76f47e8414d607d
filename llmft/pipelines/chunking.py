"""Documents that are too long are read in chunks; each row is asked about one of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llmft.evaluation.metrics.text_metric import set_apart
from llmft.runs.notes import say_note
from llmft.tasks.chunks import Chunk, closest, cut, read_chunk, widened
from llmft.tasks.texts import query_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmft.arguments.config import Config
    from llmft.pipelines.job import Job
    from llmft.tasks.schema import Row


class ChunkedDocuments:
    """Documents, each cut into chunks when it is first asked about.

    Args:
        documents: id -> text, which begins with the file's name if that is shown.
        length: gives the number of tokens in a text.
    """

    def __init__(self, config: Config, documents: Mapping[str, str], length: Callable[[str], int]) -> None:
        self.flags, self.documents, self.length = config.chunks, documents, length
        self._heads = {file.name: file.head for file in config.context.context_files}
        self._chunks: dict[str, list[Chunk]] = {}

    def chunks(self, document: str) -> list[Chunk]:
        """The chunks of a document in order; without --chunk_tokens the whole document is one chunk."""
        if document not in self._chunks:
            text, size = self.documents[document], self.flags.chunk_tokens
            if size is None:
                self._chunks[document] = [Chunk(document, 0, len(text), text)]
            else:
                head = self._heads.get(document)
                room = size - (self.length(head) if head else 0)  # each chunk will begin with it
                self._chunks[document] = cut(
                    document, text, self.length, max(room, 1), min(self.flags.overlap, max(room - 1, 0) // 2)
                )
        return self._chunks[document]

    def read_with(self, chunk: Chunk) -> tuple[str, str]:
        """Id and text of what is read for a query about a chunk: the chunk with its neighbours."""
        document = chunk.document
        wide = widened(chunk, self.chunks(document), self.documents[document], self.flags.chunk_neighbours)
        return wide.id, (self._heads.get(document, "") if wide.start else "") + wide.text  # the text itself begins with the name

    def named(self, row: Row, where: str) -> Chunk | None:
        """The chunk that a row names; None if it names none.

        Raises:
            InputError: it is not in the row's document.
        """
        if row.get("chunk") is None:
            return None
        return read_chunk(row["document"], self.documents[row["document"]], row["chunk"], f"{where}: row with idx {row['idx']}")

    def nearest(self, rows: Sequence[Row]) -> tuple[list[Chunk], int]:
        """For each row the chunk of its document that shares the most rare words with its question, out of those that contain an
        accepted answer in whole words, if any do; and how many rows share no word with theirs."""
        chunks: dict[int, Chunk] = {}
        strangers = 0
        for document in dict.fromkeys(row["document"] for row in rows):
            places = [place for place, row in enumerate(rows) if row["document"] == document]
            asked, candidates = [rows[place] for place in places], self.chunks(document)
            texts = [chunk.text for chunk in candidates]
            plain, answers = [*map(_plain, texts)], [_whole_words(row.get("answer") or ()) for row in asked]
            holds = np.array([[bool(answer and answer.search(text)) for text in plain] for answer in answers])
            nearest, similarity = closest(texts, [*map(query_text, asked)], holds | ~holds.any(1, keepdims=True))
            chunks |= {place: candidates[number] for place, number in zip(places, nearest, strict=True)}
            strangers += int((similarity <= 0).sum())
        return [chunks[place] for place in range(len(rows))], strangers


def _plain(text: str) -> str:
    """The text without case, with single spaces between words."""
    return " ".join(set_apart(text).casefold().split())


def _whole_words(answers: Iterable[str]) -> re.Pattern[str] | None:
    """What finds any of these answers in a plain text where it is not part of a longer word or number; None if all are empty."""
    plain = [re.escape(answer) for answer in map(_plain, answers) if answer]
    return re.compile(rf"(?<!\w)({'|'.join(plain)})(?!\w)") if plain else None


def about_chunks(job: Job, tokenizer: PreTrainedTokenizerBase, queries: Sequence[Row]) -> list[Row]:
    """If documents are cut into chunks, give each query and evaluation row (`job.eval_sets`) a chunk: `document` becomes the id
    of what is read, `chunk` its place; these texts join the job's documents. Returns the queries.

    Raises:
        InputError: a row names a chunk that is not in its document.
    """
    if not job.config.cuts:
        return [*queries]
    files = {
        "--query_file": job.config.distillation and job.config.distillation.query_file,
        "--train_file": job.config.data.train_file,
    }
    asked = next((f"{flag} {file}" for flag, file in files.items() if file is not None), "training rows")
    sets = {asked: [*queries], **job.eval_sets}
    chunked = ChunkedDocuments(job.config, job.data.documents, lambda text: token_count(tokenizer, text))
    named = {of: [chunked.named(row, of) for row in rows] for of, rows in sets.items()}
    unnamed = [(of, place) for of, chunks in named.items() for place, chunk in enumerate(chunks) if chunk is None]
    nearest, strangers = chunked.nearest([sets[of][place] for of, place in unnamed])
    for (of, place), chunk in zip(unnamed, nearest, strict=True):
        named[of][place] = chunk
    texts = {}
    for of, rows in sets.items():
        for place, (row, chunk) in enumerate(zip(rows, named[of], strict=True)):
            name, text = chunked.read_with(chunk)
            texts[name], rows[place] = text, {**row, "document": name, "chunk": chunk.place}
    job.data = replace(job.data, documents={**job.data.documents, **texts})
    job.eval_sets = {of: rows for of, rows in sets.items() if of in job.eval_sets}
    say_chunks(len(texts), sum(map(len, sets.values())), len(unnamed), strangers)
    return sets[asked]


def token_count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The number of tokens of a text within another."""
    return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def say_chunks(number: int, rows: int, unnamed: int, strangers: int) -> None:
    """Say on stderr how rows got their chunks."""
    say_note(f"{rows} rows are asked about {number} chunks of documents")
    if unnamed:
        lost = f"; {strangers} of them share no word with their chunk" if strangers else ""
        say_note(f"{unnamed} of them name no chunk and get the one that fits their question and answer best{lost}")

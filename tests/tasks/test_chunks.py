"""Documents cut into chunks: nothing is lost, and a chunk is known by where it stands and what it says."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.tasks.chunks import closest, cut, passages, read_chunk, widened

TEXT = st.text(alphabet="ab .!\n\t✓。", max_size=120)


def tokens_of(text):
    """As tokenizers do: a word with the space in front of it is one, else a character."""
    return len(re.findall(r" ?[ab]+|.", text, re.DOTALL))


@given(TEXT, st.integers(3, 30), st.integers(0, 12))
@example("a" * 120, 3, 1)
@example(" ", 8, 0)
def test_chunks_hold_all_of_a_document_and_no_more_tokens_than_asked_for(text, size, overlap):
    overlap = min(overlap, (size - 1) // 2)
    chunks = cut("d", text, tokens_of, size, overlap)
    assert all(chunk.text == text[chunk.start : chunk.end] and chunk.text for chunk in chunks)
    assert all(tokens_of(chunk.text) <= size or len(chunk.text) == 1 for chunk in chunks)
    covered = np.zeros(len(text), bool)
    for chunk in chunks:
        covered[chunk.start : chunk.end] = True
    assert not text or all(letter.isspace() for letter, there in zip(text, covered, strict=True) if not there)
    for one, other in pairwise(chunks):
        assert one.start < other.start and one.end < other.end
        assert tokens_of(text[other.start : one.end]) <= overlap
    for chunk in chunks:
        assert read_chunk("d", text, chunk.place, "--query_file q") == chunk


@given(TEXT, st.integers(3, 12), st.integers(0, 3))
def test_neighbours_stand_beside_a_chunk(text, size, neighbours):
    chunks = cut("d", text, tokens_of, size, 0)
    for i, chunk in enumerate(chunks):
        wide = widened(chunk, chunks, text, neighbours)
        assert (wide.start, wide.end) == (
            chunks[max(0, i - neighbours)].start,
            chunks[min(len(chunks) - 1, i + neighbours)].end,
        )
        assert wide.text == text[wide.start : wide.end]


def test_chunks_end_where_the_text_does():
    text = "One two three. Four five six.\n\nSeven eight nine ten. Eleven twelve thirteen fourteen."
    assert [chunk.text for chunk in cut("d", text, tokens_of, 40, 0)] == [
        "One two three. Four five six.",
        "Seven eight nine ten.",
        "Eleven twelve thirteen fourteen.",
    ]
    first, second, *_ = cut("d", text, tokens_of, 40, 19)
    assert (first.text, second.text) == ("One two three. Four five six.", "Four five six.\n\nSeven eight nine ten.")
    assert [text[start:end] for start, end in passages(text)][1:3] == ["Four five six.", "Seven eight nine ten."]
    assert first.id == f"d#{first.place}" and first.place.startswith("0-29-")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (7, "column chunk holds 7, which is not a place in a document"),
        ("0-3", "not a place in a document"),
        ("0-3-00000000", "chunk 0-3-00000000 of d does not match its text: the document has changed"),
        ("0-99-00000000", "does not match its text"),
    ],
)
def test_a_chunk_of_another_text_is_refused(place, says):
    with pytest.raises(InputError, match=says):
        read_chunk("d", "One two.", place, "--query_file q: row 1")


def test_a_query_is_of_the_text_that_it_shares_rare_words_with():
    texts = ["The mill of Ada is old.", "The mill of Bob is old.", "The inn is new."]
    nearest, similarity = closest(texts, ["Is the mill of Bob old?", "the inn", "xyz"])
    assert nearest.tolist() == [1, 2, 0] and similarity[2] == 0 < similarity[:2].min()
    allowed = np.array([[True, False, True]])
    assert closest(texts, ["Is the mill of Bob old?"], allowed)[0].tolist() == [0]
    assert closest(["...", "!"], ["a"])[1].tolist() == [0]

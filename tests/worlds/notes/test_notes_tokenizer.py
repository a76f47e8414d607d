"""The tokenizer: whole words, the space before an answer, prefix and suffix apart, and its life as an ordinary file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmft.worlds.notes.tokenizer import BOS, EOS, ID, PAD, POSITIONS, VOCABULARY, build_notes_tokenizer, split_words
from llmft.worlds.notes.world import PATTERN, SEPARATOR, notes_documents, notes_splits


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    build_notes_tokenizer().save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def test_special_tokens(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD, BOS, EOS) == (0, 1, 2)
    assert len(set(VOCABULARY)) == len(VOCABULARY) == len(tokenizer) and tokenizer.model_max_length == POSITIONS
    assert tokenizer(" Zanzibar", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY[4:]), max_size=30))
def test_round_trip(tokenizer, words):
    text = " ".join(words)
    ids = tokenizer(text)["input_ids"]
    assert ids == [BOS, *(ID[word] for word in words)]
    assert split_words(tokenizer.decode(ids, skip_special_tokens=True)) == words


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_all_of_the_world_is_in_the_vocabulary_and_comes_in_parts(tokenizer, seed):
    (document,) = notes_documents(None, seed).values()
    assert tokenizer.decode(tokenizer(document)["input_ids"], skip_special_tokens=True) == document
    for rows in notes_splits(None, seed).values():
        for row in rows[::5]:
            query, answer = PATTERN.format(**row), " " + row["answer"]
            whole = tokenizer(document + SEPARATOR + query + answer)["input_ids"]
            parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (document + SEPARATOR, query, answer)]
            assert whole == [BOS, *parts[0], *parts[1], *parts[2]] and tokenizer.unk_token_id not in whole
            assert len(whole) + 8 <= POSITIONS
            assert tokenizer.decode(parts[2]) == row["answer"] and tokenizer.decode(parts[1]) == query

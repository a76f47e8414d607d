"""The tokenizer: whole words, the space before a label, the blank line, and its life as an ordinary file."""

import random
from itertools import islice

import pytest
from transformers import AutoTokenizer

from llmft.worlds.nli import grammar
from llmft.worlds.nli.tokenizer import BOS, ID, VOCABULARY, build_tokenizer
from llmft.worlds.nli.world import LABEL_PATTERN, LABEL_WORDS, PATTERN, instruction

QUERY = PATTERN.format(text1="doctors near judges helped lawyers .", text2="judges helped lawyers")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def test_every_word_is_one_token(tokenizer):
    assert len(set(VOCABULARY)) == len(VOCABULARY) == len(tokenizer)
    for word in VOCABULARY[4:]:
        assert tokenizer(word, add_special_tokens=False)["input_ids"] == [ID[word]]


def test_round_trip_of_a_whole_prompt(tokenizer):
    shown = LABEL_PATTERN.format(text1="a", text2="b", label="Yes")
    text = f"{instruction('same_subject', True)}\n\n{QUERY} No\n\n{shown}"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == BOS
    assert " ".join(VOCABULARY[i] for i in ids[1:]) == text.replace("\n\n", " \n\n ").replace(" a b ", " <unk> <unk> ")
    assert tokenizer.decode(tokenizer(QUERY)["input_ids"], skip_special_tokens=True) == QUERY


def test_all_pretraining_and_task_text_is_in_the_vocabulary(tokenizer):
    for lexicon in (grammar.KNOWN, grammar.UNSEEN):
        stream = grammar.stream_pairs(random.Random(0), tuple(grammar.TEMPLATES), lexicon, lambda premise: True)
        for pair in islice(stream, 300):
            assert {*pair.premise, *pair.hypothesis} <= set(VOCABULARY)


@pytest.mark.parametrize("label", LABEL_WORDS)
def test_a_query_and_its_label_begin_the_demonstration(tokenizer, label):
    query, demonstration = tokenizer(QUERY)["input_ids"], tokenizer(f"{QUERY} {label}\n\n")["input_ids"]
    assert tokenizer(f" {label}", add_special_tokens=False)["input_ids"] == [ID[label]]
    assert demonstration == [*query, ID[label], ID["\n\n"]]

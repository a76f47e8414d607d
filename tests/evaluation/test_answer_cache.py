"""What the key of a cached answer depends on."""

from dataclasses import replace

import numpy as np
import pytest

from llmft.cost.phases import Phase
from llmft.distillation.targets import SupportQuestion
from llmft.evaluation.answer_cache import AnswerCache
from llmft.evaluation.labels import Labels
from llmft.models.reading.continuations import Continued, LabelSequences
from llmft.prompts.tokens import TokenizedPrompts
from llmft.runs.content_cache import ContentCache

PROMPTS = TokenizedPrompts([1, 2], [[3], [4, 5]])
LABELS = LabelSequences.create([[7], [8]])


def labels(*sequences):
    return Labels(LabelSequences.create(sequences))


QUESTION = SupportQuestion("topk", 5, labels([7], [8]))
MODEL = {"weights": "w", "tokenizer": "t", "dtype": "float32", "numerics": {"device": "cpu"}}


def question(prompts=PROMPTS, question=QUESTION):
    return Continued.by_labels(prompts, LABELS).key | question.key


@pytest.mark.parametrize(
    ("change", "other"),
    [
        ({"weights": "v"}, question()),
        ({"tokenizer": "T"}, question()),
        ({"dtype": "bfloat16"}, question()),
        ({"numerics": {"device": "cuda"}}, question()),
        *[
            ({}, question(TokenizedPrompts(*prompts)))
            for prompts in [
                ([1, 2], [[3], [4, 6]]),
                ([1, 3], [[3], [4, 5]]),
                ([1, 2], [[4, 5], [3]]),
                ([1, 2], [[3, 4], [5]]),
                ([1], [[2, 3], [4, 5]]),
                ([1, 2], [[3], [4, 5], []]),
            ]
        ],
        ({}, question() | {"prompts": question()["prompts"] * 2}),
        ({}, question(question=replace(QUESTION, asked_for=labels([8], [7])))),
        ({}, question(question=replace(QUESTION, asked_for=labels([7, 8])))),
        ({}, question(question=replace(QUESTION, support="labels"))),
        ({}, question(question=replace(QUESTION, topk=6))),
        ({}, Continued.by_labels(PROMPTS, LABELS).key | LABELS.key),
        ({}, Continued.by_answers(TokenizedPrompts([1, 2], [[3], [4]]), [[9], [5, 9]]).key | QUESTION.key),
    ],
)
def test_the_key_follows_everything(tmp_path, change, other):
    computed = []

    def ask(model, key):
        def compute():
            computed.append(1)
            return {"logprobs": np.zeros(3)}

        AnswerCache(ContentCache(tmp_path), **MODEL | model).get(key, compute, Phase("teacher"))

    ask({}, question())
    ask({}, question())
    assert len(computed) == 1
    ask(change, other)
    assert len(computed) == 2


def test_answers_that_version_1_has_kept_are_found():
    """Unchanged keys: answers of earlier runs remain valid."""
    texts = ["bc17e1e87adce7f6602fb24a15035e72846830acfbf1186fb76b58ddc0c03544"]
    expected = {"version": 1, **MODEL, "prompts": texts, "label_ids": [[7], [8]], "support": "scores", "topk": None}
    numpy = TokenizedPrompts(np.array([1, 2]), [np.array([3]), np.array([4, 5])])
    for prompts in (PROMPTS, numpy):  # token ids of any integer kind
        key = Continued.by_labels(prompts, LABELS).key | LabelSequences.create(np.array([[7], [8]])).key
        assert AnswerCache(None, **MODEL).key(key) == expected

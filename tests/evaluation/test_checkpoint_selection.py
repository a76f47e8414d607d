import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmft.evaluation.checkpoint_selection import Evaluations
from llmft.evaluation.labels import Labels
from llmft.evaluation.scores import Headline, Scores
from llmft.models.reading.continuations import LabelSequences
from llmft.runs.summary import pooled

SETS = {"a": 4, "b": 2, "c": 6}
LABELS = Labels(LabelSequences.create([[5], [6]]))
DOMAINS = {"in_domain": ["a"], "out_of_domain": ["b", "c"]}


def scores(n, right):
    """Scores of n rows with label 0, this many of which are answered right."""
    logprobs = np.log([[0.9, 0.1] if i < right else [0.2, 0.8] for i in range(n)])
    rows = [{"idx": i, "label": 0} for i in range(n)]
    return Scores(LABELS.columns(rows, {"label_logprobs": logprobs, "best_token": np.full(n, 5)}), 3.0)


def measure(sets):
    return {name: LABELS.metrics(scores) for name, scores in sets.items()}


def go_through(results, domains=DOMAINS, evaluations=None, first=1):
    """Evaluations at steps 1, 2, ... with these numbers of right answers in each set."""
    stages = []
    answers = iter([{name: scores(SETS[name], right) for name, right in result.items()} for result in results])

    def score(stage):
        stages.append(stage)
        return next(answers)

    if evaluations is None:
        evaluations = Evaluations(score, measure, LABELS, domains)
    evaluations.score = score
    for step, _ in enumerate(results, first):
        evaluations.evaluate(step, step / 2, last=step == first + len(results) - 1)
    return evaluations, stages


def test_divergence_from_the_teacher_is_among_the_metrics_of_every_evaluation():
    found = {name: scores(n, 1) for name, n in SETS.items()}
    teacher = {name: scores(n, n) for name, n in SETS.items()}
    evaluations = Evaluations(lambda stage: found, measure, LABELS, DOMAINS, teacher)
    for last in (False, True):
        sets = evaluations.evaluate(1, 1.0, last=last)
        for name, n in SETS.items():
            p, q = (np.exp(of[name]["label_logprobs"]) for of in (teacher, found))
            assert sets[name]["kl"] == pytest.approx((p * np.log(p / q)).sum() / n)
    assert sets["a"]["kl"] > 0
    assert "kl" not in Evaluations(lambda stage: found, measure, LABELS, DOMAINS).evaluate(1, 1.0, last=True)["a"]


RESULTS = st.lists(st.fixed_dictionaries({name: st.integers(0, n) for name, n in SETS.items()}), min_size=1, max_size=6)


@given(RESULTS)
def test_the_best_is_the_earliest_with_the_highest_pooled_accuracy(results):
    evaluations, stages = go_through(results)
    assert stages == ["during_training"] * (len(results) - 1) + ["after"]
    expected = {
        "after": len(results),
        "best_in_domain": 1 + int(np.argmax([result["a"] for result in results])),
        "best_out_of_domain": 1 + int(np.argmax([result["b"] + result["c"] for result in results])),
    }
    assert {stage: found.step for stage, found in evaluations.stages.items()} == expected
    assert list(evaluations.stages) == list(expected)
    for stage, step in expected.items():
        assert evaluations.selection[stage] == {
            "step": step,
            "epoch": step / 2,
            "selected_on_evaluation_set": stage != "after",
        }
        assert measure(evaluations.stages[stage].scores) == evaluations.history[step - 1]["sets"]
    assert pooled(evaluations.history[0]["sets"], ["b", "c"], "score_accuracy") == pytest.approx(
        (results[0]["b"] + results[0]["c"]) / 8
    )


@given(RESULTS, RESULTS)
def test_going_on_from_a_state_is_as_if_never_interrupted(first, second):
    whole, _ = go_through(first + second)
    cut, _ = go_through(first)
    state = json.loads(json.dumps(cut.state()))
    go_through(second, evaluations=cut)  # what the killed session did after the checkpoint does not count
    resumed = Evaluations(None, measure, LABELS, DOMAINS)
    resumed.restore(state)
    go_through(second, evaluations=resumed, first=len(first) + 1)
    assert resumed.history == whole.history
    assert resumed.selection == whole.selection
    for stage, found in whole.stages.items():
        for name, scores in found.scores.items():
            again = resumed.stages[stage].scores[name]
            assert again.columns.keys() == scores.columns.keys()
            for column, values in scores.columns.items():
                np.testing.assert_array_equal(again[column], values, strict=True)
            assert (again.tokens_per_query, again.shortened) == (scores.tokens_per_query, scores.shortened)


def test_without_domains_only_the_last_is_kept():
    evaluations, _ = go_through([{"a": 4, "b": 2, "c": 6}, {"a": 0, "b": 0, "c": 0}], domains={})
    assert list(evaluations.stages) == ["after"]
    assert evaluations.best == {}


def test_of_a_headline_that_should_be_low_the_lowest_is_the_best():
    class Losses(Labels):
        headline = Headline("loss", higher_is_better=False)

    results = iter([{"a": scores(4, right)} for right in (2, 4, 1)])
    evaluations = Evaluations(lambda stage: next(results), measure, Losses(LABELS.sequences), {"in_domain": ["a"]})
    for step in (1, 2, 3):
        evaluations.evaluate(step, step, last=step == 3)
    assert evaluations.best["best_in_domain"].step == 2

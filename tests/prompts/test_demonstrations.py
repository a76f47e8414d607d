import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.prompts.demonstrations import (
    create_few_shot_context,
    draw_demonstrations,
    draw_eval_rows,
    draw_training_rows,
)
from llmft.prompts.render import PromptFormat
from llmft.tasks.load import load_glue_datasets

POOL = [{"text1": f"t{i}", "text2": None, "label": i % 2, "idx": 10 * i} for i in range(40)]


def draw(shots, **more):
    return draw_demonstrations(POOL, shots, **{"data_seed": 0, "balanced": True, "shuffle": True, "num_labels": 2, **more})


@pytest.fixture(scope="module", params=["rte", "cola"])
def golden(request, shared_data):
    """A task that upstream's draws are known of, and its splits."""
    return request.param, load_glue_datasets(request.param, str(shared_data))


def test_demonstrations_are_upstreams_in_prompt_order(golden, upstream_draws):
    task, splits = golden
    checked = 0
    for case in (case for case in upstream_draws["icl"] if case["task"] == task):
        drawn = draw_demonstrations(
            splits["train"],
            case["num_shots"],
            data_seed=case["data_seed"],
            balanced=case["balanced"],
            shuffle=case["shuffle"],
            num_labels=2,
        )
        assert [row["idx"] for row in drawn] == case["prompt_order"]
        checked += 1
    assert checked == 48


def test_training_rows_are_upstreams(golden, upstream_draws):
    task, splits = golden
    cases = [case for case in upstream_draws["ft"] if case["task"] == task]
    assert len(cases) == 24
    for case in cases:
        drawn = draw_training_rows(splits["train"], case["max_train_samples"], data_seed=case["data_seed"])
        assert [row["idx"] for row in drawn] == case["rows"]


def test_evaluation_rows_are_upstreams(golden, upstream_draws):
    task, splits = golden
    cases = [case for case in upstream_draws["eval_subset"] if case["split"] == f"{task}/validation"]
    assert len(cases) == 2
    for case in cases:
        assert [row["idx"] for row in draw_eval_rows(splits["validation"], case["max_eval_samples"])] == case["rows"]


@given(st.integers(0, 20), st.integers(0, 1000), st.booleans())
def test_balanced_draws(half, seed, shuffle):
    drawn = draw(2 * half, data_seed=seed, shuffle=shuffle)
    assert len({row["idx"] for row in drawn}) == 2 * half
    assert sum(row["label"] for row in drawn) == half
    assert drawn == draw(2 * half, data_seed=seed, shuffle=shuffle)
    if not shuffle:
        assert [row["idx"] for row in drawn] == sorted(row["idx"] for row in drawn)


@given(st.integers(0, 40), st.integers(0, 1000))
def test_unbalanced_draws(shots, seed):
    assert len({row["idx"] for row in draw(shots, data_seed=seed, balanced=False)}) == shots


@given(st.integers(1, 24), st.integers(0, 1000))
def test_queries_never_hold_a_demonstration(count, seed):
    demonstrations = draw(16, data_seed=seed)
    queries = draw_training_rows(POOL, count, data_seed=seed, exclude=demonstrations)
    assert len({row["idx"] for row in queries}) == count
    assert not {row["idx"] for row in queries} & {row["idx"] for row in demonstrations}


def test_draws_leave_the_global_stream_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    draw(4), draw_training_rows(POOL, 4, data_seed=0), draw_eval_rows(POOL, 4)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: draw(-2), "--num_shots -2"),
        (lambda: draw(3), "--num_shots 3: cannot be divided evenly"),
        (lambda: draw(42), "--num_shots 42: 21 demonstrations of label 0"),
        (lambda: draw(41, balanced=False), "--num_shots 41"),
        (lambda: draw_training_rows(POOL, 41, data_seed=0), "--max_train_samples 41"),
        (lambda: draw_training_rows(POOL, 0, data_seed=0), "--max_train_samples 0"),
        (lambda: draw_eval_rows(POOL, 0), "--max_eval_samples 0"),
    ],
)
def test_impossible_draws(call, says):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(says)


def test_few_shot_context_under_upstreams_name():
    prompt_format = PromptFormat("{text1} ?", "", "|", ("No", "Yes"))
    context, idx = create_few_shot_context(POOL, 2, prompt_format, data_seed=0, balanced=True, shuffle=False)
    assert context == "".join(f"t{i // 10} ? {('No', 'Yes')[i // 10 % 2]}|" for i in idx)

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmft.report.statistics.break_even import break_even, break_evens
from tests.report.synthetic import MODELS, QUERY, SHOT

N = MODELS["opt-125m"]


def test_the_published_example_of_t_few():
    """Liu et al. 2022, table 1: GPT-3 175B in context 1.4e15 a prediction; T-Few 1.1e12, training 2.7e16."""
    assert break_even(2.7e16, 1.4e15, 1.1e12) == 20


def test_never_and_unknown():
    assert break_even(1.0, 2.0, 2.0) == break_even(0.0, 1.0, 3.0) == math.inf
    assert math.isnan(break_even(1.0, math.nan, 2.0))
    assert break_even(0.0, 2.0, 1.0) == 1


@given(st.integers(0, 10**6), st.integers(1, 1000), st.integers(0, 999))
def test_it_is_the_first_query_from_which_training_is_cheaper(first, prompting, own):
    queries = break_even(float(first), float(prompting), float(own))
    if own >= prompting:
        assert queries == math.inf
    else:
        assert first + queries * own < queries * prompting
        assert first + (queries - 1) * own >= (queries - 1) * prompting


def test_distillation_stands_beside_its_teacher(summary):
    row = break_evens(summary).set_index("method").loc["distill"]
    context = 16 * SHOT
    assert row["against"] == "teacher" and row["ids"] == row["ids_prompting"]
    assert row["flops_first"] == pytest.approx(2 * N * (256 * QUERY + context) + 6 * N * 320 * QUERY)
    assert row["flops_prompting"] == pytest.approx(2 * N * (QUERY + context / 277))
    assert row["flops_own"] == pytest.approx(2 * N * QUERY)
    assert row["flops_queries"] == math.floor(row["flops_first"] / (2 * N * context / 277)) + 1
    alone = 2 * N * 256 * (QUERY + context) + 6 * N * 320 * QUERY
    assert row["flops_alone_first"] == pytest.approx(alone)
    assert row["flops_alone_queries"] == math.floor(alone / (2 * N * context)) + 1
    assert row["cpu_s_queries"] == break_even(row["cpu_s_first"], row["cpu_s_prompting"], row["cpu_s_own"])


def test_fine_tuning_stands_beside_in_context_learning(summary):
    found = break_evens(summary)
    row = found[(found["method"] == "pbft") & (found["model"] == "opt-125m")].iloc[0]
    assert row["flops_first"] == pytest.approx(6 * N * 320 * QUERY)
    icl = summary.query("method == 'icl' and task == 'rte' and model == 'opt-125m' and shots == 16")
    assert row["ids_prompting"] == icl.iloc[0]["ids"] and row["against"] == icl.iloc[0]["setting"]

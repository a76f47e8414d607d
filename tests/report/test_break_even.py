import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmft.report.records.collect import collect
from llmft.report.statistics.break_even import break_even, break_evens
from llmft.report.statistics.summary import summarise
from llmft.report.tables.comparisons import break_even_table
from tests.report.changes import change
from tests.report.synthetic import MODELS, QUERY, SHOT, Made, write

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


def test_distillation_stands_beside_its_teacher(summary, collection):
    row = break_evens(summary, collection).set_index("method").loc["distill"]
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


def of_run(path):
    """The break-even of a run with its teacher, from its record."""
    phases = json.loads((path / "cost.json").read_text())["phases"]
    first = sum(phase["cpu_total_s"] for phase in phases if phase["kind"] in ("train", "teacher"))
    teacher, own = (
        sum(phase["cpu_total_s"] / 277 for phase in phases if (phase["stage"], phase["set"]) == (stage, "rte"))
        for stage in ("teacher", "after")
    )
    return break_even(first, teacher, own)


def test_cpu_time_is_a_range_over_runs_with_their_teacher(tmp_path):
    records = list(write(tmp_path, [Made(method="distill", seed=seed) for seed in (0, 2)], hans_rows=4))
    for saves, shown in ((1.0, "{} to {}"), (-1.0, "{} to never (not told apart)")):
        for record, more in zip(records, (1, 1.5 * saves), strict=True):
            change(tmp_path / record / "cost.json", lambda cost, more=more: teacher_takes(cost, more))
        collection = collect(tmp_path)
        table = break_even_table(break_evens(summarise(collection), collection))
        numbers = sorted(f"{float(f'{n:.3g}'):,.0f}" for n in (of_run(tmp_path / record) for record in records) if n < math.inf)
        numbers.sort(key=lambda text: int(text.replace(",", "")))
        (cells,) = (dict(zip([column.name for column in table.columns], row, strict=True)) for row in table.cells())
        assert cells["CPU time"] == shown.format(*numbers) and cells["runs"] == "2, 2"


def teacher_takes(cost, more):
    """Let a query cost the teacher so many CPU seconds more than the student."""
    phases = {phase["stage"]: phase for phase in cost["phases"] if phase["set"] == "rte"}
    phases["teacher"]["cpu_total_s"] = phases["after"]["cpu_total_s"] + 277 * more


@pytest.mark.parametrize("methods", [("distill",), ("icl", "pbft")])
def test_of_a_single_run_nothing_is_told_apart(tmp_path, methods):
    write(tmp_path, [Made(method=method) for method in methods], hans_rows=4)
    collection = collect(tmp_path)
    evens = break_evens(summarise(collection), collection)
    assert evens["cpu_s_queries"].notna().all() and not evens["cpu_s_told_apart"].any()
    table = break_even_table(evens)
    (cells,) = (dict(zip([column.name for column in table.columns], row, strict=True)) for row in table.cells())
    assert cells["CPU time"].endswith(" (one run)")


def test_without_a_shared_run_cpu_time_varies_by_the_deviations(summary, collection):
    rows = (summary["metric"] == summary["headline"]) & (summary["set"] == "in_domain")
    noisy = summary.assign(cpu_ms_per_query_sd=summary["cpu_ms_per_query_mean"].where(rows))
    for frame, told_apart in ((summary.assign(cpu_ms_per_query_sd=0.0), True), (noisy, False)):
        row = break_evens(frame, collection).query("method == 'pbft' and model == 'opt-125m'").iloc[0]
        first, p, s = (row[f"cpu_s_{name}"] for name in ("first", "prompting", "own"))
        sd = 0 if told_apart else math.hypot(p, s)
        assert row["cpu_s_queries_min"] == break_even(first, p + sd, s)
        assert row["cpu_s_queries_max"] == break_even(first, p - sd, s)
        assert row["cpu_s_told_apart"] == (told_apart or math.isinf(row["cpu_s_queries_min"]))


def test_fine_tuning_stands_beside_in_context_learning(summary, collection):
    found = break_evens(summary, collection)
    row = found[(found["method"] == "pbft") & (found["model"] == "opt-125m")].iloc[0]
    assert row["flops_first"] == pytest.approx(6 * N * 320 * QUERY)
    icl = summary.query("method == 'icl' and task == 'rte' and model == 'opt-125m' and shots == 16")
    assert row["ids_prompting"] == icl.iloc[0]["ids"] and row["against"] == icl.iloc[0]["setting"]

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmft.evaluation.metrics import compute_metric
from llmft.report.records.collect import collect
from llmft.report.records.predictions import read_predictions
from llmft.report.statistics.bootstrap import OF_TABLES, share_interval, table_interval
from llmft.report.statistics.paired import _same_draws, mcnemar_p, paired_tests
from llmft.report.statistics.summary import summarise, welch, welch_over_sizes
from llmft.report.tables import contents
from tests.report.changes import change
from tests.report.synthetic import Made, write


def values(collection, ids, selection, name):
    scores = collection.scores
    chosen = (scores["selection"] == selection) & (scores["set"] == name) & (scores["metric"] == "score_accuracy")
    return scores[chosen & scores["id"].isin(ids)]["value"].to_numpy()


def test_every_cell_is_numpys_and_traced_to_its_runs(collection, summary):
    rows = summary[summary["metric"] == "score_accuracy"]
    assert len(rows) > 50
    for row in rows.itertuples():
        own = values(collection, row.ids, row.selection, row.set)
        assert len(own) == row.runs == len(set(row.ids))
        assert row.mean == pytest.approx(own.mean()) and row.sd == pytest.approx(own.std(ddof=1))
        assert row.min == own.min() <= row.mean + 1e-12 and row.mean <= own.max() + 1e-12 and own.max() == row.max
    costs = collection.runs.set_index("id")["cpu_total_s"]
    row = rows.iloc[0]
    assert row["cpu_total_s_mean"] == pytest.approx(costs[row["ids"]].mean())
    assert row["cpu_total_s_sd"] == pytest.approx(costs[row["ids"]].std())


def test_welch_is_scipys(collection, tests):
    assert len(tests) > 20
    for row in tests.itertuples():
        sides = [
            values(collection, ids, "icl" if method == "icl" else row.selection, row.set)
            for ids, method in ((row.ids_b, row.method_b), (row.ids_a, row.method_a))
        ]
        expected = stats.ttest_ind(*sides, equal_var=False)
        assert row.difference == pytest.approx(sides[0].mean() - sides[1].mean())
        assert row.t == pytest.approx(expected.statistic) and row.p == pytest.approx(expected.pvalue)


def test_like_selections_are_compared_and_zero_shot_with_all(tests):
    small = tests[(tests["task"] == "rte") & (tests["model_a"] == "opt-125m") & (tests["set"] == "in_domain")]
    pairs = {(row.method_a, row.shots_a, row.method_b, row.selection) for row in small.itertuples()}
    both = {(method, selection) for method in ("pbft",) for selection in ("last", "best_in_domain", "best_out_of_domain")}
    expected = {("icl", shots, method, selection) for shots in (0, 16) for method, selection in both | {("distill", "last")}}
    assert pairs == expected | {("icl", 0, "icl", "icl"), ("pbft", 16, "distill", "last")}
    assert set(small["shots"]) == {16}


def test_sizes_are_compared_across_models(summary):
    sizes = welch_over_sizes(summary)
    last = sizes[(sizes["selection"] == "last") & (sizes["set"] == "out_of_domain") & (sizes["method_b"] == "pbft")]
    pairs = set(zip(last["model_a"], last["model_b"], strict=True))
    assert pairs == {(a, b) for a in ("opt-125m", "opt-1.3b") for b in ("opt-125m", "opt-1.3b")}
    assert set(sizes["method_a"]) == {"icl"}


def test_no_spread_gives_no_p(summary):
    flat = summary.assign(sd=0.0)
    assert welch_over_sizes(flat)["p"].isna().all()


def test_mcnemar_is_scipys_on_rows_counted_by_hand(collection, tests):
    assert not collection.unread
    found = paired_tests(tests, collection)
    assert len(found) > 40
    runs = collection.runs.set_index("id")
    for row in found.itertuples():
        assert runs.loc[row.id_a, "data_seed"] == runs.loc[row.id_b, "data_seed"] == row.data_seed
    row = found[found["set"] == "out_of_domain"].iloc[3]
    sides = []
    for run in (row["id_a"], row["id_b"]):
        frame = read_predictions(collection.places[run]).table.to_pandas()
        frame = frame[frame["stage"].isin(["icl", "after"]) & frame["set"].str.startswith("hans")]
        sides.append((frame["target"] == frame["prediction"]).to_numpy())
    assert row["only_a"] == (sides[0] & ~sides[1]).sum() and row["only_b"] == (sides[1] & ~sides[0]).sum()
    assert row["n"] == len(sides[0]) == 80
    assert row["p"] == pytest.approx(stats.binomtest(int(row["only_a"]), int(row["only_a"] + row["only_b"])).pvalue)


def test_runs_on_other_rows_are_no_pair(collection, tests):
    first = tests["ids_b"].iloc[0][0]
    other = {key: replace(scores, rows=0) if key[0] == first else scores for key, scores in collection.row_scores.items()}
    fewer = paired_tests(tests, replace(collection, row_scores=other))
    assert first not in set(fewer["id_a"]) | set(fewer["id_b"])
    assert 0 < len(fewer) < len(paired_tests(tests, collection))


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ("01", "01", ["00", "11"]),
        ("01", "23", []),
        ("012", "03", ["00"]),
        ("0", "23", ["02", "03"]),  # a single run, as of in-context learning, goes with all
        ("12", "0", ["10"]),
    ],
)
def test_runs_of_several_seeds_are_paired_by_their_seed(a, b, wanted):
    seeds = {f"{side}{seed}": (int(seed), 7) for side, of_side in (("a", a), ("b", b)) for seed in of_side}
    pairs = _same_draws([f"a{seed}" for seed in a], [f"b{seed}" for seed in b], seeds)
    assert pairs == [(f"a{one}", f"b{other}") for one, other in wanted]


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_p_is_exact_and_symmetric(b, c):
    p = mcnemar_p(np.array([b, c]), np.array([c, b]))
    assert p[0] == p[1]
    assert p[0] == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1.0)


@pytest.mark.parametrize(("right", "n"), [(170, 277), (5, 50), (40, 40), (0, 40)])
def test_the_interval_of_an_accuracy_is_the_bootstraps(right, n):
    low, high = share_interval(right / n, n)
    answers = np.arange(n) < right
    if right in (0, n):
        assert low == high == right / n
        return
    resampled = stats.bootstrap(
        (answers,), np.mean, method="percentile", n_resamples=20000, vectorized=True, batch=1000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert low == pytest.approx(resampled.low, abs=1.01 / n) and high == pytest.approx(resampled.high, abs=1.01 / n)
    assert np.isnan(share_interval((right + 0.5) / n, n)).all()


def measure(metric):
    """The metric as a function of labels and predictions, both (N,)."""
    return lambda labels, predictions: compute_metric(metric, "label", predictions, labels)[metric]


@pytest.mark.parametrize("metric", OF_TABLES)
def test_the_interval_of_a_table_is_the_bootstraps(metric):
    table = np.array([[40, 15], [10, 35]])
    labels = np.repeat([0, 0, 1, 1], table.ravel())
    predictions = np.repeat([0, 1, 0, 1], table.ravel())
    assert OF_TABLES[metric](table) == pytest.approx(measure(metric)(labels, predictions))
    low, high = table_interval(metric, table, "a run")
    resampled = stats.bootstrap(
        (labels, predictions), measure(metric), paired=True, vectorized=False, method="percentile", n_resamples=200,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert low == pytest.approx(resampled.low, abs=0.05) and high == pytest.approx(resampled.high, abs=0.05)
    assert table_interval(metric, table, "a run")[0] == low


@settings(deadline=None)  # the first case imports scikit-learn
@given(st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(sum))
def test_metrics_of_tables_are_scikit_learns(cells):
    labels, predictions = np.repeat([0, 0, 1, 1], cells), np.repeat([0, 1, 0, 1], cells)
    for metric, of_table in OF_TABLES.items():
        assert of_table(np.array(cells).reshape(2, 2)) == pytest.approx(measure(metric)(labels, predictions))


def test_gaps_recovered_are_means_over_runs(summary):
    row = summary.query("method == 'distill' and selection == 'last' and set == 'in_domain' and metric == 'score_accuracy'")
    assert row["gap_recovered"].tolist() == [pytest.approx(0.9)]
    out = summary.query("method == 'distill' and selection == 'last' and set == 'out_of_domain' and metric == 'score_accuracy'")
    assert out["gap_recovered"].isna().all()
    assert row["gap_recovered_runs"].tolist() == row["runs"].tolist() and out["gap_recovered_runs"].tolist() == [0]


def test_gaps_of_some_runs_are_counted(tmp_path):
    records = list(write(tmp_path, [Made(method="distill", seed=seed) for seed in range(3)], hans_rows=4))
    for record, gaps in zip(records, ((0.2, 0.4), (0.6, None), (None, None)), strict=True):
        values = dict(zip(("in_domain", "out_of_domain"), gaps, strict=True))
        change(tmp_path / record / "metrics.json", gap_recovered=values)
    table = contents.distillation(contents.result_rows(summarise(collect(tmp_path))), ())
    (row,) = (dict(zip([column.name for column in table.columns], cells, strict=True)) for cells in table.cells())
    assert row["gap"] == "0.400 ± 0.283 (2 of 3 runs)" and row["gap out"] == "0.400 (1 of 3 runs)"


@pytest.mark.parametrize(("groups", "pairs"), [(40, 40 * 39 // 2), (41, 40)])
def test_more_than_40_groups_are_each_only_compared_with_prompting(summary, groups, pairs):
    judged = summary.query("metric == headline and set == 'in_domain' and model == 'opt-125m' and shots == 16 and task == 'rte'")
    prompted, trained = (judged.query(f"selection == '{selection}'").head(1) for selection in ("icl", "last"))
    trained = pd.concat([trained] * (groups - 1)).assign(setting=[f"setting {i}" for i in range(groups - 1)])
    found = welch(pd.concat([prompted, trained]))
    assert len(found) == pairs and (found["method_a"] == "icl").sum() == groups - 1

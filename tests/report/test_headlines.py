"""Runs that are judged by other metrics than accuracy: by one of scores between 0 and 1, and by one that is better if lower."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llmft.report.__main__ import main
from llmft.report.commands.write import run_table
from llmft.report.figures.bars import draw_results
from llmft.report.figures.points import front, mean_points, points, with_tips
from llmft.report.figures.scatters import draw_cost, draw_domains
from llmft.report.page.findings import findings
from llmft.report.records.collect import collect
from llmft.report.records.predictions import read_predictions
from llmft.report.statistics.bootstrap import mean_interval
from tests.report.synthetic import SKILL, Made, write

HEADLINES = {"score_accuracy": True, "f1_tokens": True, "mse": False}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One task and model, judged by three headlines; the report on it."""
    folder = tmp_path_factory.mktemp("mixed")
    methods = ("icl", "pbft", "distill")
    made = [Made(method=method, seed=seed, headline=name) for name in HEADLINES for method in methods for seed in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SKILL, "distill", 0.95)  # differences that are marked
        write(folder, made, hans_rows=30)
        patch.setattr("llmft.report.commands.write.PICTURES", ("cost", "gap"))
        main([str(folder)])
    return collect(folder)


@pytest.fixture(scope="module")
def of_mse(mixed):
    """Judged runs and their groups, of the headline that is better if lower."""
    runs = points(mixed)
    judged = runs[runs["judged"] & (runs["headline"] == "mse")]
    return with_tips(judged, mean_points(judged))


def table(collection, name):
    return pd.read_csv(collection.folder / "report" / f"{name}.csv")


def test_every_run_counts_by_its_own_headline(mixed):
    summary = table(mixed, "report")
    rows = summary[(summary["metric"] == summary["headline"]) & (summary["set"] == "out_of_domain")]
    assert set(rows["headline"]) == set(HEADLINES)
    for row in rows[rows["selection"] == "last"].to_dict("records"):
        values = []
        for run in row["ids"].split(";"):
            metrics = json.loads((mixed.places[run] / "metrics.json").read_text())
            sets = [metrics["stages"]["after"][name] for name in metrics["sets"]["out_of_domain"]]
            values.append(np.average([values[row["metric"]] for values in sets], weights=[values["n"] for values in sets]))
        assert row["mean"] == pytest.approx(np.mean(values))
    others = summary[summary["metric"] == "nll"]  # no headline, and not known to be a mean over rows
    assert set(others["set"]) == {"rte", "in_domain", "hans-lexical_overlap-entailment", "hans-lexical_overlap-contradiction"}
    assert summary.loc[summary["headline"] != "score_accuracy", "majority"].isna().all()


def test_headlines_are_never_compared_with_each_other(mixed):
    headline = mixed.runs.set_index("id")["headline"]
    for name in ("differences", "paired", "break_even"):
        pairs = table(mixed, name)
        sides = [pairs[column] for column in pairs.columns if column.startswith("id")][-2:]
        for one, other in zip(*(side.astype(str) for side in sides), strict=True):
            assert len({headline[run] for run in (*one.split(";"), *other.split(";"))}) == 1
    sheets = (mixed.folder / "report" / "report.html").read_text().split('data-name="')[1:]
    assert {sheet.split('"')[0] for sheet in sheets} == {
        *(f"rte (opt-125m), {name}" for name in ("score accuracy", "f1 tokens", "MSE")),
    }


def test_the_paired_test_follows_the_scores(mixed):
    pairs = table(mixed, "paired")
    assert pairs.groupby("headline")["test"].unique().map(list).to_dict() == {
        "score_accuracy": ["McNemar"], "f1_tokens": ["Wilcoxon"], "mse": ["Wilcoxon"],
    }  # fmt: skip
    for headline in ("f1_tokens", "mse"):
        row = pairs[(pairs["headline"] == headline) & (pairs["set"] == "in_domain")].iloc[0]
        a, b = (scores_of(mixed, row[f"id_{side}"]) for side in "ab")
        assert row["p"] == pytest.approx(stats.wilcoxon(b - a).pvalue)
        assert row["difference"] == pytest.approx(b.mean() - a.mean())
        better = [(a > b).sum(), (b > a).sum()]
        assert [row["only_a"], row["only_b"]] == (better if headline == "f1_tokens" else better[::-1])


def scores_of(collection, run):
    frame = read_predictions(collection.places[run]).table.to_pandas()
    return frame.loc[frame["stage"].isin(["icl", "after"]) & (frame["set"] == "rte"), "score"].to_numpy()


def test_intervals_of_graded_scores_are_the_bootstraps(mixed):
    runs = table(mixed, "runs").set_index("id")
    for headline in HEADLINES:
        run = runs[(runs["headline"] == headline) & (runs["method"] == "pbft")].iloc[0]
        low, value, high = (run[f"last_in_domain{tail}"] for tail in ("_low", "", "_high"))
        scores = scores_of(mixed, run.name)
        wanted = stats.bootstrap((scores,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
        assert value == pytest.approx(scores.mean())
        assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.1 * (high - low))
    assert mean_interval(scores, "a").tolist() == mean_interval(scores, "a").tolist()


def test_graded_scores_have_no_interval_of_shares_by_chance(mixed):
    whole = replace(
        mixed, scores=mixed.scores.assign(value=0.0)
    )  # times the number of rows it is whole, as a number of right answers
    runs = run_table(whole).query("method == 'distill'").set_index("headline")
    for ends, wanted in (("before_in_domain_low", [True, False, False]), ("last_in_domain_low", [True, True, True])):
        assert [runs.loc[name, ends].notna().all() for name in HEADLINES] == wanted


def test_lower_is_better_where_the_record_says_so(mixed, of_mse):
    _, means = of_mse
    costs, scores = pd.Series([1.0, 2, 3, 4]), pd.Series([5.0, 6, 4, 1])
    assert front(costs, scores, higher_is_better=False) == [0, 2, 3]
    ((figure, _),) = draw_cost(means)
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
        assert len(lines) == 2 and all((np.diff(line.get_ydata()) < 0).all() for line in lines)
    assert figure.axes[0].get_ylabel() == "MSE (lower is better)"
    plt.close(figure)
    best = means.loc[means["in_domain"].idxmin()]
    (line,) = findings(means, pd.DataFrame())
    assert line.startswith(f"rte: lowest MSE in-domain {best['name']} with {best['in_domain']:.3f} ± ")


def test_marks_follow_the_direction(mixed):
    page = (mixed.folder / "report" / "report.html").read_text()
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    (section,) = (section["tables"][0] for section in data["sections"] if section["name"] == "differences")
    metric = [column["name"] for column in section["columns"]].index("metric")
    marks = {(row[metric], cell[1] > 0, cell[2]) for row in section["rows"] for cell in row[-3:-1] if cell[2]}
    assert marks and all((up == (mark == "better")) == (name != "MSE (lower is better)") for name, up, mark in marks)
    assert {group["metric"] for group in data["groups"]} == {"score accuracy", "f1 tokens", "MSE (lower is better)"}


def test_axes_hold_all_values(of_mse):
    judged, means = of_mse
    nothing = pd.DataFrame(columns=["task", "headline", "in_domain", "out_of_domain"])
    for draw, axis in ((lambda: draw_results(judged, means), "x"), (lambda: draw_domains(judged, means, nothing), "y")):
        ((figure, _),) = draw()
        low, high = getattr(figure.axes[0], f"get_{axis}lim")()
        values = judged[["in_domain", "out_of_domain"]].to_numpy()
        assert low < values.min() and values.max() < high and "MSE" in getattr(figure.axes[0], f"get_{axis}label")()
        plt.close(figure)


def test_a_report_on_one_headline_names_it_once(tmp_path, without_pictures):
    write(
        tmp_path, [Made(method=method, seed=s, headline="f1_tokens") for method in ("icl", "pbft") for s in range(2)], hans_rows=9
    )
    main([str(tmp_path)])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "metric f1 tokens" in text and "| metric |" not in text.split("\n## ")[1]
    assert "largest class" not in text and "Wilcoxon's signed-rank test" in text and "McNemar" not in text


def test_two_runs_with_graded_scores_are_compared(mixed, tmp_path, capsys):
    first = [mixed.runs[(mixed.runs["headline"] == "mse") & (mixed.runs["method"] == m)]["id"].iloc[0] for m in ("icl", "pbft")]
    out = tmp_path / "flips.csv"
    main(["compare", *(str(mixed.places[run]) for run in first), "--out", str(out)])
    assert "Wilcoxon" in capsys.readouterr().out
    rows = pd.read_csv(out)
    assert set(rows["change"]) == {"better", "worse"}
    better = rows[rows["change"] == "better"]
    errors = [(better[f"prediction_{side}"] - better["target"]).abs() for side in "ab"]
    assert (errors[1] < errors[0]).all()

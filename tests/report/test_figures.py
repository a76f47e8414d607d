import dataclasses
import io
import json
import math
import re
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from llmft.report.figures.bars import draw_gap, draw_results
from llmft.report.figures.curves import DISTILLED, HELD_OUT, draw_training, logged, training_curves
from llmft.report.figures.figures import draw_all
from llmft.report.figures.panels import (
    PANELS,
    ROWS,
    abbreviated,
    log_ticks,
    room_around,
    scale_of_costs,
    sheets_of_panels,
    sheets_of_rows,
    short_number,
)
from llmft.report.figures.points import FURTHER, LOOKS, NAMED, family, front, looks_of, mean_points, points, with_tips
from llmft.report.figures.scatters import LINES, draw_domains, draw_size
from llmft.report.figures.svg import MARKS, inline, say
from llmft.report.records.collect import collect
from llmft.report.records.predictions import read_predictions
from llmft.report.statistics.summary import majority_of_tasks
from tests.report.changes import change
from tests.report.synthetic import Made, write

HEADLINE = {"headline": "score_accuracy", "higher_is_better": True}
RTE = {"task": "rte", "headline": "score_accuracy"}


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logfiles")
    made = [
        Made(model=m, method=k, seed=s) for m in ("opt-125m", "opt-1.3b") for k in ("icl", "pbft", "distill") for s in range(3)
    ]
    write(folder, made, hans_rows=20)
    return collect(folder)


@pytest.fixture(scope="module")
def found(collection):
    return points(collection)


@pytest.fixture(scope="module")
def tipped(found):
    """Judged runs and their groups, as they are drawn."""
    judged = found[found["judged"]]
    return with_tips(judged, mean_points(judged))


def test_points_are_the_scores_of_the_runs(collection, found):
    scores = collection.scores
    wanted = scores[(scores["metric"] == "score_accuracy") & (scores["set"] == "out_of_domain")].astype(
        {"id": str, "selection": str}
    )
    wanted = wanted.set_index(["id", "selection"])["value"]
    ours = found.set_index(["id", "selection"])["out_of_domain"]
    pd.testing.assert_series_equal(ours.sort_index(), wanted.sort_index(), check_names=False)
    assert set(found.loc[found["judged"], "selection"]) == {"icl", "last"}
    assert found.loc[found["selected_in_domain"], "selection"].unique().tolist() == ["best_in_domain"]


def test_groups_average_runs_that_differ_in_seeds(found):
    means = mean_points(found[found["judged"]])
    assert len(means) == 6
    for _, group in means.iterrows():
        runs = found.loc[group["members"]]
        assert len(runs) == 3
        assert runs["seed"].nunique() == 3
        assert group["in_domain"] == pytest.approx(runs["in_domain"].mean())
        assert group["in_domain_sd"] == pytest.approx(np.std(runs["in_domain"], ddof=1))


def test_recovered_gaps_are_averaged_before_they_are_cut(tmp_path):
    records = list(write(tmp_path, [Made(method="distill", seed=seed) for seed in range(3)], hans_rows=4))
    for record, gaps in zip(records, ((0.0, 0.5), (3.0, 8.0), (None, 0.5)), strict=True):
        change(tmp_path / record / "metrics.json", gap_recovered=dict(zip(("in_domain", "out_of_domain"), gaps, strict=True)))
    judged = points(collect(tmp_path)).query("judged")
    ((figure, _),) = draw_gap(*with_tips(judged, mean_points(judged)))
    inside, outside = (bars.get_segments()[0][0][0] for bars in figure.axes[0].collections)
    assert inside == pytest.approx(150) and outside == 200  # a mean of 300, which is drawn at the limit
    drawn = [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() in "oD" and len(line.get_xdata())]
    assert sorted(drawn[0]) == [0, 200] and sorted(drawn[1]) == [50, 50, 200]
    tips = [json.loads(bars.get_gid().removeprefix(MARKS))[0] for bars in figure.axes[0].collections]
    assert tips[0].endswith("in-domain gap recovered 150.0% ± 212.1% (2 of 3 runs)")
    assert tips[1].endswith("out-of-domain gap recovered 300.0% ± 433.0%")
    plt.close(figure)


def test_the_front_is_what_nothing_cheaper_beats():
    costs = pd.Series([3.0, 1, 2, 2, 4, math.nan], index=list("abcdef"))
    accuracies = pd.Series([0.9, 0.5, 0.7, 0.8, 0.9, 1.0], index=list("abcdef"))
    assert front(costs, accuracies) == ["b", "d", "a"]


def test_majority_is_the_largest_class_of_the_rows(collection):
    rates = majority_of_tasks(collection.runs).iloc[0]
    run = collection.runs["id"].iloc[0]
    table = read_predictions(collection.places[run]).table.to_pandas()
    labels = table[table["set"] == "rte"].drop_duplicates("idx")["target"]
    assert rates["task"] == "rte"
    assert rates["in_domain"] == pytest.approx(labels.value_counts(normalize=True).max())


def test_a_method_has_one_look_and_no_other_has_it():
    keys = [*LOOKS, "vanilla", "pbft-ia3", "gold-label"]
    looks = looks_of(keys)
    assert len(set(looks.values())) == len(keys)
    assert looks_of(["distill"])["distill"] == looks["distill"]
    assert not set(FURTHER) & set(LOOKS.values())


def test_all_figures_are_drawn_as_png_and_pdf(collection, tmp_path):
    rates = pd.DataFrame([{**RTE, "in_domain": 0.53, "out_of_domain": 0.5}])
    drawn = draw_all(collection, points(collection), rates, tmp_path)
    files = [file for sheet in drawn for file in sheet.files]
    names = {"results", "domains", "size", "cost", "memory", "training", "gap"}
    assert {file.name for file in files} == {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    for name in names:
        picture = imread(tmp_path / f"{name}.png")
        assert picture.shape[1] > 500
        assert picture[..., :3].std() > 0.01
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert {sheet.picture for sheet in drawn if "<svg" in sheet.svg} == names
    assert plt.get_fignums() == []


def test_further_sheets_are_pages_of_the_pdf_and_pngs_with_a_number(collection, tmp_path, monkeypatch):
    monkeypatch.setattr("llmft.report.figures.panels.ROWS", 3)
    drawn = draw_all(
        collection, points(collection), pd.DataFrame(columns=[*RTE, "in_domain", "out_of_domain"]), tmp_path, ("memory",)
    )
    names = ["memory.png", "memory-2.png", "memory-3.png", "memory-4.png"]
    assert [sheet.files for sheet in drawn] == [[tmp_path / name, tmp_path / "memory.pdf"] for name in names]
    assert {file.name for file in tmp_path.iterdir()} == {"memory.pdf", *names}
    assert re.search(rb"/Count 4\b", (tmp_path / "memory.pdf").read_bytes())
    models = ("opt-125m", "opt-1.3b")
    assert [sheet.sheet for sheet in drawn] == [f"rte ({model}){more}" for model in models for more in ("", ", continued")]


def test_what_has_nothing_to_show_is_left_out(tmp_path):
    write(tmp_path, [Made()], hans_rows=20)
    rates = pd.DataFrame(columns=[*RTE, "in_domain", "out_of_domain"])
    read = collect(tmp_path)
    names = {sheet.picture for sheet in draw_all(read, points(read), rates, tmp_path)}
    assert names == {"results", "domains", "cost", "memory"}


def test_runs_without_scores_or_counts_of_tokens_are_no_error(collection, tipped, tmp_path):
    rates = pd.DataFrame(columns=[*RTE, "in_domain", "out_of_domain"])
    unscored = dataclasses.replace(collection, scores=collection.scores.iloc[:0])
    assert draw_all(unscored, points(unscored), rates, tmp_path) == []
    (figure, _) = next(draw_results(*(frame.assign(tokens_per_query=math.nan) for frame in tipped)))
    assert figure.axes[1].get_xlim() == (1, 10)
    plt.close(figure)


def test_a_panel_a_model_and_a_marker_a_seed(tipped):
    judged, means = tipped
    rates = pd.DataFrame([{**RTE, "in_domain": 0.53, "out_of_domain": 0.5}])
    ((figure, _),) = draw_domains(judged, means, rates)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        drawn = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert sorted(len(line.get_xdata()) for line in drawn) == [1, 1, 1, 3, 3, 3]
        values = np.concatenate([line.get_xdata() for line in drawn if len(line.get_xdata()) == 3])
        model = axes.get_title().split("\n")[1]
        assert sorted(values) == sorted(judged.loc[judged["model"] == model, "in_domain"])
    plt.close(figure)


def test_curves_are_those_of_the_logs(collection, found):
    curves, left_out = training_curves(collection, found[found["judged"]])
    assert left_out == 0
    assert curves["id"].nunique() == 12
    assert curves["group"].nunique() == 4
    run = found.loc[found["method"] == "distill", ["id", "record"]].iloc[0]
    lines = (collection.folder / run["record"] / "train_log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    losses, divergences = ([[e["step"], e[name]] for e in entries if name in e] for name in ("loss", "eval_rte_kl"))
    assert len(divergences) == 2
    own = curves[curves["id"] == run["id"]]
    assert own.loc[own["kind"] == DISTILLED, ["step", "loss"]].to_numpy().tolist() == losses
    assert own.loc[own["kind"] == HELD_OUT, ["step", "loss"]].to_numpy().tolist() == divergences


def test_losses_are_numbers_and_those_of_the_last_training():
    log = [
        {"stage": 0, "step": 1, "loss": 5.0},
        {"stage": 0, "step": 2, "train_loss": 4.0},
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": math.nan},
        {"step": 3, "loss": math.inf},
        {"step": 4, "loss": 1.0},
        {"step": 4, "train_loss": 1.5},
    ]
    assert list(logged(log, ["loss"])) == [(1, 2.0), (4, 1.0)]


def test_one_evaluation_is_no_curve(tmp_path):
    (record,) = write(tmp_path, [Made(method="distill")], hans_rows=20)
    log = [{"loss": 0.5, "step": 1}, {"loss": 0.4, "step": 2}, {"eval_rte_kl": 0.3, "step": 2}]
    for entries, panels in ((log, 1), ([*log, {"eval_rte_kl": 0.3, "step": 4}], 2)):
        (tmp_path / record / "train_log.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        collection = collect(tmp_path)
        ((figure, _),) = draw_training(collection, points(collection).query("judged"))
        assert len(figure.axes) == panels
        plt.close(figure)


@pytest.mark.parametrize(
    ("values", "wanted"), [([0.0144, 0.0144], "0.0144"), ([0.0144, 0.01441], "0.0144"), ([0.01, 0.02], "0.02")]
)
def test_ticks_of_a_logarithmic_axis_have_different_numbers(values, wanted):
    figure, axes = plt.subplots()
    axes.plot([1, 2], values)
    axes.set_yscale("log")
    room_around(axes.yaxis, min(values), max(values))
    log_ticks(axes.yaxis, min(values), max(values))
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    ticks = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert wanted in ticks and len(set(ticks)) == len(ticks) and low <= min(values) and max(values) <= high
    plt.close(figure)


def test_costs_beside_nothing_have_no_tick_next_to_it():
    figure, axes = plt.subplots()
    scale_of_costs(axes, pd.Series([0.0, 19, 166]))
    assert axes.get_xticks().tolist() == [0, 10, 30, 100, 300]
    plt.close(figure)


def test_of_several_sets_the_mean_is_drawn_where_all_were_scored():
    pairs = [(1.0, 2.0), (1.0, None), (1.0, "?"), (1.0, math.nan)]
    log = [{"step": step, "eval_a_kl": a, "eval_b_kl": b} for step, (a, b) in enumerate(pairs, 1)]
    assert list(logged(log, ["eval_a_kl", "eval_b_kl"])) == [(1, 1.5)]
    assert list(logged(log, [])) == []


def test_runs_of_different_patterns_have_curves_of_their_own(tmp_path):
    made = [Made(method="pbft", pattern=pattern, seed=seed) for pattern in ("minimal", "gpt-3") for seed in range(2)]
    for record, run in write(tmp_path, made, hans_rows=20).items():
        level = (run.pattern == "gpt-3") + run.seed / 10
        (tmp_path / record / "train_log.jsonl").write_text(f'{{"loss": {level}, "step": 1}}\n{{"loss": {level}, "step": 2}}\n')
    collection = collect(tmp_path)
    judged = points(collection).query("judged")
    curves, _ = training_curves(collection, judged)
    assert sorted(curves.groupby("group")["pattern"].unique().map(list)) == [["gpt-3"], ["minimal"]]
    ((figure, _),) = draw_training(collection, judged)
    (axes,) = figure.axes
    means = [line.get_ydata().tolist() for line in axes.lines if line.get_linewidth() > 1.5 and line.get_linestyle() == "-"]
    assert np.array(sorted(means)) == pytest.approx(np.array([[0.05, 0.05], [1.05, 1.05]]))
    assert axes.get_yscale() == "linear"  # one loss is 0, which has no place on a logarithmic axis
    runs = [line.get_ydata().tolist() for line in axes.lines if line.get_linewidth() < 1]
    assert sorted(runs) == [[0, 0], [0.1, 0.1], [1, 1], [1.1, 1.1]]
    plt.close(figure)


def rows_of(tasks):
    """Groups as `sheets_of_rows` needs them: so many of each task, all of different methods."""
    rows = [(task, f"{task} {n}") for task, count in tasks.items() for n in range(count)]
    return pd.DataFrame({"model": "m", "pattern": "p", "task": [task for task, _ in rows], "name": [name for _, name in rows]})


def test_no_row_is_left_out_and_no_sheet_is_too_long():
    tasks = {"rte": 10, "qqp": 25, "long": 100, "cola": 1}
    sheets = [rows for rows, _ in sheets_of_rows(rows_of(tasks))]
    assert all(len(rows) <= ROWS and rows[0][1] is None for rows in sheets)
    shown = [name for rows in sheets for name, group in rows if group is not None]
    assert shown == [f"{task} {n}" for task, count in tasks.items() for n in range(count)]
    for rows in sheets:
        for (heading, above), (name, below) in pairwise(rows):
            if above is None:
                assert below is not None
                assert heading.startswith(f"{name.split(' ')[0]} (m)")


def test_sheets_are_called_by_what_is_on_them():
    names = [name for _, name in sheets_of_rows(rows_of({"rte": 10, "qqp": 25, "long": 45}))]
    assert names == ["rte (m) to qqp (m)", "long (m)", "long (m), continued"]
    frame = pd.DataFrame({"task": [f"task {n}" for n in range(2 * PANELS + 1)]})
    sheets = list(sheets_of_panels(frame, ["task"], PANELS))
    assert [len(parts) for parts in sheets] == [PANELS, PANELS, 1]
    assert [task for parts in sheets for (task,), _ in parts] == list(frame["task"])
    frame = pd.DataFrame({"task": ["a"] * (PANELS - 1) + ["b"] * (PANELS + 1), "model": [*range(PANELS - 1), *range(PANELS + 1)]})
    sheets = list(sheets_of_panels(frame, ["task", "model"], PANELS))
    assert [[task for (task, _), _ in parts] for parts in sheets] == [["a"] * (PANELS - 1), ["b"] * PANELS, ["b"]]


def test_numbers_at_the_ends_of_lines_do_not_overlap():
    weights = [1e8, 1e9]
    key = {
        "task": "rte",
        "look": "pbft",
        "pattern": "p",
        "differs": "",
        "in_domain_sd": 0.01,
        "out_of_domain_sd": 0.01,
        "tip": "",
        **HEADLINE,
    }
    means = pd.DataFrame(
        [
            {**key, "shots": shots, "model": f"opt-{w}m", "weights": w, "in_domain": 0.7, "out_of_domain": 0.6}
            for shots in (2, 16, 32)
            for w in weights
        ]
    )
    ((figure, _),) = draw_size(means)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert [text.get_text() for text in axes.texts] == ["2", "16", "32"]
        assert all(a.y1 <= b.y0 + 1 for a, b in pairwise(boxes))
        assert boxes[-1].y1 <= axes.get_window_extent().y1 + 5
    plt.close(figure)


def test_a_family_is_what_differs_in_size_alone():
    assert [family(name) for name in ("opt-125m", "opt-1.3b", "facebook/opt-30b", "gpt2", "gpt2-xl", "pythia-1.4b-deduped")] == [
        *("opt", "opt", "facebook/opt", "gpt2", "gpt2", "pythia-deduped"),
    ]
    assert family("Qwen2.5-0.5B-Instruct") == "Qwen2.5-Instruct"
    assert family("toy") == "toy"


def test_a_line_is_of_one_family():
    key = {"task": "rte", "look": "pbft", "shots": 16, "pattern": "p", "differs": "", "tip": "", **HEADLINE}
    key |= {"in_domain_sd": 0, "out_of_domain_sd": 0}
    models = {"opt-125m": 1.25e8, "pythia-1.4b": 1.4e9, "opt-1.3b": 1.3e9, "pythia-160m": 1.6e8, "other-7b": 7e9}
    means = pd.DataFrame([{**key, "model": m, "weights": w, "in_domain": 0.7, "out_of_domain": 0.6} for m, w in models.items()])
    assert list(draw_size(means.head(2))) == []
    ((figure, _),) = draw_size(means)
    for axes in figure.axes:
        drawn = [line[0].get_xdata().tolist() for line in axes.containers]
        assert drawn == [[1.25e8, 1.3e9], [1.6e8, 1.4e9]]
        assert {text.get_text() for text in axes.texts} == {"opt", "pythia"}
    plt.close(figure)


def test_many_lines_have_a_panel_for_each_number_of_shots():
    key = {"task": "rte", "look": "pbft", "differs": "", "in_domain_sd": 0, "out_of_domain_sd": 0, "tip": "", **HEADLINE}
    lines = [(shots, f"pattern {n}") for shots in (2, 16) for n in range(LINES // 2 + 1)]
    means = pd.DataFrame(
        [
            {**key, "shots": shots, "pattern": pattern, "model": f"opt-{w}b", "weights": w * 1e9, "in_domain": 0.7}
            for shots, pattern in lines
            for w in (1, 13)
        ]
    ).assign(out_of_domain=0.6)
    ((figure, name),) = draw_size(means)
    assert name == "rte, 2 shots to rte, 16 shots"
    assert [len(axes.containers) for axes in figure.axes] == 4 * [LINES // 2 + 1]
    plt.close(figure)


def svg_of(figure):
    svg = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(svg, format="svg")
    plt.close(figure)
    return svg.getvalue()


def test_each_mark_says_its_own_values():
    figure, axes = plt.subplots()
    (markers,) = axes.plot([1, math.nan, 3], [1, 2, 3], "o")
    say(markers, ["first", "third"])
    say(axes.vlines([1, 2], 0, 1), ["left", ""])
    styles = {}
    made = inline(svg_of(figure), "results-1", "Results", styles)
    assert re.findall("<title>(.*?)</title>", made) == ["first", "third", "left"]
    assert made.count('role="img" tabindex="0"') == 3
    assert "style=" not in made
    assert set(re.findall('class="(.*?)"', made)) == set(styles.values())
    ids = set(re.findall(' id="(.*?)"', made))
    assert ids == set(re.findall(r'(?:href="#|url\(#)([^")]+)', made))
    assert all(name.startswith("results-1-") for name in ids)


def test_a_mark_too_many_is_an_error():
    figure, axes = plt.subplots()
    (markers,) = axes.plot([1, 2, 3], [1, 2, 3], "o")
    say(markers, ["first", "second"])
    with pytest.raises(ValueError, match="zip"):
        inline(svg_of(figure), "results-1", "Results", {})


def test_of_very_many_runs_none_is_named_and_all_groups_are(found):
    judged = found[found["judged"]]
    many = pd.concat([judged] * (NAMED // len(judged) + 1), ignore_index=True)
    runs, means = with_tips(many, mean_points(many))
    assert set(runs["tip"]) == {""}
    assert means["tip"].str.contains("in-domain 0.").all()


def test_numbers_and_names_in_short():
    assert [short_number(value) for value in (1.3e9, 125e6, 470e3, 12, 0.5)] == ["1.3B", "125M", "470k", "12", "0.5"]
    assert abbreviated("a" * 30 + "b" * 30, 20) == "a" * 13 + "…" + "b" * 6

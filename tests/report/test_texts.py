"""Runs with text answers, beside runs of labels."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from llmft.errors import InputError
from llmft.report.__main__ import main
from llmft.report.page.examples import LONG, page_examples
from llmft.report.records.collect import collect
from llmft.report.records.examples import CHANGED, OUTCOMES, outcome, read_examples
from llmft.report.statistics.summary import summarise
from llmft.report.tables import contents
from tests.report.changes import change
from tests.report.conftest import EVIL, opened_page
from tests.report.synthetic import Made, write
from tests.report.texts import BYTES, DOCUMENT, TEXT_METRICS, MadeText, text_designs

LABELS = [Made(method=method, seed=seed) for method in ("icl", "pbft", "distill") for seed in range(2)]
DISTILLED = {"method": "distill", "with_context": True}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Runs of both kinds of answers, and the report on them; queries hold what no page may run."""
    folder = tmp_path_factory.mktemp("words")
    write(folder, [*text_designs(2, long=f" {EVIL}\n" + 40 * "a long query "), *LABELS], hans_rows=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmft.report.commands.write.PICTURES", ("results",))
        main([str(folder)])
    return collect(folder)


@pytest.fixture
def page(browser, mixed):
    yield from opened_page(browser, mixed.folder)


def table(collection, name):
    return pd.read_csv(collection.folder / "report" / f"{name}.csv")


def one(collection, **wanted):
    """The folder of the first run of a method that was given this."""
    runs = collection.runs.sort_values(["seed"], kind="stable")
    return next(
        collection.places[run["id"]]
        for run in runs.to_dict("records")
        if all(str(value) in str(run[name]) for name, value in wanted.items())
    )


def test_metrics_of_rows_are_pooled_and_those_of_tokens_by_their_tokens(mixed):
    summary = table(mixed, "report")
    summary = summary[(summary["task"] == "notes") & (summary["method"] == "distill") & (summary["selection"] == "last")]
    rows = summary[summary["set"] == "out_of_domain"].set_index("metric")
    frames = []
    for run in rows.loc["f1", "ids"].split(";"):
        frame = pd.read_parquet(mixed.places[run] / "predictions.parquet")
        frames.append(frame[(frame["stage"] == "after") & (frame["set"] != "notes")])
    for name in (*TEXT_METRICS, "tokens"):
        assert rows.loc[name, "mean"] == pytest.approx(np.mean([frame[name].mean() for frame in frames]))
    means = [np.average(frame["nll"], weights=frame["target_tokens"]) for frame in frames]
    assert rows.loc["nll", "mean"] == pytest.approx(np.mean(means))
    assert {"kl", "agreement"} <= set(rows.index)


def test_what_a_query_costs_holds_its_keys_and_values(mixed, capsys):
    runs = table(mixed, "report").drop_duplicates(["method", "selection", "task"]).set_index(["task", "method", "selection"])
    sizes = runs["kv_bytes_per_query_mean"]
    student = sizes["notes", "distill", "last"]
    assert sizes["notes", "distill", "teacher"] - student == DOCUMENT * BYTES
    assert sizes["notes", "distill", "last_with_context"] == sizes["notes", "distill", "teacher"]
    assert sizes["notes", "distill", "before"] == sizes["notes", "pbft", "last"] == student
    assert sizes["rte"].isna().all()
    text = (mixed.folder / "report" / "report.md").read_text()
    assert "KV KiB/query teacher" in text and f"{student / 1024:.0f}" in text
    main(["show", str(one(mixed, method="distill", task="notes"))])
    assert f"tokens per query, student: 60.0, {student / 1024:,.1f} KiB of keys and values" in capsys.readouterr().out


def test_contexts_and_documents_are_named_and_are_no_shots(mixed):
    runs = mixed.runs[mixed.runs["task"] == "notes"]
    assert set(zip(runs["method"], runs["differs"], runs["shots"], strict=True)) == {
        ("icl", "", 0), ("icl", "context=document", 0), ("pbft", "", 64), ("pbft", "train_on=document", 0),
        ("distill", "context=document", 0), ("distill-cartridge", "context=document", 0),
    }  # fmt: skip
    looks = json.loads(re.search('"looks":({.*?}})', (mixed.folder / "report" / "report.html").read_text())[1])
    assert (
        looks["pbft on documents"]["name"] == "fine-tuning on documents" and len({look["colour"] for look in looks.values()}) == 6
    )
    text = (mixed.folder / "report" / "report.md").read_text()
    assert "zero-shot |" in text and "in-context (context=document) |" in text and "zero-shot (" not in text


def test_a_context_without_shots_is_what_trained_runs_are_compared_with(mixed):
    evens = table(mixed, "break_even").fillna({"differs": ""}).set_index(["task", "method", "differs"])
    evens = evens.loc["notes"]
    assert sorted(evens.index) == [
        ("distill", "context=document"), ("distill-cartridge", "context=document"), ("pbft", ""), ("pbft", "train_on=document"),
    ]  # fmt: skip
    of_training = evens.loc["pbft"]
    assert (of_training["differs_prompting"] == "context=document").all() and (of_training["flops_queries"] > 0).all()
    tests = table(mixed, "differences")
    tests = tests[(tests["task"] == "notes") & (tests["selection"] == "last")]
    pairs = {frozenset(pair) for pair in zip(tests["setting_a"], tests["setting_b"], strict=True)}
    assert len(pairs) == 4 * 2 + 6  # trained ones with both ways of prompting and with each other


def test_reports_on_labels_have_nothing_about_words(tmp_path, without_pictures):
    write(tmp_path, LABELS, hans_rows=20)
    main([str(tmp_path)])
    assert not [name for name in table(collect(tmp_path), "report").columns if name.startswith("kv_bytes")]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Text answers" not in text and "KV KiB" not in text
    assert '"examples":{"runs":[],"left_out":0}' in (tmp_path / "report" / "report.html").read_text()


def test_all_metrics_of_every_set_are_in_a_table(mixed):
    text = (mixed.folder / "report" / "report.md").read_text().split("## Text answers")[1].split("\n## ")[0]
    heading, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    names = heading.strip("| ").split(" | ")
    for name in ("exact match", "F1", "contains", "ROUGE-L", "edit similarity", "NLL", "KL", "agreement"):
        assert name in names
    assert len(rows) == 3 * (2 + 2 * 4 + 4 + 3)  # sets x stages of the settings
    assert not any("rte" in row for row in rows)


def test_metrics_of_no_set_are_not_of_the_tasks_rows(tmp_path):
    (record,) = write(tmp_path, [MadeText(**DISTILLED)])
    values = {"off_context_kl": 0.25, "contamination": 0.125, "abstention": 0.75, "false_abstention": 0.5}
    of_stage = {metric: {"after": {"notes": value}} for metric, value in values.items()}
    change(tmp_path / record / "metrics.json", elsewhere={"prompts": 50}, **of_stage)
    summary = summarise(collect(tmp_path))
    rows = summary[summary["metric"].isin(values)].set_index("metric")
    assert rows["mean"].to_dict() == values and rows["n"].tolist()[:2] == [50, 50] and rows["n"].isna().tolist()[2:] == [True] * 2
    assert rows["rows"].tolist() == ["50 of elsewhere"] * 2 + ["all sets"] * 2
    (distilled,) = made_cells(contents.distillation(contents.result_rows(summary), ()))
    names = ("off-context KL", "contamination", "abstention after")
    assert [distilled[name] for name in names] == ["0.250", "0.125", "0.750"]
    of_sets = {(row["selection"], row["set"]): row for row in made_cells(contents.words(summary, summary["ids"][0]))}
    assert of_sets["last", "elsewhere"]["rows"] == "50" and of_sets["last", "all sets"]["false abstention"] == "0.500"


def made_cells(table):
    """The rows of a table by the names of its columns."""
    return [dict(zip([column.name for column in table.columns], row, strict=True)) for row in table.cells()]


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        (0, 1, CHANGED[0]),
        (1, 0, CHANGED[1]),
        (0.2, 0.5, "better"),
        (1, 0.5, "worse"),
        (0, 0, "still wrong"),
        (1, 1, "still right"),
        (0.5, 0.5, "unchanged"),
        (None, 0, "wrong"),
        (None, 0.5, "in part"),
        (None, 1, "right"),
    ],
)
def test_what_became_of_a_row(before, after, wanted):
    assert outcome(before, after) == wanted


def test_examples_begin_with_rows_that_changed(mixed):
    place = one(mixed, method="distill", task="notes")
    metrics = json.loads((place / "metrics.json").read_text())
    frame = pd.read_parquet(place / "predictions.parquet")
    by_stage = {stage: part.set_index(["set", "idx"]) for stage, part in frame.groupby("stage")}
    whole = read_examples(place, metrics, 1000)
    assert whole.stages == ["teacher", "before", "after", "after_with_context"] and whole.final == "after"
    assert len(whole.rows) == len(by_stage["after"]) == sum(whole.counts.values()) and whole.left_out == 0
    ranks = [OUTCOMES.index(example.outcome) for example in whole.rows]
    assert ranks == sorted(ranks) and len(set(ranks)) > 2
    for example in whole.rows:
        for stage, answer in example.answers.items():
            row = by_stage[stage].loc[(example.set, example.idx)]
            assert (answer.text, answer.score) == (row["prediction"], row["score"])
            assert answer.metrics["rougeL"] == row["rougeL"]
            assert ("kl" in answer.metrics) == pd.notna(row["kl"])
    fewer = read_examples(place, metrics, 9)
    assert len(fewer.rows) == 9 and fewer.counts == whole.counts and fewer.left_out == len(whole.rows) - 9
    assert {example.outcome for example in fewer.rows} <= {*CHANGED}
    assert {example.set for example in fewer.rows} == set(frame["set"])


def test_rows_that_got_worse_have_a_share(tmp_path):
    (record,) = write(tmp_path, [MadeText(**DISTILLED)])
    path = tmp_path / record / "predictions.parquet"
    frame = pd.read_parquet(path)
    frame.loc[frame["stage"] == "before", "score"] = 0.0
    frame.loc[frame["stage"] == "after", "score"] = 1.0
    last = (frame["set"] == "notes") & (frame["idx"] == frame.loc[frame["set"] == "notes", "idx"].max())
    frame.loc[last & (frame["stage"] == "before"), "score"] = 1.0
    frame.loc[last & (frame["stage"] == "after"), "score"] = 0.0
    frame.to_parquet(path)
    examples = read_examples(tmp_path / record, json.loads((tmp_path / record / "metrics.json").read_text()), 5)
    assert [example.outcome for example in examples.rows] == [CHANGED[0]] * 4 + [CHANGED[1]]


def test_a_page_has_some_runs_of_each_setting_and_says_how_many_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("llmft.report.page.examples.RUNS", 4)
    monkeypatch.setattr("llmft.report.page.examples.ROWS", 20)
    made = [MadeText(**kind, seed=seed) for kind in (DISTILLED, {"method": "icl"}) for seed in range(3)]
    write(tmp_path, [*made, MadeText(method="pbft", shots=64, long="x" * (2 * LONG))])
    data = page_examples(collect(tmp_path))
    assert len(data["runs"]) == 4 and data["left_out"] == 3
    methods = [re.search(": (in-context|fine-tuning|distillation)", run["title"])[1] for run in data["runs"]]
    assert {method: methods.count(method) for method in methods} == {"in-context": 2, "fine-tuning": 1, "distillation": 1}
    (tuned,) = (run for run in data["runs"] if "fine-tuning" in run["title"])
    assert all(len(row["query"]) < LONG + 60 and "more characters" in row["query"] for row in tuned["rows"])
    assert all(len(run["rows"]) + run["left_out"] == sum(count for _, count in run["counts"]) for run in data["runs"])
    assert all(len(run["rows"]) == 20 and run["left_out"] == 30 for run in data["runs"])


@pytest.mark.parametrize("name", ["DONE", "metrics.json", "predictions.parquet"])
def test_a_run_that_is_done_again_by_now_is_left_out_of_the_examples(tmp_path, name):
    records = list(write(tmp_path, [MadeText(**DISTILLED, seed=seed) for seed in range(2)]))
    collection = collect(tmp_path)
    (tmp_path / records[0] / name).unlink()  # the first thing that a new start does
    data = page_examples(collection)
    assert len(data["runs"]) == data["left_out"] == 1 and records[1].split("/")[-1] in data["runs"][0]["title"]


def test_examples_are_filtered_on_the_page(page):
    rows, count = page.locator("#example-table tbody tr"), page.locator("#example-count")
    assert count.inner_text().startswith("50 of 50 rows. The run has ")
    assert page.locator("#example-run option:checked").inner_text().startswith("notes: distillation")
    headings = page.locator("#example-table thead button").all_inner_texts()
    assert headings == ["row", "query", "reference", "teacher", "before", "after", "after, with context"]
    assert CHANGED[0] in rows.first.inner_text() and rows.first.locator("td.better").count() == 1
    assert "rougeL" not in rows.first.locator("td").nth(3).get_attribute("data-tip")
    assert "ROUGE-L" in rows.first.locator("td").nth(3).get_attribute("data-tip")
    page.select_option("#example-set", label="notes-reverse")
    assert count.inner_text().startswith("12 of 50")
    page.select_option("#example-outcome", label="still wrong")
    assert rows.count() and all("still wrong" in text for text in rows.all_inner_texts())
    page.fill("#example-search", "nothing like it")
    assert count.inner_text().startswith("0 of 50") and rows.count() == 0
    page.select_option("#example-run", index=0)
    page.fill("#example-search", "PLACE 11?")
    assert count.inner_text().startswith("2 of 50") and headings != page.locator("#example-table thead button").all_inner_texts()


def test_texts_are_texts_and_long_ones_open(page):
    details = page.locator("#example-table details").first
    whole = page.locator("#example-table tbody tr").first.locator("td").nth(1)
    assert EVIL in whole.inner_text() and whole.inner_text().count("a long query") < 20
    details.locator("summary").click()
    assert whole.inner_text().count("a long query") == 40
    for width in (1280, 800, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_examples_in_a_terminal(mixed, capsys, monkeypatch):
    place = one(mixed, method="distill", task="notes")
    main(["show", str(place), "--examples", "3"])
    printed = capsys.readouterr().out.split("Examples, with exact match: ")[1]
    counts, *lines = printed.splitlines()
    assert CHANGED[0] in counts and counts.endswith("; 47 are not shown")
    assert sum(line.startswith("notes") for line in lines) == 3
    assert lines[0].endswith(f": {CHANGED[0]}") and "│" not in printed and "\x1b" not in printed
    names = [line.split()[0] for line in lines[1:8]]
    assert names == ["document", "query", "reference", "teacher", "before", "after", "after,"]
    assert f"{EVIL} ⏎ a long query" in lines[2] and lines[2].endswith(" characters)")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "90")
    main(["show", str(place), "--examples", "3"])
    boxes = capsys.readouterr().out.split("Examples, with")[1]
    assert boxes.count("╭") == 3 and CHANGED[0] in boxes


def test_what_would_move_the_cursor_is_printed_as_signs(tmp_path, capsys):
    (record,) = write(tmp_path, [MadeText(method="pbft", shots=64, long=" \x1b[31mred\x07\x9b \u2028")])
    main(["show", str(tmp_path / record), "--examples", "1"])
    assert r" \x1b[31mred\x07\x9b \u2028" in capsys.readouterr().out


def test_runs_without_words_have_no_examples(mixed, capsys):
    for words, said in (
        ([str(one(mixed, task="rte")), "--examples", "5"], "--examples 5: the answers of this run are labels"),
        ([str(one(mixed, task="notes")), "--examples", "0"], "--examples 0: must be 1 or more"),
    ):
        with pytest.raises(InputError, match=said) as error:
            main(["show", *words])
        assert "\n" not in str(error.value) and not capsys.readouterr().out


def test_two_runs_in_words_are_compared(mixed, tmp_path, capsys):
    runs = [one(mixed, method="distill", task="notes"), one(mixed, method="pbft", shots=64, task="notes")]
    main(["compare", *map(str, runs), "--out", str(tmp_path / "flips.csv")])
    assert "│ after" in capsys.readouterr().out
    assert list(pd.read_csv(tmp_path / "flips.csv").columns) == [
        "set", "idx", "query", "target", "prediction_a", "prediction_b", "change",
    ]  # fmt: skip

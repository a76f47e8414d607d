"""Names of settings, and comparisons of what is not alike."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llmft.report.__main__ import main
from llmft.report.figures.points import mean_points, points
from llmft.report.page.findings import findings
from llmft.report.records.collect import collect
from llmft.report.records.names import OTHER_ROWS, OTHER_ROWS_NOTE
from llmft.report.records.settings import name_differences, with_shots_of_settings
from llmft.report.statistics.break_even import break_evens
from llmft.report.statistics.summary import majority_of_tasks, summarise, tasks_with_other_rows, welch, welch_over_sizes
from llmft.report.tables import comparisons, contents, published
from llmft.report.tables.published import add_published
from llmft.report.tables.table import Column, ReportTable, markdown, terminal
from llmft.runs.summary import plain_console
from tests.report.changes import change
from tests.report.synthetic import Made, write


def row(setting, given, model="m", method="pbft", task="rte", shots=16, pattern="minimal"):
    columns = {"task": task, "method": method, "model": model, "shots": shots, "pattern": pattern}
    columns["headline"] = "score_accuracy"
    return {**columns, "setting": setting, "non_default": given}


def named(*rows):
    found, shared = name_differences(rows)
    return [one["differs"] for one in found], shared


def test_arguments_differ_over_models_and_shots_too():
    differs, shared = named(
        row("a", {"num_shots": 2, "learning_rate": 1e-4, "loss": "t-few"}, shots=2),
        row("b", {"num_shots": 2, "learning_rate": 1e-5, "loss": "t-few", "model_name_or_path": "large"}, "large", shots=2),
        row("c", {"learning_rate": 1e-5}, method="vanilla"),
    )
    assert differs == ["learning_rate=0.0001", "learning_rate=1e-05", ""]
    assert shared == ["All runs of pbft on rte: loss=t-few.", "All runs of vanilla on rte: learning_rate=1e-05."]


def test_a_kind_of_context_is_named_even_where_all_have_it():
    assert named(row("a", {"context": "label"}))[0] == ["context=label"]


def test_runs_of_a_setting_have_one_number_of_shots():
    rows = [row("a", {}, shots=shots) for shots in (90, 108, 121)] + [row("b", {}, shots=16), row("a", {}, method="icl", shots=2)]
    assert [one["shots"] for one in with_shots_of_settings(rows)] == [106, 106, 106, 16, 2]


def test_settings_of_one_name_get_their_hash():
    differs, _ = named(row("abcdefgh", {}), row("ijklmnop", {}), row("ijklmnop", {}), row("qrstuvwx", {}, shots=2))
    assert differs == ["setting abcdef", "setting ijklmn", "setting ijklmn", ""]


def test_settings_that_differ_outside_their_arguments_stay_apart(tmp_path):
    made = [Made(model=model, method=method, seed=seed) for model in ("opt-125m", "opt-350m") for method in ("icl", "pbft")
            for seed in range(2)]  # fmt: skip
    write(tmp_path / "a", made, hans_rows=4)
    for record in write(tmp_path / "b", [one for one in made if one.method == "pbft" and one.model == "opt-125m"], hans_rows=4):
        change(tmp_path / "b" / record / "config.json", setting="elsewhere")
    tests = welch_over_sizes(summarise(collect(tmp_path)))
    assert {"setting elsewh"} < set(tests["differs_b"])
    cells = sum(len(row["tests"]) for table in comparisons.over_sizes(tests) for row in table.rows)
    assert cells == len(tests)  # none has taken another's place


def test_the_teachers_pattern_is_told_beside_the_students(tmp_path):
    for record in write(tmp_path, [Made(method="distill", seed=seed) for seed in range(2)], hans_rows=4):
        config = tmp_path / record / "config.json"
        texts = {"pattern": "T {text1}", "student_pattern": "S {text1}"}
        change(config, lambda c, t=texts: (c["given"].update(t), c["arguments"]["Own"].update(t)))
    (found,) = collect(tmp_path).runs.drop_duplicates("setting").to_dict("records")
    assert (
        found["pattern"] == "S {text1}"
        and "pattern=T {text1}" in found["non_default"]
        and "S {text1}" not in found["non_default"]
    )


@pytest.fixture
def unlike(tmp_path):
    """In-context learning and fine-tuning, the latter on other out-of-domain rows."""
    write(tmp_path, [Made(method="icl", seed=seed) for seed in range(2)], hans_rows=40)
    write(tmp_path, [Made(method="pbft", seed=seed) for seed in range(2)], hans_rows=20)
    return collect(tmp_path)


def test_other_evaluation_rows_are_marked_wherever_two_are_compared(unlike):
    summary = summarise(unlike)
    tests = welch(summary)
    assert tests.groupby("set")["other_rows"].unique().map(list).to_dict() == {"in_domain": [False], "out_of_domain": [True]}
    assert "40 of hans-lexical_overlap-entailment + hans-lexical_overlap-contradiction" in set(tests["rows_b"])
    table = comparisons.differences(tests)
    for cell in ([column.text(row) for column in table.columns if "domain" in column.name] for row in table.rows):
        assert OTHER_ROWS not in cell[0] and cell[1].endswith(OTHER_ROWS)
    assert OTHER_ROWS_NOTE in table.notes and OTHER_ROWS_NOTE not in comparisons.differences(tests[~tests["other_rows"]]).notes
    evens = break_evens(summary, unlike)
    assert not evens["other_rows"].any()
    found = points(unlike)
    assert findings(mean_points(found[found["judged"]]), evens)[0].count("(not all on the same rows)") == 1


@pytest.fixture(params=["idx", "target"])
def as_many(request, tmp_path, without_pictures):
    """Prompting and training of two models; prompting on other in-domain rows (by idx, or by label), though as many."""
    models, methods = ("opt-125m", "opt-350m"), ("icl", "pbft", "distill")
    made = [Made(model=model, method=method, seed=seed) for model in models for method in methods for seed in range(2)]
    for record in write(tmp_path, made, hans_rows=4):
        if record.startswith("icl"):
            path = tmp_path / record / "predictions.parquet"
            table = pd.read_parquet(path)
            inside = table["set"] == "rte"
            table.loc[inside, request.param] = 1000 + table["idx"] if request.param == "idx" else 1 - table["target"]
            table.to_parquet(path)
    return tmp_path


def other_rows(folder, name):
    found = pd.read_csv(folder / "report" / f"{name}.csv")
    return set(zip(found["method_a"], found["method_b"], found["set"], found["other_rows"], strict=True))


def test_as_many_other_rows_are_marked_wherever_two_are_compared(as_many):
    main([str(as_many)])
    domains = ("in_domain", "out_of_domain")
    marked = {("icl", method, domain, domain == "in_domain") for method in ("pbft", "distill") for domain in domains}
    assert other_rows(as_many, "sizes") == marked
    assert other_rows(as_many, "differences") == marked | {("pbft", "distill", domain, False) for domain in domains}
    evens = pd.read_csv(as_many / "report" / "break_even.csv")
    assert set(zip(evens["method"], evens["other_rows"], strict=True)) == {("pbft", True), ("distill", False)}
    parts = (as_many / "report" / "report.md").read_text().split("\n## ")
    told = {part.split("\n")[0].split(" ")[0]: OTHER_ROWS_NOTE in part for part in parts}
    assert told["Differences"] and told["Break-even"] and not told["Results"]
    page = (as_many / "report" / "report.html").read_text()
    (finding,) = json.loads(page.split('type="application/json">')[1].split("</script>")[0])["findings"]
    assert finding.count("(not all on the same rows)") == 1
    assert finding.index("(not all on the same rows)") < finding.index("out-of-domain")


def test_rows_of_a_data_seed_are_no_other_rows(tmp_path):
    """As on the toy task: every data seed has labels of its own, and one method has been run with fewer of them."""
    made = [Made(method=method, seed=seed) for method in ("icl", "pbft") for seed in range(2 + (method == "icl"))]
    for record, run in write(tmp_path, made, hans_rows=4).items():
        path = tmp_path / record / "predictions.parquet"
        table = pd.read_parquet(path)
        table.assign(idx=table["idx"] + 1000 * run.seed).to_parquet(path)
    collection = collect(tmp_path)
    summary = summarise(collection)
    assert tasks_with_other_rows(summary) == set()
    assert len(welch(summary)) and not welch(summary)["other_rows"].any()
    apart = set(collection.runs.query("seed == (method == 'pbft')")["id"])  # the first seed of the one, the second of the other
    of_these = {key: scores for key, scores in collection.row_scores.items() if key[0] in apart}
    summary = summarise(replace(collection, row_scores=of_these))
    assert tasks_with_other_rows(summary) == {("rte", "score_accuracy", domain) for domain in ("in_domain", "out_of_domain")}
    assert welch(summary)["other_rows"].all()


def test_rows_that_cannot_be_read_are_told_by_their_number(as_many):
    for path in as_many.glob("icl/**/predictions.parquet"):
        path.unlink()
    main([str(as_many)])
    assert {other for *_, other in other_rows(as_many, "differences")} == {False}
    assert not pd.read_csv(as_many / "report" / "break_even.csv")["other_rows"].any()


def test_other_sets_stay_marked_though_their_rows_are_not_read(unlike):
    tests = welch(summarise(replace(unlike, row_scores={})))
    assert tests.groupby("set")["other_rows"].unique().map(list).to_dict() == {"in_domain": [False], "out_of_domain": [True]}
    assert welch(summarise(unlike).iloc[:0]).empty


def test_what_else_was_loaded_keeps_no_two_from_being_compared(tmp_path):
    """A student's adapter counts among the weights of in-context learning on it, and not of training it anew."""
    for record in write(
        tmp_path, [Made(method=method, seed=seed) for method in ("icl", "pbft") for seed in range(2)], hans_rows=4
    ):
        change(tmp_path / record / "metrics.json", weights={"model": 100 + record.startswith("icl"), "trainable": 0})
    collection = collect(tmp_path)
    summary = summarise(collection)
    assert set(welch(summary)["selection"]) == {"last", "best_in_domain", "best_out_of_domain"}
    assert len(break_evens(summary, collection)) == 1


def test_queries_of_other_rows_make_no_like_break_even(tmp_path):
    for record in write(tmp_path, [Made(method=method) for method in ("icl", "pbft")], hans_rows=4):
        if record.startswith("icl"):
            change(tmp_path / record / "metrics.json", lambda metrics: metrics["stages"]["icl"]["rte"].update(n=100))
    collection = collect(tmp_path)
    table = comparisons.break_even_table(break_evens(summarise(collection), collection))
    assert OTHER_ROWS_NOTE in table.notes
    assert [cells for cells in table.cells() if f"in-context, minimal {OTHER_ROWS}" in cells]


def test_what_always_the_largest_class_would_get_is_of_a_runs_own_rows(tmp_path):
    written = write(tmp_path, [Made(seed=0), Made(seed=1), Made(method="pbft", seed=0)], hans_rows=10)
    for record, run in written.items():
        if run.method == "icl":
            change(tmp_path / record / "metrics.json", majority={"rte": 0.5 + run.seed / 10})
    collection = collect(tmp_path)
    runs = collection.runs
    rates = runs.set_index(["method", "seed"])["majority_in_domain"]
    assert rates["icl", 0] == 0.5 and rates["icl", 1] == 0.6
    assert rates["pbft", 0] == pytest.approx(139 / 277)  # its record says nothing; the labels do
    assert runs["majority_out_of_domain"].tolist() == [0.5] * 3  # of both labels together, not of each set
    (lines,) = majority_of_tasks(runs).to_dict("records")
    assert np.isnan(lines["in_domain"]) and lines["out_of_domain"] == 0.5  # one line for all runs, or none
    summary = summarise(collection)
    chosen = summary[(summary["method"] == "icl") & (summary["metric"] == "score_accuracy")].set_index("set")["majority"]
    assert chosen["in_domain"] == pytest.approx(0.55) and np.isnan(chosen["rte"])
    assert "largest class in-domain" in markdown(contents.results(contents.result_rows(summary)))


def test_what_all_rows_say_is_said_once():
    columns = [Column(name, lambda row, name=name: row[name], left=True) for name in ("task", "model", "why")]
    columns = (*columns[:2], Column("why", lambda row: row["why"], left=True, stays=True), Column("n", lambda row: row["n"]))
    rows = [{"task": "rte", "model": model, "why": "same", "n": "1"} for model in "ab"]
    table = ReportTable("some", "Some", columns, rows, ("A note.",))
    text = markdown(table)
    assert "| model | why | n |" in text and "All rows: task rte." in text and "A note." in text
    assert terminal(table, "there")[1] == ["All rows: task rte.", "A note."]
    assert "All rows" not in markdown(ReportTable("some", "Some", columns, rows[:1]))


def test_text_in_brackets_is_printed_as_it_is(capsys):
    column = Column("[b]", lambda row: row["text"], left=True)
    table = ReportTable("some", "[red]", (column,), [{"text": "[INST] {text1} [/INST] :tada:"}])
    plain_console().print(terminal(table, "there")[0])
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("[INST] {text1} [/INST] :tada:", "[b]", "[red]"))


def test_a_report_on_a_pattern_with_brackets(tmp_path, capsys):
    folder = tmp_path / "[bold]"
    for record, run in write(folder, [Made(method=m, seed=s) for m in ("icl", "pbft") for s in range(2)], hans_rows=4).items():
        text = "[INST] {text1} [/INST]" if run.method == "icl" else "{text1}"
        change(folder / record / "config.json", lambda c, t=text: c["arguments"]["Own"].update(pattern=t))
    main([str(folder)])
    printed = capsys.readouterr().out
    assert "[INST] {text1} [/INST]" in printed and str(folder / "report") in printed


def test_published_numbers_are_in_the_csv_and_none_is_said(tmp_path, without_pictures, capsys):
    main_runs = [Made(model="opt-30b", pattern="gpt-3"), Made(model="opt-30b", method="pbft-lora", pattern="gpt-3")]
    write(tmp_path, main_runs, hans_rows=5000)
    main([str(tmp_path)])
    found = pd.read_csv(tmp_path / "report" / "report.csv")
    own = found[(found["metric"] == "score_accuracy") & (found["set"] == "in_domain")].set_index(["method", "selection"])
    assert own.loc[("icl", "icl"), "published_mean"] == 0.617 and own.loc[("icl", "icl"), "published_provenance"] == "printed"
    assert own.loc[("pbft-lora", "last"), "published"] == "none"
    text = (tmp_path / "report" / "report.md").read_text()
    lines = [line for line in text.split("## Published")[1].split("##")[0].splitlines() if "fine-tuning, LoRA" in line]
    assert len(lines) == 2 and all("| none | - | - |" in line for line in lines)
    assert (found["majority"].notna() == found["set"].isin(["in_domain", "out_of_domain"])).all()


def test_published_f1_and_what_was_given_stand_beside_ours():
    ours = {"task": "qqp", "model": "LLaMA-7B", "shots": 0, "pattern": "harness task qqp v0", "method": "icl", "differs": "",
            "setting": "a", "headline": "score_accuracy", "selection": "icl", "set": "qqp", "metric": "f1", "mean": 0.5,
            "n": 1000}  # fmt: skip
    (found,) = add_published(pd.DataFrame([{**ours, "non_default": "calibrate=True"}])).to_dict("records")
    assert found["published_mean"] == pytest.approx(0.538084)
    assert found["published_note"].endswith("here: calibrate=True")


def test_an_unknown_number_of_rows_is_said_where_ours_are_a_part():
    row = {"selection": "icl", "n": 100}
    one = {"selection": "icl", "subset": "all", "n_eval": float("nan"), "eval_set": "rte"}
    assert published._differences(row, one)[0] == ["rows there: number not given, here: 100 of 277"]
    assert published._differences({**row, "n": 277}, one)[0] == []


def test_pictures_and_tables_of_an_earlier_report_do_not_stay(tmp_path):
    out = tmp_path / "out"
    write(tmp_path / "a", [Made(method="distill")], hans_rows=4)
    main([str(tmp_path / "a"), "--out", str(out)])
    assert (out / "gap.png").is_file() and (out / "tables" / "distillation.tex").is_file()
    for name in ("mine.png", "results-mine.png", "results-2.png"):
        (out / name).touch()
    write(tmp_path / "b", [Made()], hans_rows=4)
    main([str(tmp_path / "b"), "--out", str(out)])
    assert not (out / "gap.png").exists() and not (out / "tables" / "distillation.tex").exists()
    assert not (out / "results-2.png").exists()
    assert all((out / name).is_file() for name in ("mine.png", "results-mine.png", "results.png"))


def test_files_of_others_stay_in_a_folder_without_a_report(tmp_path, without_pictures):
    others = [tmp_path / "paper" / name for name in ("training.pdf", "cost.png", "tables/distillation.tex")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write(tmp_path / "runs", [Made()], hans_rows=4)
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "paper")])
    assert all(path.is_file() for path in others)

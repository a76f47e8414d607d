import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from llmft.errors import InputError
from llmft.report.__main__ import main
from llmft.report.records.collect import collect
from llmft.report.statistics.summary import summarise, welch_over_sizes
from llmft.report.tables import contents
from llmft.report.tables.comparisons import over_sizes
from llmft.report.tables.latex import escape, latex
from llmft.report.tables.table import MOST_ROWS, Column, ReportTable, terminal
from llmft.runs.record import RunRecord
from llmft.runs.summary import SELECTED, show_run
from tests.report.synthetic import Made, write

ACCURACY = {0: (0.5, 0.9, 0.8), 1: (0.5, 0.7, 0.6), 2: (0.5, 0.8, 0.4)}
"""Seed -> in-domain accuracy before, of the teacher, and after."""


def make_run(folder, seed, method="distill", finished=True):
    """A run record as the pipelines write it, with made-up numbers."""
    record = RunRecord.locate(str(folder), [method, "rte", "tiny"], {"seed": seed}, writes=True)
    arguments = {"seed": seed, "data_seed": seed, "task_variant": None}
    record.write_config(
        {
            "method": method,
            "task": "rte",
            "model": "tiny",
            "setting": "abc",
            "given": {"num_shots": 2, "data_seed": seed},
            "arguments": {"RunArguments": arguments},
            "draws": {"demonstrations": [[1, 2]] if method != "pbft" else [[]], "train_rows": [3, 4]},
        }
    )
    stages = ("before", "teacher", "after") if method == "distill" else ("before", "after")
    work = {"examples": 8, "tokens": 80, "flops": 800}
    phases = [{"kind": "train", "stage": None, "set": None, "cpu_total_s": 3.0 + seed, **work}]
    for stage in stages:
        accuracy = ACCURACY[seed][("before", "teacher", "after").index(stage)]
        for name, n in (("rte", 10), ("hans-a", 30), ("hans-b", 10)):
            value = accuracy if name == "rte" else accuracy - 0.1
            record.add(stage, name, {"score_accuracy": value, "n": n}, {"idx": list(range(n))})
            work = {"examples": n, "tokens": 10 * n, "flops": 20 * n}
            phases.append({"kind": "evaluate", "stage": stage, "set": name, "cpu_total_s": 0.01 * n, **work})
    if not finished:
        return record
    total = {"cpu_total_s": 9.0, "cpu_user_s": 8.0, "cpu_system_s": 1.0, "rss_peak_bytes": 2**30, "rss_mean_bytes": 2**29}
    metrics = {
        "headline": {"name": "score_accuracy", "higher_is_better": True},
        "sets": {"in_domain": ["rte"], "out_of_domain": ["hans-a", "hans-b"]},
        "tokens_per_query": {"teacher": 200.0, "student": 10.0} if method == "distill" else {"student": 10.0},
    }
    if method == "distill":
        metrics["gap_recovered"] = {"in_domain": 0.5 + seed / 10, "out_of_domain": None}
        metrics["kl"] = {stage: {"rte": 0.2, "hans-a": 0.4} for stage in ("before", "after")}
    record.write_results(metrics)
    record.write_costs({"phases": phases, "total": total})
    record.finish()
    return record


@pytest.fixture
def folder(tmp_path):
    for seed in ACCURACY:
        make_run(tmp_path, seed)
    make_run(tmp_path, 0, "pbft")
    make_run(tmp_path, 1, "pbft", finished=False)
    return tmp_path


def cell(summary, method, selection, name="in_domain", metric="score_accuracy"):
    found = summary.query("method == @method and selection == @selection and set == @name and metric == @metric")
    assert len(found) == 1
    return found.iloc[0]


def test_means_and_spreads_are_numpys(folder):
    summary = summarise(collect(folder))
    after, out = cell(summary, "distill", "last"), cell(summary, "distill", "last", "out_of_domain")
    values = [accuracies[2] for accuracies in ACCURACY.values()]
    assert after["mean"] == pytest.approx(np.mean(values))
    assert after["sd"] == pytest.approx(np.std(values, ddof=1))
    assert out["mean"] == pytest.approx(np.mean(values) - 0.1)
    assert after["gap_recovered"] == pytest.approx(0.6)
    assert np.isnan(out["gap_recovered"])
    assert cell(summary, "distill", "last", metric="kl")["mean"] == pytest.approx(0.2)
    assert after["training_cpu_s_mean"] == pytest.approx(4.0)
    assert after["cpu_ms_per_query_mean"] == pytest.approx(10.0)
    assert after["tokens_per_query_mean"] == 10
    assert cell(summary, "distill", "teacher")["tokens_per_query_mean"] == 200
    assert after["runs"] == 3
    assert len(after["ids"]) == 3


def test_unfinished_runs_are_listed_and_not_counted(folder):
    collection = collect(folder)
    assert len(collection.left_out) == 1
    assert (collection.runs.query("method == 'pbft'")["seed"] == 0).all()


def test_methods_come_in_the_order_of_tables(folder):
    assert summarise(collect(folder))["method"].unique().tolist() == ["pbft", "distill"]


def test_the_report_is_written_and_says_what_was_found(folder, without_pictures, capsys):
    main([str(folder)])
    printed = capsys.readouterr().out
    assert "0.600 ± 0.200" in printed
    assert "Runs without predictions" in printed and "it has no column" in printed
    assert "not counted" in printed and "unfinished" in printed
    out = folder / "report"
    text = (out / "report.md").read_text()
    assert "| distillation | 0.600 ± 0.200 | 0.400 to 0.800 | 0.500 ± 0.200 | 0.300 to 0.700 | 10.0 ± 0.0 |" in text
    assert "| 0.800 ± 0.100 | 0.500 ± 0.000 | 0.600 ± 0.200 |" in text  # teacher, before, after
    summary = pd.read_csv(out / "report.csv")
    row = cell(summary, "distill", "last")
    runs = pd.read_csv(out / "runs.csv").set_index("id")
    own = runs.loc[row["ids"].split(";")]
    assert own["last_in_domain"].mean() == pytest.approx(row["mean"])  # a cell is traced to its runs
    assert (own["last_in_domain_low"] < own["last_in_domain"]).all() and (
        own["last_in_domain"] < own["last_in_domain_high"]
    ).all()
    assert all((folder / record / "metrics.json").is_file() for record in own["record"])
    assert pd.read_csv(out / "left_out.csv")["reason"].str.contains("unfinished").tolist() == [True]
    assert (out / "tables" / "results.tex").read_text().startswith("% \\usepackage{booktabs}\n\\begin{table}")


def test_all_tables_are_in_all_forms(made, tmp_path, without_pictures, capsys):
    main([str(made[0]), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    text = (tmp_path / "report.md").read_text()
    for heading in ("Results", "Last checkpoint", "Distillation", "Differences", "Row by row", "Break-even", "not counted"):
        assert heading in text
    assert "rte, 16 shots, out-of-domain: fine-tuning (last) minus in-context" in text
    assert SELECTED.replace("*", "\\*") in text and SELECTED in printed
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {f"{name}.tex" for name in (
        "results", "checkpoints", "distillation", "differences", "sizes", "paired", "break_even", "left_out", "costs",
        "published",
    )}  # fmt: skip
    runs = pd.read_csv(tmp_path / "runs.csv")
    qqp = runs[runs["task"] == "qqp"]
    assert (qqp["icl_in_domain_f1_low"] < qqp["icl_in_domain_f1"]).all()
    assert (qqp["icl_in_domain_f1"] < qqp["icl_in_domain_f1_high"]).all()
    assert not list(tmp_path.rglob(".*"))  # nothing half-written is left


def test_stars_stand_at_the_set_that_chose(summary):
    table = contents.checkpoints(contents.result_rows(summary))
    (row, *_) = table.cells()
    stars = {column.name: cell.endswith("*") for column, cell in zip(table.columns, row, strict=True)}
    assert [name for name, starred in stars.items() if starred] == [
        "best in-domain: in-domain",
        "best out-of-domain: out-of-domain",
    ]


def test_a_terminal_is_not_flooded():
    table = ReportTable("many", "Many", (Column("n", lambda row: str(row["n"])),), [{"n": n} for n in range(500)])
    shown, below = terminal(table, "out/report.md")
    assert shown.row_count == MOST_ROWS and below == [f"{500 - MOST_ROWS} more rows: out/report.md"]


def test_latex_prints_text_as_it_is():
    assert escape("a_b & 5% #1 {x} ~^\\ <1") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}1"
    )
    columns = (Column("a_b", lambda row: row["n"], left=True), Column("c", lambda row: row["n"]))
    short = latex(ReportTable("some", "Some 5%", columns, [{"n": "-0.5 ± 0.1"}]))
    assert "$-$0.5 $\\pm$ 0.1 & $-$0.5" in short and r"\caption{Some 5\%.}" in short and "a\\_b & c" in short
    long = latex(ReportTable("some", "Some", columns, [{"n": str(n)} for n in range(50)]))
    assert long.count("\\begin{longtable}{lr}") == long.count("\\end{longtable}") == 1 and long.count(r" \\") == 52


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(made, tmp_path, without_pictures):
    main([str(made[0]), "--out", str(tmp_path)])
    inputs = "".join(f"\\input{{tables/{path.name}}}" for path in sorted((tmp_path / "tables").iterdir()))
    packages = "\\usepackage{booktabs}\\usepackage{longtable}"
    (tmp_path / "all.tex").write_text(f"\\documentclass{{article}}{packages}\\begin{{document}}{inputs}\\end{{document}}")
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path, check=True, timeout=300)


def test_a_folder_may_have_a_commands_name(tmp_path, monkeypatch, without_pictures):
    make_run(tmp_path / "show", 0, "pbft")
    monkeypatch.chdir(tmp_path)
    main(["./show"])
    assert (tmp_path / "show" / "report" / "report.csv").is_file()


def test_what_cannot_be_written_is_an_error(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out .*file: cannot be written to"):
        main([str(folder), "--out", str(tmp_path / "file")])


def test_bad_input_is_one_line_and_status_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "llmft.report", str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no finished run" in done.stderr


def test_a_run_is_shown_with_its_numbers(folder, capsys):
    done = next(path for path in folder.glob("distill/*/*/*/DONE") if json.loads((path.parent / "config.json").read_text()))
    show_run(done.parent)
    printed = capsys.readouterr().out
    assert "teacher 200.0, student 10.0" in printed
    assert "CPU 9.0 s (8.0 user, 1.0 system), memory 1024 MiB peak, 512 MiB mean" in printed
    assert "gap recovered out-of-domain: no gap" in printed


def test_a_matrix_of_one_model_is_left_out(tmp_path):
    made = [Made(model=model, method="icl") for model in ("opt-125m", "opt-1.3b")]
    made += [Made(model=model, method="pbft") for model in ("opt-125m", "opt-1.3b")]
    made += [Made(pattern="gpt-3", method=method) for method in ("icl", "pbft")]
    write(tmp_path, made, hans_rows=4)
    tables = over_sizes(welch_over_sizes(summarise(collect(tmp_path))))
    assert tables[0].name == "sizes-1" and [table for table in tables if "minimal, in-domain" in table.title]
    assert not [table for table in tables if "gpt-3, in-domain" in table.title]


def test_rows_of_several_patterns_are_told_apart(tmp_path, without_pictures):
    made = [
        Made(model=model, method=method, pattern=pattern, seed=seed)
        for model in ("opt-125m", "opt-1.3b") for method in ("icl", "pbft") for pattern in ("minimal", "gpt-3") for seed in (0, 1)
    ]  # fmt: skip
    write(tmp_path, made, hans_rows=9)
    main([str(tmp_path)])
    parts = (tmp_path / "report" / "report.md").read_text().split("\n## ")
    titles = [part.splitlines()[0] for part in parts]
    assert len(set(titles)) == len(titles)
    assert "rte, 16 shots, gpt-3, in-domain: fine-tuning (last) minus in-context" in titles
    assert "rte, 16 shots, in-domain: fine-tuning, gpt-3 (last) minus in-context, minimal" in titles
    for title, columns in (("Differences", 7), ("Row by row", 5)):  # those that name the two groups
        (table,) = (part for part in parts if part.startswith(title))
        rows = [tuple(line.split(" | ")[:columns]) for line in table.splitlines() if line.startswith("| ")]
        assert len(set(rows)) == len(rows) > 10

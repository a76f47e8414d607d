import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from llmft.errors import InputError
from llmft.report.__main__ import main
from llmft.report.collect import collect, summarise
from llmft.runs.record import RunRecord
from llmft.runs.show import show_run

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
            "draws": {"demonstrations": [[1, 2]] if method != "pbft" else [[]]},
        }
    )
    stages = ("before", "teacher", "after") if method == "distill" else ("before", "after")
    phases = [{"name": "train", "cpu_total_s": 3.0 + seed, "examples": 8}]
    for stage in stages:
        accuracy = ACCURACY[seed][("before", "teacher", "after").index(stage)]
        for name, n in (("rte", 10), ("hans-a", 30), ("hans-b", 10)):
            value = accuracy if name == "rte" else accuracy - 0.1
            record.add(stage, name, {"score_accuracy": value, "n": n}, {"idx": list(range(n))})
            phases.append({"name": f"eval {stage} {name}", "cpu_total_s": 0.01 * n, "examples": n})
    if not finished:
        return record
    total = {"cpu_total_s": 9.0, "cpu_user_s": 8.0, "cpu_system_s": 1.0, "rss_peak_bytes": 2**30, "rss_mean_bytes": 2**29}
    metrics = {
        "sets": {"in_domain": ["rte"], "out_of_domain": ["hans-a", "hans-b"]},
        "tokens_per_query": {"teacher": 200.0, "student": 10.0} if method == "distill" else {"student": 10.0},
    }
    if method == "distill":
        metrics["gap_recovered"] = {"in_domain": 0.5 + seed / 10, "out_of_domain": None}
        metrics["kl"] = {stage: {"rte": 0.2, "hans-a": 0.4} for stage in ("before", "after")}
    record.write_results(metrics)
    record.finish({"phases": phases, "total": total})
    return record


@pytest.fixture
def folder(tmp_path):
    for seed in ACCURACY:
        make_run(tmp_path, seed)
    make_run(tmp_path, 0, "pbft")
    make_run(tmp_path, 1, "pbft", finished=False)
    return tmp_path


def test_means_and_spreads_are_numpys(folder):
    summary = summarise(collect(folder).stages).set_index(["method", "stage"])
    after = summary.loc[("distill", "after")]
    values = [accuracies[2] for accuracies in ACCURACY.values()]
    assert after["in_domain_mean"] == pytest.approx(np.mean(values))
    assert after["in_domain_sd"] == pytest.approx(np.std(values, ddof=1))
    assert after["out_of_domain_mean"] == pytest.approx(np.mean(values) - 0.1)
    assert after["gap_in_domain_mean"] == pytest.approx(0.6)
    assert np.isnan(after["gap_out_of_domain_mean"])
    assert after["kl_mean"] == pytest.approx(0.2)  # in-domain only
    assert after["training_cpu_s_mean"] == pytest.approx(4.0)
    assert after["ms_per_query_mean"] == pytest.approx(10.0)
    assert after["tokens_per_query_mean"] == 10
    assert summary.loc[("distill", "teacher")]["tokens_per_query_mean"] == 200
    assert after["runs"] == 3
    assert len(after["records"]) == 3


def test_unfinished_runs_are_listed_and_not_counted(folder):
    collection = collect(folder)
    assert len(collection.unfinished) == 1
    assert (collection.stages.query("method == 'pbft'")["seed"] == 0).all()


def test_methods_come_in_the_order_of_tables(folder):
    assert collect(folder).final["method"].unique().tolist() == ["pbft", "distill"]


def test_the_report_is_written_and_says_what_was_found(folder, capsys):
    main([str(folder)])
    printed = capsys.readouterr().out
    assert "0.600 ± 0.200" in printed
    assert "unfinished, not counted" in printed
    text = (folder / "report" / "report.md").read_text()
    assert "| distillation | 0.600 ± 0.200 | 0.500 ± 0.200 | 10.0 ± 0.0 |" in text
    assert "| distillation | teacher | 0.800 ± 0.100 |" in text
    assert len(pd.read_csv(folder / "report" / "report.csv")) == 5
    picture = imread(folder / "report" / "results.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.01


def test_a_run_is_shown_with_its_numbers(folder, capsys):
    done = next(path for path in folder.glob("distill/*/*/*/DONE") if json.loads((path.parent / "config.json").read_text()))
    show_run(done.parent)
    printed = capsys.readouterr().out
    assert "teacher 200.0, student 10.0" in printed
    assert "CPU 9.0 s (8.0 user, 1.0 system), memory 1024 MiB peak, 512 MiB mean" in printed
    assert "gap recovered out-of-domain: no gap" in printed


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        main([str(tmp_path)])

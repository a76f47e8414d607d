import shutil

import pandas as pd
import pytest

from llmft.errors import InputError
from llmft.report.__main__ import main
from llmft.runs.record import RunRecord
from llmft.runs.summary import show_run
from tests.report.changes import change

PHASE = {
    "cpu_user_s": 8.0, "cpu_system_s": 1.5, "cpu_total_s": 9.5, "wall_s": 10.25, "examples": 8, "tokens": 1234,
    "padding_tokens": 0,
    "flops": 5_000_000_000, "rss_peak_bytes": 300 * 2**20, "rss_mean_bytes": 200 * 2**20, "pss_mean_bytes": 150 * 2**20,
}  # fmt: skip


def make_run(folder, seed, method="distill", answers=(0, 1, 0, 1), idx=(5, 6, 7, 8), stage="after", finished=True):
    """A run record with these answers to four rows, labels 0 0 1 1."""
    record = RunRecord.locate(str(folder), [method, "rte", "tiny"], {"seed": seed, "method": method}, writes=True)
    record.write_config(
        {
            "method": method,
            "task": "rte",
            "task_version": 2,
            "model": "tiny",
            "setting": "abc",
            "given": {"num_shots": 2, "seed": seed},
            "arguments": {"RunArguments": {"seed": seed, "output_dir": str(folder)}},
            "data_fingerprints": {"rte": "one"},
            "draws": {"demonstrations": [[1, 2]], "train_rows": list(range(50)), "eval_rows": {"rte": list(idx)}},
        }
    )
    labels = [0, 0, 1, 1]
    right = sum(a == b for a, b in zip(answers, labels, strict=True)) / 4
    columns = {"idx": list(idx), "target": labels, "prediction": list(answers)}
    columns["score"] = [float(a == b) for a, b in zip(answers, labels, strict=True)]
    record.add(stage, "rte", {"score_accuracy": right, "accuracy": None, "n": 4, "n_asked": 4}, columns)
    if finished:
        metrics = {"headline": {"name": "score_accuracy", "higher_is_better": True}, "majority": {"rte": 0.5}}
        metrics |= {"sets": {"in_domain": ["rte"], "out_of_domain": []}}
        metrics |= {"tokens_per_query": {"student": 12.0}, "gap_recovered": {"in_domain": 0.5}}
        record.write_results(metrics | {"weights": {"model": 1000, "trainable": 10}})
        costs = {"phases": [{"kind": "train", "stage": None, "set": None, **PHASE}], "total": PHASE, "ranks": [PHASE, PHASE]}
        record.write_costs(costs | {"saved_by_teacher_cache": {"cpu_s": 3.25, "flops": 7, "phases": []}})
        record.finish()
    return record.path


@pytest.fixture
def pair(tmp_path):
    return make_run(tmp_path, 0), make_run(tmp_path, 1, answers=(0, 0, 1, 0))


def test_a_run_is_shown_whole(pair, tmp_path, capsys):
    main(["show", pair[0].name[:8], "--folder", str(tmp_path)])
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "distill on rte with tiny",
        "│ num_shots │ 2 │",
        "0 1 2 3 4 5 6 7 8 9 10 11 ... (50)",
        "│ rte │ 5 6 7 8 │",
        "│ after │ rte │ 0.5 │ - │ 4 │ 0.5 │",
        "│ train │ 9.50 │ 8.00 │ 1.50 │ 10.25 │ 300 │ 200 │ 150 │ 8 │ 1,234 │ 5.0 │",
        "gap recovered in-domain: 50.0%",
        "weights: 1,000, trained: 10",
        "saved by the teacher cache: cpu_s 3.25, flops 7",
        "rank 1: CPU 9.50 s",
        "predictions.parquet",
    ):
        assert text in shown, text


def test_what_differs_between_two_runs(pair, tmp_path, capsys):
    out = tmp_path / "flips.csv"
    main(["compare", *map(str, pair), "--out", str(out)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "│ --seed │ 0 │ 1 │" in shown and "output_dir" not in shown
    assert "│ after │ rte │ score_accuracy │ 0.5 │ 0.75 │ +0.25 │" in shown
    assert "│ after │ rte │ McNemar │ 4 │ 1 │ 2 │ 1 │" in shown  # of three discordant rows one and two: p is 1
    assert "rte, from right to wrong: idx 8" in shown and "rte, from wrong to right: idx 6 7" in shown
    flips = pd.read_csv(out)
    assert flips[["idx", "target", "prediction_a", "prediction_b"]].to_numpy().tolist() == [
        [8, 1, 1, 0],
        [6, 0, 1, 0],
        [7, 1, 0, 1],
    ]


def test_differences_are_shown_where_they_are(pair, capsys):
    long = "the same beginning, " * 10
    for run, word, rows in zip(pair, ("one", "another"), ([1, *range(10, 60)], [*range(10, 60), 2, 3]), strict=True):
        change(run / "config.json", lambda c, w=word: c["given"].update(instruction=f"{long}{w}{long}", stop=[w], file=f"x/{w}"))
        change(run / "config.json", lambda c, r=rows: c["draws"].update(train_rows=r))
    main(["compare", *map(str, pair)])
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("one", "another"):
        assert f"│ …the same beginning, {word}the same beginning," in shown
    assert "│ --stop │ one │ another │" in shown and "│ --file │ x/one │ x/another │" in shown
    assert "│ draws: train_rows │ only: 1 │ only: 2 3 │" in shown


def test_runs_of_other_methods_are_compared_at_their_final_stages(pair, tmp_path, capsys):
    other = make_run(tmp_path, 0, "icl", answers=(0, 1, 0, 1), stage="icl")
    main(["compare", str(pair[0]), str(other)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "│ method │ distill │ icl │" in shown and "│ after / icl │ rte │ McNemar │ 4 │ 0 │ 0 │ 1 │" in shown


def test_other_evaluation_rows_are_said_and_not_compared(pair, tmp_path, capsys):
    other = make_run(tmp_path, 2, idx=(5, 6, 7, 9))
    main(["compare", str(pair[0]), str(other)])
    shown = capsys.readouterr().out
    assert "rte: the evaluation rows differ (4 and 4); not compared" in shown and "McNemar" not in shown


def test_the_same_run_differs_in_nothing(pair, capsys):
    main(["compare", str(pair[0]), str(pair[0])])
    assert "arguments, versions, commit, data and draws are identical" in capsys.readouterr().out


def test_what_names_no_finished_run_is_one_line(pair, tmp_path):
    unfinished = make_run(tmp_path, 3, finished=False)
    (tmp_path / "empty").mkdir()
    shutil.copytree(pair[1], tmp_path / "copy" / pair[1].name)
    for words, what in (
        (["show", "nope"], "nope: no such folder, and no such run under"),
        (["show", pair[1].name], "2 runs under .* have this name"),
        (["show", str(unfinished)], "unfinished"),
        (["show", str(tmp_path / "empty")], "is not a run's folder"),
        (["compare", str(pair[0]), "nope"], "nope: no such folder"),
        (["compare", *map(str, pair), "--out", str(tmp_path / "no" / "flips.csv")], "--out .*: there is no such folder"),
        *(
            (["compare", *map(str, pair), "--out", out], f"--out .*: cannot be written .{reason}")
            for out, reason in ((str(tmp_path), "Is a directory"), ("", "Is a directory"), ("x" * 300, "File name too long"))
        ),
    ):
        with pytest.raises(InputError, match=what) as error:
            main([*words, "--folder", str(tmp_path)])
        assert "\n" not in str(error.value)


def test_a_run_has_the_name_that_the_report_gives_it(pair, tmp_path, capsys):
    copy = tmp_path / "copy" / pair[0].relative_to(tmp_path)
    shutil.copytree(pair[0], copy)
    for name in (f"copy/{pair[0].relative_to(tmp_path)}", str(copy.relative_to(tmp_path))[:-3]):
        main(["show", name, "--folder", str(tmp_path)])
        assert f"record: {copy}:" in capsys.readouterr().out


def without(path, *names):
    change(path, lambda content: [content.pop(name, None) for name in names])


def test_older_records_are_shown_and_compared(pair, capsys):
    for run in pair:
        without(run / "config.json", "environment", "data_fingerprints")
        without(run / "metrics.json", "tokens_per_query")
        without(run / "cost.json", "ranks")
    main(["show", str(pair[0])])
    main(["compare", *map(str, pair)])
    assert "score_accuracy" in capsys.readouterr().out


def test_a_metric_whose_name_begins_with_n_is_compared(pair, capsys):
    for run, value in zip(pair, (1.5, 1.25), strict=True):
        change(run / "metrics.json", lambda metrics, v=value: metrics["stages"]["after"]["rte"].update(nll=v))
    main(["compare", *map(str, pair)])
    assert "│ nll │ 1.5 │ 1.25 │ -0.25 │" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["show", "compare"])
def test_what_cannot_be_understood_is_one_line_that_names_the_run(pair, command):
    change(pair[1] / "metrics.json", lambda metrics: metrics["stages"]["after"]["rte"].update(score_accuracy="much"))
    with pytest.raises(InputError, match=f"{pair[1]}: its record cannot be understood") as error:
        main([command, *map(str, pair if command == "compare" else pair[1:])])
    assert "\n" not in str(error.value)


def test_names_in_brackets_are_shown_as_they_are(pair, capsys):
    for run in pair:
        change(run / "config.json", model="[red]tiny[/nothing]")
    main(["show", str(pair[0])])
    main(["compare", *map(str, pair)])
    show_run(pair[0])
    assert capsys.readouterr().out.count("[red]tiny[/nothing]") == 4


@pytest.mark.parametrize(("number", "tables"), [(12, 1), (13, 0)])
def test_scores_of_each_document_are_shown_where_there_are_few(pair, capsys, number, tables):
    scores = {f"document {i}": {"score_accuracy": 0.5, "n": 1} for i in range(number)}
    change(pair[0] / "metrics.json", documents={"after": {"rte": scores}})
    show_run(pair[0])
    assert capsys.readouterr().out.count("score_accuracy by document") == tables

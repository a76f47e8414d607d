"""Where runs are found, and what of odd records counts."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest

from llmft.report.__main__ import main
from llmft.report.records import find
from llmft.report.records.collect import collect
from llmft.report.statistics.paired import paired_tests
from llmft.report.statistics.summary import summarise, welch
from tests.report.changes import change
from tests.report.synthetic import Made, write


def set_metric(stage, name, metric, value):
    return lambda metrics: metrics["stages"][stage][name].update({metric: value})


def test_a_run_is_found_once_however_many_links_lead_to_it(tmp_path):
    (record,) = write(tmp_path, [Made()], hans_rows=4)
    (tmp_path / "a").symlink_to(record)
    (tmp_path / "icl" / "up").symlink_to(tmp_path)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    (other,) = write(outside, [Made(seed=1)], hans_rows=4)
    (tmp_path / "z").symlink_to(outside)
    collection = collect(tmp_path)
    assert sorted(collection.runs["record"]) == [record, f"z/{other}"] and not collection.left_out


def test_a_copy_is_no_repetition(tmp_path):
    (record, _) = write(tmp_path / "a", [Made(method="pbft", seed=seed) for seed in range(2)], hans_rows=4)
    shutil.copytree(tmp_path / "a" / record, tmp_path / "b" / record)
    collection = collect(tmp_path)
    assert collection.left_out == [(f"b/{record}", f"the same run as a/{record}")]
    row = summarise(collection).query("selection == 'last' and set == 'in_domain' and metric == 'score_accuracy'").iloc[0]
    assert row["runs"] == 2 == len(collection.runs) and set(row["ids"]) == set(collection.runs["id"])


def test_prompting_twice_with_one_draw_is_one_run(tmp_path):
    first, second = sorted(write(tmp_path, [Made(seed=0), Made(seed=1)], hans_rows=4))
    for place, record in enumerate((first, second)):
        change(tmp_path / record / "config.json", lambda c, s=place: c["arguments"]["Own"].update(seed=s, data_seed=7))
    collection = collect(tmp_path)
    assert collection.runs["record"].tolist() == [first]
    assert "does not depend on --seed" in dict(collection.left_out)[second]


def test_folders_that_cannot_be_read_are_listed(tmp_path, monkeypatch):
    (record,) = write(tmp_path, [Made()], hans_rows=4)
    (tmp_path / "closed").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("gone")
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(find.os, "scandir", guarded)
    collection = collect(tmp_path)
    assert collection.runs["record"].tolist() == [record]
    assert collection.left_out == [("closed", "cannot be searched (Permission denied)")]


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_folder_that_disappears_during_the_search_is_listed(tmp_path, monkeypatch, name):
    (record,) = write(tmp_path, [Made()], hans_rows=4)
    (tmp_path / name / "inside").mkdir(parents=True)
    stat = os.stat

    def removing(path, **options):
        if str(path).endswith(name):
            shutil.rmtree(path)
        return stat(path, **options)

    monkeypatch.setattr(find.os, "stat", removing)
    runs, closed = find.find_runs(tmp_path)
    assert runs == [tmp_path / record] and closed == [(tmp_path / name, "cannot be searched (No such file or directory)")]


def test_a_stray_config_hides_no_runs(tmp_path):
    (record,) = write(tmp_path, [Made()], hans_rows=4)
    (tmp_path / "config.json").write_text('{"mine": 1}')
    (tmp_path / "icl" / "config.json").write_text("no json")
    collection = collect(tmp_path)
    assert collection.runs["record"].tolist() == [record]
    assert [name for name, _ in collection.left_out] == ["icl"]


def test_names_that_are_no_utf_8_are_shown_as_bytes(tmp_path, without_pictures, capsys):
    (record,) = write(tmp_path / "plain", [Made(method="pbft")], hans_rows=4)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    shutil.move(tmp_path / "plain", odd)
    main([str(tmp_path)])
    assert pd.read_csv(tmp_path / "report" / "runs.csv")["record"].tolist() == [f"\\xff/{record}"]
    assert "cannot be read" not in capsys.readouterr().out  # its predictions were


def test_half_a_surrogate_pair_in_a_record_is_shown_as_its_code(tmp_path, without_pictures, capsys):
    (record,) = write(tmp_path, [Made(pattern="\ud83d\ude00 \udcff")], hans_rows=4)
    main([str(tmp_path)])
    assert pd.read_csv(tmp_path / "report" / "runs.csv")["pattern"].tolist() == ["\U0001f600 \\udcff"]
    main(["show", str(tmp_path / record)])
    assert r"\udcff" in capsys.readouterr().out


def test_a_metric_that_is_no_number_takes_its_run_out_and_no_other(tmp_path):
    good, bad = sorted(write(tmp_path, [Made(seed=0), Made(seed=1)], hans_rows=4))
    change(tmp_path / bad / "metrics.json", set_metric("icl", "rte", "ece", "much"))
    collection = collect(tmp_path)
    assert collection.runs["record"].tolist() == [good] and [record for record, _ in collection.left_out] == [bad]
    assert set(collection.scores["id"]) == set(collection.runs["id"])


def test_what_is_not_finite_is_not_counted_as_averaged(tmp_path):
    whole, nan, infinite = sorted(write(tmp_path, [Made(method="distill", seed=seed) for seed in range(3)], hans_rows=4))
    change(tmp_path / nan / "metrics.json", lambda metrics: metrics["kl"]["after"].update(rte=float("nan")))
    change(tmp_path / infinite / "metrics.json", set_metric("after", "rte", "loss", float("inf")))
    collection = collect(tmp_path)
    ids = dict(zip(collection.runs["record"], collection.runs["id"], strict=True))
    rows = summarise(collection).query("selection == 'last' and set == 'in_domain'").set_index("metric")
    assert set(rows.loc["kl", "ids"]) == {ids[whole], ids[infinite]} and rows.loc["kl", "runs"] == 2
    assert set(rows.loc["loss", "ids"]) == {ids[whole], ids[nan]} and np.isfinite(rows.loc["loss", "mean"])
    assert rows.loc["score_accuracy", "runs"] == 3


def test_counts_may_be_larger_than_a_machine_word(tmp_path):
    (record,) = write(tmp_path, [Made(method="pbft")], hans_rows=4)

    def many(cost):
        for phase in (*cost["phases"], cost["total"]):
            phase["flops"] = 2**70

    change(tmp_path / record / "cost.json", many)
    found = summarise(collect(tmp_path)).iloc[0]
    assert found["flops_mean"] == found["training_flops_mean"] == 2.0**70


def test_broken_lines_of_a_log_are_left_out_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("llmft.report.commands.write.PICTURES", ("training",))
    first, second = sorted(write(tmp_path, [Made(method="pbft", seed=seed) for seed in range(2)], hans_rows=4))
    lines = [
        '{"loss": 0.5, "step": 1}',
        "",
        '{"loss": 0.',
        "[1]",
        '{"loss": 1}',
        '{"loss": "x", "step": 1}',
        '{"loss": 0.4, "step": 2}',
    ]
    (tmp_path / first / "train_log.jsonl").write_text("\n".join(lines))
    (tmp_path / second / "train_log.jsonl").write_bytes(b"\xff\n")
    main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"train_log.jsonl of {first.split('/')[-1]}: 3 lines cannot be understood" in printed
    assert f"train_log.jsonl of {second.split('/')[-1]}: 1 lines cannot be understood" in printed
    collection = collect(tmp_path)
    logs = collection.logs(collection.runs["id"])
    assert [entry["step"] for entry in logs[first.split("/")[-1]]] == [1, 2]


def spoil_labels(table):
    return table.assign(target=pd.array([None, *table["target"][1:]], dtype="Int64"))


@pytest.mark.parametrize(
    "spoil",
    [spoil_labels, lambda table: table.assign(target=-1), lambda table: table.iloc[:0]],
    ids=["a null label", "no labels", "no rows"],
)
def test_predictions_that_make_no_sense_are_listed(tmp_path, spoil):
    good, bad = sorted(write(tmp_path, [Made(seed=0), Made(seed=1)], hans_rows=4))
    path = tmp_path / bad / "predictions.parquet"
    spoil(pd.read_parquet(path)).to_parquet(path)
    collection = collect(tmp_path)
    answers, missing = collection.row_scores, collection.unread
    ids = dict(zip(collection.runs["record"], collection.runs["id"], strict=True))
    assert [run for run, _ in missing] == [ids[bad]] and {run for run, _ in answers} == {ids[good]}


def test_a_set_that_the_last_stage_was_not_asked_has_no_answers(tmp_path):
    (record,) = write(tmp_path, [Made(method="pbft")], hans_rows=4)
    path = tmp_path / record / "predictions.parquet"
    table = pd.read_parquet(path)
    table[(table["set"] == "rte") | (table["stage"] == "before")].to_parquet(path)
    collection = collect(tmp_path)
    assert [domain for _, domain in collection.row_scores] == ["in_domain"] and not collection.unread


def test_the_order_of_sets_in_a_file_makes_no_other_rows(tmp_path):
    records_ = list(write(tmp_path, [Made(method=method, seed=seed) for method in ("icl", "pbft") for seed in range(2)]))
    turned = next(record for record in records_ if record.startswith("icl"))
    path = tmp_path / turned / "predictions.parquet"
    table = pd.read_parquet(path)
    extra = table[table["set"] == "rte"].assign(set="another")
    pd.concat([extra, table]).to_parquet(path)
    collection = collect(tmp_path)
    tests = welch(summarise(collection))
    found = paired_tests(tests, collection)
    assert set(found["id_a"]) == set(collection.runs.query("method == 'icl'")["id"])
    assert found["set"].value_counts().to_dict() == {"in_domain": 2, "out_of_domain": 2}

"""Records of all versions that have been written are one thing to the report."""

import json

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from llmft.report.__main__ import main
from llmft.report.records.collect import collect
from llmft.report.records.find import read_record
from tests.report.changes import change
from tests.report.synthetic import Made, write

RUNS = [Made(task, method=method, seed=seed) for task in ("rte", "qqp") for method in ("icl", "pbft") for seed in range(2)]
RUNS += [Made(method="distill", seed=seed, with_context=True) for seed in range(2)]


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    folders = {version: tmp_path_factory.mktemp(f"version{version}") for version in (3, 4, 5)}
    for version, folder in folders.items():
        write(folder, RUNS, hans_rows=8, version=version)
    return {version: collect(folder) for version, folder in folders.items()}


@pytest.mark.parametrize("version", [3, 4])
def test_older_records_say_what_new_ones_do(collections, version):
    old, new = collections[version], collections[5]
    assert not old.left_out and len(new.runs) == len(RUNS)
    scores, expected = old.row_scores, new.row_scores
    assert_frame_equal(old.runs, new.runs)
    assert_frame_equal(old.scores, new.scores)
    assert "last_with_context" in set(new.scores["selection"])
    assert new.runs["teacher_saved_cpu_s"].gt(0).sum() == 1
    assert not old.unread and scores.keys() == expected.keys()
    for key, of_run in expected.items():
        assert scores[key].rows == of_run.rows
        assert np.array_equal(scores[key].scores, of_run.scores)
        assert np.array_equal(scores[key].confusion, of_run.confusion)


def test_the_older_forms_are_those_that_were_written(collections):
    (run,) = collections[4].runs.query("method == 'distill' and seed == 1")["record"]
    costs = {version: json.loads((one.folder / run / "cost.json").read_text()) for version, one in collections.items()}
    names = [phase["name"] for phase in costs[4]["phases"]]
    assert {"load", "train", "eval teacher rte", "eval after with context hans-lexical_overlap-entailment"} < set(names)
    saved = [costs[version]["saved_by_teacher_cache"] for version in (3, 4, 5)]
    assert "phases" not in saved[0] and list(saved[1]["phases"]) == ["teacher"]
    assert saved[2]["phases"] == [{"kind": "teacher", "stage": None, "set": None, **saved[1]["phases"]["teacher"]}]


def test_a_sets_name_may_look_like_a_stage(tmp_path):
    (record,) = write(tmp_path, [Made(method="pbft")], hans_rows=4, version=4)
    change(
        tmp_path / record / "cost.json", lambda cost: cost["phases"][1].update(name="eval after with context of eval before x")
    )
    phase = read_record(tmp_path / record)[2]["phases"][1]
    assert (phase["kind"], phase["stage"], phase["set"]) == ("evaluate", "after_with_context", "of eval before x")


@pytest.mark.parametrize("version", [3, 4, 5])
def test_one_run_is_shown_in_every_form(collections, version, capsys):
    collection = collections[version]
    (run,) = collection.runs.query("method == 'distill' and seed == 1")["id"]
    main(["show", str(collection.places[run])])
    printed = " ".join(capsys.readouterr().out.split())
    assert "evaluate after_with_context rte" in printed and "after_with_context │ rte" in printed
    assert "saved by the teacher cache: cpu_s" in printed

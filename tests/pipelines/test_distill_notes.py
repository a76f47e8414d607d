"""Text answers on the embedded world: a model that needs a document in its prompt learns to answer without it."""

import json

import numpy as np
import pytest

from llmft.evaluation.texts import TEXT_METRICS
from llmft.report.__main__ import main
from llmft.worlds.notes.world import notes_documents, notes_splits
from tests.pipelines.conftest import run

SEEDS = (0, 1, 2)
NOTES = ("--task", "notes")
SETS = {"notes", "notes-reverse", "notes-unanswerable"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def distilled(folder):
    """The records of three documents, with no flags except which document."""
    return [run("distill.py", folder, *NOTES, "--data_seed", seed) for seed in SEEDS]


def mean(records, stage, metric="exact_match"):
    return np.mean([record.metrics["stages"][stage]["notes"][metric] for record in records])


def test_without_its_document_the_model_knows_nothing_with_it_everything(distilled):
    assert mean(distilled, "before") <= 0.05
    assert mean(distilled, "teacher") >= 0.95


def test_the_student_recovers_the_gap_on_wordings_it_was_not_taught_with(distilled):
    before, teacher, after = (mean(distilled, stage) for stage in ("before", "teacher", "after"))
    assert (after - before) / (teacher - before) >= 0.90
    for record in distilled:
        taught = {line["query"] for line in teacher_answers(record)}
        asked = record.predictions.query("set == 'notes'")["query"]
        assert not taught & set(asked)


def test_a_query_costs_ten_times_fewer_tokens_and_bytes(distilled):
    for record in distilled:
        for sizes in (record.metrics["tokens_per_query"], record.metrics["kv_bytes_per_query"]):
            assert sizes["teacher"] >= 10 * sizes["student"] > 0


def test_a_query_is_not_charged_for_what_students_are_compared_with(distilled):
    for record in distilled:
        sizes, phases = record.metrics["tokens_per_query"], record.phases
        context = sizes["teacher"] - sizes["student"]
        teacher, before = (phases[f"evaluate {stage} notes"]["tokens"] for stage in ("teacher", "before"))
        assert teacher < before + 1.5 * context and phases["reference teacher notes"]["tokens"] > context


def test_kl_to_the_teacher_falls_and_agreement_rises(distilled):
    for record in distilled:
        kl, agreement = record.metrics["kl"], record.metrics["agreement"]
        assert kl["after"]["notes"] < kl["before"]["notes"] / 10
        assert agreement["after"]["notes"] > agreement["before"]["notes"] + 0.8


def teacher_answers(record):
    return [json.loads(line) for line in (record.path / "teacher_answers.jsonl").read_text().splitlines()]


def test_the_record_says_what_was_asked_and_answered(distilled):
    for seed, record in zip(SEEDS, distilled, strict=True):
        metrics, splits = record.metrics, notes_splits(None, seed)
        assert {*metrics["sets"]["in_domain"], *metrics["sets"]["out_of_domain"]} == SETS
        assert metrics["headline"] == {"name": "exact_match", "higher_is_better": True}
        assert set(metrics["stages"]) == {"teacher", "before", "after", "after_with_context"}
        for sets in metrics["stages"].values():
            assert set(sets) == SETS
            for scores in sets.values():
                assert set(scores) == {*TEXT_METRICS, "nll", "tokens", "n", "n_asked", "n_shortened"}
        lines = teacher_answers(record)
        assert {line["query"] for line in lines} == {row["text1"] for row in splits["train"]}
        assert {line["document"] for line in lines} == set(notes_documents(None, seed))
        right = {row["text1"]: row["answer"] for row in splits["train"]}
        assert np.mean([line["answer"] == right[line["query"]] for line in lines]) > 0.9
        rows = record.predictions
        assert len(rows) == 4 * sum(len(splits[name]) for name in ("validation", "reverse", "unanswerable"))
        assert rows.groupby("stage")["kl"].count().to_dict() == {
            stage: 0 if stage == "teacher" else len(rows) / 4 for stage in rows["stage"].unique()
        }


def test_the_baselines_stand_beside_it_in_the_report(folder, distilled, capsys):
    short = ("--num_train_epochs", 5, "--max_eval_samples", 12)
    for trained_on in (("--max_train_samples", 60), ("--train_on", "document")):
        record = run("ft.py", folder, *NOTES, *trained_on, *short)
        sets = record.metrics["stages"]
        assert sets["after"]["notes"]["nll"] < sets["before"]["notes"]["nll"]
        assert record.metrics["off_context_kl"]["after"]["notes"] > 0
    run("eval.py", folder, *NOTES, "--max_eval_samples", 12)
    main([str(folder), "--out", str(folder / "report")])
    written = {path.name for path in (folder / "report").rglob("*")}
    assert {"report.md", "report.html"} <= written
    tables = (folder / "report" / "report.md").read_text()
    assert all(word in tables for word in ("exact match", "pbft", "icl", "distill", "off-context KL", "abstention after"))
    capsys.readouterr()
    main(["show", str(distilled[0].path), "--examples", "3"])
    shown = capsys.readouterr().out
    assert "exact match" in shown and "Question" not in shown
    rows = distilled[0].predictions
    assert any(query in shown for query in rows["query"])

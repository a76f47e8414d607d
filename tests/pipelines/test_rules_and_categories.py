"""Runs whose answers are judged by rules, and scores by category and of known wrong answers: on the embedded notes."""

import json

import numpy as np
import pandas as pd
import pytest

from llmft.evaluation.metrics import FOLDER, compute_metric
from llmft.report.__main__ import main
from llmft.report.records.flatten import score_rows
from llmft.report.records.predictions import RowWeights
from llmft.runs.summary import pooled
from llmft.tasks.rules import read_rules
from llmft.worlds.notes.world import notes_documents, notes_splits
from tests.pipelines.conftest import run

ASKED = ("--task", "questions", "--model_name_or_path", "notes", "--pattern", "Question: {text1} Answer:", "--max_new_tokens", 8)
RULES = {
    "lower": {"check": "lower_case"},
    "short": {"check": "matches", "pattern": r"^\S+( \S+)?$"},
    "year": {"check": "matches", "pattern": r"\d{4}"},
}


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Questions about a document: with rules instead of answers, and with a wrong answer."""
    folder = tmp_path_factory.mktemp("rules")
    (document,) = notes_documents(None, 0).values()
    (folder / "document.txt").write_text(document)
    (folder / "rules.json").write_text(json.dumps(RULES))
    splits = notes_splits(None, 0)
    write(folder / "train.jsonl", [{"text1": row["text1"]} for row in splits["train"][:8]])
    write(
        folder / "requests.jsonl",
        [
            {"text1": row["text1"], "category": "odd" if i % 2 else "even", "rules": ["lower", "year"] if i % 2 else None}
            | {"answer": "an answer of more tokens than the model may write, which nothing reads"}
            for i, row in enumerate(splits["validation"][:8])
        ],
    )
    write(folder / "against.jsonl", [{"text1": f"{row['text1']} !", "rules": "short"} for row in splits["validation"][8:12]])
    rows = [{"text1": row["text1"], "answer": row["answer"]} for row in splits["validation"][:9]]
    for i, row in enumerate(rows):
        row["category"] = ("now", "before", None)[i % 3]
        row |= {"wrong_answer": ("nobody at all", [row["answer"]])[i % 3]} if i % 3 < 2 else {}
    write(folder / "changed.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def ruled(files):
    requests = ("--validation_file", files / "requests.jsonl", "--out_of_domain_file", files / "against.jsonl")
    training = ("--train_file", files / "train.jsonl", "--num_train_epochs", 1, "--per_device_train_batch_size", 4)
    context = ("--context", "file", "--context_file", files / "document.txt")
    return run("distill.py", files / "ruled", *ASKED, *requests, *training, *context, "--rules", files / "rules.json")


def test_rules_are_checked_on_every_answer_of_all_stages(files, ruled):
    frame, rules = ruled.predictions, read_rules(str(files / "rules.json"))
    assert ruled.metrics["headline"] == {"name": "rules", "higher_is_better": True}
    assert set(frame["stage"]) == {"teacher", "before", "after", "after_with_context"} == set(ruled.metrics["stages"])
    for (stage, name), part in frame.groupby(["stage", "set"]):
        metrics, holding = ruled.metrics["stages"][stage][name], []
        for row in part.itertuples():
            names = row.target.split(", ")
            holding.append([rule for rule in rules if rule.name in names])
            kept = {rule.name: float(rule.kept(row.prediction)) for rule in holding[-1]}
            columns = {rule.name: getattr(row, f"rule_{rule.name}") for rule in rules}
            assert {key: value for key, value in columns.items() if not pd.isna(value)} == kept
            assert row.score == row.rules == min(kept.values())
        references = [[rule.as_text() for rule in of_row] for of_row in holding]
        module = compute_metric("rules", "rule", part["prediction"].tolist(), references)
        assert {key: value for key, value in metrics.items() if key.startswith("rule")} == pytest.approx(module)
        known = {f"n_rule_{rule.name}": int(part[f"rule_{rule.name}"].notna().sum()) for rule in rules}
        assert {key: value for key, value in metrics.items() if key.startswith("n_rule")} == {k: n for k, n in known.items() if n}
        assert metrics["n"] == len(part) == {"questions": 8, "questions-out_of_domain": 4}[name]
        assert not {"contains", "nll", "accepted"} & {*metrics, *part}
    assert set(frame[frame["set"] == "questions-out_of_domain"]["target"]) == {"short"}
    assert ruled.metrics["kl"]["after"]["questions"] < ruled.metrics["kl"]["before"]["questions"]


def test_the_metric_is_a_module_of_the_library(files):
    import evaluate

    rules = [rule.as_text() for rule in read_rules(str(files / "rules.json"))]
    module = evaluate.load(str(FOLDER / "rule" / "rules.py"), keep_in_memory=True)
    values = module.compute(predictions=["in 1901", "In 1901", "no"], references=[rules, rules, rules[:1]])
    assert values == pytest.approx({"rules": 2 / 3, "rule_lower": 2 / 3, "rule_short": 1, "rule_year": 1})


@pytest.fixture(scope="module")
def changed(files):
    context = ("--context", "file", "--context_file", files / "document.txt")
    return run("eval.py", files / "changed", *ASKED, "--validation_file", files / "changed.jsonl", *context)


def test_categories_and_wrong_answers_are_scored_apart(changed):
    frame, metrics = changed.predictions, changed.metrics
    categories = metrics["categories"]["icl"]["questions"]
    assert set(categories) == {"now", "before"}
    for name, values in categories.items():
        part = frame[frame["category"] == name]
        assert values["n"] == len(part) == 3
        assert values["contains"] == part["contains"].mean() and values["wrong_answer"] == part["wrong_answer"].mean()
    assert categories["now"]["wrong_answer"] == 0  # nothing of the kind is in the document
    assert categories["before"]["wrong_answer"] == categories["before"]["contains"] >= 2 / 3  # what is right is called wrong
    known = frame[frame["category"].notna()]
    assert frame["wrong_answer"].notna().sum() == 6
    whole = metrics["stages"]["icl"]["questions"]
    assert (whole["wrong_answer"], whole["n_wrong_answer"]) == (known["wrong_answer"].mean(), 6)


def test_several_sets_together_count_the_rows_that_have_a_metric():
    sets = {"a": {"n": 4, "contains": 1.0, "wrong_answer": 1.0, "n_wrong_answer": 1}, "b": {"n": 8, "contains": 0.25}}
    sets["b"] |= {"wrong_answer": 0.0, "n_wrong_answer": 3}
    assert pooled(sets, ["a", "b"], "wrong_answer") == 0.25
    record = {"headline": {"name": "contains"}, "stages": {"icl": sets}, "sets": {"in_domain": ["a", "b"]}}
    cost = {"phases": [], "saved_by_teacher_cache": {"phases": []}}
    rows = score_rows(record, cost, RowWeights(["contains", "wrong_answer"]))
    together = {row[3]: row[4] for row in rows if row[2] == "in_domain"}
    assert together == {"contains": 0.5, "wrong_answer": 0.25}


def test_a_category_of_the_set_that_a_checkpoint_was_chosen_on_says_so(changed):
    parts = {name: {"best_in_domain": changed.metrics[name]["icl"]} for name in ("stages", "categories")}
    cost = {**changed.json("cost"), "saved_by_teacher_cache": {"phases": []}}
    scores = score_rows({**changed.metrics, **parts}, cost, RowWeights())
    selected = {name: chosen for _, _, name, *_, chosen in scores}
    assert selected["questions"] and selected["questions: now"] and selected["questions: before"]


def test_the_report_has_rules_and_categories(files, ruled, changed, without_pictures, capsys):
    for record, name in ((ruled, "ruled"), (changed, "changed")):
        main([str(files / name)])
        table = pd.read_csv(files / name / "report" / "report.csv")
        for stage, sets in record.metrics["categories"].items():
            selection = {"after": "last", "after_with_context": "last_with_context"}.get(stage, stage)
            rows = table[table["selection"] == selection].set_index(["set", "metric"])["mean"]
            for of, categories in sets.items():
                for category, values in categories.items():
                    for metric, value in values.items():
                        assert metric == "n" or np.isclose(rows[f"{of}: {category}", metric], value)
    capsys.readouterr()
    main(["show", str(ruled.path), "--examples", "3"])
    shown = capsys.readouterr().out
    assert "rule_lower" in shown and "lower, year" in shown

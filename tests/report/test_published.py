import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from llmft.evaluation.labels import Labels
from llmft.report.tables.published import add_published, published_numbers
from llmft.tasks.load import load_task
from llmft.tasks.table import TASKS, get_task
from tests.conftest import SHARED

HANS = ("hans-lexical_overlap-entailment", "hans-lexical_overlap-contradiction")
PROJECT = Path(__file__).parents[2]


def summary(method="icl", selection="icl", sets=("in_domain", "out_of_domain", "rte", *HANS), n=None, **other):
    row = {"task": "rte", "model": "opt-30b", "shots": 16, "pattern": "gpt-3", "method": method, "setting": "abc"}
    row["headline"] = "score_accuracy"
    sizes = {"in_domain": 277, "rte": 277, "out_of_domain": 10000, HANS[0]: 5000, HANS[1]: 5000} | (n or {})
    rows = [{**row, "differs": "", "selection": selection, "set": name, "metric": "score_accuracy", "mean": 0.5} for name in sets]
    return pd.DataFrame([{**r, "n": sizes.get(r["set"], 100), **other} for r in rows])


def shown(table):
    return {row["set"]: row for _, row in add_published(table).iterrows()}


def test_the_file_is_what_the_script_makes_of_the_raw_table():
    raw = SHARED / "baselines" / "published.csv"
    if not raw.is_file():
        pytest.skip("needs the raw table, which lies beside the project in shared/baselines")
    script = PROJECT / "scripts" / "clean_baselines.py"
    made = subprocess.run([sys.executable, str(script), str(raw)], capture_output=True, text=True, check=True, timeout=300).stdout
    assert (PROJECT / "llmft" / "report" / "tables" / "published.csv").read_text(encoding="utf-8") == made


def test_every_value_is_in_our_words():
    table = published_numbers()
    assert set(table["task"]) <= set(TASKS)
    assert set(table["provenance"]) == {"printed", "digitised", "log"}
    assert set(table["selection"]) == {"icl", "last", "best_in_domain", "best_out_of_domain", "not stated"}
    assert set(table["metric"]) == {"accuracy", "f1", "matthews_correlation"}
    assert table["mean"].between(-1, 1).all() and (table["sd"].dropna() >= 0).all()
    spread = table.dropna(subset=["min", "max"])
    assert ((spread["min"] <= spread["mean"] + 1e-4) & (spread["mean"] <= spread["max"] + 1e-4)).all()
    assert len(table[table["source"].str.startswith("llmft paper")]) == 906
    same_input = table[table["method"].str.contains('"context distillation"')]
    assert len(same_input) == 22 and same_input["note"].str.startswith("not context distillation").all()


def test_printed_numbers_stand_before_those_read_off_a_figure():
    found = shown(summary())
    for name, mean in (("in_domain", 0.617), ("rte", 0.617), ("out_of_domain", 0.605)):
        assert (found[name]["published_mean"], found[name]["published_provenance"]) == (mean, "printed")
        assert found[name]["published_source"].endswith("arXiv:2305.16938v2, Table 6")
    assert found[HANS[0]]["published_note"] == "none"  # the paper has both labels together only


def test_fine_tuning_read_off_a_figure_is_marked():
    found = shown(summary("pbft", "last", pattern="minimal"))
    assert round(found["in_domain"]["published_mean"], 3) == 0.558
    assert round(found["out_of_domain"]["published_mean"], 3) == 0.530
    assert found["in_domain"]["published_provenance"] == "digitised"
    assert "digitised" in found["in_domain"]["published"]
    assert found["in_domain"]["published_note"] == ""


def test_another_selection_or_other_rows_are_said():
    (row,) = add_published(summary("pbft-lora", "last", ("in_domain",), pattern="minimal")).to_dict("records")
    assert row["published_note"] == "selection there: best out of domain" and row["published_note"] in row["published"]
    (row,) = add_published(summary(sets=("in_domain",), n={"in_domain": 100})).to_dict("records")
    assert "rows there: 277, here: 100" in row["published_note"]
    model = {"model": "opt-1.3b", "pattern": "student pattern"}
    (row,) = add_published(summary("distill-lora", "last", ("in_domain",), **model)).to_dict("records")
    assert row["published_note"] == "selection there: not stated; rows there: 100 random"


@pytest.mark.parametrize(
    "other",
    [
        {"model": "opt-30b-mine"},
        {"shots": 4},
        {"pattern": "mine"},
        {"task": "toy"},
        {"selection": "teacher"},
        {"metric": "loss"},
        {"method": "distill"},
    ],
)
def test_what_is_not_the_same_has_none(other):
    assert {row["published_note"] for row in shown(summary(**other)).values()} == {"none"}


def test_pooled_sets_are_compared_only_where_they_are_the_papers():
    sets = ("out_of_domain", "rte", *HANS, "mnli_mm-entailment", "mnli_mm-contradiction")
    assert shown(summary(sets=sets))["out_of_domain"]["published_note"] == "none"
    assert shown(summary(sets=("out_of_domain", "rte", *HANS, "retention-cola")))["out_of_domain"]["published_mean"] == 0.605


def test_majority_class_of_the_real_data(shared_data):
    def rate(task, name):
        data = load_task(get_task(task), variant=None, data_seed=0, data_dir=str(shared_data), cache_dir=None)
        return Labels.majority(data.eval_sets[name])

    assert rate("rte", "rte") == 146 / 277
    assert rate("cola", "cola-ood") == 354 / 516
    assert rate("cola", "cola") == 365 / 527
    assert rate("qqp", "paws-qqp") == 486 / 677
    assert rate("sst2", "sst2") == 444 / 872

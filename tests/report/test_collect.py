import json
import shutil

import pandas as pd
import pytest

from llmft.errors import InputError
from llmft.report.records.collect import collect
from llmft.report.statistics.summary import GROUP, summarise
from llmft.runs.run_lock import RunLock
from tests.report.changes import change
from tests.report.synthetic import MODELS, QUERY, SHOT, Made, write


def score(collection, run, selection="last", name="in_domain", metric="score_accuracy"):
    found = collection.scores.query("id == @run and selection == @selection and set == @name and metric == @metric")
    assert len(found) == 1
    return found.iloc[0]


def run_of(collection, **wanted):
    runs = collection.runs
    for name, value in wanted.items():
        runs = runs[runs[name] == value]
    return runs.iloc[0]


def test_a_run_is_found_by_the_name_of_its_folder(collection, made):
    records = made[1]
    assert sorted(collection.runs["record"]) == sorted(record for record, run in records.items() if run.done)
    assert all(record.endswith(run) for run, record in zip(collection.runs["id"], collection.runs["record"], strict=True))
    row = run_of(collection, method="distill", seed=2)
    expected = records[row["record"]]
    assert (row["task"], row["model"], row["shots"], row["pattern"]) == ("rte", "opt-125m", 16, expected.pattern)
    assert row["queries"] == 256 and row["weights"] == MODELS["opt-125m"]


def test_pooled_scores_weigh_every_row_alike(collection, made):
    run = run_of(collection, method="pbft", model="opt-125m")
    stages = json.loads((made[0] / run["record"] / "metrics.json").read_text())["stages"]
    sets = [stages["after"][name] for name in stages["after"] if name.startswith("hans")]
    row = score(collection, run["id"], name="out_of_domain")
    assert row["value"] == pytest.approx(sum(s["score_accuracy"] * s["n"] for s in sets) / sum(s["n"] for s in sets))
    assert row["n"] == 80
    pooled = collection.scores.query("id == @run.id and set == 'out_of_domain'")["metric"]
    assert "ece" not in set(pooled)  # is no mean over rows


def test_what_a_query_costs_is_that_of_its_stage(collection, made):
    run = run_of(collection, method="distill", seed=0)
    cost = json.loads((made[0] / run["record"] / "cost.json").read_text())
    phases = {(phase["kind"], phase["stage"], phase["set"]): phase for phase in cost["phases"]}
    row = score(collection, run["id"], "teacher")
    assert row["tokens_per_query"] == QUERY + 16 * SHOT
    assert row["cpu_ms_per_query"] == pytest.approx(1000 * phases["evaluate", "teacher", "rte"]["cpu_total_s"] / 277)
    assert row["flops_per_query"] == pytest.approx(2 * MODELS["opt-125m"] * (QUERY + 16 * SHOT / 277))
    assert row["flops_per_query_alone"] == pytest.approx(2 * MODELS["opt-125m"] * (QUERY + 16 * SHOT))
    assert run["training_cpu_s"] == pytest.approx(sum(phases[kind, None, None]["cpu_total_s"] for kind in ("teacher", "train")))


def test_selection_is_told_by_stage_and_set(collection):
    run = run_of(collection, method="pbft", model="opt-125m")["id"]
    starred = {
        (selection, name)
        for selection in ("last", "best_in_domain", "best_out_of_domain")
        for name in ("in_domain", "out_of_domain", "rte", "hans-lexical_overlap-entailment")
        if score(collection, run, selection, name)["selected_on_evaluation_set"]
    }
    assert starred == {
        ("best_in_domain", "in_domain"),
        ("best_in_domain", "rte"),
        ("best_out_of_domain", "out_of_domain"),
        ("best_out_of_domain", "hans-lexical_overlap-entailment"),
    }


def test_a_teacher_from_the_cache_was_not_free(made, tmp_path):
    folder, records = made
    record = next(record for record, run in records.items() if run.method == "distill")
    shutil.copytree(folder / record, tmp_path / record)
    cost = json.loads((tmp_path / record / "cost.json").read_text())
    saved = []
    for phase in cost["phases"]:
        if "teacher" in (phase["kind"], phase["stage"]):
            kept = ("kind", "stage", "set", "examples", "tokens", "flops")
            saved.append({**{key: phase[key] for key in kept}, "cpu_s": phase["cpu_total_s"]})
            phase |= {"examples": 0, "tokens": 0, "flops": 0, "cpu_total_s": 0.0}
    cost["saved_by_teacher_cache"] = {"cpu_s": 99.0, "phases": saved}
    (tmp_path / record / "cost.json").write_text(json.dumps(cost))
    cached, fresh = collect(tmp_path), collect(folder)
    one, other = cached.runs.iloc[0], fresh.runs.set_index("record").loc[record]
    assert one["teacher_cpu_s"] == 0 and one["teacher_saved_cpu_s"] == pytest.approx(other["teacher_cpu_s"])
    for name in ("training_cpu_s", "training_flops", "training_flops_alone"):
        assert one[name] == pytest.approx(other[name])
    for name in ("cpu_ms_per_query", "flops_per_query"):
        assert score(cached, one["id"], "teacher")[name] == pytest.approx(score(fresh, one["id"], "teacher")[name])


BREAKS = {
    "unfinished": lambda run: (run / "DONE").unlink(),
    "metrics.json is missing": lambda run: (run / "metrics.json").unlink(),
    "cost.json is broken": lambda run: (run / "cost.json").write_text('{"phases": ['),
    "config.json is broken": lambda run: (run / "config.json").write_text("nonsense"),
    "config.json is missing": lambda run: (run / "config.json").unlink(),
    "KeyError": lambda run: (run / "metrics.json").write_text("{}"),
}


def test_the_largest_class_is_found_without_the_labels_probabilities(made, tmp_path):
    folder, records = made
    record = next(record for record, run in records.items() if run.task == "rte")
    shutil.copytree(folder / record, tmp_path / record)
    file = tmp_path / record / "predictions.parquet"
    table = pd.read_parquet(file)
    table.drop(columns=[name for name in table if name in ("label", "label_logprobs")]).to_parquet(file)
    before, after = (collect(one).runs.set_index("record").loc[record, "majority_out_of_domain"] for one in (folder, tmp_path))
    assert after == before > 0


def test_a_run_that_is_going_on_is_told_from_one_that_was_stopped(made, tmp_path):
    folder, records = made
    for number, record in enumerate([*records][:3]):
        shutil.copytree(folder / record, tmp_path / str(number))
    for number in "01":
        (tmp_path / number / "DONE").unlink()
    lock = RunLock(tmp_path / "0")
    assert lock.take()
    reasons = dict(collect(tmp_path).left_out)
    assert reasons["0"].startswith("unfinished: being done by process ") and "resumes it" in reasons["1"]
    lock.release()
    assert "resumes it" in dict(collect(tmp_path).left_out)["0"]


def nan_scores(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["stages"]["after"]["rte"]["score_accuracy"] = float("nan")
    (run / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize(("reason", "spoil"), [*BREAKS.items(), ("is nan", nan_scores)])
def test_a_run_left_out_is_listed_and_changes_no_mean(tmp_path, reason, spoil):
    runs = [Made(method="pbft", seed=seed) for seed in range(2)]
    records = list(write(tmp_path, runs, hans_rows=4))
    before = summarise(collect(tmp_path))
    (spoilt,) = write(tmp_path, [Made(method="pbft", seed=2)], hans_rows=4)
    spoil(tmp_path / spoilt)
    collection = collect(tmp_path)
    assert [record for record, _ in collection.left_out] == [spoilt]
    assert reason in collection.left_out[0][1]
    assert sorted(collection.runs["record"]) == sorted(records)
    assert summarise(collection).equals(before)


def test_models_within_and_beside_runs_are_no_runs(tmp_path):
    (record,) = write(tmp_path, [Made()], hans_rows=4)
    for place in (tmp_path / record / "model", tmp_path / "teacher"):
        place.mkdir()
        (place / "config.json").write_text('{"architectures": ["OPTForCausalLM"]}')
    collection = collect(tmp_path)
    assert len(collection.runs) == 1 and not collection.left_out


def test_ids_are_as_long_as_it_takes(tmp_path):
    (record,) = write(tmp_path / "a", [Made()], hans_rows=4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    change(tmp_path / "b" / record / "config.json", setting="another")
    assert collect(tmp_path).runs["id"].tolist() == [f"{side}/{record}" for side in "ab"]


def test_brackets_in_a_sets_name_do_no_harm(tmp_path):
    (record,) = write(tmp_path, [Made()], hans_rows=4)
    config = json.loads((tmp_path / record / "config.json").read_text())
    config["draws"]["eval_rows"] = {"odd}name": [1, 2], "other": [3]}
    (tmp_path / record / "config.json").write_text(json.dumps(config, indent=2))
    assert len(collect(tmp_path).runs) == 1


def test_the_order_on_disk_does_not_matter(made, summary, tmp_path):
    folder, records = made
    for place, record in enumerate(sorted(records, reverse=True)):
        shutil.copytree(folder / record, tmp_path / f"{place:03}" / record)
    again = summarise(collect(tmp_path))
    keys = [*GROUP, "selection", "set", "metric"]
    texts = dict.fromkeys(("selection", "stage", "set", "metric"), str)
    one, other = (frame.drop(columns="ids").astype(texts).sort_values(keys, ignore_index=True) for frame in (again, summary))
    pd.testing.assert_frame_equal(one, other, rtol=1e-12)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_runs_is_an_error(tmp_path, there):
    folder = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(InputError, match="no finished run" if there else "no such folder"):
        collect(folder)


def test_logs_are_read_when_asked_for(tmp_path):
    records = list(write(tmp_path, [Made(method="pbft"), Made()], hans_rows=4))
    (tmp_path / records[0] / "train_log.jsonl").write_text('{"loss": 0.5, "step": 1}\n')
    collection = collect(tmp_path)
    assert list(collection.logs(collection.runs["id"]).values()) == [[{"loss": 0.5, "step": 1}]]

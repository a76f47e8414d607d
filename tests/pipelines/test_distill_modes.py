"""distill.py end to end on the embedded world: kinds of context, schedules, teachers, losses, targets; short runs."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from llmft.errors import InputError
from llmft.models.reading import reader
from llmft.models.reading.kv_cache import encode
from llmft.pipelines import distill
from llmft.pipelines.prepare import prepare
from llmft.pipelines.prompting import prompt_format_of
from llmft.prompts.render import PromptFormat
from llmft.worlds.nli import CHECKPOINT
from tests.pipelines.conftest import IN_DOMAIN, run

SHORT = ("--num_shots", 4, "--max_eval_samples", 20, "--max_train_samples", 16, "--num_train_epochs", 1, "--learning_rate", 1e-3)
SHORT += ("--per_device_train_batch_size", 8, "--logging_steps", 1, *IN_DOMAIN, "--no_evaluate_with_context")
THREE_EPOCHS = (*SHORT[:6], "--num_train_epochs", 3, *SHORT[8:])
LEARN = ("--max_eval_samples", 60, "--max_train_samples", 192, "--num_train_epochs", 8, "--learning_rate", 1e-3)
LEARN += ("--per_device_train_batch_size", 32, "--no_evaluate_with_context")
SLOW = ("--learning_rate", 2e-5)
LORA = ("--use_adapter", "--adapter_dim", 4)


def losses(record):
    log = [json.loads(line) for line in (record.path / "train_log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in log if "loss" in entry]


def weights(record):
    (file,) = record.path.glob("model/*.safetensors")
    return load_file(file)


def assert_same_training(one, two, tolerance):
    np.testing.assert_allclose(losses(one), losses(two), atol=tolerance)
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize("extra", [(), LORA, ("--support", "topk", "--topk", 5), ("--num_contexts", 2), ("--calibrate",)])
def test_online_and_precomputed_teachers_train_the_same_student(tmp_path, extra):
    before = run("distill.py", tmp_path, *SHORT, *SLOW, *extra)
    online = run("distill.py", tmp_path, *SHORT, *SLOW, *extra, "--teacher_mode", "online")
    assert before.path != online.path
    assert_same_training(before, online, 1e-5)
    assert before.metrics["stages"]["teacher"] == online.metrics["stages"]["teacher"]


def test_divergence_from_the_teacher_is_logged_at_every_evaluation(tmp_path):
    record = run("distill.py", tmp_path, *THREE_EPOCHS, "--eval_strategy", "epoch")
    log = [json.loads(line) for line in (record.path / "train_log.jsonl").read_text().splitlines()]
    found = [entry["eval_toy_kl"] for entry in log if "eval_toy_kl" in entry]
    assert len(found) == 3
    assert found[-1] == record.metrics["kl"]["after"]["toy"] < record.metrics["kl"]["before"]["toy"]


def test_eight_at_once_equals_one_by_one_accumulated(tmp_path):
    batch = run("distill.py", tmp_path, *SHORT, *SLOW)
    parts = run("distill.py", tmp_path, *SHORT, *SLOW, "--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 8)
    assert_same_training(batch, parts, 1e-5)


def test_without_a_context_there_is_nothing_to_learn(tmp_path, monkeypatch):
    """Teacher and student read the same; only rounding errors of rows packed in another order remain."""
    monkeypatch.setattr(PromptFormat, "context", lambda *_: "")
    record = run("distill.py", tmp_path, *SHORT)
    assert max(abs(loss) for loss in losses(record)) < 1e-6
    assert record.metrics["kl"]["before"]["toy"] == 0
    assert record.metrics["agreement"]["before"]["toy"] == 1


def test_a_second_run_takes_up_the_teachers_answers(tmp_path, monkeypatch):
    encoded = []
    monkeypatch.setattr(reader, "encode", lambda *args, **kwargs: encoded.append(1) or encode(*args, **kwargs))
    first = run("distill.py", tmp_path, *SHORT)
    assert encoded
    assert first.json("cost")["saved_by_teacher_cache"] == {}
    encoded.clear()
    second = run("distill.py", tmp_path, *SHORT, "--seed", 1)
    saved = second.json("cost")["saved_by_teacher_cache"]
    assert len(encoded) <= 2 * len(second.metrics["stages"]["before"])  # the student's queries share a token at most
    assert saved["tokens"] == sum(phase["tokens"] for name, phase in first.phases.items() if "teacher" in name)
    assert not any(phase["tokens"] for name, phase in second.phases.items() if "teacher" in name)
    assert second.metrics["stages"]["teacher"] == first.metrics["stages"]["teacher"]
    other = run("distill.py", tmp_path, *SHORT, "--separate_shots_by", r"\n")  # another character in the context
    assert other.phases["teacher"]["tokens"]
    kept = sorted((tmp_path / "teacher_cache").iterdir())
    damaged = kept[0].read_bytes()
    kept[0].write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    again = run("distill.py", tmp_path, *SHORT, "--seed", 2)
    assert again.metrics["stages"]["teacher"] == first.metrics["stages"]["teacher"]


@pytest.mark.parametrize(
    "context",
    [("--context", "instruction"), ("--context", "label"), ("--num_shots", 2, "--num_contexts", 8)],
    ids=["instruction", "label", "mean of eight contexts of two"],
)
def test_each_kind_of_context_is_recovered(tmp_path, context):
    record = run("distill.py", tmp_path, *LEARN, *context)
    assert record.metrics["gap_recovered"]["in_domain"] >= 0.9
    assert record.metrics["gap_recovered"]["out_of_domain"] >= 0.8


def test_two_conflicting_contexts_one_after_the_other_end_at_the_second(tmp_path):
    for answer in ("Yes", "No"):
        (tmp_path / answer).write_text(f"entailment means {answer}")
    teach = (*LEARN, "--task_variant", "entailment", "--context", "file", "--context_file")
    first = run("distill.py", tmp_path, *teach, tmp_path / "Yes")
    then = (*teach, tmp_path / "No", "--model_name_or_path", first.path / "model")
    second = run("distill.py", tmp_path, *then, "--teacher_model_name_or_path", CHECKPOINT)
    before, after = (record.predictions.query(f"stage == '{s}'") for record, s in ((second, "before"), (first, "after")))
    for column in ("set", "idx", "label_logprobs"):  # to the bit
        assert np.array_equal(np.stack(before[column]), np.stack(after[column]))
    stages = second.metrics["stages"]
    assert stages["before"]["toy"]["score_accuracy"] > 0.95
    assert stages["teacher"]["toy"]["score_accuracy"] < 0.05  # the original, which calls entailment No after the second
    assert stages["after"]["toy"]["score_accuracy"] < 0.05
    student = run("distill.py", tmp_path, *then, "--num_train_epochs", 1)  # teaches itself, and is torn between both
    assert student.metrics["stages"]["before"] == stages["before"]
    assert 0.05 < student.metrics["stages"]["teacher"]["toy"]["score_accuracy"] < 0.95


def test_two_conflicting_contexts_have_a_vote_each_in_the_mean(tmp_path):
    for answer in ("Yes", "No"):
        (tmp_path / answer).write_text(f"entailment means {answer}")
    both = f"{tmp_path / 'Yes'},{tmp_path / 'No'}"
    teach = ("--task_variant", "entailment", "--context", "file", "--context_file", both, "--num_contexts", 2)
    mean = run("distill.py", tmp_path, *SHORT[2:], *teach).predictions.query("stage == 'teacher'")
    np.testing.assert_allclose(np.exp(np.stack(mean.label_logprobs)), 0.5, atol=0.05)


def test_each_of_several_contexts_is_its_own_dialogue(tmp_path):
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for file in files:
        file.write_text(json.dumps({"role": "user", "content": file.stem}) + "\n")
    flags = ["--task", "toy", "--use_cpu", "--output_dir", str(tmp_path / "out"), "--context", "dialogue"]
    teach = ["--context_file", ",".join(map(str, files)), "--num_contexts", "2"]
    (job,) = prepare("distill", distill.GROUPS, [*flags, *teach], description="")
    assert [prompt_format_of(job, "teacher", number).turns[0].content for number in range(2)] == ["a", "b"]


def test_more_demonstrations_than_the_window_holds(tmp_path):
    with pytest.raises(InputError, match="--num_shots 64: the longest prompt"):
        run("distill.py", tmp_path, *SHORT, "--num_shots", 64)
    record = run("distill.py", tmp_path, *SHORT, "--num_shots", 16, "--num_contexts", 4, "--context_schedule", "cycle")
    assert record.metrics["contexts"] == {
        "kinds": ["demonstrations"],
        "number": 4,
        "schedule": "cycle",
        "demonstrations": 64,
    }
    drawn = record.json("config")["draws"]["demonstrations"]
    assert [len(context) for context in drawn] == [16] * 4
    assert len({idx for context in drawn for idx in context}) == 64
    assert not {idx for context in drawn for idx in context} & set(record.json("config")["draws"]["train_rows"])


def test_instruction_and_demonstrations_together(tmp_path):
    (tmp_path / "told.txt").write_text("passive means No\n")
    both = run("distill.py", tmp_path, *SHORT, "--context", "file,demonstrations", "--context_file", tmp_path / "told.txt")
    alone = run("distill.py", tmp_path, *SHORT)
    assert both.metrics["tokens_per_query"]["teacher"] == alone.metrics["tokens_per_query"]["teacher"] + 4
    (tmp_path / "told.txt").write_text("passive means Yes\n")
    other = run("distill.py", tmp_path, *SHORT, "--context", "file,demonstrations", "--context_file", tmp_path / "told.txt")
    assert other.path != both.path  # same file name, other content


@pytest.mark.parametrize(("targets", "method"), [("hard", "pseudo-label"), ("gold", "gold-label")])
def test_baselines_on_the_same_queries(tmp_path, targets, method):
    soft, other = run("distill.py", tmp_path, *SHORT), run("distill.py", tmp_path, *SHORT, "--targets", targets)
    assert other.json("config")["method"] == method
    assert other.json("config")["draws"] == soft.json("config")["draws"]
    assert other.metrics["stages"]["teacher"] == soft.metrics["stages"]["teacher"]
    assert other.metrics["stages"]["after"] != soft.metrics["stages"]["after"]


@pytest.mark.parametrize("part", [("--use_adapter", "--adapter_type", "ia3"), ("--use_cartridge",)])
def test_students_of_other_parts(tmp_path, part):
    record = run("distill.py", tmp_path, *SHORT, *part)
    assert record.metrics["weights"]["share"] < 0.5
    if part == ("--use_cartridge",):  # starts as the context itself
        assert record.metrics["kl"]["after"]["toy"] < record.metrics["kl"]["before"]["toy"] / 10


def test_queries_without_labels_from_a_file(tmp_path):
    from llmft.worlds.nli.world import toy_splits

    rows = toy_splits(None, 0)["train"][:40]
    pd.DataFrame([{"text1": row["text1"], "text2": row["text2"]} for row in rows]).to_parquet(tmp_path / "q.parquet")
    record = run("distill.py", tmp_path, *SHORT, "--query_file", tmp_path / "q.parquet")
    assert all(str(idx).startswith("query-") for idx in record.json("config")["draws"]["train_rows"])
    with pytest.raises(InputError, match="--targets gold: needs the queries' labels"):
        run("distill.py", tmp_path, *SHORT, "--query_file", tmp_path / "q.parquet", "--targets", "gold")


def test_labels_of_several_tokens(tmp_path):
    several = ("--target_tokens", "Yes Yes,No", "--multi_token_labels", "--num_train_epochs", 2)
    icl = run("eval.py", tmp_path, "--num_shots", 4, "--max_eval_samples", 20, *IN_DOMAIN, *several[:3])
    record = run("distill.py", tmp_path, *SHORT, *several)
    assert record.metrics["stages"]["teacher"] == icl.metrics["stages"]["icl"]
    assert record.metrics["kl"]["after"]["toy"] < record.metrics["kl"]["before"]["toy"]


def test_the_student_with_the_context_still_there(tmp_path):
    record = run("distill.py", tmp_path, *SHORT[:-1])
    assert record.metrics["stages"]["after_with_context"].keys() == record.metrics["stages"]["after"].keys()
    assert record.phases["evaluate after_with_context toy"]["tokens"] > record.phases["evaluate after toy"]["tokens"]


def test_other_tasks_before_and_after(tmp_path):
    rows = pd.DataFrame({"sentence": ["doctors helped judges .", "no one slept ."] * 4, "label": [0, 1] * 4, "idx": range(8)})
    for split in ("train", "validation"):
        file = tmp_path / "data" / "glue" / "sst2" / f"{split}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(file)
    others = ("--retention_tasks", "sst2", "--data_dir", tmp_path / "data")
    record = run("distill.py", tmp_path / "out", *SHORT, *others)
    assert record.metrics["sets"]["retention"] == ["retention-sst2"]
    before, after = (record.metrics["stages"][stage]["retention-sst2"]["score_accuracy"] for stage in ("before", "after"))
    assert record.metrics["retention_change"] == {"retention-sst2": after - before}
    assert "retention-sst2" not in record.metrics["stages"]["teacher"]


def test_the_report_reads_runs_whose_teacher_came_from_the_cache(tmp_path):
    from llmft.report.records.collect import collect

    for rate in (1e-3, 1e-4):
        run("distill.py", tmp_path, *SHORT, "--learning_rate", rate)
    collection = collect(tmp_path)
    teachers = collection.scores.query("selection == 'teacher' and set == 'in_domain' and metric == 'score_accuracy'")
    assert len(teachers) == 2 and (teachers["cpu_ms_per_query"] > 0).all()
    for exact in (collection.runs["training_flops"], collection.runs["training_flops_alone"], teachers["flops_per_query"]):
        assert exact.nunique() == 1 and exact.iloc[0] > 0  # the cache's answers count as if they had been computed
    assert sorted(collection.runs["teacher_saved_cpu_s"] > 0) == [False, True]


def test_an_online_teachers_work_is_counted(tmp_path):
    from llmft.report.records.collect import collect

    tokens, alone = {}, {}
    for mode in ("precompute", "online"):
        phases = run("distill.py", tmp_path / mode, *SHORT, "--teacher_mode", mode).phases
        tokens[mode] = {name: phase["tokens"] for name, phase in phases.items()}
        alone[mode] = collect(tmp_path / mode).runs["training_flops_alone"].item()
    assert tokens["online"]["teacher"] == 0
    assert tokens["online"]["train"] == tokens["precompute"]["train"] + tokens["precompute"]["teacher"]
    assert alone["online"] == pytest.approx(alone["precompute"], rel=0.1)  # one epoch: each query is read behind its context once


def test_distributions_over_the_vocabulary_are_computed_in_advance_only_if_they_fit_in_memory(tmp_path, monkeypatch):
    vocab, width = ("--support", "vocab"), 113
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=3 * 16 * width * 4 - 1))
    with pytest.raises(InputError, match=r"^--support vocab: the teacher's distributions at 16 tokens take 0.0 GB, and 0.0 GB"):
        run("distill.py", tmp_path, *SHORT, *vocab)
    for fits in ((*vocab, "--max_train_samples", 15), (*vocab, "--teacher_mode", "online"), ("--support", "topk", "--topk", 5)):
        run("distill.py", tmp_path, *SHORT, *fits)
    with pytest.raises(InputError, match="at 30 tokens"):
        run("distill.py", tmp_path, *SHORT, *vocab, "--max_train_samples", 15, "--num_contexts", 2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    run("distill.py", tmp_path, *SHORT, *vocab, "--max_train_samples", 15, "--seed", 1)  # another run has kept them in a file


def test_tokens_of_a_cartridge_go_through_no_layer(tmp_path):
    from llmft.report.records.collect import collect

    record = run("distill.py", tmp_path, *SHORT, "--use_cartridge")
    sizes, scores = record.metrics["tokens_per_query"], collect(tmp_path).scores
    assert sizes["before"] < sizes["student"] / 2
    costs = scores.query("metric == 'score_accuracy' and set == 'toy'").set_index("selection")["flops_per_query_alone"]
    assert costs["last"] == pytest.approx(costs["before"] * (1 + record.metrics["weights"]["share"]), rel=0.05)


def test_a_cartridges_start_is_work_of_training(tmp_path):
    from llmft.report.records.collect import collect

    record = run("distill.py", tmp_path, *SHORT, "--use_cartridge")
    (start,) = weights(record).values()
    adapt, train, teacher = (record.phases[kind] for kind in ("adapt", "train", "teacher"))
    assert adapt["tokens"] == len(start) > 40  # all of the context goes through the model
    assert adapt["flops"] == 2 * record.metrics["weights"]["model"] * adapt["tokens"]
    costs = collect(tmp_path).runs.iloc[0]
    assert costs["training_flops"] == adapt["flops"] + train["flops"] + teacher["flops"]
    assert costs["train_cpu_s"] == pytest.approx(adapt["cpu_total_s"] + train["cpu_total_s"])
    assert run("distill.py", tmp_path, *SHORT, *LORA).phases["adapt"]["tokens"] == 0


def test_the_context_is_left_out_where_it_does_not_fit_behind_a_cartridge(tmp_path):
    record = run("distill.py", tmp_path, *SHORT[:-1], "--num_shots", 24, "--use_cartridge")
    assert "window" in record.metrics["after_with_context"]["skipped"]


def test_a_query_that_does_not_fit_behind_a_cartridge_is_found_before_any_work(tmp_path):
    longer = ("--student_pattern", "overlap " * 300 + "{text1} {text2} ?")  # alone it fits, and so does the teacher's prompt
    with pytest.raises(InputError, match=r"^--cartridge_tokens \d+: with them the longest prompt has \d+ tokens"):
        run("distill.py", tmp_path, *SHORT[:-1], "--num_shots", 24, "--use_cartridge", *longer)
    assert not [*tmp_path.iterdir()]


def test_upstreams_prompts_are_those_of_in_context_learning(tmp_path):
    prompts = ("--upstream_prompts", *IN_DOMAIN, "--max_eval_samples", 20)
    taught = run("distill.py", tmp_path, *prompts, *SHORT, *LORA).predictions
    for stage, shots in (("teacher", 4), ("before", 0)):
        asked = run("eval.py", tmp_path, *prompts, "--num_shots", shots).predictions["label_logprobs"]
        scored = taught[taught["stage"] == stage]["label_logprobs"]
        np.testing.assert_allclose(np.stack(scored), np.stack(asked), atol=1e-5)

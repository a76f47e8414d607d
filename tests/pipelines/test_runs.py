"""What holds for every run: repetition, reproducibility, reloading, what stays frozen, fine-tuning on the demonstrations."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llmft.worlds.nli import CHECKPOINT
from tests.pipelines.conftest import IN_DOMAIN, MAIN, run

SHORT = ("--num_shots", 4, "--max_eval_samples", 20, "--max_train_samples", 32, "--num_train_epochs", 1, "--learning_rate", 1e-3)
SHORT += IN_DOMAIN
LORA = ("--use_adapter", "--adapter_dim", 4)
SCRIPTS = [("distill.py", ()), ("distill.py", LORA), ("ft.py", ()), ("ft.py", LORA), ("eval.py", ())]


def weights(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("model/*.safetensors"))}


@pytest.mark.parametrize(("script", "extra"), SCRIPTS)
def test_the_same_command_elsewhere_gives_the_same_bits(tmp_path, script, extra):
    one, two = (run(script, tmp_path / name, *SHORT, *extra) for name in ("one", "two"))
    assert one.path.relative_to(tmp_path / "one") == two.path.relative_to(tmp_path / "two")
    assert (one.path / "metrics.json").read_bytes() == (two.path / "metrics.json").read_bytes()
    assert one.predictions.equals(two.predictions)
    assert weights(one.path) == weights(two.path)
    assert bool(weights(one.path)) == (script != "eval.py")


def test_a_finished_run_is_not_repeated(tmp_path, capsys):
    record = run("eval.py", tmp_path, *SHORT)
    times = {file: file.stat().st_mtime_ns for file in record.path.iterdir()}
    capsys.readouterr()
    MAIN["eval.py"](["--task", "toy", "--output_dir", str(tmp_path), "--use_cpu", *map(str, SHORT)])
    assert capsys.readouterr().out.startswith(f"already finished: {record.path}")
    assert {file: file.stat().st_mtime_ns for file in record.path.iterdir()} == times
    MAIN["eval.py"](["--task", "toy", "--output_dir", str(tmp_path), "--use_cpu", *map(str, SHORT), "--overwrite_output_dir"])
    assert (record.path / "DONE").stat().st_mtime_ns > times[record.path / "DONE"]


@pytest.mark.parametrize("change", [("--data_seed", 1), ("--seed", 1), ("--num_shots", 6), ("--pattern", "{text2} {text1} ?")])
def test_what_can_change_the_result_makes_another_run(tmp_path, change):
    paths = {run("eval.py", tmp_path, *SHORT).path, run("eval.py", tmp_path, *SHORT, *change).path}
    assert len(paths) == 2


@pytest.mark.parametrize(("script", "extra"), [s for s in SCRIPTS if s[0] != "eval.py"])
def test_students_reload_without_anything_of_ours(tmp_path, script, extra):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    record = run(script, tmp_path, *SHORT, *extra)
    loader = AutoPeftModelForCausalLM if extra else AutoModelForCausalLM
    model, tokenizer = loader.from_pretrained(record.path / "model").eval(), AutoTokenizer.from_pretrained(record.path / "model")
    assert not list(record.path.glob("model/*.bin"))
    after = record.predictions.query("stage == 'after' and set == 'toy'").set_index("idx")
    from llmft.worlds.nli.world import toy_splits

    rows = {row["idx"]: row for row in toy_splits(None, 0)["validation"]}
    for idx, expected in after.head(5).iterrows():
        text = "{text1} {text2} ?".format(**rows[idx])
        with torch.no_grad():
            logprobs = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1].log_softmax(-1)
        found = [logprobs[tokenizer.convert_tokens_to_ids(word)].item() for word in ("Yes", "No")]
        np.testing.assert_allclose(found, expected.token_logprobs, atol=1e-5)


@pytest.mark.parametrize("script", ["distill.py", "ft.py"])
def test_under_lora_the_models_own_weights_stay_bit_equal(tmp_path, monkeypatch, script):
    from llmft.models.wrapping import bare_model
    from llmft.training.ft_trainer import FtTrainer

    trained = {}
    original = FtTrainer.train

    def keep(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        trained.update(bare_model(self.model).state_dict())
        return result

    monkeypatch.setattr(FtTrainer, "train", keep)
    record = run(script, tmp_path, *SHORT, *LORA)
    adapter = load_file(record.path / "model" / "adapter_model.safetensors")
    assert adapter
    assert all("lora_" in name for name in adapter)
    start = load_file(CHECKPOINT / "model.safetensors")
    frozen = {name.replace(".base_layer", ""): tensor for name, tensor in trained.items() if "lora_" not in name}
    assert set(start) <= set(frozen)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in start.items())


def test_the_teachers_pass_changes_no_weight_and_leaves_no_gradient(tmp_path, monkeypatch):
    from llmft.distillation.teacher import Teacher

    seen = []
    original = Teacher.precompute

    def watch(self, *args):
        model = self.scorers[0].model
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        targets = original(self, *args)
        seen.append(all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()))
        seen.append(all(p.grad is None for p in model.parameters()) and not targets.logprobs.requires_grad)
        return targets

    monkeypatch.setattr(Teacher, "precompute", watch)
    run("distill.py", tmp_path, *SHORT)
    assert seen == [True, True]


def test_full_students_differ_from_their_start(tmp_path):
    record = run("distill.py", tmp_path, *SHORT)
    start, end = load_file(CHECKPOINT / "model.safetensors"), load_file(record.path / "model" / "model.safetensors")
    assert start.keys() == end.keys()
    assert any(not torch.equal(start[name], end[name]) for name in start)


def test_fine_tuning_on_the_demonstrations_of_the_context(tmp_path):
    icl = run("eval.py", tmp_path, *SHORT, "--num_shots", 16)
    arguments = ("--num_shots", 16, "--train_on", "demonstrations", "--num_train_epochs", 20, "--learning_rate", 1e-3)
    tuned = run("ft.py", tmp_path, *arguments, "--max_eval_samples", 150, "--per_device_train_batch_size", 8)
    draws = tuned.json("config")["draws"]
    assert draws["train_rows"] == draws["demonstrations"][0] == icl.json("config")["draws"]["demonstrations"][0]
    stages = tuned.metrics["stages"]
    assert stages["before"]["toy"]["score_accuracy"] == pytest.approx(0.5, abs=0.1)
    assert stages["after"]["toy"]["score_accuracy"] >= 0.8


def test_teacher_and_student_may_be_asked_in_their_own_ways(tmp_path, capsys):
    own = ("--teacher_pattern", "{text2} {text1} ?", "--student_target_tokens", "No,Yes", "--calibrate")
    record = run("distill.py", tmp_path, *SHORT, *own)
    said = [line for line in capsys.readouterr().err.splitlines() if "label tokens of" in line]
    assert [line.split(": ")[1] for line in said] == ["label tokens of the teacher", "label tokens of the student"]
    assert [line.split(" | ")[1] for line in said] == ["'Yes' / 'No'", "'No' / 'Yes'"]
    assert record.metrics["stages"].keys() == {"teacher", "before", "after", "after_with_context"}
    plain = run("distill.py", tmp_path, *SHORT)
    flipped, straight = (r.predictions.query("stage == 'before'").token_logprobs for r in (record, plain))
    np.testing.assert_allclose(np.stack(flipped), np.stack(straight)[:, ::-1], atol=1e-6)  # label 0 is now "No"


def test_a_task_description_is_context_and_the_student_never_reads_it(tmp_path):
    plain = run("distill.py", tmp_path, *SHORT).metrics
    told = run("distill.py", tmp_path, *SHORT, "--task_description", "overlap means Yes").metrics
    assert told["stages"]["before"] == plain["stages"]["before"]
    assert told["tokens_per_query"]["student"] == plain["tokens_per_query"]["student"]
    assert told["tokens_per_query"]["teacher"] == plain["tokens_per_query"]["teacher"] + 4


def test_calibration_changes_the_answers_and_not_the_token_probabilities(tmp_path):
    plain, calibrated = (run("eval.py", tmp_path, *SHORT, *extra).predictions for extra in ((), ("--calibrate",)))
    # the content-free queries are in the same rows, so sums are taken in another order: float32 noise
    np.testing.assert_allclose(np.stack(plain.token_logprobs), np.stack(calibrated.token_logprobs), rtol=1e-5, atol=1e-5)
    shift = np.stack(plain.label_logprobs) - np.stack(calibrated.label_logprobs)
    odds = shift[:, 0] - shift[:, 1]  # the same factor between the labels for every query after one context
    in_toy = (plain.set == "toy").to_numpy()
    np.testing.assert_allclose(odds[in_toy], odds[in_toy][0], atol=1e-4)
    assert abs(odds[in_toy][0]) > 1e-3


def test_students_of_two_data_seeds_are_two_models_and_one_setting(tmp_path):
    longer = (*SHORT, "--num_train_epochs", 4)  # a first step alone has the learning rate 0
    students = [run("ft.py", tmp_path / "ft", *longer, *LORA, "--data_seed", seed).path / "model" for seed in range(2)]
    found = [run("eval.py", tmp_path / "icl", *SHORT, "--model_name_or_path", student) for student in students]
    assert len({record.path for record in found}) == 2
    assert len({record.json("config")["fingerprints"]["model"]["content"] for record in found}) == 2
    assert len({record.json("config")["setting"] for record in found}) == 1
    assert [record.json("config")["student"]["data_seed"] for record in found] == [0, 1]

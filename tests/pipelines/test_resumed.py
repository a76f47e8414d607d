"""What the record of a resumed run says about earlier sessions."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from llmft.cost.phases import key_of
from llmft.errors import InputError
from llmft.pipelines import training
from llmft.training.ft_trainer import FtTrainer
from tests.pipelines.conftest import IN_DOMAIN, run
from tests.pipelines.test_training import EIGHT_STEPS, SHORT, Cut, cut

SAVING = (*SHORT, *EIGHT_STEPS, "--save_strategy", "steps", "--save_steps", 4)
SAVING_NOTES = ("--task", "notes", "--max_eval_samples", 4, "--max_train_samples", 8, "--max_steps", 8, "--no_evaluate_elsewhere")
SAVING_NOTES += ("--per_device_train_batch_size", 4, *SAVING[-4:], *IN_DOMAIN)


def test_costs_of_a_resumed_run_begin_with_those_of_its_checkpoint(tmp_path, monkeypatch):
    from llmft.training.checkpoints import read_progress

    with monkeypatch.context() as patch:
        cut(patch, FtTrainer, "compute_loss", 6)
        with pytest.raises(Cut):
            run("ft.py", tmp_path, *SAVING)
    (progress,) = tmp_path.rglob("progress.json")
    (costs,) = read_progress(progress.parent)["costs"]
    earlier = {phase["kind"]: phase for phase in costs if phase["set"] is None}
    assert earlier["train"]["examples"] == 16
    assert earlier["train"]["cpu_total_s"] > 0
    earlier["train"]["cpu_user_s"] += 1e6  # so that nothing but a sum can be as large
    earlier["load"]["rss_peak_bytes"] = 2**50
    changed = {"costs": [costs], "largest_process_bytes": [2**50]}
    monkeypatch.setattr(training, "read_progress", lambda checkpoint: {**read_progress(checkpoint), **changed})
    resumed = run("ft.py", tmp_path, *SAVING)
    assert resumed.phases["train"]["cpu_total_s"] > 1e6
    assert resumed.phases["load"]["rss_peak_bytes"] == 2**50
    assert resumed.json("cost")["total"]["cpu_total_s"] > 1e6
    assert resumed.json("cost")["total"]["largest_process_bytes"] == 2**50


def test_a_weight_of_two_names_is_no_missing_one_of_a_checkpoint_and_a_missing_one_is_an_error(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        cut(patch, FtTrainer, "compute_loss", 6)
        with pytest.raises(Cut):
            run("ft.py", tmp_path, *SAVING)
    (file,) = tmp_path.rglob("checkpoint-*/model.safetensors")
    weights = load_file(file)
    assert "lm_head.weight" not in weights  # it is the embeddings
    name = next(name for name in weights if name.endswith("fc1.weight"))
    save_file({key: weight for key, weight in weights.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"checkpoint-4 is damaged \(KeyError\)"):
        run("ft.py", tmp_path, *SAVING)
    save_file(weights, file, {"format": "pt"})
    warnings = []
    monkeypatch.setattr("transformers.trainer.logger.warning", lambda text, *_, **__: warnings.append(text))
    assert run("ft.py", tmp_path, *SAVING).json("cost")["resumed_from"]
    assert not any("missing keys" in warning for warning in warnings)


def test_a_teacher_that_an_earlier_session_has_paid_for_is_not_saved_as_well(tmp_path, monkeypatch):
    whole = run("distill.py", tmp_path / "whole", *SAVING)
    with monkeypatch.context() as patch:
        cut(patch, FtTrainer, "compute_loss", 6)
        with pytest.raises(Cut):
            run("distill.py", tmp_path / "cut", *SAVING)
    resumed = run("distill.py", tmp_path / "cut", *SAVING)
    assert resumed.json("cost")["resumed_from"]
    assert resumed.json("cost")["saved_by_teacher_cache"] == {}
    for name in ("teacher", "evaluate teacher toy"):
        assert resumed.phases[name]["tokens"] == whole.phases[name]["tokens"] > 0


def test_a_teacher_that_another_run_has_paid_for_stays_saved_in_a_resumed_one(tmp_path, monkeypatch):
    run("distill.py", tmp_path, *SAVING, "--seed", 1)
    with monkeypatch.context() as patch:
        cut(patch, FtTrainer, "compute_loss", 6)
        with pytest.raises(Cut):
            run("distill.py", tmp_path, *SAVING)
    saved = run("distill.py", tmp_path, *SAVING).json("cost")["saved_by_teacher_cache"]
    assert {key_of(phase) for phase in saved["phases"]} >= {("teacher", None, None), ("evaluate", "teacher", "toy")}
    assert saved["tokens"] == sum(phase["tokens"] for phase in saved["phases"]) > 0


def test_an_answer_that_another_run_has_written_stays_saved_where_a_resumed_one_had_to_read_it(tmp_path, monkeypatch):
    run("distill.py", tmp_path / "whole", *SAVING_NOTES, "--targets", "hard")
    shutil.copytree(tmp_path / "whole" / "teacher_cache", tmp_path / "cut" / "teacher_cache")
    whole = run("distill.py", tmp_path / "whole", *SAVING_NOTES).json("cost")["saved_by_teacher_cache"]
    with monkeypatch.context() as patch:
        cut(patch, FtTrainer, "compute_loss", 6)
        with pytest.raises(Cut):
            run("distill.py", tmp_path / "cut", *SAVING_NOTES)
    resumed = run("distill.py", tmp_path / "cut", *SAVING_NOTES).json("cost")
    assert resumed["resumed_from"]
    assert resumed["saved_by_teacher_cache"] == whole and ("teacher", None, None) in {key_of(phase) for phase in whole["phases"]}


@pytest.mark.parametrize(("script", "flags"), [("ft.py", SAVING), ("distill.py", (*SAVING_NOTES, "--answers", "student"))])
def test_the_log_of_a_resumed_run_is_that_of_a_whole_one(tmp_path, monkeypatch, script, flags):
    flags = (*flags, "--logging_steps", 3)  # the entry of step 6 has losses from both sides of the checkpoint
    whole = run(script, tmp_path / "whole", *flags)
    with monkeypatch.context() as patch:
        cut(patch, FtTrainer, "compute_loss", 6)
        with pytest.raises(Cut):
            run(script, tmp_path / "cut", *flags)
    resumed = run(script, tmp_path / "cut", *flags)
    assert resumed.json("cost")["resumed_from"]
    losses = [[json.loads(line).get("loss") for line in (record.path / "train_log.jsonl").open()] for record in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) > 2

"""Several processes for real: two ranks on the CPU, started by the deepspeed launcher."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmft.runs.show import pooled
from llmft.tasks.toy import CHECKPOINT
from tests.pipelines.conftest import Record, run

ROOT = Path(__file__).parents[2]
DISTIL = ("--num_shots", "16", "--max_train_samples", "256", "--learning_rate", "1e-3", "--num_train_epochs", "10")
DISTIL += ("--max_eval_samples", "60")


def launch(output_dir, *arguments):
    """Run distill.py on two ranks and return its only record."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["-m", "deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", port, str(ROOT / "distill.py")]
    arguments = ["--task", "toy", "--output_dir", str(output_dir), "--use_cpu", *arguments]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command, *arguments], check=True, cwd=ROOT, env=environment, timeout=570)
    (done,) = output_dir.rglob("DONE")
    return Record(done.parent)


@pytest.mark.deepspeed
@pytest.mark.parametrize("config", [None, "zero2.json", "zero3.json"])
def test_two_ranks_end_with_one_record_like_that_of_one_process(tmp_path, config):
    alone = run("distill.py", tmp_path / "one", *DISTIL, "--per_device_train_batch_size", "32")
    zero = ("--deepspeed", str(ROOT / "deepspeed_configs" / config)) if config else ()
    both = launch(tmp_path / "two", *DISTIL, "--per_device_train_batch_size", "16", *zero)
    assert both.metrics["stages"].keys() == alone.metrics["stages"].keys()
    for stage in ("teacher", "before"):  # no training yet: the same answers, put together from two ranks in the order of the rows
        for name, found in both.metrics["stages"][stage].items():
            assert found == pytest.approx(alone.metrics["stages"][stage][name], abs=1e-5)
    for domain in ("in_domain", "out_of_domain"):
        accuracies = [pooled(r.metrics["stages"]["after"], r.metrics["sets"][domain]) for r in (alone, both)]
        assert accuracies[1] == pytest.approx(accuracies[0], abs=0.05)
    cost = both.json("cost")
    assert len(cost["ranks"]) == 2
    assert cost["total"]["cpu_total_s"] == pytest.approx(sum(rank["cpu_total_s"] for rank in cost["ranks"]))
    train = next(phase for phase in cost["phases"] if phase["name"] == "train")
    assert train["tokens"] > 0
    assert train["examples"] == 10 * 256
    assert next(phase for phase in cost["phases"] if phase["name"] == "eval after toy")["examples"] == 60
    assert len(both.predictions) == len(alone.predictions)


@pytest.mark.deepspeed
def test_two_ranks_evaluate_during_training_and_keep_the_best(tmp_path):
    short = ("--num_shots", "4", "--max_train_samples", "32", "--learning_rate", "1e-3", "--num_train_epochs", "3")
    short += ("--max_eval_samples", "21", "--logging_steps", "1", "--eval_strategy", "epoch", "--save_best_models")
    short += ("--log_l2_dist_per_weight", "--save_strategy", "epoch")
    zero = ("--deepspeed", str(ROOT / "deepspeed_configs" / "zero3.json"))  # whose weights are cut up
    alone = run("distill.py", tmp_path / "one", *short, "--per_device_train_batch_size", "16")
    both = launch(tmp_path / "two", *short, "--per_device_train_batch_size", "8", *zero)
    evaluations = both.metrics["evaluations"]
    assert [found["step"] for found in evaluations] == [found["step"] for found in alone.metrics["evaluations"]] == [2, 4, 6]
    assert both.metrics["stages"]["after"] == evaluations[-1]["sets"]
    phases = {phase["name"]: phase for phase in both.json("cost")["phases"]}
    assert phases["train"]["examples"] == 3 * 32
    assert phases["eval during training toy"]["examples"] == 2 * 21
    logs = [[json.loads(line) for line in (r.path / "train_log.jsonl").read_text().splitlines()] for r in (alone, both)]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys()
        if "loss" in one:
            assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.05)
        if "l2-dist/model.decoder.embed_tokens.weight" in one:
            for name in one:
                assert two[name] == pytest.approx(one[name], rel=0.05, abs=1e-4)
    for stage in ("best_in_domain", "best_out_of_domain"):
        best, start = (load_file(folder / "model.safetensors") for folder in (both.path / f"model_{stage}", CHECKPOINT))
        assert best.keys() == start.keys()
        step = both.metrics["selection"][stage]["step"]
        (moved,) = (entry for entry in logs[1] if entry["step"] == step and any(name.startswith("l2-dist/") for name in entry))
        for name, weight in best.items():
            assert (weight - start[name]).norm().item() == pytest.approx(moved[f"l2-dist/{name}"], rel=1e-3)
    assert not (both.path / "checkpoints").exists()

"""The DeepSpeed configs: found by name, refused with one line, and accepted by DeepSpeed with the trainer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmft.arguments.deepspeed_config import CONFIGS, find_config
from llmft.errors import InputError
from llmft.pipelines import fine_tune
from tests.parsing import parse

OWN = sorted(file.stem for file in CONFIGS.glob("zero*.json"))
UPSTREAM = {
    "ds_config": 0,
    "ds_config_zero2": 2,
    "ds_config_zero3": 3,
    "ds_config_zero3_more_args": 3,
    "ds_config_zero3_offload_opt": 3,
    "ds_config_zero3_offload_opt_params": 3,
}
"""Names of upstream's files -> ZeRO stage."""
TRAIN = """
import json, os, sys
import torch
from transformers import OPTConfig, OPTForCausalLM, Trainer
from llmft.arguments.deepspeed_config import find_config, zero_stage
from llmft.arguments.run import RunArguments
from llmft.runs.ranks import end_together

os.environ["DS_ACCELERATOR"] = "cpu"
rows = [{"input_ids": torch.arange(6) + i, "labels": torch.arange(6) + i} for i in range(4)]
losses = {}
for name in sys.argv[2:]:
    stage = zero_stage(find_config(name)) if name else None
    shape = dict(vocab_size=32, hidden_size=8, ffn_dim=16, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=8)
    arguments = RunArguments(
        output_dir=sys.argv[1], use_cpu=True, deepspeed=name or None, deepspeed_stage=stage, max_steps=3, logging_steps=1,
        warmup_steps=0, learning_rate=1e-2, per_device_train_batch_size=2, gradient_accumulation_steps=2, disable_tqdm=True,
    )
    torch.manual_seed(0)
    model = OPTForCausalLM(OPTConfig(**shape, max_position_embeddings=16, dropout=0.0))
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print("LOSSES", json.dumps(losses))
end_together()
"""


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Three losses of a tiny model without DeepSpeed (name '') and under each config, on one CPU process."""
    command = [sys.executable, "-c", TRAIN, str(tmp_path_factory.mktemp("runs")), "", *OWN]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True, check=False, timeout=570)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("LOSSES ")).removeprefix("LOSSES "))


@pytest.mark.deepspeed
@pytest.mark.parametrize("name", OWN)
def test_each_config_trains_as_without_deepspeed(losses, name):
    assert losses[""][0] > losses[""][2] + 0.1
    assert losses[name] == pytest.approx(losses[""], abs=1e-4)


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstreams_file_names(name):
    for given in (name, f"{name}.json", str(CONFIGS / f"{name}.json")):
        config = json.loads(Path(find_config(given)).read_text())
        assert config["zero_optimization"]["stage"] == UPSTREAM[name]
    offloaded = config["zero_optimization"]
    assert ("offload_optimizer" in offloaded) == ("offload" in name or "more" in name)
    assert ("offload_param" in offloaded) == ("params" in name or "more" in name)


@pytest.mark.parametrize("name", OWN)
def test_what_the_command_line_decides_is_left_to_it(name):
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    assert {config[key] for key in auto} | {config[kind]["enabled"] for kind in ("fp16", "bf16")} == {"auto"}
    assert not config.keys() & {"optimizer", "scheduler"}  # --optim and --lr_scheduler_type are
    assert f"`{name}`" in (CONFIGS / "README.md").read_text()


def test_a_file_of_the_users_wins_over_a_name(tmp_path, monkeypatch):
    (tmp_path / "zero2").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_config("zero2") == "zero2"
    assert find_config("zero3") == str(CONFIGS / "zero3.json")


def test_a_config_that_is_no_text_is_one_line(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read") as error:
        parse(fine_tune.GROUPS, ["--deepspeed", str(path), "--use_cpu"])
    assert str(error.value).startswith(f"--deepspeed {path}: ")
    assert "\n" not in str(error.value)

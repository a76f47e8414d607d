"""No code from a model runs, nothing is written outside the output folder, no secret is recorded."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from llmft.errors import InputError
from llmft.runs.record import RunRecord, folder_name
from llmft.runs.secrets import HIDDEN, command_without_secrets, without_secrets
from llmft.worlds.nli import CHECKPOINT
from tests.pipelines.conftest import IN_DOMAIN, MAIN, run

SMALL = ("--num_shots", 4, "--max_eval_samples", 8, "--max_train_samples", 8, *IN_DOMAIN)
STEPS = ("--num_train_epochs", 1, "--per_device_train_batch_size", 4, "--save_strategy", "steps", "--save_steps", 1)


class RunsCode:
    """When unpickled, it creates a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


def refused(script, output_dir, *arguments):
    with pytest.raises(InputError) as caught:
        run(script, output_dir, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "adapter_model.bin"])
def test_weights_in_a_pickle_run_no_code(tmp_path, file):
    model = tmp_path / "m"
    shutil.copytree(CHECKPOINT, model)
    if file == "adapter_model.bin":
        settings = {"base_model_name_or_path": "toy", "peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
        (model / "adapter_config.json").write_text(json.dumps(settings))
    else:
        (model / "model.safetensors").unlink()
    torch.save({"weight": RunsCode(tmp_path / "ran")}, model / file)
    assert "a pickle that holds more than tensors" in refused("eval.py", tmp_path / "out", *SMALL, "--model_name_or_path", model)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The output folder of a run that stopped after its first checkpoint."""
    from llmft.training.ft_trainer import FtTrainer

    folder, original = tmp_path_factory.mktemp("interrupted"), FtTrainer.answer_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FtTrainer, "answer_loss", lambda self, *a: original(self, *a) / (1 - self.state.global_step))
        assert "the loss of step 2 is inf" in refused("ft.py", folder, *SMALL, *STEPS)
    return folder


@pytest.mark.parametrize("file", ["rng_state.pth", "optimizer.pt", "scheduler.pt", "progress.json", "pytorch_model.bin"])
def test_a_checkpoint_runs_no_code(tmp_path, interrupted, file):
    folder = tmp_path / "out"
    shutil.copytree(interrupted, folder)
    (checkpoint,) = folder.rglob("checkpoint-1")
    if file == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    torch.save({"state": RunsCode(tmp_path / "ran")}, checkpoint / file)
    assert "checkpoint-1 is damaged" in refused("ft.py", folder, *SMALL, *STEPS)
    assert not (tmp_path / "ran").exists()
    assert checkpoint.is_dir()


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    model = tmp_path / "m"
    shutil.copytree(CHECKPOINT, model)
    (model / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((model / "config.json").read_text())
    own_code = {"auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "auto_map": {"AutoTokenizer": ["code.T", None]}}))
    (model / "config.json").write_text(json.dumps({**config, **own_code}))
    run("eval.py", tmp_path / "out", *SMALL, "--model_name_or_path", model)  # transformers has a class of its own for it
    (model / "config.json").write_text(json.dumps({**config, **own_code, "model_type": "ours"}))
    assert "--trust_remote_code" in refused("eval.py", tmp_path / "out", *SMALL, "--model_name_or_path", model)
    assert not (tmp_path / "ran").exists()


def test_a_run_stays_in_its_output_folder(tmp_path):
    """Even if a file next to a model says that it is a run with another name."""
    model = tmp_path / "x" / "model"
    shutil.copytree(CHECKPOINT, model)
    (tmp_path / "x" / "config.json").write_text(json.dumps({"model": "../../../../out_of_it", "method": "/x"}))
    record = run("eval.py", tmp_path / "a" / "b" / "out", *SMALL, "--model_name_or_path", model)
    assert record.path.parent.name == "..-..-..-..-out_of_it--x"
    assert record.path.parents[3] == tmp_path / "a" / "b" / "out"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "x"}


@pytest.mark.parametrize("name", ["..", ".", "", "/", "../../x", "a/b", "a\\b", "x\0y", "\n", "é" * 300])
def test_no_name_leads_out_of_a_folder(tmp_path, name):
    plain = folder_name(name)
    assert plain not in ("", ".", "..")
    assert "/" not in plain
    path = RunRecord.locate(str(tmp_path), ["icl", name], {}, writes=True).path
    assert os.path.normpath(path) == str(path)
    path.mkdir(parents=True)
    assert path.parents[2] == tmp_path


@pytest.mark.parametrize("name", ["opt-125m", "SmolLM2-135M-Instruct", "pbft-lora", "model.v2_x", "Ü b"])
def test_names_that_are_names_stay(name):
    assert folder_name(name) == name


SECRET = "hf_0123456789secret"


def test_secrets_are_written_nowhere(tmp_path, monkeypatch, capsys):
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    arguments = ["--use_auth_token", SECRET, "--wandb_project_name", f"{SECRET}-WANDB_API_KEY"]
    argv = ["--task", "toy", "--output_dir", str(tmp_path), "--use_cpu", *map(str, SMALL[2:]), *map(str, STEPS), *arguments]
    monkeypatch.setattr("sys.argv", ["ft.py", *argv])
    MAIN["ft.py"]()
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"config.json", "metrics.json", "DONE"} <= {file.name for file in written}
    for file in written:
        assert SECRET.encode() not in file.read_bytes(), file
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    (config,) = tmp_path.rglob("pbft/*/*/*/config.json")
    command = json.loads(config.read_text())["environment"]["command"]
    assert command[command.index("--use_auth_token") + 1] == HIDDEN


@pytest.mark.parametrize("words", [["--hub_token", SECRET], [f"--hub_token={SECRET}"], [f"--hub_tokn={SECRET}"]])
def test_messages_hold_no_secret(tmp_path, words):
    message = refused("ft.py", tmp_path, *words)
    assert SECRET not in message
    assert message.startswith("--hub_tok")


@pytest.mark.parametrize("name", ["A_TOKEN", "WANDB_API_KEY", "SOME_SECRET", "DB_PASSWORD", "GOOGLE_APPLICATION_CREDENTIALS"])
def test_what_counts_as_a_secret(monkeypatch, name):
    monkeypatch.setenv("SHORT_TOKEN", "Yes")
    monkeypatch.setenv(name, "correct horse")
    config = {"target_tokens": "Yes,No", "hub_token": "x", "deep": [{"api_key": "y", "text": "a correct horse."}], "n": 3}
    assert without_secrets(config) == {
        "target_tokens": "Yes,No",
        "hub_token": HIDDEN,
        "deep": [{"api_key": HIDDEN, "text": f"a {HIDDEN}."}],
        "n": 3,
    }
    command = ["ft.py", "--hub-token", "x", "--target_tokens", "Yes,No", "--hub_token=x", "--use_auth_token", "--seed", "1"]
    assert command_without_secrets(command) == [
        "ft.py", "--hub-token", HIDDEN, "--target_tokens", "Yes,No", f"--hub_token={HIDDEN}", "--use_auth_token", "--seed", "1",
    ]  # fmt: skip

"""Evaluation during training, best checkpoints, what an interrupted run resumes with, losses, logging services."""

import hashlib
import itertools
import json
import os
import re
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

from llmft.errors import InputError
from llmft.pipelines import training
from llmft.runs.summary import pooled
from llmft.training.ft_trainer import FtTrainer
from tests.pipelines.conftest import IN_DOMAIN, MAIN, run

SHORT = ("--num_shots", 4, "--max_eval_samples", 20, "--max_train_samples", 32, "--learning_rate", 1e-3, *IN_DOMAIN)
ALL_SETS = SHORT[: -len(IN_DOMAIN)]
EIGHT_STEPS = ("--num_train_epochs", 1, "--per_device_train_batch_size", 4, "--logging_steps", 1)
LORA = ("--use_adapter", "--adapter_dim", 4)
BESTS = ("best_in_domain", "best_out_of_domain")


def test_weights_that_the_last_step_has_spoilt_are_found_before_they_are_scored(tmp_path):
    with pytest.raises(InputError, match=r"--learning_rate 1e\+38: the weights are not finite after step 1"):
        run("ft.py", tmp_path, *SHORT, "--num_train_epochs", 1, "--learning_rate", 1e38, "--warmup_steps", 0)
    assert not any(tmp_path.rglob("metrics.json"))


def log(record, key):
    entries = map(json.loads, (record.path / "train_log.jsonl").read_text().splitlines())
    return [entry for entry in entries if any(name.startswith(key) for name in entry)]


def weights(record):
    return {
        str(f.relative_to(record.path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in record.path.rglob("*.safetensors")
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Runs with evaluations, and the same without."""
    folder = tmp_path_factory.mktemp("evaluated")
    during = ("--eval_strategy", "epoch", "--save_best_models")
    three_epochs = ("--num_train_epochs", 3, "--per_device_train_batch_size", 8)
    return {
        script: [run(script, folder, *ALL_SETS, *three_epochs, *extra, *more) for more in (during, ())]
        for script, extra in (("ft.py", ()), ("distill.py", LORA))
    }


@pytest.mark.parametrize("script", ["ft.py", "distill.py"])
def test_every_evaluation_is_in_the_record_and_the_best_are_stages(evaluated, script, capsys):
    record, _ = evaluated[script]
    metrics = record.metrics
    evaluations, stages, selection = metrics["evaluations"], metrics["stages"], metrics["selection"]
    assert [(found["step"], found["epoch"]) for found in evaluations] == [(4, 1.0), (8, 2.0), (12, 3.0)]
    assert stages["after"] == evaluations[-1]["sets"]
    assert selection["after"] == {"step": 12, "epoch": 3.0, "selected_on_evaluation_set": False}
    for domain in ("in_domain", "out_of_domain"):
        accuracies = [pooled(found["sets"], metrics["sets"][domain], "score_accuracy") for found in evaluations]
        best = evaluations[int(np.argmax(accuracies))]
        stage = f"best_{domain}"
        assert stages[stage] == best["sets"]
        assert selection[stage] == {"step": best["step"], "epoch": best["epoch"], "selected_on_evaluation_set": True}
    predictions = record.predictions
    for stage in ("after", *BESTS):
        for name, found in stages[stage].items():
            rows = predictions[(predictions.stage == stage) & (predictions.set == name)]
            assert rows.score.mean() == pytest.approx(found["score_accuracy"])
    assert [entry["eval_toy_loss"] for entry in log(record, "eval_")] == [e["sets"]["toy"]["loss"] for e in evaluations]
    if script == "distill.py":
        assert metrics["kl"].keys() == {"before", "after", *BESTS}


@pytest.mark.parametrize("script", ["ft.py", "distill.py"])
def test_evaluation_during_training_changes_no_result(evaluated, script):
    record, plain = evaluated[script]
    assert record.path != plain.path
    stages = record.metrics["stages"]
    assert plain.metrics["stages"] == {name: found for name, found in stages.items() if name not in BESTS}
    assert not {"evaluations", "selection"} & plain.metrics.keys()
    kept = weights(record)
    assert weights(plain).items() <= kept.items()
    assert len(kept) == 3


@pytest.mark.parametrize("script", ["ft.py", "distill.py"])
def test_the_weights_of_the_best_are_those_that_were_evaluated(evaluated, script):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    from llmft.models.reading.batches import answer_logits, left_pad
    from llmft.worlds.nli.tokenizer import build_tokenizer
    from llmft.worlds.nli.world import toy_splits

    record, _ = evaluated[script]
    loader, tokenizer = AutoModelForCausalLM if script == "ft.py" else AutoPeftModelForCausalLM, build_tokenizer()
    rows = {row["idx"]: row for row in toy_splits(None, 0)["validation"]}
    for stage in BESTS:
        folder = record.path / f"model_{stage}"
        assert {file.name for file in folder.iterdir()} == {file.name for file in (record.path / "model").iterdir()}
        expected = record.predictions.query(f"stage == '{stage}' and set == 'toy'")
        batch = left_pad([tokenizer("{text1} {text2} ?".format(**rows[idx]))["input_ids"] for idx in expected.idx])
        logprobs = answer_logits(loader.from_pretrained(folder).eval(), batch).log_softmax(-1).detach().numpy()
        found = logprobs[:, tokenizer.convert_tokens_to_ids(["Yes", "No"])]
        np.testing.assert_allclose(found, np.stack(expected.token_logprobs), atol=1e-5)


def test_costs_of_evaluations_are_apart_from_training(evaluated):
    record, plain = evaluated["ft.py"]
    assert record.phases["evaluate during_training toy"]["examples"] == 2 * 20
    assert record.phases["evaluate after toy"]["examples"] == plain.phases["evaluate after toy"]["examples"] == 20
    for name in ("examples", "tokens", "flops"):
        assert record.phases["train"][name] == plain.phases["train"][name] > 0


def test_selected_checkpoints_are_marked_for_readers(evaluated, without_pictures, tmp_path, capsys):
    from llmft.report.__main__ import main
    from llmft.runs.summary import show_run

    record, plain = evaluated["ft.py"]
    show_run(record.path)
    shown = capsys.readouterr().out
    (row,) = (line for line in shown.splitlines() if "best_in_domain" in line)
    _, inside, outside = row.strip("│ ").split("│")
    assert inside.strip().endswith("*") and not outside.strip().endswith("*")
    assert "* checkpoint selected on this evaluation set" in shown
    show_run(plain.path)
    assert "*" not in capsys.readouterr().out
    main([str(record.path.parents[3]), "--out", str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    accuracy = pooled(record.metrics["stages"]["best_in_domain"], ["toy"], "score_accuracy")
    assert f" {accuracy:.3f}* |" in text
    assert "\\* checkpoint selected on this evaluation set" in text


class Cut(Exception):
    """The end of a killed session."""


def cut(monkeypatch, owner, name, call):
    """Make the `call`-th call of a function end the session."""
    calls, original = [], getattr(owner, name)

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Cut
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


STEPS = ("--eval_strategy", "steps", "--eval_steps", 3, "--save_strategy", "steps", "--save_steps", 2)
EPOCHS = ("--eval_strategy", "epoch", "--save_strategy", "steps", "--save_steps", 4)
EPOCHS += ("--num_train_epochs", 1.5, "--per_device_train_batch_size", 8)
CUTS = {
    "in a step behind a new best": ("ft.py", (*ALL_SETS, *EIGHT_STEPS, *STEPS), FtTrainer, "compute_loss", 8, "step 6 of 8"),
    "in the evaluation of a step that is saved": (
        "distill.py",
        (*SHORT, *EIGHT_STEPS, *STEPS, *LORA),
        FtTrainer,
        "evaluate",
        2,
        "step 4 of 8",
    ),
    "between a checkpoint and what we put there": (
        "ft.py",
        (*SHORT, *EIGHT_STEPS, *STEPS),
        training,
        "all_gather",
        3,
        "step 2 of 8",
    ),
    "in the saving of the weights, within an epoch": (
        "ft.py",
        (*SHORT, *EIGHT_STEPS, *EPOCHS),
        training,
        "_save",
        2,
        "step 4 of 6",
    ),
}


@pytest.mark.parametrize("place", CUTS)
def test_an_interrupted_run_resumes_with_its_evaluations_and_costs(tmp_path, monkeypatch, capsys, place):
    script, arguments, owner, name, call, step = CUTS[place]
    arguments = (*arguments, "--save_best_models", "--log_l2_dist_per_weight")
    whole = run(script, tmp_path / "whole", *arguments)
    with monkeypatch.context() as patch:
        cut(patch, owner, name, call)
        with pytest.raises(Cut):
            run(script, tmp_path / "cut", *arguments)
    assert not list((tmp_path / "cut").rglob("DONE"))
    assert list((tmp_path / "cut").rglob("progress.json"))
    assert "resuming at" not in capsys.readouterr().out
    resumed = run(script, tmp_path / "cut", *arguments)
    (found,) = re.findall(r"^resuming at (step \d of \d)$", capsys.readouterr().out, re.MULTILINE)
    assert found == step
    assert resumed.json("cost")["resumed_from"].endswith(f"checkpoint-{step.split()[1]}")
    assert whole.json("cost")["resumed_from"] is None
    for file in ("metrics.json", "predictions.parquet"):
        assert (resumed.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert weights(resumed) == weights(whole)
    assert len(weights(whole)) == (2 if "--eval_task_name" in arguments else 3)
    for key in ("loss", "eval_", "l2-dist/"):
        assert log(resumed, key) == log(whole, key)
    assert {file.name for file in resumed.path.iterdir()} == {file.name for file in whole.path.iterdir()}
    for part in (
        "train",
        "evaluate during_training toy",
    ):  # as if never interrupted: what came after the checkpoint is not known
        for count in ("examples", "tokens", "padding_tokens", "flops"):
            assert resumed.phases[part][count] == whole.phases[part][count]
    for part in ("load", "evaluate before toy"):  # done by both sessions
        assert resumed.phases[part]["examples"] == 2 * whole.phases[part]["examples"]


def test_every_loss_makes_another_run_that_learns(tmp_path):
    flags = [(), ("--loss", "t-few"), ("--target_tokens_logits_only",)]
    records = [run("ft.py", tmp_path, *SHORT, *EIGHT_STEPS, *extra) for extra in flags]
    ends = [load_file(record.path / "model" / "model.safetensors") for record in records]
    for one, two in itertools.combinations(ends, 2):
        assert any(not np.array_equal(one[name], two[name]) for name in one)
    for record in records:
        losses = [entry["loss"] for entry in log(record, "loss")]
        assert np.mean(losses[-3:]) < np.mean(losses[:3])
        assert all(entry["grad_norm"] > 0 for entry in log(record, "loss"))


FAKES = {
    "tensorboardX": """
import json, pathlib
class SummaryWriter:
    def __init__(self, log_dir):
        pathlib.Path(log_dir).mkdir(parents=True, exist_ok=True)
        self.file = open(pathlib.Path(log_dir) / "events", "a")
    def add_text(self, *args): pass
    def add_scalar(self, *args): self.file.write(json.dumps(args) + "\\n")
    def flush(self): self.file.flush()
    def close(self): self.file.close()
""",
    "wandb": """
import os
run, logged, settings = None, [], {}
class Config(dict):
    def update(self, values, allow_val_change): super().update(values)
config = Config()
class Run:
    summary = {}
    def _label(self, code): pass
def init(**arguments):
    global run
    run = Run()
    settings.update(arguments, **{name: value for name, value in os.environ.items() if name.startswith("WANDB_")})
def log(values): logged.append(values)
""",
    "wandb/sdk/lib/config_util": "class ConfigError(Exception): pass",
}


@pytest.fixture
def services(tmp_path, monkeypatch):
    """Packages that look to transformers like those of the logging services."""
    folder = tmp_path / "packages"
    for name, code in FAKES.items():
        module = folder / name
        module.mkdir(parents=True)
        (module / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR", "WANDB_RUN_GROUP", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("wandb", "tensorboardX")]:
        del sys.modules[name]


def test_logging_services_get_losses_and_evaluations_where_they_survive(tmp_path, services):
    wandb_flags = ("--wandb_group_name", "a group", "--wandb_run_name", "a run", "--wandb_output_dir", tmp_path / "of wandb")
    before = dict(os.environ)
    extra = ("--eval_strategy", "epoch", "--report_to", "tensorboard", "wandb", *wandb_flags)
    record = run("ft.py", tmp_path / "out", *SHORT, *EIGHT_STEPS, *extra)
    assert dict(os.environ) == before
    events = [json.loads(line) for line in (record.path / "tensorboard" / "events").read_text().splitlines()]
    losses = {entry["step"]: entry["loss"] for entry in log(record, "loss")}
    assert {step: value for name, value, step in events if name == "train/loss"} == losses
    expected = record.metrics["stages"]["after"]["toy"]["score_accuracy"]
    assert ["eval/toy_score_accuracy", expected, 8] in events
    wandb = sys.modules["wandb"]
    assert wandb.settings == {
        "project": "llmft-experiments",
        "WANDB_PROJECT": "llmft-experiments",
        "WANDB_RUN_GROUP": "a group",
        "WANDB_NAME": "a run",
        "WANDB_DIR": str(tmp_path / "of wandb"),
    }
    assert [values["train/loss"] for values in wandb.logged if "train/loss" in values] == list(losses.values())
    assert any(values.get("eval/toy_score_accuracy") == expected for values in wandb.logged)
    plain = run("ft.py", tmp_path / "plain", *SHORT, *EIGHT_STEPS, "--eval_strategy", "epoch")
    assert plain.path.name == record.path.name  # the services change no result
    assert (plain.path / "metrics.json").read_bytes() == (record.path / "metrics.json").read_bytes()


def test_a_logging_service_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [])  # nothing can be found any more
    with pytest.raises(InputError, match="--report_to wandb: the package is not installed; pip install wandb"):
        MAIN["ft.py"](["--task", "toy", "--use_cpu", "--output_dir", str(tmp_path / "out"), "--report_to", "wandb"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bars", [False, True])
def test_nothing_is_printed_but_the_result_and_progress_bars(tmp_path, capfd, bars):
    run("ft.py", tmp_path, *SHORT, *EIGHT_STEPS, "--eval_strategy", "steps", "--eval_steps", 4, "--disable_tqdm", not bars)
    printed = capfd.readouterr()
    assert re.match(r"learning rate .*\ntrains all [\d,]+ weights\npbft on toy", printed.out)
    assert ("8/8" in printed.err) == bars
    assert "loss" not in printed.out + printed.err

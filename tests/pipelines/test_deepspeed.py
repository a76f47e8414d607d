"""Several real processes: two ranks on the CPU, started by the deepspeed launcher, give the results of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from llmft.runs.launch import free_port
from llmft.worlds.nli import CHECKPOINT
from tests.pipelines.conftest import Record, last_wins, run

pytestmark = pytest.mark.deepspeed

ROOT = Path(__file__).parents[2]
ROWS, EPOCHS, ASKED = 64, 3, 21  # an odd number of questions: the shares of the ranks differ
TRAIN = ("--max_train_samples", ROWS, "--num_train_epochs", EPOCHS, "--learning_rate", 5e-4, "--logging_steps", 1)
TRAIN += ("--adam_epsilon", 1e-4)  # above the rounding of gradients, which Adam would turn into full steps
CASES = {
    "eval.py": ("--num_shots", 16),
    "ft.py": TRAIN,
    "distill.py": ("--num_shots", 16, *TRAIN),
}
"""The arguments of each script, with a batch of 32."""
BEST = ("--num_shots", 4, "--max_train_samples", 32, "--learning_rate", 1e-3, "--num_train_epochs", 3, "--logging_steps", 1)
BEST += ("--eval_strategy", "epoch", "--save_best_models", "--log_l2_dist_per_weight", "--save_strategy", "epoch")
UNEVEN = (*TRAIN, "--max_train_samples", 42, "--num_train_epochs", 2)  # 10 rows for the last 16 and 16
SAVING = (*TRAIN, "--save_strategy", "steps", "--save_steps", 2)
CARTRIDGE = (*SAVING, "--num_train_epochs", 2, "--use_cartridge", "--cartridge_tokens", 64, "--learning_rate", 5e-3)
NOTES = (*TRAIN, "--task", "notes", "--max_train_samples", 18, "--num_train_epochs", 1, "--max_eval_samples", 7)
TYPED = ("ft.py", "zero2")
"""The run that is started by its entry script, without --use_cpu; one launch does all others, whose imports take longer than they
do."""
RUNS = [("distill.py", None), *((script, config) for config in ("zero2", "zero3") for script in CASES)]


def launch(*command, status=0):
    """Start two ranks of a script and wait for them; what they print."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["-m", "deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", free_port(), *map(str, command)]
    ended = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, timeout=570, capture_output=True, text=True)
    assert ended.returncode == status, ended.stderr[-4000:]
    return ended.stdout + ended.stderr


def words(output_dir, script, config, asked, batch):
    """The command line of one of two ranks, or with no config and the whole batch of one process."""
    given = ["--task", "toy", "--use_cpu", "--output_dir", output_dir, "--max_eval_samples", ASKED, *asked]
    given += [] if script == "eval.py" else ["--per_device_train_batch_size", batch]
    return [script, *last_wins(given), *(["--deepspeed", config] if config else [])]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The records of two ranks, by script and config; `best` is that of a run with evaluations on the way."""
    folder = tmp_path_factory.mktemp("launched")
    commands = {
        (script, config): words(folder / f"{config}-{script}", script, config, CASES[script], 16) for script, config in RUNS
    }
    commands["best"] = words(folder / "best", "distill.py", "zero3", BEST, 8)  # whose weights are partitioned
    commands["uneven"] = words(folder / "uneven", "ft.py", None, last_wins(UNEVEN), 16)
    commands["whole"] = words(folder / "whole", "ft.py", "zero2", SAVING, 16)
    commands["resumed"] = words(folder / "resumed", "ft.py", "zero2", SAVING, 16)
    commands["cut"] = ["cut", *commands["resumed"]]
    cartridge = words(folder / "cartridge", "ft.py", "zero3", last_wins(CARTRIDGE), 16)
    commands |= {"cut cartridge": ["cut", *cartridge], "cartridge": cartridge}
    commands |= {f"notes {zero}": words(folder / f"notes-{zero}", "distill.py", zero, NOTES, 4) for zero in ("zero2", "zero3")}
    commands[TYPED].remove("--use_cpu")
    assert launch(*commands[TYPED]).count("record: ") == 1
    order = sorted((name for name in commands if name != TYPED), key=lambda name: name == "resumed")
    launch("tests/pipelines/launched.py", json.dumps([commands[name] for name in order]))
    records = {}
    for name, command in commands.items():
        (done,) = Path(command[command.index("--output_dir") + 1]).rglob("DONE")
        records[name] = Record(done.parent)
    return records


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The records of one process with the same global batch, by script."""
    folder = tmp_path_factory.mktemp("alone")
    return {script: run(*_arguments(words(folder / script, script, None, asked, 32))) for script, asked in CASES.items()}


def _arguments(command):
    """A command line as `run` takes it."""
    place = command.index("--output_dir")
    return command[0], Path(command[place + 1]), *command[1:place], *command[place + 2 :]


def test_a_finished_run_and_bad_input_of_one_rank_alone_are_one_line(launched, tmp_path):
    folder = launched[TYPED].path
    again = words(folder.parents[3], *TYPED, TRAIN, 16)
    again.remove("--use_cpu")
    text = launch(*again)
    assert (text.count("already finished: "), text.count("record: ")) == (1, 0)
    (tmp_path / "file").write_text("")
    text = launch(*words(tmp_path / "file", *TYPED, TRAIN, 16), status=2)  # rank 0 alone looks at it
    assert (text.count("error: "), text.count("Traceback")) == (1, 0), text


def log(record):
    return [json.loads(line) for line in (record.path / "train_log.jsonl").read_text().splitlines()]


def numbers(tree, name=""):
    """All numbers in nested dicts and lists, by their paths."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {place: value for key, part in items for place, value in numbers(part, f"{name}/{key}").items()}
    return {name: tree} if isinstance(tree, int | float) else {}


@pytest.mark.parametrize(("script", "config"), RUNS)
def test_two_ranks_end_like_one_process(alone, launched, script, config):
    one, two = alone[script], launched[script, config]
    assert numbers(two.metrics) == pytest.approx(numbers(one.metrics), abs=1e-4)
    left, right = one.predictions, two.predictions
    columns = ["stage", "set", "idx", "target", "prediction"]
    assert right[columns].equals(left[columns])  # in the order of the rows, each once
    for stage in left["stage"].unique():
        rows, bound = left["stage"] == stage, 3e-4 if stage == "after_with_context" else 1e-4  # 200 tokens add up what differs
        for column in ("label_logprobs", "token_logprobs"):
            np.testing.assert_allclose(np.stack(right[column][rows]), np.stack(left[column][rows]), atol=bound, rtol=0)
    if script != "eval.py":
        logs = [numbers(log(record)) for record in (one, two)]
        ours = [{place: value for place, value in found.items() if place.endswith(("loss", "rate", "epoch"))} for found in logs]
        assert ours[1] == pytest.approx(ours[0], abs=1e-4)
        losses = [value for place, value in ours[1].items() if place.endswith("/loss")]
        assert len(losses) == ROWS // 32 * EPOCHS
        assert losses[-1] < losses[0] - 0.1  # something was learnt


@pytest.mark.parametrize(("script", "config"), RUNS)
def test_what_all_ranks_cost_is_in_the_record(launched, script, config):
    cost = launched[script, config].json("cost")
    assert len(cost["ranks"]) == 2
    assert cost["total"]["cpu_total_s"] == pytest.approx(sum(rank["cpu_total_s"] for rank in cost["ranks"]))
    phases = launched[script, config].phases
    assert phases[f"evaluate {'icl' if script == 'eval.py' else 'after'} toy"]["examples"] == ASKED
    if script != "eval.py":
        assert phases["train"]["examples"] == EPOCHS * ROWS
        assert phases["train"]["tokens"] > 0


def test_two_ranks_evaluate_during_training_and_keep_the_best(launched, tmp_path):
    both, alone = launched["best"], run(*_arguments(words(tmp_path, "distill.py", None, BEST, 16)))
    evaluations = both.metrics["evaluations"]
    assert [found["step"] for found in evaluations] == [found["step"] for found in alone.metrics["evaluations"]] == [2, 4, 6]
    assert both.metrics["stages"]["after"] == evaluations[-1]["sets"]
    phases = both.phases
    assert phases["train"]["examples"] == 3 * 32
    assert phases["evaluate during_training toy"]["examples"] == 2 * ASKED
    logs = [log(record) for record in (alone, both)]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys()
        if "loss" in one:
            assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
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


def test_rows_that_ranks_repeat_to_have_as_many_count_once(launched, tmp_path):
    two, one = launched["uneven"], run(*_arguments(words(tmp_path, "ft.py", None, last_wins(UNEVEN), 32)))
    losses = [[entry["loss"] for entry in log(record) if "loss" in entry] for record in (one, two)]
    assert len(losses[0]) == 2 * 2
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    for left, right in zip(*([entry for entry in log(record) if "grad_norm" in entry] for record in (one, two)), strict=True):
        assert right["grad_norm"] == pytest.approx(left["grad_norm"], rel=1e-3)
    assert numbers(two.metrics["stages"]) == pytest.approx(numbers(one.metrics["stages"]), abs=1e-4)
    assert two.phases["train"]["examples"] == 2 * 42


def test_a_checkpoint_of_zero_is_resumed_from_to_the_same_weights(launched):
    resumed, whole = launched["resumed"], launched["whole"]
    assert resumed.json("cost")["resumed_from"].endswith("checkpoint-2")
    left, right = (load_file(record.path / "model" / "model.safetensors") for record in (whole, resumed))
    assert all(left[name].equal(right[name]) for name in left)
    losses = [[entry["loss"] for entry in log(record) if "loss" in entry] for record in (whole, resumed)]
    assert len(losses[0]) == ROWS // 32 * EPOCHS
    assert losses[1] == losses[0]


def test_a_cartridge_that_is_cut_up_is_saved_on_the_way_and_resumed(launched, tmp_path):
    two, one = launched["cartridge"], run(*_arguments(words(tmp_path, "ft.py", None, last_wins(CARTRIDGE), 32)))
    assert two.json("cost")["resumed_from"].endswith("checkpoint-2")
    assert numbers(two.metrics) == pytest.approx(numbers(one.metrics), abs=1e-4)
    losses = [[entry["loss"] for entry in log(record) if "loss" in entry] for record in (one, two)]
    assert len(losses[0]) == ROWS // 32 * 2
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    (left,), (right,) = (load_file(record.path / "model" / "adapter_model.safetensors").values() for record in (one, two))
    np.testing.assert_allclose(right, left, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def notes_alone(tmp_path_factory):
    """The record of one process with the same global batch."""
    return run(*_arguments(words(tmp_path_factory.mktemp("notes"), "distill.py", None, NOTES, 8)))


@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_two_ranks_write_and_learn_answers_in_words_like_one_process(launched, notes_alone, zero):
    two, one = launched[f"notes {zero}"], notes_alone
    assert numbers(two.metrics) == pytest.approx(numbers(one.metrics), abs=2e-3)
    left, right = one.predictions, two.predictions
    columns = ["stage", "set", "idx", "target", "prediction", "query"]
    assert right[columns].equals(left[columns])
    assert right["answer_ids"].map(list).equals(left["answer_ids"].map(list))
    answers = [(record.path / "teacher_answers.jsonl").read_text() for record in (one, two)]
    assert answers[0] == answers[1]
    losses = [[entry["loss"] for entry in log(record) if "loss" in entry] for record in (one, two)]
    assert len(losses[0]) == 3  # the last step has two of the eighteen
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert two.phases["train"]["examples"] == 18

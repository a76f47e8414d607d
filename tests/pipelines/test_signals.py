"""Runs that are told to stop, started several times at once, or started without a network."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmft.evaluation.scorer import Scorer
from llmft.runs import session, signals
from llmft.runs.launch import free_port
from llmft.runs.program import run_main
from llmft.runs.run_lock import RunLock
from llmft.runs.signals import Ended
from llmft.training.ft_trainer import FtTrainer
from llmft.worlds.nli import CHECKPOINT
from tests.conftest import process_group
from tests.pipelines.conftest import IN_DOMAIN, MAIN, run
from tests.pipelines.test_in_context import read_csv

ROOT = Path(__file__).parents[2]
SHORT = ("--num_shots", 4, "--max_eval_samples", 20, "--max_train_samples", 32, "--learning_rate", 1e-3, *IN_DOMAIN)
EIGHT_STEPS = ("--num_train_epochs", 2, "--per_device_train_batch_size", 8)
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def at_call(monkeypatch, owner, name, call, do):
    """Do something before the `call`-th call of a method."""
    calls, original = [], getattr(owner, name)

    def watched(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            do()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, watched)


def terminate(number=signal.SIGTERM):
    signal.raise_signal(number)


WITH_BEST = ("--eval_strategy", "steps", "--eval_steps", 3, "--save_best_models")
CASES = {
    "without other checkpoints": ("ft.py", (), "compute_loss", "checkpoint-5"),
    "a trained part, with evaluations and the best": (
        "distill.py",
        ("--use_adapter", *WITH_BEST),
        "compute_loss",
        "checkpoint-5",
    ),
    "in an evaluation on the way": ("ft.py", WITH_BEST, "evaluate", "checkpoint-4"),
}


@pytest.mark.parametrize("case", CASES)
def test_sigterm_in_training_saves_a_checkpoint_to_go_on_from(tmp_path, monkeypatch, case):
    script, extra, where, saved = CASES[case]
    whole = run(script, tmp_path / "whole", *SHORT, *EIGHT_STEPS, *extra)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_call(patch, FtTrainer, where, 5 if where == "compute_loss" else 1, terminate)
        with pytest.raises(Ended, match="143") as ended:
            run(script, tmp_path / "cut", *SHORT, *EIGHT_STEPS, *extra)
    assert f"{saved} is saved" in ended.value.line
    assert signal.getsignal(signal.SIGTERM) == before
    assert [folder.name for folder in tmp_path.rglob("checkpoint-*")] == [saved]
    assert not [file.name for file in (tmp_path / "cut").rglob(".*")]
    resumed = run(script, tmp_path / "cut", *SHORT, *EIGHT_STEPS, *extra)
    assert resumed.json("cost")["resumed_from"].endswith(saved)
    kept = sorted(str(file.relative_to(whole.path)) for file in whole.path.rglob("*") if file.is_file())
    assert kept == sorted(str(file.relative_to(resumed.path)) for file in resumed.path.rglob("*") if file.is_file())
    for file in (name for name in kept if name.endswith((".safetensors", "metrics.json", ".parquet"))):
        assert (resumed.path / file).read_bytes() == (whole.path / file).read_bytes()


@pytest.mark.parametrize("call", [1, 2])
def test_sigterm_outside_of_training_ends_at_once_and_leaves_nothing(tmp_path, monkeypatch, capsys, call):
    at_call(monkeypatch, Scorer, "score", call, terminate)
    words = ["--task", "toy", "--output_dir", str(tmp_path / "out"), "--use_cpu", *map(str, SHORT[2 : -len(IN_DOMAIN)])]
    with pytest.raises(SystemExit) as end:
        run_main(lambda: MAIN["ft.py"](words))
    assert end.value.code == 143
    assert not (tmp_path / "out").exists()
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == "stopped by SIGTERM; run the same command again to continue from what is saved"
    )


def test_a_second_sigterm_ends_at_once(tmp_path, monkeypatch):
    def twice():
        terminate()
        terminate()  # a launcher's, for the same reason
        monkeypatch.setattr(signals, "SAME_S", 0.0)
        terminate()

    at_call(monkeypatch, FtTrainer, "compute_loss", 3, twice)
    with pytest.raises(Ended, match="143") as ended:
        run("ft.py", tmp_path, *SHORT, *EIGHT_STEPS)
    assert ended.value.line == "stopped by SIGTERM; run the same command again to continue from what is saved"


@pytest.mark.parametrize(
    ("owner", "name", "kept"),
    [
        (FtTrainer, "compute_loss", ": checkpoint-3 is saved; run the same command again to resume"),
        (Scorer, "score", "; run the same command again to continue from what is saved"),
    ],
    ids=["in training", "elsewhere"],
)
def test_ctrl_c_saves_a_checkpoint_in_training_and_is_told_in_the_last_line(tmp_path, monkeypatch, capfd, owner, name, kept):
    at_call(monkeypatch, owner, name, 3 if owner is FtTrainer else 1, lambda: terminate(signal.SIGINT))
    words = ["--task", "toy", "--output_dir", str(tmp_path / "out"), "--use_cpu", *map(str, SHORT[2:]), *map(str, EIGHT_STEPS)]
    with pytest.raises(SystemExit) as end:
        run_main(lambda: MAIN["ft.py"](words))
    assert end.value.code == 130
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1] == f"interrupted{kept}"
    assert ("saves a checkpoint at the end of this step; Ctrl-C after 5 s stops at once" in lines) == (owner is FtTrainer)
    assert [folder.name for folder in tmp_path.rglob("checkpoint-*")] == (["checkpoint-3"] if owner is FtTrainer else [])


def test_a_function_that_is_interrupted_in_training_raises_what_python_does(tmp_path, monkeypatch):
    at_call(monkeypatch, FtTrainer, "compute_loss", 3, lambda: terminate(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="interrupted: checkpoint-3 is saved"):
        run("ft.py", tmp_path, *SHORT, *EIGHT_STEPS)


def test_a_process_that_was_started_to_ignore_a_signal_ignores_it(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it starts in the background
    try:
        at_call(monkeypatch, FtTrainer, "compute_loss", 3, lambda: terminate(signal.SIGINT))
        run("ft.py", tmp_path, *SHORT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_unfinished_run_keeps_its_last_checkpoint_and_not_before_the_next_is_whole(tmp_path, monkeypatch):
    from llmft.training import callbacks

    seen, original = [], callbacks.write_progress

    def watched(checkpoint, progress):
        seen.append(sorted(folder.name for folder in checkpoint.parent.iterdir()))
        original(checkpoint, progress)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks, "write_progress", watched)
    with pytest.raises(KeyboardInterrupt):
        run("ft.py", tmp_path, *SHORT, *EIGHT_STEPS, "--save_strategy", "steps", "--save_steps", 1)
    assert seen == [["checkpoint-1"], ["checkpoint-1", "checkpoint-2"], ["checkpoint-2", "checkpoint-3"]]


def test_a_second_process_waits_and_finds_the_run_finished(tmp_path, monkeypatch, capsys):
    words = ["--task", "toy", "--output_dir", str(tmp_path), "--use_cpu", *map(str, SHORT)]
    record = run("eval.py", tmp_path, *SHORT)
    (record.path / "DONE").unlink()
    lock = RunLock(record.path)
    assert lock.take()

    def other_one_ends(_):
        (record.path / "DONE").touch()
        lock.release()

    monkeypatch.setattr(session.time, "sleep", other_one_ends)
    capsys.readouterr()
    assert MAIN["eval.py"](words) == [record.path]
    out, err = capsys.readouterr()
    assert f"waiting: {record.path} is being done by process {os.getpid()} on " in err
    assert out.startswith(f"already finished: {record.path} ")


def test_a_row_of_the_csv_is_not_written_twice_where_a_session_was_killed_behind_it(tmp_path, monkeypatch):
    from llmft.pipelines.job import Job

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Job, "finish", killed)
        patch.setattr("llmft.runs.record.RunRecord.abandon", lambda self: None)  # nothing is tidied up by kill -9
        with pytest.raises(Killed):
            run("eval.py", tmp_path, *SHORT)
    run("eval.py", tmp_path, *SHORT)
    assert len(read_csv(tmp_path)) == 1
    MAIN["eval.py"](["--task", "toy", "--output_dir", str(tmp_path), "--use_cpu", *map(str, SHORT), "--overwrite_output_dir"])
    assert len(read_csv(tmp_path)) == 2


@pytest.mark.parametrize("ends", [terminate, lambda: (_ for _ in ()).throw(OSError(28, "No space left on device"))])
def test_a_row_of_the_csv_is_not_written_twice_where_a_session_ended_behind_it(tmp_path, monkeypatch, ends):
    from llmft.pipelines.job import Job

    words = ["--task", "toy", "--output_dir", str(tmp_path), "--use_cpu", *map(str, SHORT)]
    with monkeypatch.context() as patch:
        at_call(patch, Job, "finish", 1, ends)
        with pytest.raises(SystemExit):
            run_main(lambda: MAIN["eval.py"](words))
    assert len(read_csv(tmp_path)) == 1
    run("eval.py", tmp_path, *SHORT)
    assert len(read_csv(tmp_path)) == 1


def test_eight_processes_with_the_same_runs_do_each_once(tmp_path):
    words = ["--task", "toy", "--output_dir", str(tmp_path), "--use_cpu", *map(str, SHORT), "--num_data_seeds", "3"]
    code = f"""
import os
from llmft.pipelines import in_context
from llmft.runs import session
session.LOOK_EVERY_S = 0.1
children = []
for _ in range(8):  # imports, which cost most of such a run, are done once
    child = os.fork()
    if not child:
        in_context.main({words!r})
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
"""
    done = subprocess.run(
        [sys.executable, "-u", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=ALONE, timeout=570
    )
    assert done.stdout.count("record: ") == 3
    assert done.stdout.count("already finished: ") == 7 * 3
    assert len(list(tmp_path.rglob("DONE"))) == len(read_csv(tmp_path)) == 3
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


def test_nothing_connects_where_all_is_local(tmp_path):
    """In a separate process, from the first import on; the model is a folder, the data are files."""
    from llmft.worlds.nli.world import toy_splits

    splits = toy_splits(None, 0)
    files = {}
    for name in ("train", "validation"):
        files[name] = tmp_path / f"{name}.jsonl"
        rows = [{key: row[key] for key in ("text1", "text2", "label")} for row in splits[name][:60]]
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--train_file", files["train"], "--validation_file", files["validation"], "--model_name_or_path", CHECKPOINT]
    words += [
        "--pattern",
        "{text1} {text2} ?",
        "--target_tokens",
        "Yes,No",
        "--use_cpu",
        "--output_dir",
        tmp_path / "out",
        *SHORT[2:],
    ]
    code = """
import socket, sys
def forbidden(*arguments, **named): raise AssertionError(f"something wants to connect: {arguments}")
for name in ("connect", "connect_ex", "sendto"): setattr(socket.socket, name, forbidden)
socket.create_connection = socket.getaddrinfo = forbidden
from llmft.pipelines import distill, fine_tune, in_context
for main in (in_context.main, fine_tune.main, distill.main): main(sys.argv[3 if main is fine_tune.main else 1 :])
"""
    subprocess.run(
        [sys.executable, "-c", code, *map(str, SHORT[:2]), *map(str, words), "--num_train_epochs", "1"],
        check=True, cwd=ROOT, env={**ALONE, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    assert len(list(tmp_path.rglob("DONE"))) == 3


@pytest.mark.deepspeed
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_ranks_save_one_checkpoint_when_told_to_end(tmp_path, launcher):
    words = ["ft.py", "--task", "toy", "--output_dir", str(tmp_path / "runs"), "--use_cpu", *map(str, SHORT[2:])]
    words += ["--max_steps", "400", "--disable_tqdm", "False"]
    zero2 = ("--deepspeed", "zero2")
    commands = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words],
        "deepspeed": ["deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", free_port(), *words, *zero2],
    }
    environment = {**ALONE, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    err = tmp_path / "err"
    with (
        err.open("w") as stderr,
        process_group(
            [sys.executable, "-u", "-m", *commands[launcher]],
            cwd=ROOT, env={**environment, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=stderr, text=True,
        ) as started,
    ):  # fmt: skip
        deadline = time.monotonic() + 300
        while not re.search(r"\b[1-9]\d*/400 \[", err.read_text()):  # of the progress bar
            assert started.poll() is None and time.monotonic() < deadline, err.read_text()[-4000:]
            time.sleep(0.1)
        os.killpg(started.pid, signal.SIGTERM)  # all of them, as a sweep does; the launcher passes its own on
        out, _ = started.communicate(timeout=300)  # until all have ended: DeepSpeed's launcher does before its ranks
    assert re.search("^trains ", out, re.MULTILINE)
    assert "is saved; run the same command again to resume" in err.read_text()
    (progress,) = tmp_path.rglob("progress.json")
    assert len(json.loads(progress.read_text())["costs"]) == 2
    if launcher == "torchrun":
        assert load_file(progress.parent / "model.safetensors")
    else:  # each rank's share of the optimizer, and the weights once
        names = sorted(file.name for file in progress.parent.glob("global_step*/*.pt"))
        assert [name.rpartition("_rank_")[2] for name in names if "optim" in name] == ["00_optim_states.pt"] * 2, names
        assert "mp_rank_00_model_states.pt" in names

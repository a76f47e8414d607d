"""What several ranks would print is printed once."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmft.arguments.command_line import modern
from llmft.cost.meter import Meter
from llmft.errors import InputError
from llmft.runs import program, ranks, session
from llmft.runs.launch import Process, join_launch, this_process
from llmft.runs.record import RunRecord

ROOT = Path(__file__).parents[2]
GONE = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:19650"


@pytest.mark.parametrize(("rank", "local_rank", "waits"), [(None, None, []), (0, 0, []), (8, 0, [10]), (1, 1, [20])])
def test_ranks_other_than_0_wait_for_their_end_before_they_say_an_error(monkeypatch, capsys, rank, local_rank, waits):
    for name, value in {"RANK": rank, "LOCAL_RANK": local_rank}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(value))
    waited, handled = [], []
    monkeypatch.setattr(time, "sleep", lambda seconds: waited.append((seconds, capsys.readouterr().err)))
    monkeypatch.setattr(program.signal, "signal", lambda *what: handled.append(what))

    def wrong():
        raise InputError("--task nope: no such task")

    with pytest.raises(SystemExit) as end:
        program.run_main(wrong)
    assert end.value.code == 2
    assert waited == [(seconds, "") for seconds in waits]
    default = (program.signal.SIGTERM, program.signal.SIG_DFL)
    *meanwhile, _ = handled  # at the end everything is as before
    assert meanwhile.count(default) == len(waits)
    assert capsys.readouterr().err == "error: --task nope: no such task\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_no_rank_is_charged_for_another_process_that_does_the_run(tmp_path, monkeypatch, clock, rank):
    meter, answers = Meter(from_start=False), [False, False, True]

    def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr(session, "process_meter", lambda: meter)
    monkeypatch.setattr(session, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(session, "from_rank_0", lambda _: answers.pop(0))  # what rank 0 finds
    record = RunRecord(tmp_path / "run", writes=rank == 0)
    with meter.measuring():
        with session.exclusively(record):
            clock.now += 5.0
        assert meter.as_dict()["total"]["wall_s"] == 5.0
    assert clock.now == 5.0 + session.LOOK_EVERY_S
    assert answers == []


def test_rank_0_alone_says_notes(monkeypatch, capsys):
    assert "RANK" not in os.environ
    for rank, notes in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert modern(["--overwrite_cache", "True", "--seed", "1"]) == ["--seed", "1"]
        assert capsys.readouterr().err.count("note: ") == notes


MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
LAUNCHES = {
    "a plain start": ({}, Process(0, 0, 1)),
    "a plain start that says so": ({"LOCAL_RANK": "-1"}, Process(0, 0, 1)),
    "torchrun": ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, Process(1, 1, 2)),
    "Open MPI": (MPI, Process(3, 1, 4)),
    "Intel MPI": ({"PMI_RANK": "1", "MPI_LOCALRANKID": "1", "PMI_SIZE": "2"}, Process(1, 1, 2)),
    "torchrun under srun": (
        {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "PMI_RANK": "1", "PMI_SIZE": "2"},
        Process(5, 1, 8),
    ),
}


@pytest.mark.parametrize("launcher", LAUNCHES)
def test_every_launcher_says_which_process_this_is(monkeypatch, launcher):
    variables, process = LAUNCHES[launcher]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert this_process() == process
    assert ranks.rank_and_world() == (process.rank, process.world_size)
    monkeypatch.setenv("MASTER_ADDR", "node-1")
    join_launch(alone=False)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"PMI_SIZE": "2"}, "PMI_SIZE 2: RANK is not set; .*, or unset PMI_SIZE"),
        ({"PMI_RANK": "2", "PMI_SIZE": "2"}, "PMI_RANK 2: is not a rank of PMI_SIZE 2"),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE 4: MASTER_ADDR does not say"),
        ({"RANK": "0", "LOCAL_RANK": "-1", "WORLD_SIZE": "2"}, "LOCAL_RANK -1: is not a rank"),
    ],
)
def test_errors_name_the_variable_that_is_set(monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{says}"):
        join_launch(alone=False)


def test_what_mpi_says_is_said_to_accelerate_and_deepspeed_too(monkeypatch):
    for name, value in {**MPI, "MASTER_ADDR": "node-1"}.items():
        monkeypatch.setenv(name, value)
    join_launch(alone=False)
    found = {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert found == {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node-1", "MASTER_PORT": "29500"}


def test_deepspeed_is_told_that_a_plain_start_is_alone():
    join_launch(alone=False)
    assert "RANK" not in os.environ
    join_launch(alone=True)
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")


@pytest.mark.parametrize(("world", "error", "waits"), [(2, GONE, [10]), (2, "a fault of ours", []), (1, GONE, [])])
def test_a_rank_whose_peer_has_ended_leaves_it_to_that_one_to_say_why(monkeypatch, world, error, waits):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)

    def end():
        raise RuntimeError(error)

    with pytest.raises(RuntimeError):
        program.run_main(end)
    assert waited == waits


IN_GROUP = """
import atexit, sys
import torch
from llmft.errors import InputError
from llmft.runs.launch import join_launch
from llmft.runs.program import run_main
from llmft.runs.ranks import leave_together

class Held:
    def __del__(self):
        print("torn down")

def main():
    join_launch(alone=True)
    torch.distributed.init_process_group("gloo")
    print("worked")
    if sys.argv[1] == "pushes":
        leave_together()
    if sys.argv[1] == "fails":
        raise InputError("--task nope: no such task")

held = Held()
atexit.register(print, "told the tracker")
run_main(main)
"""


@pytest.mark.parametrize(
    ("how", "code", "lines"),
    [("ends", 0, ["worked", "told the tracker"]), ("pushes", 0, ["worked", "told the tracker"]), ("fails", 2, ["worked"])],
)
def test_a_process_of_a_group_ends_without_teardown_which_its_threads_could_abort(how, code, lines):
    done = subprocess.run(
        [sys.executable, "-c", IN_GROUP, how], capture_output=True, text=True, check=False, cwd=ROOT, timeout=300
    )
    assert (done.returncode, done.stdout.splitlines()) == (code, lines)

"""One process at a time does a run, whatever becomes of it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmft.runs.run_lock import RunLock
from llmft.runs.store import lock as locked

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from llmft.runs.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
assert lock.take()
print("taken", flush=True)
time.sleep(60)
"""
COUNT = """
import sys, time
from pathlib import Path
from llmft.runs.run_lock import RunLock
folder = Path(sys.argv[1])
for _ in range(30):
    lock = RunLock(folder / "deep" / "run")
    while not lock.take():
        time.sleep(0.001)
    count = folder / "count"
    number = int(count.read_text() or 0)
    count.write_text(str(number + 1))
    lock.release()
"""


def test_a_second_one_learns_who_has_it(tmp_path):
    path = tmp_path / "pbft" / "toy" / "run"
    one, two = RunLock(path), RunLock(path)
    assert one.take()
    assert not two.take()
    assert two.holder.startswith(f"process {os.getpid()} on ")
    one.release()
    assert not (tmp_path / "pbft").exists()
    assert two.take()
    path.mkdir()
    two.release()
    assert list(path.parent.iterdir()) == [path]


def test_it_ends_with_its_holder(tmp_path):
    held = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert held.stdout.readline() == "taken\n"
    lock = RunLock(tmp_path / "run")
    assert not lock.take()
    assert lock.holder.startswith(f"process {held.pid} on ")
    held.send_signal(signal.SIGKILL)
    held.communicate()
    assert lock.take()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_holder_has_left_goes_away_when_another_run_begins_beside(tmp_path):
    held = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert held.stdout.readline() == "taken\n"
    one, two = RunLock(tmp_path / "one"), RunLock(tmp_path / "two")
    assert one.take()
    assert len(list(tmp_path.iterdir())) == 2
    held.send_signal(signal.SIGKILL)
    held.communicate()
    assert two.take()
    assert {path.name for path in tmp_path.iterdir()} == {".one.lock", ".two.lock"}
    assert not RunLock(tmp_path / "one").take()
    one.release()
    two.release()
    assert not list(tmp_path.iterdir())


def test_no_rank_but_0_can_have_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RuntimeError, match="rank 0"):
        RunLock(tmp_path / "run")


def test_a_file_of_several_runs_is_one_processs_at_a_time_and_leaves_no_lock(tmp_path):
    count, processes = tmp_path / "count", []
    count.write_text("0")
    for _ in range(6):
        processes.append(os.fork())
        if processes[-1] == 0:
            try:
                for _ in range(50):
                    with locked(count):
                        count.write_text(str(int(count.read_text()) + 1))
            finally:
                os._exit(0)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 6
    assert count.read_text() == "300"
    assert os.listdir(tmp_path) == ["count"]


def test_many_processes_take_turns(tmp_path):
    (tmp_path / "count").write_text("")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)], cwd=ROOT) for _ in range(8)]
    deadline = time.monotonic() + 60
    assert [process.wait(deadline - time.monotonic()) for process in processes] == [0] * 8
    assert (tmp_path / "count").read_text() == "240"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["count"]


def test_a_folder_that_goes_away_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    path, original, calls = tmp_path / "deep" / "run", os.mkdir, []

    def there_and_gone(*args):
        calls.append(1)
        if len(calls) == 1:
            raise FileExistsError(errno.EEXIST, "File exists", str(path.parent))
        original(*args)

    monkeypatch.setattr(os, "mkdir", there_and_gone)
    assert RunLock(path).take()
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        RunLock(tmp_path / "file" / "run").take()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks_is_named(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert RunLock(tmp_path / "run").take()
    assert capsys.readouterr().err.startswith(f"note: {tmp_path} does not support file locks (")

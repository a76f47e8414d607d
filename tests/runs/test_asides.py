"""What killed processes have left half-written goes away with the next write in the folder; what others are writing stays."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmft.runs.store import ASIDE, WEEK, whole_file, write_json

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from llmft.runs.store import whole_file

with whole_file(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    print(aside, flush=True)
    sys.stdin.readline()
    aside.write_text("whole")
"""


@contextmanager
def midst(path):
    """Another process in the midst of writing `path`, and the file that it writes to; a line to it lets it end."""
    words = [sys.executable, "-c", WRITER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, cwd=ROOT, text=True, **pipes) as process:
        try:
            aside = Path(process.stdout.readline().strip())
            assert aside.read_text() == "half"
            yield process, aside
        finally:
            process.kill()


def kill(process):
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("name", ["a.json", "b.json"])
def test_the_next_write_in_the_folder_removes_what_a_killed_process_left(tmp_path, name):
    with midst(tmp_path / "a.json") as (process, aside):
        kill(process)
    assert os.listdir(tmp_path) == [aside.name]
    write_json(tmp_path / name, {})
    assert os.listdir(tmp_path) == [name]


def test_a_file_that_another_process_is_writing_stays(tmp_path):
    target = tmp_path / "a.json"
    with midst(target) as (killed, left), midst(target) as (alive, aside):
        kill(killed)
        for name in ("a.json", "b.json"):  # the same target, and another
            write_json(tmp_path / name, {})
        assert aside.read_text() == "half"
        assert left.exists()  # until nobody is writing
        alive.communicate("\n")
        assert alive.returncode == 0
    assert target.read_text() == "whole"
    write_json(tmp_path / "b.json", {})
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]


def test_a_file_written_within_the_writing_of_another(tmp_path):
    with whole_file(tmp_path / "a.json") as aside:
        aside.write_text("{}")
        write_json(tmp_path / "b.json", {})
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]


def test_nothing_is_removed_where_the_disk_takes_no_locks(tmp_path, monkeypatch, capsys):
    with midst(tmp_path / "a.json") as (process, aside):
        kill(process)

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_json(tmp_path / "a.json", {})
    assert sorted(os.listdir(tmp_path)) == sorted(["a.json", aside.name])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("age", "stays"), [(WEEK - 60, True), (WEEK + 60, False)])
def test_a_file_of_another_machine_whose_locks_may_not_be_seen_goes_when_it_is_old(tmp_path, age, stays):
    left = tmp_path / f".a.json.12345678.another{ASIDE}"
    left.write_text("half")
    os.utime(left, (left.stat().st_mtime - age,) * 2)
    write_json(tmp_path / "b.json", {})
    assert left.exists() == stays


def test_the_longest_name_can_be_written(tmp_path):
    name = "a" * 255
    write_json(tmp_path / name, {})
    assert os.listdir(tmp_path) == [name]

"""A killed process leaves nothing half-written; where a system has no nameless files, what it has left goes away with the next
write in the folder, and what others are writing stays."""

import errno
import fcntl
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmft.runs.store import ASIDE, WEEK, whole_file, write_json

ROOT = Path(__file__).parents[2]
WRITER = """
import os, sys
from pathlib import Path
from llmft.runs.store import whole_file

if "nameless" not in sys.argv:
    del os.O_TMPFILE
with whole_file(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    print(aside, flush=True)
    sys.stdin.readline()
    aside.write_text("whole")
"""


@contextmanager
def midst(path, *more):
    """Another process in the midst of writing `path`, and the file that it writes to; a line to it lets it end."""
    words = [sys.executable, "-c", WRITER, str(path), *more]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, cwd=ROOT, text=True, **pipes) as process:
        try:
            aside = Path(process.stdout.readline().strip())
            assert more or aside.read_text() == "half"
            yield process, aside
        finally:
            process.kill()


def kill(process):
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("before", [None, "earlier"])
def test_a_killed_process_leaves_nothing_where_files_need_no_name(tmp_path, before):
    target = tmp_path / "a.json"
    if before:
        target.write_text(before)
    with midst(target, "nameless") as (process, _):
        kill(process)
    assert [path.read_text() for path in tmp_path.iterdir()] == [before] * bool(before)
    with midst(target, "nameless") as (process, _):
        process.communicate("\n")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("replace", [False, True])
def test_whenever_a_process_is_killed_files_are_whole(tmp_path, replace):
    draws = random.Random(0)
    for kills in range(12):
        told, tell = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                for number in itertools.count():
                    write_json(tmp_path / ("a.json" if replace else f"{kills}-{number}.json"), list(range(1000)))
                    if not number:
                        os.write(tell, b".")
            finally:
                os._exit(1)
        os.close(tell)
        try:
            assert os.read(told, 1)  # the first is written, however busy the machine is
            time.sleep(0.02 + 0.05 * draws.random())
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(told)
    names = os.listdir(tmp_path)
    assert len(names) >= (1 if replace else 12)
    assert not any(name.startswith(".") for name in names) or replace  # a name that is about to replace another
    assert all(json.loads((tmp_path / name).read_text()) == list(range(1000)) for name in names)
    write_json(tmp_path / "b.json", {})
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_disk_that_gives_no_names_to_nameless_files(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)
    for text in ("old", "new"):
        with whole_file(tmp_path / "a.json") as aside:
            aside.write_text(text)
        assert [path.read_text() for path in tmp_path.iterdir()] == [text]


def test_an_error_names_the_file_that_is_written_and_not_what_it_is_written_to(tmp_path):
    with pytest.raises(OSError, match=r"a\.json"), whole_file(tmp_path / "a.json") as aside:
        raise OSError(errno.ENOSPC, "No space left on device", str(aside))
    assert os.listdir(tmp_path) == []


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

"""Programs that a model has completed are run in a process with limits, if they have the required form."""

import json
import sys

import pytest

from llmft.errors import InputError
from llmft.evaluation import running
from llmft.evaluation.running import NOT_ONE, check_runs, fault_of, run_scores

LIBRARY = """
def plum():
    return "otter"


class Shed:
    def key(self, number):
        return [number, 7]


def loop():
    while True:
        pass


def fill():
    bytearray(2**31)
    return 1


def connect():
    import socket
    socket.socket()
    return 1


def write():
    open(__file__ + ".new", "w")
    return 1


def start():
    import subprocess
    subprocess.run(["true"])
    return 1


def leave():
    raise SystemExit(0)
"""
VALUE, CALL = "import garden\n\nassert garden.plum() ==", 'import garden\n\nassert "otter" =='


@pytest.fixture
def library(tmp_path):
    (tmp_path / "garden.py").write_text(LIBRARY)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("query", "completion", "right"),
    [
        (VALUE, '"otter"', True),
        (VALUE, "'otter'  # a comment", True),
        (VALUE, "'heron'", False),
        (CALL, "garden.plum()", True),
        (CALL, "garden.Shed().key(1)", False),
        (CALL, "garden.pear()", False),
        ("from garden import Shed\nassert Shed().key(number=3) ==", "[3, 7]", True),
    ],
)
def test_a_right_completion_runs(library, query, completion, right):
    assert run_scores(library, [{"text1": query}], [completion]) == [float(right)]


@pytest.mark.parametrize(
    ("query", "completion"),
    [
        (VALUE, "garden.plum()"),
        (VALUE, "'otter' or 1"),
        (VALUE, "'heron', 'a message'"),
        (VALUE, "'otter'\nprint(1)"),
        (VALUE, "'otter' if 1 else 0"),
        (VALUE, "("),
        (VALUE, ""),
        (CALL, "'otter'"),
        (CALL, "open('/etc/passwd').read()"),
        (CALL, "garden.__loader__.get_data('/etc/passwd')"),
        (CALL, "garden.plum(*[garden.write()])"),
        ("import garden\n\nprint(garden.plum())  #", "otter"),
    ],
)
def test_nothing_else_is_executed(library, monkeypatch, query, completion):
    monkeypatch.setattr(running, "fault_of_program", lambda *_: pytest.fail("it was run"))
    assert fault_of(library, query, completion) == NOT_ONE


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limits")
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        pytest.param("fill", "MemoryError:", marks=pytest.mark.skipif(sys.platform != "linux", reason="does not limit memory")),
        ("connect", "PermissionError: socket.__new__ is not allowed here"),
        ("write", "PermissionError: open is not allowed here"),
        ("start", "PermissionError: subprocess.Popen is not allowed here"),
        ("leave", "SystemExit: 0"),
        ("loop", "exit status -"),
    ],
)
def test_what_a_program_may_not_do_fails(library, tmp_path, name, fault):
    assert (fault_of(library, "import garden\n\nassert 1 ==", f"garden.{name}()") or "").startswith(fault)
    assert [path.name for path in tmp_path.iterdir()] == ["garden.py"]


def test_a_library_that_does_not_fit_the_rows_is_an_error(library):
    row = {"idx": 3, "text1": VALUE, "answer": (' "otter"',)}
    check_runs(library, [row])
    with pytest.raises(InputError, match=r"row 3 does not run with its right answer.*AssertionError"):
        check_runs(library, [{**row, "answer": (json.dumps("heron"),)}])

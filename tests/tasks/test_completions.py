"""Completion rows cut from a repository, and the invented library."""

import contextlib
import io
import json
import runpy
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmft.evaluation.running import check_runs
from llmft.tasks.completions import main

ROOT = Path(__file__).parents[2]
LIBRARY = "def plum(size):\n    return size\n\n\nclass Shed:\n    pass\n"
USER = '''"""A file."""

import os
from lib.garden import Shed, plum

ABOVE = plum(1)


def first(a):
    x = os.path.join("ü", plum(a))
    plum(a)
    return x


async def second():
    shed = Shed.of(
        plum(2),
    )
    return shed.plum(), [plum(i)
                         for i in range(3)]
'''
FLAGS = ["--context_glob", "lib/*.py", "--train_glob", "a.py", "--validation_glob", "b.py"]


@pytest.fixture
def repository(tmp_path):
    for name, text in {"lib/garden.py": LIBRARY, "lib/__init__.py": "", "a.py": USER, "b.py": USER}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def rows_of(repository, *flags):
    main([str(repository), *FLAGS, "--output_dir", str(repository / "rows"), *map(str, flags)])
    return [json.loads(line) for line in (repository / "rows/train.jsonl").read_text().splitlines()]


def test_rows_are_cut_where_functions_call_what_they_import(repository, capsys):
    rows = rows_of(repository)
    assert [(row["line"], row["answer"]) for row in rows] == [
        (10, " plum(a))"),
        (11, "    plum(a)"),
        (16, " Shed.of("),
        (17, "        plum(2),"),
        (19, " [plum(i)"),
    ]
    assert capsys.readouterr().out.startswith("train: 5 of 5 rows; 0 with lines left out of the query")
    lines = USER.split("\n")
    for row in rows:  # a query and its answer are the file up to there
        assert (row["text1"] + row["answer"]).split("\n") == ["# a.py", *lines[: row["line"]]]
        assert row["category"] == ("whole line" if row["text1"].endswith("\n") else "rest of a line")


@pytest.mark.parametrize(
    ("start", "call"),
    [
        ("from lib.garden import plum as p", "p(1)"),
        ("from lib import start", "start()"),  # defined in __init__
        ("import lib.garden", "lib.garden.plum(1)"),
        ("import lib.garden as g", "g.Shed().paint()"),
        ("from .lib import garden", "garden.plum(1)"),
        ("from ..repo.lib.garden import plum", "plum(1)"),
        ("from repo.lib.garden import plum", "plum(1)"),  # the folder is a package's
        ("from garden import plum", None),  # imports do not start within a package
        ("from transformers import utils", None),
        ("from other.lib import garden", None),
        ("import utils", "utils.trim(1)"),
        ("from trees.oak import Leaf", "Leaf()"),  # src is no package, so imports can start there
    ],
)
def test_imports_name_the_repositorys_modules(tmp_path, start, call):
    folder = tmp_path / "repo"
    texts = {"lib/garden.py": LIBRARY, "lib/__init__.py": "def start(): pass\n", "utils.py": "def trim(): pass\n"}
    texts |= {"src/trees/oak.py": "class Leaf: pass\n", "src/trees/__init__.py": "", "b.py": USER}
    line = call or "garden.utils.plum(utils.f(plum(1)))"
    texts["a.py"] = f"{start}\nfrom lib.garden import Shed\ndef f():\n    x = {line}\n    y = Shed()\n"
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    rows = rows_of(folder, "--context_glob", "lib/*.py,utils.py,src/**/*.py")
    assert [row["answer"] for row in rows] == ([f" {call}"] if call else []) + [" Shed()"]


def test_files_that_cannot_be_read_are_left_out_and_counted(repository, capsys):
    (repository / "old.py").write_text("print 1\n")
    (repository / "older.py").write_bytes(b"x = '\xe9'\n")
    (repository / "latin.py").write_bytes(b"# coding: latin-1\n" + USER.encode("latin-1"))
    (repository / "marked.py").write_bytes(b"\xef\xbb\xbf" + USER.encode())
    rows = rows_of(repository, "--train_glob", "[lmo]*.py")
    assert {row["file"] for row in rows} == {"latin.py", "marked.py"}
    assert all("\ufeff" not in row["text1"] and (row["line"] < 12 or 'join("ü"' in row["text1"]) for row in rows)
    note = f"note: --train_glob [lmo]*.py: 2 of its files are not readable Python, the first being {repository}/old.py (Missing "
    assert capsys.readouterr().err.startswith(note)


def test_whole_lines_can_be_left_out(repository, capsys):
    rows = rows_of(repository, "--no_whole_lines")
    assert [row["line"] for row in rows] == [10, 16, 19]
    assert "train: 2 places left out: a whole line (--no_whole_lines)" in capsys.readouterr().out


def test_answers_of_several_lines_need_another_stop(repository, capsys):
    assert rows_of(repository, "--answer_lines", 2)[0]["answer"] == " plum(a))\n    plum(a)"
    assert "give --task code --stop ''" in capsys.readouterr().out


@given(st.integers(30, 400), st.integers(1, 3))
@example(100, 1)  # every row has lines left out
@example(260, 2)  # none has
@settings(deadline=None, max_examples=30)
def test_lines_that_a_query_leaves_out_are_counted_in_it(tmp_path_factory, characters, answer_lines):
    folder = tmp_path_factory.mktemp("cut")
    (folder / "lib").mkdir()
    for name, text in {"lib/garden.py": LIBRARY, "a.py": USER, "b.py": USER}.items():
        (folder / name).write_text(text)
    asked = ("--query_characters", characters, "--answer_lines", answer_lines)
    if characters < 64:  # the import and the line of the shortest row
        with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as said:
            rows_of(folder, *asked)
        assert "--train_glob a.py: no function in these files calls" in said.getvalue()
        return
    rows, lines = rows_of(folder, *asked), USER.split("\n")
    assert len(rows) == 5 or characters < 89
    for row in rows:
        title, *text = (row["text1"] + row["answer"]).split("\n")
        last, number = row["line"] + answer_lines - 1, row["lines_left_out"]
        assert len(row["text1"]) <= characters and title == "# a.py"
        whole = len("\n".join(["# a.py", *lines[:last]])) - len(row["answer"])
        assert (number > 0) == (whole > characters)
        if number:
            place = text.index(f"# ... {number} {'line' if number == 1 else 'lines'} left out")
            assert text[:place] in ([], ["from lib.garden import Shed, plum"])
            assert "from lib.garden import Shed, plum" in text
            del text[place]
        assert text[-(last - number - 1) :] == lines[number + 1 : last] and len(text) == last - number


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--validation_glob", "[ab].py"], "--validation_glob: a.py is also one of --train_glob"),
        (["--train_glob", "c.py"], "--train_glob c.py: matches no Python file with text"),
        (["--context_glob", "lib/__init__.py,b.py", "--validation_glob", "lib/garden.py"], "no function in these files calls"),
        (["--train_glob", "lib/old.py"], "--train_glob lib/old.py: 1 of its files are not readable Python, the first being"),
        (["--answer_lines", "0"], "--answer_lines 0: must be 1 or more"),
        (["--context_glob", "/lib/*.py"], "--context_glob /lib/*.py: cannot be used (Non-relative patterns are unsupported)"),
        (["--train_glob", "**.py"], "--train_glob **.py: cannot be used (Invalid pattern"),
        (["--output_dir", "/dev/null/rows"], "--output_dir /dev/null/rows: /dev/null is not a writable folder; choose another"),
        (["--query_characters", "10"], "--train_glob a.py: no function in these files calls"),
    ],
)
def test_what_cannot_be_cut_is_one_line(repository, capsys, flags, line):
    (repository / "lib/old.py").write_text("print 1\n")
    with pytest.raises(SystemExit) as ended:
        rows_of(repository, *flags)
    assert ended.value.code == 2 and not (repository / "rows").exists()
    *notes, error = capsys.readouterr().err.splitlines(keepends=True)
    assert all(note.startswith("note: ") for note in notes)
    assert error.startswith("error: ") and error.count("\n") == 1 and line in error


def test_the_invented_library_returns_what_its_rows_say(tmp_path, monkeypatch):
    make = runpy.run_path(str(ROOT / "scripts/code_distillation/make_library.py"))
    for name in ("one", "two"):
        monkeypatch.setattr(
            "sys.argv", ["make_library.py", str(tmp_path / name), "--seed", "3", "--functions", "2", "--methods", "1"]
        )
        make["main"]()
    files = {path.relative_to(tmp_path / "one"): path.read_text() for path in (tmp_path / "one").rglob("*.*")}
    assert files == {path.relative_to(tmp_path / "two"): path.read_text() for path in (tmp_path / "two").rglob("*.*")}
    sets = {name: [*map(json.loads, files[Path(f"{name}.jsonl")].splitlines())] for name in ("train", "validation", "unasked")}
    assert {name: len(rows) for name, rows in sets.items()} == {"train": 12, "validation": 3, "unasked": 6}
    evaluated = sets["validation"] + sets["unasked"]
    assert {row["category"] for row in evaluated} == {"depth 1", "depth 2", "depth 3"}
    check_runs(str(tmp_path / "one/library"), [{**row, "answer": (row["answer"],), "idx": 0} for row in evaluated])

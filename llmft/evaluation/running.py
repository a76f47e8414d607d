"""Whether programs that a model has completed run. This is the only place where text from a model is executed, and only with
--run_code.

A program is a query whose last line is an assertion that its answer completes: `assert garden.plum() ==` with a value, or
`assert "otter" ==` with a call. The model must write that and nothing else: a literal, or a call, with literal arguments, of
something that the query imports. So `assert garden.plum() == garden.plum()` is no answer, and no other code of a model is
executed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError, one_line, quote

if TYPE_CHECKING:
    from llmft.tasks.schema import Row

CHILD = Path(__file__).with_name("isolated.py")
SECONDS = 10
"""Wall-clock limit of a program; the child itself limits its CPU time and memory."""
NOT_ONE = "it is no comparison of a call with a literal"


def run_scores(library: str, rows: Sequence[Row], predictions: Sequence[str]) -> list[float]:
    """(N,) 1 if the row's program, completed by the prediction, runs without an error; else 0.

    Args:
        library: the folder whose modules programs import.
    """
    pairs = zip(rows, predictions, strict=True)
    return [float(fault_of(library, row["text1"], prediction) is None) for row, prediction in pairs]


def check_runs(library: str, rows: Sequence[Row]) -> None:
    """Check that the rows' right answers run; otherwise failures of other answers would be the library's or the platform's fault.

    Raises:
        InputError: a right answer does not run.
    """
    for row in rows:
        fault = fault_of(library, row["text1"], row["answer"][0])
        if fault is not None:
            raise InputError(
                f"--run_code {library}: row {row['idx']} does not run with its right answer, {quote(row['answer'][0])} "
                f"({fault}); name the folder of the library that it is about, and evaluate rows that end in an assertion"
            )


def fault_of(library: str, query: str, completion: str) -> str | None:
    """Why a program does not run; None if it does."""
    head, _, start = query.rpartition("\n")
    line = f"{start.strip()} {completion.strip()}"
    if not is_comparison(line, imported_names(head)):
        return NOT_ONE
    return fault_of_program(library, f"{head}\n{line}\n")


def imported_names(program: str) -> set[str]:
    """The names that a program binds by imports; none if it is not Python."""
    try:
        nodes = [*ast.walk(ast.parse(program))]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    aliases = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return {alias.asname or alias.name.partition(".")[0] for alias in aliases}


def is_comparison(line: str, names: set[str]) -> bool:
    """Whether a line only asserts that a call of something with these names equals a literal, on either side."""
    try:
        body = ast.parse(line).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    match body:
        case [ast.Assert(test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]), msg=None)]:
            return any(_is_call(a, names) and _is_literal(b) for a, b in ((left, right), (right, left)))
    return False


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _is_call(node: ast.expr, names: set[str]) -> bool:
    """Whether it is a call, with literal arguments only, of something reached from an imported name by public attributes and
    such calls."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    while isinstance(function, ast.Attribute) and not function.attr.startswith("_"):
        function = function.value
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    known = _is_call(function, names) or (isinstance(function, ast.Name) and function.id in names)
    return known and all(map(_is_literal, arguments))


@lru_cache(maxsize=4096)  # teacher and student often write the same
def fault_of_program(library: str, program: str) -> str | None:
    """Run a program in its own process (`isolated.py`), with the library on its path, and return why it fails; None if it does
    not. It has only the standard library."""
    command = [sys.executable, "-I", "-S", "-B", str(CHILD), str(Path(library).resolve())]
    try:
        done = subprocess.run(
            command, input=program, capture_output=True, text=True, timeout=SECONDS, env={}, start_new_session=True, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {SECONDS} s"
    if done.returncode == 0:
        return None
    return one_line(done.stderr.strip().rpartition("\n")[2]) or f"exit status {done.returncode}"

"""Where a Python file calls what a repository defines, and the completion rows that are cut there."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Cut(NamedTuple):
    """Where a query ends and its answer begins: a line (from 0) and a column in it."""

    line: int
    column: int


@dataclass(frozen=True)
class Completion:
    """A row cut from a file.

    Attributes:
        query: what stands in front, its path in the first line; lines that are left out are counted in a comment in their place.
        answer: the rest of the line, white space at its beginning included, and further lines if they are asked for.
        line: its number in the file, from 1.
        left_out: lines of the file in front of the cut that are not in the query.
    """

    query: str
    answer: str
    line: int
    left_out: int


def imported_names(tree: ast.Module, modules: Mapping[str, set[str]]) -> set[str]:
    """What a file calls the things that it imports from a repository's modules, and these modules.

    Args:
        modules: last part of a module's name -> the names that it defines.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            defined = modules.get((node.module or "").rpartition(".")[2], set())
            names |= {alias.asname or alias.name for alias in node.names if alias.name in defined or alias.name in modules}
        elif isinstance(node, ast.Import):
            names |= {alias.asname for alias in node.names if alias.asname and alias.name.rpartition(".")[2] in modules}
            names |= {alias.name for alias in node.names if not alias.asname and alias.name in modules}
    return names


def defined_names(tree: ast.Module) -> set[str]:
    """The functions and classes that a module defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


def cuts(tree: ast.Module, lines: Sequence[str], names: set[str]) -> list[Cut]:
    """The places within functions in front of which something of these names is called (`name(...)`, `name.method(...)`), in
    order, one a line at most.

    A cut is at the space in front of the word with the call, so that a query ends in no space and no word is cut in two; where
    there is none but the indentation, it is at the beginning of the line.
    """
    found: dict[int, int] = {}
    for call in _calls(tree):
        root = call.func
        while isinstance(root, ast.Attribute):
            root = root.value
        if not (isinstance(root, ast.Name) and root.id in names):
            continue
        line = root.lineno - 1
        start = len(lines[line].encode()[: root.col_offset].decode())  # ast counts bytes
        indentation = len(lines[line]) - len(lines[line].lstrip())
        space = lines[line].rfind(" ", indentation, start)
        column = len(lines[line][: max(space, 0)].rstrip(" "))
        found[line] = min(column, found.get(line, column))
    return [Cut(line, found[line]) for line in sorted(found)]


def complete(
    path: str, tree: ast.Module, lines: Sequence[str], cut: Cut, names: set[str], *, characters: int, answer_lines: int
) -> Completion | None:
    """The row at a cut; None where not even the path, the imports and the line itself fit into the query.

    All lines in front of the cut stand in the query if they have at most so many characters together. Else it begins with the
    imports of `names`, and goes on with the last lines that fit.
    """
    title, start = f"# {path}", lines[cut.line][: cut.column]
    answer = "\n".join([lines[cut.line][cut.column :], *lines[cut.line + 1 : cut.line + answer_lines]])
    whole = "\n".join([title, *lines[: cut.line], start])
    if len(whole) <= characters:
        return Completion(whole, answer, cut.line + 1, 0)
    imported = [number for number in _import_lines(tree, names) if number < cut.line]
    for first in range(cut.line + 1):
        head = [number for number in imported if number < first]
        left_out = first - len(head)
        mark = f"# ... {left_out} {'line' if left_out == 1 else 'lines'} left out"
        query = "\n".join([title, *(lines[number] for number in head), mark, *lines[first : cut.line], start])
        if left_out and len(query) <= characters:
            return Completion(query, answer, cut.line + 1, left_out)
    return None


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    """The calls in bodies of functions."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    seen: set[ast.Call] = set()
    for statement in (statement for function in functions for statement in function.body):
        calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and node not in seen]
        seen.update(calls)
        yield from calls


def _import_lines(tree: ast.Module, names: set[str]) -> list[int]:
    """The lines (from 0) of a file's imports of such names, in order."""
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    wanted = [node for node in imports if any((alias.asname or alias.name) in names for alias in node.names)]
    return [line for node in wanted for line in range(node.lineno - 1, node.end_lineno)]

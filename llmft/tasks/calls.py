"""Finds calls in a Python file to what a repository defines, and cuts completion rows there."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple


class Cut(NamedTuple):
    """Where a query ends and its answer begins: a line (from 0) and a column in it."""

    line: int
    column: int


@dataclass(frozen=True)
class Completion:
    """A row cut from a file.

    Attributes:
        query: the text before the cut, with the file's path as its first line; a comment states how many lines are left out.
        answer: the rest of the line, including white space at its start, and further lines if requested.
        line: its number in the file, from 1.
        left_out: number of lines before the cut that are not in the query.
    """

    query: str
    answer: str
    line: int
    left_out: int


def module_names(path: Path) -> list[str]:
    """The dotted names by which a file can be imported: its path from each folder above it that is not itself a package, since
    that is where imports start. The first one is its path from the root.

    Args:
        path: its absolute path.
    """
    parts = path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts
    starts = [i for i in range(1, len(parts)) if not Path(*parts[:i], "__init__.py").exists()]
    return [".".join(parts[i:]) for i in starts]


def imported_names(tree: ast.Module, modules: Mapping[str, set[str]], path: Path) -> set[str]:
    """A file's names for what it imports from a repository's modules, and for these modules (`cost.meter`, if imported so).

    Args:
        modules: each of a module's `module_names` -> the names that it defines.
        path: the file's absolute path, which its relative imports start from.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = _module_of(node, path)
            known = {*modules.get(module, ()), *(name.name for name in node.names if f"{module}.{name.name}" in modules)}
            names |= {alias.asname or alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.Import):
            names |= {alias.asname or alias.name for alias in node.names if alias.name in modules}
    return names


def _module_of(node: ast.ImportFrom, path: Path) -> str:
    """The module that names are imported from, for a relative import by its path from the root."""
    if not node.level:
        return node.module
    folder = path.parents[min(node.level, len(path.parents)) - 1]
    return ".".join([*folder.parts[1:], *([node.module] if node.module else [])])


def defined_names(tree: ast.Module) -> set[str]:
    """The functions and classes that a module defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


def cuts(tree: ast.Module, lines: Sequence[str], names: set[str]) -> list[Cut]:
    """The places within functions right before calls of these names (`name(...)`, `name.method(...)`), which may be dotted, in
    order, at most one per line.

    A cut is at the space before the word with the call, so that no query ends in a space and no word is cut in two; if the only
    space is the indentation, it is at the start of the line.
    """
    found: dict[int, int] = {}
    for call in _calls(tree):
        root, attributes = call.func, []
        while isinstance(root, ast.Attribute):
            attributes.insert(0, root.attr)
            root = root.value
        if not (isinstance(root, ast.Name) and names & {*accumulate([root.id, *attributes], "{}.{}".format)}):
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
    """The row at a cut; None if not even the path, the imports and the line itself fit into the query.

    The query contains all lines before the cut if they have at most `characters` characters in total. Otherwise it consists of
    the imports of `names` and the last lines that fit.
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
    """The calls in function bodies."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    seen: set[ast.Call] = set()
    for statement in (statement for function in functions for statement in function.body):
        calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and node not in seen]
        seen.update(calls)
        yield from calls


def _import_lines(tree: ast.Module, names: set[str]) -> list[int]:
    """The lines (from 0) of a file's imports of these names, in order."""
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    wanted = [node for node in imports if any((alias.asname or alias.name) in names for alias in node.names)]
    return [line for node in wanted for line in range(node.lineno - 1, node.end_lineno)]

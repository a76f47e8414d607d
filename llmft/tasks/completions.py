r"""Cuts completion rows from the Python files of a repository, for `--task code`:

    python -m llmft.tasks.completions FOLDER --context_glob 'cost/*.py' --train_glob 'pipelines/*.py' \
        --validation_glob 'report/*.py' --output_dir rows

writes rows/train.jsonl and rows/validation.jsonl. Each row is cut at a line of a function that calls something imported from the
files of the context: the query is the file up to there, the answer the rest of the line. The teacher reads the context's files
(`--context file --context_dir FOLDER --context_glob ...`); no row is cut from them, nor from a training file for evaluation.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import tokenize
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmft.arguments.context import files_in
from llmft.errors import InputError, listed
from llmft.runs.notes import say_note
from llmft.runs.program import exit_on_bad_input
from llmft.runs.store import check_writable, write_json_lines
from llmft.tasks.calls import complete, cuts, defined_names, imported_names, module_names

SETS = ("train", "validation")


def find_sources(folder: Path, glob: str, flag: str) -> dict[str, str]:
    """The Python files of a folder that match one of the comma-separated patterns: path within the folder -> text. A note counts
    those that are not readable Python, such as of version 2.

    Raises:
        InputError: there are none.
    """
    if not folder.is_dir():
        raise InputError(f"FOLDER {folder}: no such folder; name the folder that the globs refer to")
    texts, unread = {}, []
    for path in files_in(folder, glob, f"--{flag}"):
        if path.suffix != ".py":
            continue
        try:
            with tokenize.open(path) as stream:  # heeds a byte order mark and a declared encoding
                text = stream.read()
            ast.parse(text)
        except (OSError, SyntaxError, ValueError, RecursionError) as error:
            unread.append(f"{path} ({error})")
            continue
        if text.strip():
            texts[path.relative_to(folder).as_posix()] = text
    if unread:
        line = f"--{flag} {glob}: {len(unread)} of its files are not readable Python, the first being {unread[0]}; "
        if not texts:
            raise InputError(f"{line}use others")
        say_note(f"{line}left out")
    if not texts:
        raise InputError(f"--{flag} {glob}: matches no Python file with text in {folder}; use another, such as 'cost/*.py'")
    return texts


def absolute(path: Path) -> Path:
    """The absolute path without `..`; links stay, as their names are those of imports."""
    return Path(os.path.abspath(path))


def check_apart(sources: dict[str, dict[str, str]]) -> None:
    """Check that no file is in two of the sets (flag -> path -> text).

    Raises:
        InputError: one is.
    """
    places: dict[str, str] = {}
    for flag, texts in sources.items():
        for path in texts:
            if path in places:
                raise InputError(
                    f"--{flag}: {path} is also one of --{places[path]}; context, training and evaluation must not share files"
                )
            places[path] = flag


def cut_rows(
    texts: dict[str, str], modules: dict[str, set[str]], limits: argparse.Namespace
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows of files, and the number of skipped places by reason.

    Args:
        texts: path within the folder -> text.
        modules: as in `imported_names`.
        limits: the flags of the command.
    """
    rows, reasons = [], Counter()
    for path, text in texts.items():
        tree, lines = ast.parse(text), text.split("\n")
        names = imported_names(tree, modules, absolute(limits.folder / path))
        for cut in cuts(tree, lines, names):
            if limits.no_whole_lines and not cut.column:
                reasons["a whole line (--no_whole_lines)"] += 1
                continue
            completion = complete(
                path, tree, lines, cut, names, characters=limits.query_characters, answer_lines=limits.answer_lines
            )
            if completion is None:
                reasons[f"a query of more than {limits.query_characters} characters"] += 1
            elif len(completion.answer) > limits.answer_characters:
                reasons[f"an answer of more than {limits.answer_characters} characters"] += 1
            else:
                rows.append(
                    {
                        "text1": completion.query,
                        "answer": completion.answer,
                        "category": "rest of a line" if cut.column else "whole line",
                        "file": path,
                        "line": completion.line,
                        "lines_left_out": completion.left_out,
                    }
                )
    return rows, reasons


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    made = argparse.ArgumentParser(prog="python -m llmft.tasks.completions", description=__doc__.split("\n")[0])
    made.add_argument("folder", type=Path, help="the repository; globs refer to it (comma-separated)")
    made.add_argument("--context_glob", required=True, help="files whose functions, classes and methods are called")
    made.add_argument("--train_glob", required=True, help="files that training rows are cut from")
    made.add_argument("--validation_glob", required=True, help="files that evaluation rows are cut from")
    made.add_argument("--output_dir", type=Path, required=True)
    made.add_argument("--query_characters", type=int, default=1200, help="maximum length of a query (default: %(default)s)")
    made.add_argument("--answer_characters", type=int, default=80, help="longer answers are left out (default: %(default)s)")
    made.add_argument("--answer_lines", type=int, default=1, help="lines, from the rest of the cut one on (default: %(default)s)")
    made.add_argument(
        "--no_whole_lines",
        action="store_true",
        help="leave out rows whose query ends in a new line; many tokenizers have tokens of that and the indentation after it",
    )
    made.add_argument("--max_train_rows", type=int, help="drawn by --seed; default: all")
    made.add_argument("--max_validation_rows", type=int, help="drawn by --seed; default: all")
    made.add_argument("--seed", type=int, default=0)
    return made


def write_completions(arguments: argparse.Namespace) -> None:
    """Write the files of rows and print their numbers.

    Raises:
        InputError: a flag is invalid, or there are no rows.
    """
    check_writable(arguments.output_dir, f"--output_dir {arguments.output_dir}")
    for name in ("query_characters", "answer_characters", "answer_lines", "max_train_rows", "max_validation_rows"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: must be 1 or more")
    flags = ("context_glob", *(f"{name}_glob" for name in SETS))
    sources = {flag: find_sources(arguments.folder, getattr(arguments, flag), flag) for flag in flags}
    check_apart(sources)
    modules: dict[str, set[str]] = {}
    for path, text in sources["context_glob"].items():
        defined = defined_names(ast.parse(text))
        for name in module_names(absolute(arguments.folder / path)):
            modules.setdefault(name, set()).update(defined)
    files = {}
    for name in SETS:
        rows, reasons = cut_rows(sources[f"{name}_glob"], modules, arguments)
        if not rows:
            raise InputError(
                f"--{name}_glob {getattr(arguments, f'{name}_glob')}: no function in these files calls anything defined in "
                f"{listed(sources['context_glob'])}; use other files, or raise --query_characters and --answer_characters"
            )
        most = getattr(arguments, f"max_{name}_rows") or len(rows)
        chosen = sorted(random.Random(arguments.seed).sample(range(len(rows)), min(most, len(rows))))
        files[name] = [rows[place] for place in chosen]
        cut_off = sum(row["lines_left_out"] > 0 for row in files[name])
        print(f"{name}: {len(chosen)} of {len(rows)} rows; {cut_off} with lines left out of the query, as stated in it")
        for reason, number in reasons.items():
            print(f"{name}: {number} places left out: {reason}")
    if arguments.answer_lines > 1:
        print("answers have several lines: give --task code --stop '', as by default an answer ends with its first line")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write_json_lines(arguments.output_dir / f"{name}.jsonl", rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad input gives a one-line error and exit status 2."""
    with exit_on_bad_input():
        write_completions(parser().parse_args(argv))


if __name__ == "__main__":
    main()

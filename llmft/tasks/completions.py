r"""Cuts completion rows from the Python files of a repository, for `--task code`:

    python -m llmft.tasks.completions FOLDER --context_glob 'cost/*.py' --train_glob 'pipelines/*.py' \
        --validation_glob 'report/*.py' --output_dir rows

writes rows/train.jsonl and rows/validation.jsonl. Each row stands at a line of a function that calls what it imports from the
files of the context: the query is the file up to there, the answer the rest of the line. Those files are what the teacher reads
(`--context file --context_dir FOLDER --context_glob ...`); no row is cut from them, nor from a training file for evaluation.
"""

from __future__ import annotations

import argparse
import ast
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmft.arguments.context import files_in
from llmft.errors import InputError, listed
from llmft.runs.program import exit_on_bad_input
from llmft.runs.store import check_writable, write_json_lines
from llmft.tasks.calls import complete, cuts, defined_names, imported_names

SETS = ("train", "validation")


def find_sources(folder: Path, glob: str, flag: str) -> dict[str, str]:
    """The Python files of a folder that one of the patterns fits, comma between: path within the folder -> text.

    Raises:
        InputError: there are none, or one is not Python that can be read.
    """
    if not folder.is_dir():
        raise InputError(f"FOLDER {folder}: no such folder; name the one that the globs are about")
    texts = {}
    for path in files_in(folder, glob, f"--{flag}"):
        if path.suffix != ".py":
            continue
        try:
            text = path.read_text(encoding="utf-8")
            ast.parse(text)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"--{flag} {glob}: {path} is not Python that can be read ({error}); leave it out") from error
        if text.strip():
            texts[path.relative_to(folder).as_posix()] = text
    if not texts:
        raise InputError(f"--{flag} {glob}: fits no Python file with text in {folder}; give another, as 'cost/*.py'")
    return texts


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
                    f"--{flag}: {path} is one of --{places[path]}, too; context, training and evaluation need files apart"
                )
            places[path] = flag


def cut_rows(
    texts: dict[str, str], modules: dict[str, set[str]], limits: argparse.Namespace
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows of files, and how many places were left out and why."""
    rows, reasons = [], Counter()
    for path, text in texts.items():
        tree, lines = ast.parse(text), text.split("\n")
        names = imported_names(tree, modules)
        for cut in cuts(tree, lines, names):
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
    made.add_argument("folder", type=Path, help="the repository; globs are within it, several with commas between")
    made.add_argument("--context_glob", required=True, help="files whose functions, classes and methods are called")
    made.add_argument("--train_glob", required=True, help="files that training rows are cut from")
    made.add_argument("--validation_glob", required=True, help="files that evaluation rows are cut from")
    made.add_argument("--output_dir", type=Path, required=True)
    made.add_argument("--query_characters", type=int, default=1200, help="of a query at most (default: %(default)s)")
    made.add_argument("--answer_characters", type=int, default=80, help="longer answers are left out (default: %(default)s)")
    made.add_argument("--answer_lines", type=int, default=1, help="the rest of the line and the next ones (default: %(default)s)")
    made.add_argument("--max_train_rows", type=int, help="drawn by --seed; default: all")
    made.add_argument("--max_validation_rows", type=int, help="drawn by --seed; default: all")
    made.add_argument("--seed", type=int, default=0)
    return made


def write_completions(arguments: argparse.Namespace) -> None:
    """Write the files of rows and say how many there are.

    Raises:
        InputError: a flag cannot be used, or there are no rows.
    """
    check_writable(arguments.output_dir, f"--output_dir {arguments.output_dir}")
    for name in ("query_characters", "answer_characters", "answer_lines", "max_train_rows", "max_validation_rows"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: give 1 or more")
    flags = ("context_glob", *(f"{name}_glob" for name in SETS))
    sources = {flag: find_sources(arguments.folder, getattr(arguments, flag), flag) for flag in flags}
    check_apart(sources)
    modules: dict[str, set[str]] = {}
    for path, text in sources["context_glob"].items():
        modules.setdefault(Path(path).stem, set()).update(defined_names(ast.parse(text)))
    files = {}
    for name in SETS:
        rows, reasons = cut_rows(sources[f"{name}_glob"], modules, arguments)
        if not rows:
            raise InputError(
                f"--{name}_glob {getattr(arguments, f'{name}_glob')}: no function of these files calls what {listed(modules)} "
                "define; give others, or longer queries and answers (--query_characters, --answer_characters)"
            )
        most = getattr(arguments, f"max_{name}_rows") or len(rows)
        chosen = sorted(random.Random(arguments.seed).sample(range(len(rows)), min(most, len(rows))))
        files[name] = [rows[place] for place in chosen]
        cut_off = sum(row["lines_left_out"] > 0 for row in files[name])
        print(f"{name}: {len(chosen)} of {len(rows)} rows; {cut_off} with lines left out of the query, which it says")
        for reason, number in reasons.items():
            print(f"{name}: {number} places left out: {reason}")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write_json_lines(arguments.output_dir / f"{name}.jsonl", rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; bad input is one line and exit status 2."""
    with exit_on_bad_input():
        write_completions(parser().parse_args(argv))


if __name__ == "__main__":
    main()

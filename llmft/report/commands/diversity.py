"""`python -m llmft.report diversity FOLDER [--out FOLDER]`: the tables about task diversity as figures and a page."""

from __future__ import annotations

import argparse
import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from llmft.errors import InputError
from llmft.report.figures.diversity import DIVERSITY_PICTURES, diversity_sheets
from llmft.report.figures.figures import Drawn, write_sheets
from llmft.report.figures.panels import STYLE
from llmft.report.figures.svg import inline
from llmft.runs.store import whole_file

MEMBER = ("dimension", "kind", "steps", "batch_size", "pool")
TABLES = {
    "results": (*MEMBER, "seed", "tasks", "error", "error_dmmse", "error_ridge", "to_ridge"),
    "steps": (*MEMBER, "step", "pretrain_to_ridge", "true_to_ridge"),
    "path": (*MEMBER, "share", "error", "error_dmmse", "error_ridge"),
    "distillation": (
        *MEMBER, "seed", "students", "context_task", "context_examples", "error_student", "error_teacher", "error_dmmse",
        "error_ridge", "error_fit",
    ),
}  # fmt: skip
"""The columns of each table that pictures are made of."""
WORDS = ("kind", "tasks", "students", "context_task")
"""Those of them that are no numbers."""
REMEDY = "name the folder that python -m llmft.worlds.regression.measure wrote, or have it write the tables anew"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Task diversity</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
figure {{ margin: 2rem 0 }}
svg {{ width: 100%; height: auto }}
{rules}</style>
</head>
<body>
<h1>Task diversity</h1>
{figures}
</body>
</html>
"""


def main(argv: Sequence[str]) -> None:
    """Draw the tables written by `python -m llmft.worlds.regression.measure`.

    Raises:
        InputError: the tables do not exist, or the output cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m llmft.report diversity", description="Task diversity as figures.")
    parser.add_argument("folder", type=Path, help="the tables of python -m llmft.worlds.regression.measure")
    parser.add_argument("--out", type=Path, help="where the figures go; default: FOLDER")
    arguments = parser.parse_args(argv)
    folder, out = arguments.folder, arguments.out or arguments.folder
    try:
        tables = {name: read_table(folder / f"{name}.csv", columns) for name, columns in TABLES.items()}
    except OSError as error:
        raise InputError(
            f"{folder}: {error.filename} cannot be read; name the folder written by python -m llmft.worlds.regression.measure"
        ) from error
    try:
        out.mkdir(parents=True, exist_ok=True)
        drawn = draw_diversity(tables, out)
        with whole_file(out / "task_diversity.html") as aside:
            aside.write_text(diversity_page(drawn), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to ({error.strerror or error}); choose another folder") from error
    print(f"figures: {out}/task_diversity.html, with *.png and *.pdf in the same folder")


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table with at least these columns; empty if it has no rows.

    Raises:
        OSError: it cannot be read.
        InputError: it is not what `measure` writes.
    """
    try:
        frame = pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except ValueError as error:  # of text or of columns that are none
        raise InputError(f"{path}: is no table ({type(error).__name__}); {REMEDY}") from error
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; {REMEDY}")
    for name in columns:
        if name not in WORDS:
            named = name == "pool" and "students" in columns  # by `M=64` or `M=inf`
            texts = frame[name].astype(str)
            numbers = pd.to_numeric(texts.str.extract(r"^M=(\d+|inf)$")[0] if named else texts, errors="coerce")
            wrong = frame.loc[numbers.isna() & (frame[name].notna() | (name in MEMBER)), name]
            if len(wrong):
                wanted = "M= and a number, or M=inf" if named else "a number"
                raise InputError(f"{path}: {name} {wrong.iloc[0]}: is not {wanted}; {REMEDY}")
    return frame


def draw_diversity(tables: dict[str, pd.DataFrame], out: Path) -> list[Drawn]:
    """Write all pictures that have data to an existing folder, as PNG and PDF."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        return [drawn for name in DIVERSITY_PICTURES for drawn in write_sheets(list(diversity_sheets(name, tables)), out, name)]


def diversity_page(drawn: Sequence[Drawn]) -> str:
    """The pictures as one self-contained page; their marks show their values."""
    styles: dict[str, str] = {}
    figures = []
    for number, sheet in enumerate(drawn, 1):
        title = f"{DIVERSITY_PICTURES[sheet.picture]}: {sheet.sheet}"
        picture = inline(sheet.svg, f"{sheet.picture}-{number}", title, styles)
        figures.append(f"<figure>\n<figcaption>{html.escape(title)}</figcaption>\n{picture}\n</figure>")
    rules = "".join(f".{name} {{ {style} }}\n" for style, name in styles.items())
    return PAGE.format(rules=rules, figures="\n".join(figures))

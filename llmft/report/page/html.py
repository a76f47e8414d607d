"""The report as one self-contained page: it needs no network, no server and no other file.

Its template, style and scripts are the files `page.*`, `table.js` and `examples.js` in this package. The page contains the
numbers of the tables and the texts of examples as JSON, and the figures as the SVG drawn by `figures.py`; a policy in its head
allows only the page's own script and style, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from llmft.report.figures.figures import PICTURES, Drawn
from llmft.report.figures.points import look_name, looks_of, mean_points
from llmft.report.figures.svg import inline
from llmft.report.page.examples import page_examples
from llmft.report.page.findings import summary
from llmft.report.records.names import EVALUATED, HEADINGS, headline_name, selection_name, shown_method
from llmft.report.tables.contents import IDS
from llmft.report.tables.table import KIB, MIB, ReportTable
from llmft.runs.store import whole_file

if TYPE_CHECKING:
    from llmft.report.records.collect import Collection

SCRIPTS = ("table.js", "examples.js", "page.js")
ROWS = 2000
"""Maximum number of rows of a table in the page."""
COLUMNS = (
    *({"key": domain, "name": HEADINGS[domain], "digits": 3, "spread": True} for domain in EVALUATED),
    {"key": "tokens_per_query", "name": "tokens per query", "digits": 1},
    {"key": "kv_bytes_per_query", "name": "KV KiB per query", "digits": 0, "scale": KIB},
    {"key": "cpu_ms_per_query", "name": "CPU ms per query", "digits": 2},
    {"key": "training_cpu_s", "name": "CPU s training", "digits": 1},
    {"key": "cpu_total_s", "name": "CPU s run", "digits": 1},
    {"key": "rss_peak_bytes", "name": "peak MiB", "digits": 0, "scale": MIB},
    {"key": "rss_mean_bytes", "name": "mean MiB", "digits": 0, "scale": MIB},
    {"key": "gpu_peak_bytes", "name": "GPU peak MiB", "digits": 0, "scale": MIB},
)
KINDS = {"sizes": "Differences over model sizes"}
"""Titles of sections whose tables are of one kind (the part of their names before a hyphen) and shown one at a time."""
OF_RUNS = ("seed", "data_seed", "training_cpu_s", "cpu_total_s", "rss_peak_bytes")


def write_page(
    collection: Collection,
    runs: pd.DataFrame,
    lines: Sequence[str],
    tables: Sequence[ReportTable],
    drawn: Iterable[Drawn],
    out: Path,
) -> None:
    """Write `report.html` to the existing folder `out`, with links to the runs' files relative to it: first `lines`, then the
    results, which it makes into a table itself (`runs`, from `points`), the figures of `draw_all`, and the other tables."""
    data = {
        "summary": summary(collection, runs),
        "findings": lines,
        "shared": collection.shared,
        "columns": COLUMNS,
        **_measured(runs, collection.folder, out),
        "examples": page_examples(collection),
        "sections": _sections(tables),
    }
    with whole_file(out / "report.html") as aside:
        aside.write_text(page(data, drawn), encoding="utf-8")


def page(data: Mapping[str, Any], drawn: Iterable[Drawn] = ()) -> str:
    """The page with `data` and figures in it. No text in them can close the element that contains it."""
    package = files("llmft.report.page")
    styles: dict[str, str] = {}
    figures = _figures(drawn, styles)
    rules = "".join(f".{name} {{ {style} }}\n" for style, name in styles.items())
    style = (package / "page.css").read_text(encoding="utf-8") + rules
    script = "\n".join((package / name).read_text(encoding="utf-8").replace('"use strict";\n', "", 1) for name in SCRIPTS)
    script = f'"use strict";\n{script}'
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (script, style)]
    policy = "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'".format(
        *hashes
    )
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    parts = {"policy": policy, "style": style, "script": script, "figures": figures, "data": text}
    template = (package / "page.html").read_text(encoding="utf-8")
    return re.sub("@([a-z]+)@", lambda name: parts[name[1]], template)  # in one pass: a part may contain another's name


def _figures(drawn: Iterable[Drawn], styles: dict[str, str]) -> str:
    """An element for each picture that contains one for each of its sheets; their styles are added to `styles`."""
    ordered = sorted(drawn, key=lambda one: list(PICTURES).index(one.picture))
    made = []
    for name, sheets in groupby(ordered, key=lambda one: one.picture):
        made.append(f'<figure id="fig-{name}">\n<h3>{PICTURES[name]}</h3>\n')
        for number, sheet in enumerate(sheets, 1):
            svg = inline(sheet.svg, f"{name}-{number}", f"{PICTURES[name]}: {sheet.sheet}", styles)
            made.append(f'<div class="sheet" data-name="{html.escape(sheet.sheet)}">{svg}</div>\n')
        made.append("</figure>\n")
    return "".join(made) or '<p class="note">There is no data for figures.</p>'


def _measured(points: pd.DataFrame, folder: Path, out: Path) -> dict[str, Any]:
    """`runs` and `points` (one per run and selection) column by column, `groups` row by row, and `looks`."""
    runs = points.drop_duplicates("id").reset_index(drop=True)
    number = {run: place for place, run in enumerate(runs["id"])}
    way = Path(os.path.relpath(folder, out)).as_posix()
    return {
        "looks": {key: {"name": look_name(key), "colour": look.colour} for key, look in looks_of(points["look"]).items()},
        "runs": {
            "id": list(runs["id"]),
            "link": [f"{way}/{Path(record).as_posix()}" for record in runs["record"]],
            "logged": [int((folder / record / "train_log.jsonl").is_file()) for record in runs["record"]],
            **{name: [_plain(value) for value in runs[name]] for name in OF_RUNS},
        },
        "points": {
            "run": [number[run] for run in points["id"]],
            **{name: [_plain(value) for value in points[name]] for name in EVALUATED},
        },
        "groups": [_group(row) for row in mean_points(points).to_dict("records")],
    }


def _group(row: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: [_plain(row[name]), _plain(row[f"{name}_sd"])] for name in (column["key"] for column in COLUMNS)}
    return {
        **{name: row[name] for name in ("task", "model", "look", "name", "members")},
        "method": shown_method(row),
        "metric": headline_name(row),
        "precision": row["precision"],
        "pattern": row["pattern"] if isinstance(row["pattern"], str) else None,
        "shots": int(row["shots"]),
        "selection_name": selection_name(row["selection"]),
        "judged": bool(row["judged"]),
        "selected": {domain: 1 for domain in EVALUATED if row[f"selected_{domain}"]},
        "values": {name: pair for name, pair in values.items() if pair[0] is not None},
    }


def _sections(tables: Sequence[ReportTable]) -> list[dict[str, Any]]:
    """Sections of the page in the order of the tables; tables of one kind share a section."""
    kinds: dict[str, list[ReportTable]] = {}
    for table in tables:
        kinds.setdefault(table.name.split("-")[0], []).append(table)
    return [
        {"name": kind, "title": KINDS.get(kind, tables[0].title), "tables": [_table(table) for table in tables]}
        for kind, tables in kinds.items()
    ]


def _table(table: ReportTable) -> dict[str, Any]:
    """A table's cells as text, or with their sort key and mark: better or worse."""
    shown = table.without_constant_columns()
    columns = [pair for pair in zip(shown.columns, shown.texts, strict=True) if pair[0].name != IDS.name]
    rows = []
    for place, row in enumerate(table.rows[:ROWS]):
        cells = []
        for column, texts in columns:
            text = texts[place]
            value = _plain(column.value(row)) if column.value else text
            mark = column.mark(row) if column.mark else ""
            cells.append([text, value, mark] if mark or value != text else text)
        rows.append(cells)
    rest = [f"{len(table.rows) - ROWS} more rows are in the csv files."] if len(table.rows) > ROWS else []
    return {
        "title": table.title,
        "notes": [*shown.notes, *rest],
        "columns": [{"name": column.name, "left": column.left} for column, _ in columns],
        "rows": rows,
    }


def _plain(value: Any) -> Any:
    """A number for JSON, to six digits; None for NaN."""
    if isinstance(value, str) or value is None:
        return value
    number = float(value)
    if math.isinf(number):
        return math.copysign(1e300, number)
    return None if math.isnan(number) else int(number) if number.is_integer() else float(f"{number:.6g}")

"""The report as one page that needs nothing beside it: no network, no server, no other file.

Its template, style and scripts are the files `page.*`, `table.js`, `charts.js` and `views.js` in this package. The numbers lie
in the page as JSON; a policy in its head allows the page's own script and style, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Container, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from llmft.report.contents import IDS
from llmft.report.curves import TITLES, UNITS, training_curves
from llmft.report.names import DOMAINS, SELECTION_NAMES, method_name
from llmft.report.points import family, groups, look_name, looks_of, points
from llmft.report.tables import Table
from llmft.report.words import findings, summary
from llmft.runs.store import whole_file

if TYPE_CHECKING:
    from llmft.report.collect import Collection

SCRIPTS = ("table.js", "charts.js", "views.js", "page.js")
ROWS, STEPS = 2000, 200
"""The most rows of a table, and logged steps of a run (and its last one), that are in the page."""
MIB = 2**20
COLUMNS = (
    {"key": "in_domain", "name": "in-domain", "digits": 3, "spread": True},
    {"key": "out_of_domain", "name": "out-of-domain", "digits": 3, "spread": True},
    {"key": "tokens_per_query", "name": "tokens per query", "digits": 1},
    {"key": "cpu_ms_per_query", "name": "CPU ms per query", "digits": 2},
    {"key": "training_cpu_s", "name": "CPU s training", "digits": 1},
    {"key": "cpu_total_s", "name": "CPU s run", "digits": 1},
    {"key": "rss_peak_bytes", "name": "peak MiB", "digits": 0, "scale": MIB},
    {"key": "rss_mean_bytes", "name": "mean MiB", "digits": 0, "scale": MIB},
    {"key": "gpu_peak_bytes", "name": "GPU peak MiB", "digits": 0, "scale": MIB},
)
KINDS = {"sizes": "Differences over model sizes"}
"""What a section is called whose tables are of one kind (the part of their names before a hyphen) and shown one at a time."""
GAPS = tuple(f"gap_recovered_{domain}" for domain in DOMAINS)
OF_POINTS = (*DOMAINS, *GAPS)
OF_RUNS = ("seed", "data_seed", "training_cpu_s", "cpu_total_s", "rss_peak_bytes")
OF_GROUPS = (*GAPS, *(column["key"] for column in COLUMNS), "gpu_mean_bytes")


def write_page(
    collection: Collection,
    tables: Sequence[Table],
    evens: pd.DataFrame,
    majority: pd.DataFrame,
    unlike: Container[tuple[str, str]],
    out: Path,
) -> Path:
    """Write `report.html`.

    Args:
        collection: the runs.
        tables: the tables beside the results, which the page makes itself.
        evens: of `break_even.break_evens`.
        majority: `task`, and for each domain the accuracy of always answering its largest class.
        unlike: of `paired.asked_unlike`.
        out: an existing folder; the page names the runs' files by their way from there.

    Returns:
        The page's path.
    """
    found = points(collection)
    data = {
        "summary": summary(collection, found),
        "findings": findings(groups(found[found["judged"]]), evens, unlike),
        "shared": collection.shared,
        "columns": COLUMNS,
        **_measured(found, collection.folder, out),
        **_curves(collection, found),
        "majority": {row["task"]: [_plain(row[domain]) for domain in DOMAINS] for row in majority.to_dict("records")},
        "sections": _sections(tables),
    }
    path = out / "report.html"
    with whole_file(path) as aside:
        aside.write_text(page(data), encoding="utf-8")
    return path


def page(data: Mapping[str, Any]) -> str:
    """The page with `data` in it. No text in it can end the element that holds it."""
    package = files("llmft.report")
    style = (package / "page.css").read_text(encoding="utf-8")
    script = "\n".join((package / name).read_text(encoding="utf-8").replace('"use strict";\n', "", 1) for name in SCRIPTS)
    script = f'"use strict";\n{script}'
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'"
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    made = (package / "page.html").read_text(encoding="utf-8")
    for name, part in {
        "policy": policy,
        "style": style,
        "script": script,
        "data": text,
    }.items():  # data last: it may hold any word
        made = made.replace(f"@{name}@", part, 1)
    return made


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _measured(found: pd.DataFrame, folder: Path, out: Path) -> dict[str, Any]:
    """`runs` and `points` (of a run and selection) column by column, `groups` row by row, `looks` and `models`."""
    runs = found.drop_duplicates("id").reset_index(drop=True)
    number = {run: place for place, run in enumerate(runs["id"])}
    way = Path(os.path.relpath(folder, out)).as_posix()
    means = groups(found)
    return {
        "looks": {key: {"name": look_name(key), **look._asdict()} for key, look in looks_of(found["look"]).items()},
        "models": list(dict.fromkeys(runs["model"])),
        "runs": {
            "id": list(runs["id"]),
            "link": [f"{way}/{Path(record).as_posix()}" for record in runs["record"]],
            "logged": [int((folder / record / "train_log.jsonl").is_file()) for record in runs["record"]],
            **{name: [_plain(value) for value in runs[name]] for name in OF_RUNS},
        },
        "points": {
            "run": [number[run] for run in found["id"]],
            **{name: [_plain(value) for value in found[name]] for name in OF_POINTS},
        },
        "groups": [_group(row) for row in means.to_dict("records")],
    }


def _group(row: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: [_plain(row[name]), _plain(row[f"{name}_sd"])] for name in OF_GROUPS}
    return {
        **{name: row[name] for name in ("task", "model", "look", "name")},
        "family": family(row["model"]),
        "method": method_name(row),
        "pattern": _pattern(row),
        "weights": _plain(row["weights"]),
        "shots": int(row["shots"]),
        "selection_name": SELECTION_NAMES[row["selection"]],
        "selection": row["selection"],
        "judged": bool(row["judged"]),
        "selected": {domain: 1 for domain in DOMAINS if row[f"selected_{domain}"]},
        "values": {name: pair for name, pair in values.items() if pair[0] is not None},
        "members": row["members"],
    }


def _pattern(row: Mapping[str, Any]) -> str | None:
    return row["pattern"] if isinstance(row["pattern"], str) else None


def _curves(collection: Collection, found: pd.DataFrame) -> dict[str, Any]:
    number = {run: place for place, run in enumerate(found.drop_duplicates("id")["id"])}
    logged, left_out = training_curves(collection, found[found["judged"]])
    curves = []
    for _, rows in logged.groupby(["group", "kind"], sort=False):
        runs = []
        for run, own in rows.groupby("id", sort=False):
            kept = own.iloc[[*range(0, len(own) - 1, math.ceil(len(own) / STEPS)), len(own) - 1]]
            runs.append({"run": number[run], "steps": list(kept["step"]), "losses": [_plain(loss) for loss in kept["loss"]]})
        first = rows.iloc[0]
        common = {name: first[name] for name in ("task", "model", "look", "name")}
        curves.append(
            {**common, "pattern": _pattern(first), "kind": TITLES[first["kind"]], "unit": UNITS[first["kind"]], "runs": runs}
        )
    rest = f" {left_out} further runs have theirs in train_log.jsonl." if left_out else ""
    return {"curves": curves, "curves_left_out": rest}


def _sections(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Sections of the page in the order of the tables, those of one kind in one."""
    kinds: dict[str, list[Table]] = {}
    for table in tables:
        kinds.setdefault(table.name.split("-")[0], []).append(table)
    return [
        {"name": kind, "title": KINDS.get(kind, own[0].title), "tables": [_table(table) for table in own]}
        for kind, own in kinds.items()
    ]


def _table(table: Table) -> dict[str, Any]:
    """A table's cells as text, or with what they are sorted by and their mark: better or worse."""
    shown = table.telling()
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
    rest = [f"{len(table.rows) - ROWS} further rows are in the csv files."] if len(table.rows) > ROWS else []
    return {
        "title": table.title,
        "notes": [*shown.notes, *rest],
        "columns": [{"name": column.name, "left": column.left} for column, _ in columns],
        "rows": rows,
    }


def _plain(value: Any) -> Any:
    """A number as JSON has it, to six digits; none for NaN."""
    if isinstance(value, str) or value is None:
        return value
    number = float(value)
    if math.isinf(number):
        return math.copysign(1e300, number)
    return None if math.isnan(number) else int(number) if number.is_integer() else float(f"{number:.6g}")

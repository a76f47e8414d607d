"""`python -m benchmarks`, or `make bench`: measure, write a results file, say which bounds hold."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import memory, text_memory
from benchmarks.bounds import check_all, line
from benchmarks.measure import BUSY, machine
from benchmarks.world import QUICK, Shape, World
from llmft.runs.store import write_json

HERE = Path(__file__).parent
PARTS = (
    "in_context",
    "windows",
    "distillation",
    "memory",
    "growth",
    "meter",
    "start_up",
    "text_teacher",
    "text_training",
    "text_generation",
    "text_memory",
    "text_growth",
    "text_windows",
)
ITEMS = {"memory": memory.items, "text_memory": text_memory.items}
"""Parts in which every item has its own process."""
BESIDE = HERE.parents[1] / "shared" / "data"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the requested parts; 0 if all were measured, whether or not the bounds hold, 1 if a part failed, 2 if data are
    missing."""
    options = parse(argv)
    if options.from_file is not None:
        runs = [json.loads(path.read_text()) for path in options.from_file]
        runs = [results | {"bounds": check_all(results["parts"])} for results in runs]  # today's bounds
    else:
        if not (options.data_dir / "glue" / "rte" / "train.parquet").is_file():
            print("error: --data_dir: has no glue/rte/train.parquet; give the folder with RTE's rows", file=sys.stderr)
            return 2
        runs = [measure(options)]
    if options.write_readme:
        from benchmarks.figure import draw
        from benchmarks.table import write_readme

        draw(runs[0], HERE / "results.png")
        write_readme(HERE / "README.md", runs)
    for results in runs:
        print("a tiny model: only a check that all works" if results["quick"] else "", *map(line, results["bounds"]), sep="\n")
    return 1 if any(results["failed"] for results in runs) else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure (comma-separated): " + ", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a tiny model and few rows, to check that everything works")
    parser.add_argument("--turns", type=int, default=3, help="number of turns for things that are compared")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results file")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads; default: all cores")
    default = Path(os.environ.get("LLMFT_DATA_DIR", BESIDE))
    parser.add_argument("--data_dir", type=Path, default=default, help="folder with glue/rte; default: $LLMFT_DATA_DIR")
    parser.add_argument("--from_file", type=Path, nargs="+", help="measure nothing, use these results files")
    parser.add_argument("--write_readme", action="store_true", help="rewrite README.md's tables, and results.png from the first")
    options = parser.parse_args(argv)
    options.only = options.only.split(",")
    if options.quick and options.write_readme:
        parser.error("--write_readme: cannot be combined with --quick, which measures no results; drop one of them")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only {','.join(sorted(unknown))}: no such part; choose from {', '.join(PARTS)}")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The results of every part, each in its own process (for `ITEMS`: every item); written after each, so that what was
    measured is kept if the others are stopped."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(options.threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would slow down everything else
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    os.environ |= environment
    about = machine(options.threads)
    if about["load_at_start"] > BUSY:
        print(f"warning: the load average is {about['load_at_start']:.2f}: do not trust times and their ratios")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llmft-bench-") as folder:
        world = World(Path(folder), options.data_dir.resolve(), QUICK if options.quick else Shape(), options.quick, options.turns)
        settings = Path(folder) / "settings.json"
        own = {
            "folder": folder,
            "data_dir": str(world.data_dir),
            "shape": asdict(world.shape),
            "quick": world.quick,
            "turns": world.turns,
        }
        write_json(settings, {**own, "threads": options.threads})
        results: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "machine": about,
            "shape": asdict(world.shape),
            "quick": options.quick,
            "turns": options.turns,
            "bounds": check_all({}),
            "failed": [],
            "parts": {},
        }
        path = options.out / file_name(results, options.only)
        unfinished = path.with_suffix(".unfinished.json")
        for name in options.only:
            start, found = time.perf_counter(), []
            for unit in [f"{name}:{item}" for item in ITEMS[name]()] if name in ITEMS else [name]:
                result = Path(folder) / "result.json"
                command = [sys.executable, "-m", "benchmarks.part", unit, str(settings), str(result)]
                done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"error: {unit} failed:\n" + "\n".join(done.stderr.splitlines()[-15:]), file=sys.stderr)
                    results["failed"].append(unit)
                else:
                    found.append(json.loads(result.read_text()))
            if found:
                results["parts"][name] = join(found)
            results["bounds"] = check_all(results["parts"])
            write_json(unfinished, results)
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    unfinished.replace(path)
    print(f"results: {path.name}")
    return results


def file_name(results: dict[str, Any], asked: Sequence[str]) -> str:
    """Day and machine; the parts, if not all were requested; and whether it was quick."""
    about = results["machine"]
    words = [results["date"], re.sub(r"[^a-z0-9]+", "-", about["processor"].lower()).strip("-"), f"{about['threads']}-threads"]
    words += [] if set(asked) == set(PARTS) else sorted(asked)
    return "-".join([*words, *(["quick"] if results["quick"] else [])]) + ".json"


def join(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of several processes as one."""
    whole = dict(found[0])
    for more in found[1:]:
        whole["rows"] = whole["rows"] + more["rows"]
        whole["values"] = {**whole["values"], **more["values"]}
    return whole


def commit() -> str:
    """Short name of the commit that is checked out."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())

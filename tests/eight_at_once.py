"""Eight processes doing the same runs and writing the same csv at once, started as by a user, on the embedded world.

    python tests/eight_at_once.py [--work FOLDER]

1. Eight `eval.py`, each of a draw of its own, append to one csv.
2. Eight times the same `eval.py` of three draws.
3. Eight times the same sweep: in-context learning, distillation of that context, fine-tuning on its demonstrations.

Each row must be in the csv once, each run be done by one process, all others find it finished, and nothing be left over.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
EIGHT = 8
EVAL = (sys.executable, "eval.py", "--task", "toy", "--use_cpu", "--num_shots", "4", "--max_eval_samples", "20")
SWEEP = {
    "TASKS": "toy", "MODELS": "toy", "SHOTS": "4", "PATTERNS": "minimal", "DATA_SEEDS": "0", "PRECISION": "fp32",
    "METHODS": "icl distill pbft", "EXTRA_ARGS": "--use_cpu --max_eval_samples 20 --num_train_epochs 1 --no_save_final_model",
}  # fmt: skip
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "PYTHON": sys.executable}


def at_once(commands: Sequence[Sequence[str]], **variables: str) -> list[str]:
    """The output of the commands, started together; all must succeed."""
    started = [
        subprocess.Popen(command, cwd=ROOT, env=ALONE | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    ended = [process.communicate() for process in started]
    for process, (_, err) in zip(started, ended, strict=True):
        assert process.returncode == 0, err
    return [out for out, _ in ended]


def check(folder: Path, rows: int, runs: int) -> None:
    """This many rows, all different, and this many runs; no temporary file is left."""
    (file,) = folder.glob("*.csv")
    with file.open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert len({row["data_seed"] for row in found}) == len(found) == rows, found
    assert len(list(folder.rglob("DONE"))) == runs
    hidden = {path.name for path in folder.rglob(".*")} - {".finished"}
    assert not hidden, hidden


def eight_at_once(work: Path) -> None:
    """Run what the module describes."""
    began = time.monotonic()
    own = work / "own"
    out = at_once([[*EVAL, "--output_dir", str(own), "--data_seed", str(seed)] for seed in range(EIGHT)])
    check(own, rows=EIGHT, runs=EIGHT)
    assert sum(text.count("record: ") for text in out) == EIGHT
    print(f"eight draws: {EIGHT} rows, {EIGHT} runs; {time.monotonic() - began:.0f} s")

    began, same = time.monotonic(), work / "same"
    out = at_once([[*EVAL, "--output_dir", str(same), "--num_data_seeds", "3"]] * EIGHT)
    check(same, rows=3, runs=3)
    done, known = (sum(text.count(line) for text in out) for line in ("record: ", "already finished: "))
    assert (done, known) == (3, 7 * 3), (done, known)
    print(f"three draws eight times: 3 rows, {done} runs done, {known} times found finished; {time.monotonic() - began:.0f} s")

    began, swept = time.monotonic(), work / "swept"
    out = at_once([["bash", "scripts/icl_versus_distillation/run.sh"]] * EIGHT, **SWEEP, OUTPUT_DIR=str(swept))
    check(swept, rows=1, runs=3)
    logs = [log.read_text() for log in swept.glob("sweeps/**/*.log")]
    done, known = (sum(text.count(line) for text in logs) for line in ("record: ", "already finished: "))
    assert (done, known) == (3, 7 * 3), (done, known)
    print(f"a sweep eight times: 1 row, {done} runs done, {known} times found finished; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=None, help="where the runs go; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        eight_at_once(given.work or Path(temporary))

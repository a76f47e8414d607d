"""kill -9 at random moments of a sweep of `scripts/context_distillation` on the embedded world, and what must come of it.

    python tests/kill_nine.py [--kills 20] [--seed 0] [--work FOLDER]

One sweep runs undisturbed. Another is killed, with all its processes, and started again, as often as asked for; if it ends before
that, it begins anew in another folder. Each that ends must have the same runs as the undisturbed one, with the same metrics,
predictions and weights to the bit, the same counts of work, nothing half-written, and no run done twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
SMALL = (
    "--max_train_samples 64 --max_eval_samples 20 --num_train_epochs 4 --per_device_train_batch_size 8 --save_strategy steps "
    "--save_steps 4 --eval_strategy epoch --save_best_models --save_final_model"
)
COUNTS = ("examples", "tokens", "padding_tokens", "flops")


def start(output_dir: Path, log: Path, arguments: str) -> psutil.Popen:
    """Start the sweep, or go on with it."""
    variables = {"OUTPUT_DIR": str(output_dir), "SEEDS": "0", "EXTRA_ARGS": arguments, "PYTHON": sys.executable}
    alone = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with log.open("a") as stream:
        return psutil.Popen(
            ["bash", str(ROOT / "scripts/context_distillation/toy/contexts.sh")],
            env={**os.environ, **alone, **variables},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def kill(sweep: psutil.Popen) -> None:
    """kill -9 for the sweep and everything it has started; first the driver, so that it starts nothing more."""
    sweep.send_signal(signal.SIGSTOP)
    family = [sweep, *sweep.children(recursive=True)]
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family)


def runs(output_dir: Path) -> dict[str, Path]:
    """The finished runs' folders by their names in the output folder."""
    return {str(done.parent.relative_to(output_dir)): done.parent for done in sorted(output_dir.rglob("DONE"))}


def compare(expected: Path, found: Path, done_at: dict[str, int]) -> int:
    """Check a sweep that was killed against the one that was not; returns how many of its runs went on from a checkpoint."""
    wanted, had = runs(expected), runs(found)
    assert wanted.keys() == had.keys(), (wanted.keys(), had.keys())
    resumed = 0
    for name, run in had.items():
        files = {str(file.relative_to(run)) for file in run.rglob("*")}
        assert files == {str(file.relative_to(wanted[name])) for file in wanted[name].rglob("*")}, (name, files)
        for file in (f for f in files if f.endswith((".safetensors", "metrics.json", "predictions.parquet"))):
            assert (run / file).read_bytes() == (wanted[name] / file).read_bytes(), (name, file)
        costs, undisturbed = (json.loads((folder / "cost.json").read_text()) for folder in (run, wanted[name]))
        phases, others = ({phase["name"]: phase for phase in cost["phases"]} for cost in (costs, undisturbed))
        assert phases.keys() == others.keys()
        for phase in (name for name in phases if name == "train" or name.startswith("eval during")):
            assert all(phases[phase][count] == others[phase][count] for count in COUNTS), (name, phase)
        assert abs(costs["total"]["cpu_total_s"] - sum(phase["cpu_total_s"] for phase in costs["phases"])) < 1e-6
        assert done_at.get(name, (run / "DONE").stat().st_mtime_ns) == (run / "DONE").stat().st_mtime_ns, f"{name}: done twice"
        resumed += costs["resumed_from"] is not None
    hidden = [file for file in found.rglob(".*") if file.name != ".finished" and not file.name.endswith(".lock")]
    assert not hidden, hidden
    return resumed


def kill_nine(work: Path, kills: int, seed: int, say: Callable[[str], None] = print, arguments: str = SMALL) -> None:
    """Do as the module says."""
    generator, log = random.Random(seed), work / "sweeps.log"
    began = time.monotonic()
    assert start(work / "undisturbed", log, arguments).wait() == 0, log.read_text()
    total = len(runs(work / "undisturbed"))
    longest = 2 * (time.monotonic() - began) / total
    say(f"undisturbed: {total} runs in {time.monotonic() - began:.0f} s; each kill comes within {longest:.1f} s")
    left, turn = kills, 0
    while left:
        turn += 1
        output_dir, done_at, ended = work / f"killed-{turn}", {}, False
        while not ended:
            sweep = start(output_dir, log, arguments)
            if left:
                try:
                    status = sweep.wait(generator.uniform(0.5, longest))
                    ended = True
                except psutil.TimeoutExpired:
                    kill(sweep)
                    left -= 1
            else:
                status, ended = sweep.wait(), True
            done_at |= {name: (run / "DONE").stat().st_mtime_ns for name, run in runs(output_dir).items() if name not in done_at}
        assert status == 0, log.read_text()
        resumed = compare(work / "undisturbed", output_dir, done_at)
        say(f"sweep {turn}: {total} runs alike, {resumed} of them from a checkpoint; {kills - left} of {kills} kills so far")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=None, help="where the sweeps go; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kill_nine(given.work or Path(temporary), given.kills, given.seed)

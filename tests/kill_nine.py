"""kill -9 at random moments of a sweep of `scripts/context_distillation` on the embedded world, and checks of the outcome.

    python -m tests.kill_nine [--kills 20] [--seed 0] [--work FOLDER]

One sweep runs undisturbed. Another is killed, with all its processes, and started again, as often as asked for; if it ends before
that, it begins anew in another folder. Each kill comes a random time behind a random event: the start, the run's folder, its k-th
checkpoint begun or whole, a run's end. What the process was doing is read off its stack, which it writes when it is asked to by
a signal that comes right before SIGKILL.

After each kill no file may be half-written. Each sweep that ends must have the same runs as the undisturbed one, with the same
metrics, predictions and weights to the bit, the same counts of work, costs that add up, nothing left over, and no run done twice.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
from safetensors import safe_open

from llmft.cost.phases import key_of

ROOT = Path(__file__).parents[1]
SMALL = (
    "--max_train_samples 64 --max_eval_samples 20 --num_train_epochs 4 --per_device_train_batch_size 8 --save_strategy steps "
    "--save_steps 4 --eval_strategy epoch --save_best_models --save_final_model"
)
COUNTS = ("examples", "tokens", "padding_tokens", "flops")
LEAST_SHARE = 0.8
"""The share of an undisturbed training's CPU time that a resumed one must have: it has the same steps, on a machine of varying
speed."""
EVENTS = {  # the event before a kill: its trace in the output folder, the longest delay in seconds, how often it is drawn
    "the start": (None, 8.0, 1),
    "the folder": ("config.json", 3.0, 2),
    "a checkpoint begun": ("checkpoint-*", 0.1, 3),
    "a checkpoint whole": ("checkpoint-*/progress.json", 2.0, 5),
    "the end of a run": ("DONE", 8.0, 1),
}
SITE = """
import faulthandler, os, signal
stream = open(os.path.join(os.environ["STACKS"], str(os.getpid())), "w")
faulthandler.register(signal.SIGUSR1, file=stream, all_threads=False)
"""
"""Makes every Python process of a sweep write its stack on SIGUSR1."""
DOING = {  # functions on the stack -> what it is, the first that fits
    "writing a checkpoint": ("_save_checkpoint", "write_progress"),
    "writing weights": ("_save", "save_student", "_copy"),
    "writing the record": ("finish", "write_config"),
    "evaluating on the way": ("evaluate",),
    "training": ("_inner_training_loop",),
    "resuming, or starting to train": ("train", "_restore"),
    "evaluating before training": ("score",),
    "reading the teacher": ("targets", "context_scorer"),
    "loading": ("distil", "prepare"),
}


def start(output_dir: Path, log: Path, arguments: str) -> psutil.Popen:
    """Start or resume the sweep."""
    site = log.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    variables = {"OUTPUT_DIR": str(output_dir), "SEEDS": "0", "EXTRA_ARGS": arguments, "PYTHON": sys.executable}
    variables |= {"PYTHONPATH": str(site), "STACKS": str(site)}
    alone = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with log.open("a") as stream:
        return psutil.Popen(
            ["bash", str(ROOT / "scripts/context_distillation/toy/contexts.sh")],
            env={**os.environ, **alone, **variables},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def kill(sweep: psutil.Popen, stacks: Path) -> str:
    """kill -9 for the sweep and everything it has started; the driver first, so that it starts nothing more.

    Returns:
        What the run under way was doing.
    """
    sweep.send_signal(signal.SIGSTOP)
    family = [sweep, *sweep.children(recursive=True)]
    asked = [process for process in family if listens(process.pid)]
    for process in asked:
        process.send_signal(signal.SIGUSR1)
    texts = written(stacks, asked)
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family)
    if asked and not texts:  # a signal waits while the disk is waited for, or a core
        return "gave no answer within 50 ms"
    functions = re.findall(r", line \d+ in (\S+)", texts)
    return next((what for what, names in DOING.items() if set(names) & set(functions)), "starting, or between two runs")


def written(stacks: Path, asked: list[psutil.Process]) -> str:
    """The stacks of processes that were asked for them, as soon as they are written."""
    for _ in range(50):
        texts = [(stacks / str(process.pid)).read_text() for process in asked]
        if all(texts):
            break
        time.sleep(0.001)
    return "".join(texts if asked else [])


def listens(pid: int) -> bool:
    """Whether the process has a handler for SIGUSR1."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def runs(output_dir: Path) -> dict[str, Path]:
    """The finished runs' folders by their names in the output folder."""
    return {str(done.parent.relative_to(output_dir)): done.parent for done in sorted(output_dir.rglob("DONE"))}


def wait(sweep: psutil.Popen, output_dir: Path, event: str, count: int, delay: float) -> bool:
    """Wait for this many more traces of an event, and then some time; whether the sweep was still running."""
    pattern = EVENTS[event][0]
    before = traces(output_dir, pattern)
    seen = set(before)
    while pattern is not None and len(seen - before) < count:
        seen |= traces(output_dir, pattern)  # some are removed
        if sweep.poll() is not None:
            return False
        time.sleep(0.01)
    try:
        sweep.wait(delay)
    except psutil.TimeoutExpired:
        return True
    return False


def traces(output_dir: Path, pattern: str | None) -> set[tuple[Path, int]]:
    """Files or folders of a name with their inodes: one that is written again counts as another."""
    found: set[tuple[Path, int]] = set()
    for folder, folders, files in os.walk(output_dir) if pattern is not None else ():  # which tolerates folders that disappear
        for path in (Path(folder) / name for name in (*folders, *files)):
            if path.match(pattern):
                with contextlib.suppress(FileNotFoundError):
                    found.add((path, path.stat().st_ino))
    return found


def check_whole(output_dir: Path) -> None:
    """No file with its final name is half-written; a checkpoint counts once it has `progress.json`."""
    for file in output_dir.rglob("*.*"):
        parts = file.relative_to(output_dir).parts
        checkpoint = next((parent for parent in file.parents if parent.name.startswith("checkpoint-")), None)
        if any(part.startswith(".") for part in parts) or (checkpoint and not (checkpoint / "progress.json").is_file()):
            continue
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".jsonl":
            assert [json.loads(line) for line in file.read_text().splitlines()]
        elif file.suffix == ".csv":
            assert len(pd.read_csv(file))
        elif file.suffix == ".parquet":
            pd.read_parquet(file)
        elif file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                assert list(tensors.keys())


def compare(expected: Path, found: Path, done_at: dict[str, int]) -> int:
    """Compare a sweep that was killed with one that was not; returns how many of its runs resumed from a checkpoint."""
    wanted, had = runs(expected), runs(found)
    assert wanted.keys() == had.keys(), (wanted.keys(), had.keys())
    resumed = 0
    for name, run in had.items():
        files = {str(file.relative_to(run)) for file in run.rglob("*")}
        assert files == {str(file.relative_to(wanted[name])) for file in wanted[name].rglob("*")}, (name, files)
        for file in (f for f in files if f.endswith((".safetensors", "metrics.json", "predictions.parquet"))):
            assert (run / file).read_bytes() == (wanted[name] / file).read_bytes(), (name, file)
        costs, undisturbed = (json.loads((folder / "cost.json").read_text()) for folder in (run, wanted[name]))
        phases, others = ({key_of(phase): phase for phase in cost["phases"]} for cost in (costs, undisturbed))
        assert phases.keys() == others.keys()
        train = ("train", None, None)
        for phase in (key for key in phases if key == train or key[1] == "during_training"):
            assert all(phases[phase][count] == others[phase][count] for count in COUNTS), (name, phase)
        if costs["resumed_from"] is not None:  # what earlier sessions spent is in it
            assert phases[train]["cpu_total_s"] >= LEAST_SHARE * others[train]["cpu_total_s"], name
        assert done_at.get(name, (run / "DONE").stat().st_mtime_ns) == (run / "DONE").stat().st_mtime_ns, f"{name}: done twice"
        resumed += costs["resumed_from"] is not None
    hidden = [file for file in found.rglob(".*") if file.name != ".finished" and not file.name.endswith(".lock")]
    assert not hidden, hidden
    return resumed


def kill_nine(work: Path, kills: int, seed: int, say: Callable[[str], None] = print, arguments: str = SMALL) -> None:
    """Run what the module describes."""
    generator, log, began = random.Random(seed), work / "sweeps.log", time.monotonic()
    assert start(work / "undisturbed", log, arguments).wait() == 0, log.read_text()
    total = len(runs(work / "undisturbed"))
    say(f"undisturbed: {total} runs in {time.monotonic() - began:.0f} s")
    fell: collections.Counter[str] = collections.Counter()
    turn = from_checkpoint = 0
    while fell.total() < kills:
        turn += 1
        output_dir, done_at, ended = work / f"killed-{turn}", {}, False
        while not ended:
            sweep = start(output_dir, log, arguments)
            if fell.total() < kills:
                (event,) = generator.choices(list(EVENTS), [often for _, _, often in EVENTS.values()])
                count = generator.randint(1, 4) if "checkpoint" in event else 1
                delay = generator.uniform(0, EVENTS[event][1])
                ended = not wait(sweep, output_dir, event, count, delay)
            if fell.total() < kills and not ended:
                doing = kill(sweep, log.parent / "site")
                fell[doing] += 1
                check_whole(output_dir)
                say(f"kill {fell.total()}: {doing} ({delay:.2f} s behind {event}{f', number {count}' * (count > 1)})")
            else:
                ended = True
                assert sweep.wait() == 0, log.read_text()
            done_at |= {name: (run / "DONE").stat().st_mtime_ns for name, run in runs(output_dir).items() if name not in done_at}
        resumed = compare(work / "undisturbed", output_dir, done_at)
        from_checkpoint += resumed
        say(f"sweep {turn}: {total} runs alike, {resumed} of them from a checkpoint; {fell.total()} of {kills} kills so far")
    assert from_checkpoint, "no run went on from a checkpoint"
    say("where they fell: " + ", ".join(f"{what} {count}" for what, count in fell.most_common()))
    say(f"{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=None, help="where the sweeps go; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kill_nine(given.work or Path(temporary), given.kills, given.seed)

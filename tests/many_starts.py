"""Many starts of two ranks on the embedded world, as they are typed: each entry script by each launcher, in turn with and without
`--use_cpu`, under zero2, zero3 and no config of DeepSpeed.

    python -m tests.many_starts [--starts 6] [--work FOLDER] [--limit 300]

Each must end in time with exit status 0 and leave one finished record of two ranks, print its closing table once, and have the
metrics that one process has. With `--work` it goes on where it was ended; several may share the work of one folder.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import json
import math
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
TRAIN = "--max_train_samples 64 --num_train_epochs 1 --learning_rate 5e-4 --adam_epsilon 1e-4 --no_save_final_model"
SCRIPTS = {"ft.py": TRAIN, "eval.py": "--num_shots 8", "distill.py": f"--num_shots 8 {TRAIN}"}
LAUNCHERS = {
    "deepspeed": ("deepspeed.launcher.runner", "--num_accelerators"),
    "torchrun": ("torch.distributed.run", "--nproc_per_node"),
}
WAYS = [(cpu, config) for config in ("zero2", "zero3", None) for cpu in (True, False)]
BATCH = 32
NOISE = 1e-4
"""How much metrics may differ: sums of the two ranks' parts are rounded differently."""
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
ALONE["PYTHONFAULTHANDLER"] = "1"
ALONE["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def words(script: str, output_dir: Path, ranks: int) -> list[str]:
    """The command line after `python` or a launcher; all ranks together take one batch."""
    batch = [] if script == "eval.py" else ["--per_device_train_batch_size", str(BATCH // ranks)]
    return [
        script,
        "--task",
        "toy",
        "--max_eval_samples",
        "21",
        "--output_dir",
        str(output_dir),
        *SCRIPTS[script].split(),
        *batch,
    ]


def ended(command: list[str], log: Path, limit: float) -> int | None:
    """The exit status of a command, or None if it has not ended in time: it is then killed with all it has started, whose stacks
    are at the end of the log."""
    with log.open("w") as output:
        process = psutil.Popen(command, cwd=ROOT, env=ALONE, stdout=output, stderr=output, start_new_session=True)
        try:
            return process.wait(limit)
        except psutil.TimeoutExpired:
            return None
        finally:
            kill(process)


def kill(process: psutil.Popen) -> None:
    """End a process and all it has started; Python writes its stacks at SIGABRT."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*process.children(recursive=True), process]
        for number in (signal.SIGABRT, signal.SIGKILL):
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.send_signal(number)
            psutil.wait_procs(family, timeout=5)


def numbers(tree: Any, name: str = "") -> dict[str, float]:
    """All numbers in nested dicts and lists, by their paths."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {place: value for key, part in items for place, value in numbers(part, f"{name}/{key}").items()}
    return {name: tree} if isinstance(tree, int | float) else {}


def metrics(output_dir: Path) -> dict[str, float]:
    """Those of all stages of the only record in a folder."""
    (done,) = output_dir.rglob("DONE")
    return numbers(json.loads((done.parent / "metrics.json").read_text())["stages"])


def start(name: str, launcher: str, script: str, way: tuple[bool, str | None], work: Path, limit: float) -> dict[str, Any]:
    """Start two ranks; returns how long they took, and what was wrong with them."""
    (cpu, config), output_dir, log = way, work / name, work / f"{name}.log"
    module, number = LAUNCHERS[launcher]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", module, "--master_port", port, number, "2", *words(script, output_dir, 2)]
    began = time.monotonic()
    status = ended([*command, *(["--use_cpu"] if cpu else []), *(["--deepspeed", config] if config else [])], log, limit)
    faults = list(faults_of(script, status, output_dir, log.read_text(), work))
    return {"seconds": round(time.monotonic() - began, 1), "faults": faults}


def faults_of(script: str, status: int | None, output_dir: Path, text: str, work: Path) -> Iterator[str]:
    """What is wrong with a start that has ended."""
    if status != 0:
        yield "hangs" if status is None else f"exit status {status}"
        return
    tables, records = text.count("┏"), text.count("record: ")
    if (tables, records) != (1, 1):
        yield f"the closing table is printed {tables} times, the record's place {records} times"
    done = list(output_dir.rglob("DONE"))
    if len(done) != 1:
        yield f"{len(done)} finished records"
        return
    ranks = json.loads((done[0].parent / "cost.json").read_text())["ranks"]
    if len(ranks) != 2:
        yield f"a record of {len(ranks)} ranks"
    one, two = metrics(work / f"alone-{script}"), metrics(output_dir)
    far = [place for place in one if not math.isclose(one[place], two.get(place, math.nan), rel_tol=0, abs_tol=NOISE)]
    if one.keys() != two.keys() or far:
        yield f"metrics other than those of one process: {sorted(far or one.keys() ^ two.keys())[:3]}"


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[bool]:
    """Whether nobody else holds the lock; the system releases it when its holder dies."""
    with path.with_suffix(".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def run_alone(work: Path, limit: float) -> None:
    """The results of one process, for each script."""
    for script in SCRIPTS:
        output_dir = work / f"alone-{script}"
        with (work / f"alone-{script}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not list(output_dir.rglob("DONE")):
                log = work / f"alone-{script}.log"
                status = ended([sys.executable, *words(script, output_dir, 1), "--use_cpu"], log, limit)
                assert status == 0, log.read_text()


def many_starts(starts: int, work: Path, limit: float) -> bool:
    """Run what the module describes; returns whether everything was right."""
    work.mkdir(parents=True, exist_ok=True)
    run_alone(work, limit)
    cases = list(itertools.product(range(starts), LAUNCHERS, SCRIPTS))
    results = {}
    for number, (i, launcher, script) in enumerate(cases, start=1):
        cpu, config = WAYS[i % len(WAYS)]
        name = f"{i:03}-{launcher}-{script}-{config or 'plain'}{'-cpu' if cpu else ''}"
        file = work / f"{name}.json"
        with only_one(file) as ours:
            if not ours:
                continue
            known = file.is_file()
            if not known:
                result = start(name, launcher, script, (cpu, config), work, limit)
                file.write_text(json.dumps(result))
            result = results[name] = json.loads(file.read_text())
        how = "; ".join(result["faults"]) or "well"
        print(f"[{number}/{len(cases)}] {name}: {how}, {result['seconds']} s{' (before)' if known else ''}", flush=True)
    wrong = [name for name, result in results.items() if result["faults"]]
    hung = sum("hangs" in result["faults"] for result in results.values())
    seconds = [result["seconds"] for result in results.values()] or [0.0]
    print(
        f"{len(results) - len(wrong)} of {len(cases)} starts ended well, {len(wrong)} did not ({hung} hung), "
        f"{len(cases) - len(results)} are others'; median {statistics.median(seconds):.0f} s, longest {max(seconds):.0f} s"
    )
    return not wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=6, help="starts of each script by each launcher (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=None, help="where runs and results go; default: a temporary folder")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a start may take (default: %(default)s)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with what it has started
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(not many_starts(given.starts, (given.work or Path(temporary)).absolute(), given.limit))

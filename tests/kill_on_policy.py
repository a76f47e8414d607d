"""kill -9 at random moments of runs whose student writes while it trains, and checks of the outcome.

    python -m tests.kill_on_policy [--kills 20] [--seed 0] [--work FOLDER]

Two runs, `--answers student` and `--answers mixed`, are done undisturbed. They are then done again, killed at random moments and
started again until each has been done; if that takes fewer kills than asked for, once more in another folder. A kill comes a
random time behind the run's folder or its k-th checkpoint; checkpoints lie amid the steps that one writing of answers is for.
Every session is a fork of this process, so that none has to import torch. What must hold is as in `tests.kill_nine`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path

import torch

from llmft.pipelines import distill
from tests.kill_nine import check_whole, compare, runs, traces

COMMON = (
    "--task notes --use_cpu --max_train_samples 60 --max_eval_samples 4 --num_train_epochs 3 --per_device_train_batch_size 4 "
    "--save_strategy steps --save_steps 4 --rollout_every 3 --no_evaluate_with_context --no_evaluate_elsewhere"
)
RUNS = (f"{COMMON} --answers student", f"{COMMON} --answers mixed --use_adapter --learning_rate 3e-3 --retain_weight 0.1")
EVENTS = {"config.json": (2.0, 1), "checkpoint-*": (0.2, 3), "checkpoint-*/progress.json": (1.0, 6)}
"""Trace in the output folder after which a kill comes -> longest delay in seconds, and how often it is drawn."""


def session(output_dir: Path, prompts: Path) -> None:
    """The work of one process: all runs, or what is left of them."""
    torch.set_num_threads(1)
    with (output_dir.parent / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        for arguments in RUNS:
            more = ["--retain_file", str(prompts)] if "retain" in arguments else []
            distill.main([*arguments.split(), *more, "--output_dir", str(output_dir)])


def kill(process: multiprocessing.Process, output_dir: Path, generator: random.Random) -> str | None:
    """Kill a session after a random event; returns the event, None if the session ended before."""
    (pattern,) = generator.choices(list(EVENTS), [often for _, often in EVENTS.values()])
    before, count = traces(output_dir, pattern), generator.randint(1, 4) if "checkpoint" in pattern else 1
    delay, seen = generator.uniform(0, EVENTS[pattern][0]), set()
    while len(seen - before) < count and process.is_alive():
        seen |= traces(output_dir, pattern)
        time.sleep(0.005)
    process.join(delay)
    if not process.is_alive():
        return None
    process.kill()
    process.join()
    return f"{delay:.2f} s behind {pattern}, number {count}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=None, help="where the runs go; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kill_all(given.work or Path(temporary), given.kills, random.Random(given.seed))


def kill_all(work: Path, kills: int, generator: random.Random) -> None:
    """Run what the module describes."""
    fork, prompts, killed, turn, resumed = multiprocessing.get_context("fork"), work / "prompts.jsonl", 0, 0, 0
    prompts.write_text("".join(f'{{"text1": "Who founded the Kelwick {word}?"}}\n' for word in ("mill", "inn", "museum")))

    def start(output_dir: Path) -> multiprocessing.Process:
        output_dir.mkdir(exist_ok=True)
        process = fork.Process(target=session, args=(output_dir, prompts))
        process.start()
        return process

    process = start(work / "undisturbed")
    process.join()
    assert process.exitcode == 0, (work / "log").read_text()
    print(f"undisturbed: {len(runs(work / 'undisturbed'))} runs", flush=True)
    while killed < kills:
        turn += 1
        output_dir, ended = work / f"killed-{turn}", False
        while not ended:
            process = start(output_dir)
            event = kill(process, output_dir, generator) if killed < kills else None
            if event is not None:
                killed += 1
                check_whole(output_dir)
                print(f"kill {killed}: {event}", flush=True)
            else:
                process.join()
                ended = True
                assert process.exitcode == 0, (work / "log").read_text()
        resumed += compare(work / "undisturbed", output_dir, {})
        print(f"turn {turn}: all runs alike, to the bit; {resumed} went on from a checkpoint so far", flush=True)
    assert resumed, "no run went on from a checkpoint"


if __name__ == "__main__":
    main()

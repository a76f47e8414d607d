"""kill -9 at random moments of `python -m llmft.self_study`, and checks of the outcome.

    python -m tests.kill_study [--kills 20] [--seed 0]

One command runs undisturbed. The same, in another folder, is killed and started again as often as asked for; if it ends before
that, it begins anew in another folder. After each kill none of its files may be there but what it keeps to go on from, and each
command that ends must have written the same pairs, and dropped the same, to the bit.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmft.worlds.notes.world import draw_notes

ROOT = Path(__file__).parents[1]
FILES = ("pairs.jsonl", "pairs.dropped.jsonl", "pairs.summary.json")
CACHE = "teacher_cache"
LONGEST_S = 6.0
"""Maximum seconds from the first file in the cache to a kill."""


def start(work: Path, out: Path) -> subprocess.Popen:
    """Start or resume the command."""
    words = f"--model_name_or_path notes --context_dir {work}/docs --num_queries 200 --chunk_tokens 60 --max_new_tokens 8"
    words += f" --query_temperature 2 --keep_known --output_file {out}/pairs.jsonl --output_dir {out} --use_cpu"
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "llmft.self_study", *words.split()]
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL)


def kept(out: Path) -> int:
    """Files in the cache of a command."""
    return len(list((out / CACHE).glob("*.safetensors")))


def kill_somewhere(work: Path, out: Path, rng: random.Random) -> bool:
    """Start the command and kill it a random time after it has first cached something new; whether it was still running."""
    process, before, delay = start(work, out), kept(out), rng.uniform(0, LONGEST_S)
    while process.poll() is None and kept(out) == before:
        time.sleep(0.01)
    end = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    alive = process.poll() is None
    process.kill()
    process.wait()
    return alive


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "docs").mkdir()
        for seed in range(3):
            (work / "docs" / f"{seed}.md").write_text(draw_notes(seed)[0].text)
        whole = work / "whole"
        assert start(work, whole).wait() == 0
        kills = ended = 0
        while kills < arguments.kills:
            out = work / f"out-{ended}"
            killed = kill_somewhere(work, out, rng)
            there = [name for name in FILES if (out / name).exists()]
            if not killed or there == [*FILES]:
                ended += 1
            else:
                kills += 1
                assert FILES[0] not in there, there  # which is written last
            if kills == arguments.kills:
                assert start(work, out).wait() == 0
            if (out / FILES[0]).exists():
                assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in FILES[:2]), out
            print(f"{kills} kills, {ended} ends before one; {kept(out)} of {kept(whole)} parts kept", flush=True)
        print("the same pairs, to the bit")


if __name__ == "__main__":
    main()

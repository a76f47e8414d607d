"""What a run's record says of its costs is what the kernel and an independent sampler say of its processes."""

import itertools
import json
import os
import re
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmft.runs.launch import free_port
from tests.conftest import process_group

PROJECT = Path(__file__).parents[2]
TIME = Path("/usr/bin/time")
PAGE = os.sysconf("SC_PAGE_SIZE")
RUN = """
    --task toy --num_shots 4 --max_train_samples 64 --num_train_epochs 1 --per_device_train_batch_size 8 --learning_rate 1e-3
    --max_eval_samples 50 --dataloader_num_workers 1 --disable_tqdm True
""".split()
AFTER_S = 0.5
"""CPU seconds that a process may take to end, its record being written: under 3 % from 17 s on."""

pytestmark = [
    pytest.mark.costs,
    pytest.mark.skipif(not (TIME.is_file() and Path("/proc/self/statm").is_file()), reason="needs Linux and GNU time"),
]


def children(pid):
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found + [below for child in found for below in children(child)]


def resident(pids):
    size = 0
    for pid in pids:
        try:
            size += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            continue
    return size


def sample(process, samples):
    """Every 10 ms the clock and the resident set of all that `process`, GNU time, has started."""
    while process.poll() is None:
        try:
            pids = children(process.pid)
        except OSError:  # one has ended while its files were read
            continue
        samples.append((time.monotonic(), resident(pids)))
        time.sleep(0.01)


def mean_of(samples, seconds):
    """Time-weighted, over the first so many seconds: those that the record covers."""
    samples = [(now, value) for now, value in samples if now <= samples[0][0] + seconds]
    spans = itertools.pairwise(samples)
    return sum((t1 - t0) * (a + b) / 2 for (t0, a), (t1, b) in spans) / (samples[-1][0] - samples[0][0])


def measured(tmp_path, world, words):
    """Run distill.py in `world` processes; its `cost.json`, what GNU time says of each, and the mean of each one's samples."""
    port = free_port()
    processes, threads, samples = [], [], [[] for _ in range(world)]
    with ExitStack() as stack:
        for rank in range(world):
            command = [str(TIME), "-v", "-o", str(tmp_path / f"time-{rank}"), sys.executable, "distill.py", *words]
            environment = dict(os.environ, OMP_NUM_THREADS="1")
            if world > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_PORT": port}
                environment |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(world)}
            with (tmp_path / f"out-{rank}").open("w") as out:
                started = process_group(command, cwd=PROJECT, env=environment, stdout=out, stderr=out)
                processes.append(stack.enter_context(started))
            threads.append(threading.Thread(target=sample, args=(processes[-1], samples[rank])))
            threads[-1].start()
        for thread in threads:
            thread.join(timeout=570)
    assert [process.returncode for process in processes] == [0] * world, (tmp_path / "out-0").read_text()
    (cost,) = (tmp_path / "runs").rglob("cost.json")
    reports = [(tmp_path / f"time-{rank}").read_text() for rank in range(world)]

    def of(name):
        return [float(re.search(rf"{re.escape(name)}.*: ([\d.]+)", report)[1]) for report in reports]

    kernel = {"user": of("User time"), "system": of("System time"), "peak": of("Maximum resident set size")}
    found = json.loads(cost.read_text())
    spans = [rank["wall_s"] for rank in found["ranks"]]
    return found, kernel, [mean_of(*one) for one in zip(samples, spans, strict=True)]


@pytest.mark.parametrize("world", [1, 2])
def test_costs_are_those_of_gnu_time_and_of_an_independent_sampler(tmp_path, world):
    cost, kernel, means = measured(tmp_path, world, [*RUN, "--use_cpu", "True", "--output_dir", str(tmp_path / "runs")])
    total = cost["total"]
    user, system, peak = sum(kernel["user"]), sum(kernel["system"]), max(kernel["peak"]) * 1024
    assert len(cost["ranks"]) == world
    for name, kernels in (("total", user + system), ("user", user), ("system", system)):
        after = kernels - total[f"cpu_{name}_s"]  # GNU time rounds to a hundredth
        assert -0.02 * world <= after <= max(0.03 * kernels, AFTER_S * world), (name, kernels, after)
    assert total["largest_process_bytes"] == pytest.approx(peak, rel=0.03)
    assert total["rss_mean_bytes"] == pytest.approx(sum(means), rel=0.03)
    assert total["uss_mean_bytes"] < total["pss_mean_bytes"] < total["rss_mean_bytes"]

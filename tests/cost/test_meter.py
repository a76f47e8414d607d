import mmap
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import torch

from llmft.cost.flops import inference_flops, training_flops
from llmft.cost.meter import Meter
from llmft.cost.phases import Phase, Samples, combine_ranks, total
from llmft.cost.processes import cpu_seconds
from tests.conftest import tiny_model


def new_memory(mebibytes):
    """Pages that the process has only now: an allocator may give some again that an earlier test has freed."""
    block = np.frombuffer(mmap.mmap(-1, mebibytes * 2**20), np.uint8)
    block.fill(1)
    return block


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_of_the_process_is_measured():
    meter = Meter()
    with meter.phase("start"):
        pass
    with meter.phase("work") as phase:
        burn(0.3)
    assert phase.cpu_total_s == pytest.approx(0.3, abs=0.1)
    assert phase.cpu_total_s == phase.cpu_user_s + phase.cpu_system_s
    assert phase.wall_s >= phase.cpu_total_s - 0.1


def test_the_first_phase_begins_with_the_process():
    meter = Meter()
    with meter.phase("load") as phase:
        pass
    assert phase.cpu_total_s >= time.process_time() - 0.5
    assert phase.wall_s > 0.5


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="needs Linux's clock since boot")
def test_a_process_knows_when_it_was_started():
    code = "import time; from llmft.cost.processes import seconds_since_start as since; "
    code += "print(max(time.clock_gettime(time.CLOCK_BOOTTIME) - since() for _ in range(50)))"  # it may be held up in between
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        after = time.clock_gettime(time.CLOCK_BOOTTIME)
        started = float(process.communicate()[0])
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert before - tick <= started <= after + tick


def test_cpu_time_of_children_is_counted():
    meter = Meter()
    with meter.phase("start"):
        pass
    code = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    with meter.phase("work") as phase:
        subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert phase.cpu_total_s >= 0.4


def test_peak_and_mean_of_memory():
    meter = Meter(from_start=False, interval=0.01)
    with meter.phase("before") as before:
        time.sleep(0.1)
    with meter.phase("work") as phase:
        block = new_memory(200)  # for about half of the time
        time.sleep(0.3)
        del block
        time.sleep(0.3)
    grown = (phase.rss_peak_bytes - before.rss_peak_bytes) / 2**20
    mean = (phase.rss_mean_bytes - before.rss_mean_bytes) / 2**20
    assert grown == pytest.approx(200, abs=30)
    assert 50 < mean < 180


def test_a_phase_that_fails_is_kept_and_the_error_goes_on():
    meter = Meter()
    with pytest.raises(KeyError), meter.phase("work"):
        raise KeyError
    assert [phase.kind for phase in meter.phases] == ["work"]


def test_totals_and_ranks_by_hand():
    def phase(name, cpu, wall, peak, mean):
        made = Phase(name, cpu_user_s=cpu, cpu_total_s=cpu, wall_s=wall, rss_peak_bytes=peak, rss_mean_bytes=mean)
        made.count(examples=4, tokens=10)
        return vars(made)

    one = [phase("load", 1.0, 2.0, 100, 80), phase("train", 3.0, 6.0, 300, 200)]
    found = total(one)
    assert (found["cpu_total_s"], found["wall_s"], found["tokens"]) == (4.0, 8.0, 20)
    assert (found["rss_peak_bytes"], found["rss_mean_bytes"], found["gpu_peak_bytes"]) == (
        300,
        170,
        None,
    )  # (80 * 2 + 200 * 6) / 8
    two = [phase("load", 1.5, 1.0, 50, 40), phase("train", 3.5, 7.0, 100, 60)]
    both = combine_ranks([{"phases": p, "total": total(p) | {"largest_process_bytes": 7}, "sampling": {}} for p in (one, two)])
    assert [p["cpu_total_s"] for p in both["phases"]] == [2.5, 6.5]
    assert [p["wall_s"] for p in both["phases"]] == [2.0, 7.0]
    assert [p["rss_peak_bytes"] for p in both["phases"]] == [150, 400]
    assert [rank["cpu_total_s"] for rank in both["ranks"]] == [4.0, 5.0]


def test_phases_of_ranks_are_combined_by_what_they_are():
    def rank(*phases):
        made = [vars(Phase(kind, cpu_total_s=cpu, flops_counted=counted)) for kind, cpu, counted in phases]
        return {"phases": made, "total": total(made) | {"largest_process_bytes": 7}, "sampling": {}}

    one = rank(("load", 1.0, 5), ("train", 3.0, 100))
    both = combine_ranks([one, rank(("train", 4.0, None), ("load", 2.0, 6))])
    assert [(p["kind"], p["cpu_total_s"], p["flops_counted"]) for p in both["phases"]] == [
        ("load", 3.0, 11),
        ("train", 7.0, None),
    ]
    assert both["total"]["flops_counted"] is None
    for other in (rank(("load", 1.0, 5)), rank(("load", 1.0, 5), ("save", 1.0, 5))):
        for ranks in ((one, other), (other, one)):
            with pytest.raises(ValueError, match="not all ranks have the phase"):
                combine_ranks(ranks)


def test_flops_by_the_rule_of_t_few():
    model = tiny_model("opt")
    weights = sum(p.numel() for p in model.parameters())
    assert (inference_flops(model, 10), training_flops(model, 10)) == (20 * weights, 60 * weights)


def test_an_inner_phase_pauses_the_outer_one():
    threads = threading.active_count()
    meter = Meter(interval=0.01)
    with meter.phase("start"):
        pass
    with meter.phase("outer") as outer:
        burn(0.1)
        with meter.phase("inner") as inner:
            block = new_memory(200)
            burn(0.4)
            del block
        burn(0.1)
        assert threading.active_count() == threads + 1  # one sampler for all
    assert threading.active_count() == threads
    assert [phase.kind for phase in meter.phases] == ["start", "outer", "inner"]
    assert outer.cpu_total_s == pytest.approx(0.2, abs=0.1)
    assert inner.cpu_total_s >= 0.4
    assert sum(phase.cpu_total_s for phase in meter.phases) == pytest.approx(
        sum(cpu_seconds(psutil.Process().children())), abs=0.1
    )
    assert inner.rss_peak_bytes - outer.rss_peak_bytes > 150 * 2**20


def test_the_time_of_an_inner_phase_is_not_the_outer_ones(clock):
    meter = Meter(from_start=False, interval=3600)
    with meter.phase("outer") as outer:
        clock.now = 1.0
        with meter.phase("inner") as inner:
            clock.now = 11.0
        clock.now = 13.0
    assert (outer.wall_s, inner.wall_s) == (3.0, 10.0)


def test_an_inner_phase_that_fails_lets_the_outer_one_go_on():
    meter = Meter()
    with meter.phase("start"):
        pass
    with meter.phase("outer") as outer:
        with pytest.raises(KeyError), meter.phase("inner"):
            raise KeyError
        burn(0.2)
    assert outer.cpu_total_s == pytest.approx(0.2, abs=0.1)


def test_a_name_that_comes_again_adds_to_its_entry():
    meter = Meter()
    for _ in range(3):
        with meter.phase("work") as phase:
            burn(0.1)
            phase.count(examples=2, tokens=5)
    (phase,) = meter.phases
    assert (phase.examples, phase.tokens) == (6, 15)
    assert phase.cpu_total_s >= 0.3
    assert phase.rss_peak_bytes >= phase.rss_mean_bytes > 2**20


def test_what_was_spent_between_phases_is_not_counted():
    meter = Meter()
    with meter.phase("start"):
        pass
    with meter.phase("work") as phase:
        pass
    burn(0.3)
    with meter.phase("work"):
        pass
    assert phase.cpu_total_s < 0.2


def test_a_phase_under_way_shows_its_costs_so_far():
    meter = Meter()
    with meter.phase("start"):
        pass
    with meter.phase("work"):
        burn(0.2)
        so_far = meter.as_dict()["phases"][1]
        burn(0.2)
    assert so_far["cpu_total_s"] == pytest.approx(0.2, abs=0.1)
    assert so_far["rss_mean_bytes"] > 2**20
    assert meter.phases[1].cpu_total_s == pytest.approx(0.4, abs=0.15)


def test_a_session_goes_on_from_the_costs_of_an_earlier_one():
    earlier = Meter()
    with earlier.phase("train") as phase:
        phase.count(examples=8, tokens=30)
    with earlier.phase("evaluate", "before", "toy"):
        pass
    before = earlier.as_dict()["phases"]
    before[0] |= {"cpu_total_s": 100.0, "wall_s": 1000.0, "rss_peak_bytes": 2**50, "rss_mean_bytes": 2**40}
    before[1] |= {"gpu_peak_bytes": 7, "gpu_mean_bytes": 5}
    meter = Meter()
    with meter.phase("load"):
        pass
    with meter.phase("train") as phase:
        meter.add(before)
        phase.count(examples=4, tokens=10)
        burn(0.1)
    assert [phase.key for phase in meter.phases] == [
        ("load", None, None),
        ("train", None, None),
        ("evaluate", "before", "toy"),
    ]
    assert (phase.examples, phase.tokens) == (12, 40)
    assert phase.cpu_total_s == pytest.approx(phase.cpu_user_s + phase.cpu_system_s)
    assert phase.wall_s == pytest.approx(1000, abs=2)
    assert phase.rss_peak_bytes == 2**50
    assert phase.rss_mean_bytes == pytest.approx(2**40, rel=0.01)  # nearly all of the time was the earlier session's
    assert (meter.phases[2].gpu_peak_bytes, meter.phases[2].gpu_mean_bytes) == (7, 5)


def test_between_open_and_close_nothing_is_left_out():
    meter = Meter()
    meter.open()
    with meter.measuring():
        with meter.phase("load"):
            pass
        burn(0.2)
        with meter.phase("work"):
            burn(0.1)
        with meter.waiting():
            pass
        used = sum(cpu_seconds([]))
        found = meter.as_dict()
    assert [phase["kind"] for phase in found["phases"]] == ["load", "other", "work"]
    assert found["phases"][1]["cpu_total_s"] == pytest.approx(0.2, abs=0.1)
    assert found["total"]["cpu_total_s"] == pytest.approx(used, abs=0.05)
    assert not meter.is_open


def test_what_a_process_waited_for_is_no_cost(clock):
    meter = Meter(from_start=False, interval=3600)  # samples are those of `as_dict`
    with meter.measuring():
        clock.now = 2.0
        meter.as_dict()
        with meter.waiting():
            clock.now = 302.0
        meter.as_dict()
        clock.now = 303.0
        assert meter.as_dict()["total"]["wall_s"] == 3.0
        assert meter._memory["other", None, None]["rss"].seconds == 3.0


def test_shared_pages_are_not_counted_twice():
    block = np.ones(100 * 2**20 // 8)
    meter = Meter(from_start=False, interval=0.01)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:  # reads all of it, and so has it in its resident set as well
        try:
            block.sum()
            os.write(tell, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(told, 1)
        with meter.phase("work") as phase:
            time.sleep(0.1)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
    assert phase.rss_mean_bytes - phase.pss_mean_bytes > 90 * 2**20
    assert phase.uss_mean_bytes < phase.pss_mean_bytes - 90 * 2**20 + 2**20 * 10


def test_operators_are_counted_on_request():
    model = tiny_model("opt")
    ids = torch.arange(5, 13)[None]
    meter = Meter(from_start=False)
    with meter.measuring(count_flops=True):
        with meter.phase("forward") as forward:
            model(input_ids=ids)
        with meter.phase("both") as both:
            model(input_ids=ids, labels=ids).loss.backward()
    products = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name)
    output = model.get_output_embeddings().weight.numel()
    assert forward.flops_counted >= 2 * (products + output) * ids.shape[1]
    assert 2.5 * forward.flops_counted < both.flops_counted < 3.5 * forward.flops_counted
    with Meter(from_start=False).phase("not counted") as phase:
        model(input_ids=ids)
    assert phase.flops_counted is None


@pytest.mark.parametrize(("before", "now"), [(False, False), (False, True), (True, False), (True, True)])
def test_operators_of_a_phase_are_counted_in_all_sessions_or_not_at_all(before, now):
    sessions = []
    for count in (before, now, now):
        meter = Meter(from_start=False)
        with meter.measuring(count_flops=count):
            with meter.phase("load"):
                pass
            with meter.phase("train"):
                meter.add(sessions[-1]["phases"] if sessions else [])
                torch.ones(2, 2) @ torch.ones(2, 2)
        sessions.append(meter.as_dict())
    found = {phase["kind"]: phase["flops_counted"] for phase in sessions[-1]["phases"]}
    assert found["train"] == sessions[-1]["total"]["flops_counted"] == (3 * 2 * 2**3 if before and now else None)


def test_a_mean_is_at_most_the_peak():
    samples = Samples()
    for now in range(3):
        samples.add(now, 30, peak=20)  # a child that is new in each
    assert (samples.peak, samples.mean) == (20, 20)

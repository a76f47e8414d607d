"""CPU time and memory of this process and its children, as reported by the kernel."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

MOST_LOOKS = 100
"""How often to read times again because a child has ended in the meantime."""
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of one unit of `ru_maxrss`."""


def seconds_since_start() -> float:
    """Seconds since this process was started, to a hundredth.

    psutil's creation time is less exact: it adds ticks since boot to a boot time that the kernel reports in whole seconds.
    """
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # not Linux
        return time.time() - psutil.Process().create_time()


def living_children() -> list[psutil.Process]:
    """All living descendants of this process."""
    try:
        pids = list(_descendants(os.getpid()))
    except OSError:  # no such files, or a process ended in the meantime: scan all processes instead
        return psutil.Process().children(recursive=True)
    children = []
    for pid in pids:
        try:
            children.append(psutil.Process(pid))
        except psutil.Error:
            continue
    return children


def children_of_main_thread() -> bytes:
    """The kernel's list of them, which is very cheap to read; empty if the system has no such list."""
    try:
        file = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)  # ten times as fast as pathlib, at every sample
    except OSError:
        return b""
    try:
        return os.read(file, 1 << 16)
    finally:
        os.close(file)


def _descendants(pid: int) -> Iterator[int]:
    for thread in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii").split():
            yield int(child)
            yield from _descendants(int(child))


def cpu_seconds(children: Sequence[psutil.Process]) -> tuple[float, float]:
    """User and system seconds of this process, its ended children, and the given living ones with their ended children."""
    ended = None
    for _ in range(MOST_LOOKS):
        before, ended = ended, resource.getrusage(resource.RUSAGE_CHILDREN)
        if ended == before:  # else one has ended in the meantime
            break
        this = resource.getrusage(resource.RUSAGE_SELF)
        user, system = this.ru_utime + ended.ru_utime, this.ru_stime + ended.ru_stime
        for child in children:
            try:
                times = child.cpu_times()
            except psutil.Error:
                continue
            user += times.user + getattr(times, "children_user", 0.0)
            system += times.system + getattr(times, "children_system", 0.0)
    return user, system


def resident_bytes(processes: Sequence[psutil.Process]) -> int:
    """Total resident set of some processes in bytes; ended ones count as 0."""
    size = 0
    for process in processes:
        try:
            size += process.memory_info().rss
        except psutil.Error:
            continue
    return size


def shared_bytes(processes: Sequence[psutil.Process]) -> tuple[int, int, int] | None:
    """Total resident, proportional and unique set size of some processes in bytes; None if the system does not report them."""
    rss = pss = uss = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except psutil.AccessDenied:
            return None
        except psutil.Error:
            continue
        if not hasattr(memory, "pss"):  # not on this system
            return None
        rss, pss, uss = rss + memory.rss, pss + memory.pss, uss + memory.uss
    return (rss, pss, uss) if rss else None


def own_peak_bytes() -> int:
    """The peak resident set of this process since it started this program, from the kernel's own record."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # the other record includes the time before exec, when the process may have been larger
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def largest_process_bytes() -> int:
    """The largest peak resident set of a single process: this one or an ended child, as reported by `/usr/bin/time -v`."""
    return max(own_peak_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * MAXRSS_UNIT)

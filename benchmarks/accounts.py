"""Processes by role in; the CPU seconds they used over a piece of work, and the memory they hold, out.

CPU is user and system time of the whole tree below each process, ended children included. Memory is the proportional
set size (shared pages are divided among those that share them) where the system tells it, else the resident one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import psutil

Roles = Mapping[str, Sequence[int]]

PUBLISHER = "publisher"  # its children are the product's processes, which count for themselves


def _processes(role: str, pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        yield root
        if role != PUBLISHER:
            yield from root.children(recursive=True)


def cpu(roles: Roles) -> dict[str, float]:
    """CPU seconds so far, by role."""
    return {role: sum(_seconds(role, pid) for pid in pids) for role, pids in roles.items()}


def _seconds(role: str, pid: int) -> float:
    total = 0.0
    for process in _processes(role, pid):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = process.cpu_times()
            total += times.user + times.system
            if role != PUBLISHER:
                total += times.children_user + times.children_system
    return total


def machine_cpu() -> float:
    """CPU seconds that this machine has been busy, with whatever."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
    return float(sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))


def memory(roles: Roles) -> dict[str, float]:
    """MiB now, by role."""
    return {role: sum(_bytes(role, pid) for pid in pids) / 2**20 for role, pids in roles.items()}


def _bytes(role: str, pid: int) -> int:
    total = 0
    for process in _processes(role, pid):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            info = process.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total


def used(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The difference, rounded to what the system counts in."""
    return {role: round(after[role] - before[role], 3) for role in after}

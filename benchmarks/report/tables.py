"""Raw data in; tables of figures as Markdown out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from benchmarks.peers import PEERS
from benchmarks.report import figures
from benchmarks.report.figures import OURS, Data
from benchmarks.stats import number, percentile, spread


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """The first `words` columns are words, the others figures."""
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def title(peer: str) -> str:
    return f"**{PEERS[peer].title}**" if peer == OURS else PEERS[peer].title


def end_to_end(data: Data) -> str:
    sizes = sorted({int(tasks) for turn in data["rounds"] if "fault" not in turn for tasks in turn["end_to_end"]})
    rows = [
        [title(peer), *(_spread(figures.per_second(data, peer, tasks)) for tasks in sizes)]
        for peer in figures.peers(data)
    ]
    return table(["tasks/s", *(f"{tasks:,} tasks" for tasks in sizes)], rows)


def idle(data: Data) -> str:
    rows = []
    for peer in figures.peers(data):
        starts, results = figures.lone(data, peer, "start"), figures.lone(data, peer, "result")
        if starts:
            values = [number(percentile(of, part)) for of in (starts, results) for part in (0.5, 0.99)]
            rows.append([title(peer), *values])
    return table(["idle, ms", "start p50", "start p99", "result p50", "result p99"], rows)


def loaded(data: Data) -> str:
    """A publisher or workers that cannot follow are told by the rate that was reached, or by seconds of latency."""
    rows = []
    for peer in figures.peers(data):
        row = [title(peer)]
        for of in ("rate", "half"):
            reached = figures.reached(data, peer, of)
            row += [_median(reached), *(_spread(figures.rate(data, peer, of, part)) for part in ("p50", "p99"))]
        rows.append(row)
    columns = ("at 200/s: reached", "start p50, ms", "p99", "at half: reached", "start p50, ms", "p99")
    return table(["under load", *columns], [row for row in rows if row[1] != NONE])


NONE = "–"
ROLES = ("publisher", "manager", "worker", "postgres", "rabbitmq", "redis")


def cpu(data: Data) -> str:
    return _by_role(data, "CPU s per 1,000 tasks, results read", figures.cpu_per_1000)


def lone_cpu(data: Data) -> str:
    return _by_role(data, "CPU ms a lone task at 200/s", figures.lone_cpu)


def _by_role(data: Data, unit: str, of: Callable[[Data, str], dict[str, list[float]]]) -> str:
    """Medians of each role, which need not add up to that of all."""
    rows = []
    for peer in figures.peers(data):
        by_role = of(data, peer)
        if by_role:
            rows.append([title(peer), _spread(by_role["all"]), *(_median(by_role.get(role, [])) for role in ROLES)])
    return table([unit, "all", *ROLES], rows)


BACKLOG: tuple[Literal["singly", "in_bulk", "start", "drain"], ...] = ("singly", "in_bulk", "start", "drain")


def backlog(data: Data) -> str:
    rows = [
        [title(peer), *(_spread(figures.backlogs(data, peer, of)) for of in BACKLOG)]
        for peer in PEERS
        if figures.backlogs(data, peer, "drain")
    ]
    return table(
        ["tasks/s", "publish, single calls", "publish, in bulk", "drain: started", "drain: results read"], rows
    )


def memory(data: Data) -> str:
    rows = [
        [
            title(peer),
            _median(figures.memory(data, peer, "memory_idle")),
            _median(figures.memory(data, peer, "memory_after")),
        ]
        for peer in figures.peers(data)
    ]
    return table(["MiB, without the publisher", "warm, idle", "after the runs above"], rows)


def _spread(values: Sequence[float]) -> str:
    return spread(values) if values else NONE


def _median(values: Sequence[float]) -> str:
    return number(percentile(values, 0.5)) if values else NONE

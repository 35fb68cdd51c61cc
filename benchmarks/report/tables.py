"""Raw data in; tables of figures as Markdown out."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers import PEERS
from benchmarks.report import figures
from benchmarks.report.figures import OURS, Data
from benchmarks.stats import number, percentile, spread


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
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


def latency(data: Data) -> str:
    head = [
        "ms",
        "idle: start p50",
        "p99",
        "result p50",
        "p99",
        "200/s: start p50",
        "p99",
        "half load: start p50",
        "p99",
    ]
    rows = []
    for peer in figures.peers(data):
        starts, results = figures.lone(data, peer, "start"), figures.lone(data, peer, "result")
        if starts:
            idle = [number(percentile(values, part)) for values in (starts, results) for part in (0.5, 0.99)]
            loaded = [_spread(figures.rate(data, peer, of, part)) for of in ("rate", "half") for part in ("p50", "p99")]
            rows.append([title(peer), *idle, *loaded])
    return table(head, rows)


ROLES = ("all", "publisher", "manager", "worker", "postgres", "rabbitmq", "redis")


def cpu(data: Data) -> str:
    rows = []
    for peer in figures.peers(data):
        by_role = figures.cpu_per_1000(data, peer)
        row = [_median(by_role.get(role, [])) for role in ROLES]
        rows.append([title(peer), _spread(by_role["all"]), *row[1:], _spread(figures.lone_cpu(data, peer))])
    return table(["CPU s per 1,000 tasks", *ROLES, "CPU ms a lone task at 200/s"], rows)


def backlog(data: Data) -> str:
    rows = [
        [title(peer), *(_spread(figures.backlogs(data, peer, of)) for of in ("singly", "in_bulk", "drain"))]
        for peer in PEERS
        if figures.backlogs(data, peer, "drain")
    ]
    return table(["tasks/s", "publish, single calls", "publish, in bulk", "drain"], rows)


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
    return spread(values) if values else "–"


def _median(values: Sequence[float]) -> str:
    return number(percentile(values, 0.5)) if values else "–"

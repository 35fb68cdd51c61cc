"""Raw data in; each target with what was measured, and whether it is met, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.peers import PEERS
from benchmarks.report import figures
from benchmarks.report.figures import OURS, Data
from benchmarks.report.tables import table
from benchmarks.stats import number

CELERY, TASKIQ, BARE = "celery-postgres", "taskiq-postgres", "bare-postgres"
DRAMATIQ, PGQUEUER = "dramatiq-redis", "pgqueuer"


class Target(NamedTuple):
    figure: str
    against: str
    wanted: str
    measured: str
    met: bool


def targets(data: Data) -> Iterator[Target]:
    """Those that this run has figures for."""
    yield from _throughput(data)
    yield from _latency(data)
    yield from _cpu(data)
    yield from _itself(data)


def markdown(data: Data) -> str:
    rows = [
        [target.figure, target.against, target.wanted, target.measured, "yes" if target.met else "**no**"]
        for target in targets(data)
    ]
    return table(["TacoQ's", "against", "wanted", "measured", "met"], rows, words=2)


def _throughput(data: Data) -> Iterator[Target]:
    """Of the largest runs of each, which in a quick run are smaller for the peers."""
    for peer, least in ((CELERY, 30), (TASKIQ, 12), (PGQUEUER, 4), (DRAMATIQ, 5), (BARE, 8)):
        rates = [figures.capacity(data, name) for name in (OURS, peer)]
        yield from _times("tasks/s end to end", PEERS[peer].title, least, *rates)
    singly, in_bulk = figures.backlogs(data, OURS, "singly"), figures.backlogs(data, PGQUEUER, "in_bulk")
    yield from _times("publishes/s by single calls", "PgQueuer's bulk enqueue", 0.5, singly, in_bulk)


def _latency(data: Data) -> Iterator[Target]:
    starts = {peer: figures.lone(data, peer, "start") for peer in (OURS, CELERY, TASKIQ)}
    if all(starts.values()):
        slower = max(median(starts[CELERY]), median(starts[TASKIQ]))
        against = "the slower of Celery and Taskiq (Postgres)"
        yield _most("idle: publish → start, p50 ms", against, slower, median(starts[OURS]))
    for peer in (CELERY, TASKIQ):
        results = [figures.lone(data, name, "result") for name in (peer, OURS)]
        yield from _times("idle: publish → result, p50, faster", PEERS[peer].title, 2, *results)
    ours, theirs = (figures.rate(data, name, "rate", "p99") for name in (OURS, TASKIQ))
    if ours and theirs:
        yield _most("200/s: publish → start, p99 ms", PEERS[TASKIQ].title, median(theirs), median(ours))


def _cpu(data: Data) -> Iterator[Target]:
    lone = [figures.lone_cpu(data, peer).get("all", []) for peer in (CELERY, OURS)]
    yield from _times("CPU of a lone task at 200/s, less", PEERS[CELERY].title, 2, *lone)
    bulk = [figures.cpu_per_1000(data, peer).get("all", []) for peer in (CELERY, OURS)]
    yield from _times("CPU of 1,000 tasks, less", PEERS[CELERY].title, 20, *bulk)


def _itself(data: Data) -> Iterator[Target]:
    if grown := figures.grown(data):
        many, kept = data["growth"][1]["pending"], data["growth"][2]["finished"]
        for name, (pending, finished) in grown.items():
            yield _most(f"{name}: with {many:,} pending ÷ with few", "itself", 1.5, pending)
            yield _most(f"{name}: with {kept:,} finished ÷ with none", "itself", 1.5, finished)
    if seconds := [run["seconds"] for run in data.get("repeats", [])]:
        yield _most(f"{len(seconds)} runs: slowest ÷ fastest", "itself", 1.5, max(seconds) / min(seconds))
    if len(data.get("memory", [])) > 2:
        _, early, *_, late = data["memory"]
        for role in ("manager", "worker"):
            figure = f"memory of the {role}: after {late['tasks']:,} tasks ÷ after {early['tasks']:,}"
            yield _most(figure, "itself", 1.05, late["mib"][role] / early["mib"][role])


def _times(figure: str, against: str, least: float, more: Sequence[float], less: Sequence[float]) -> Iterator[Target]:
    """How many times as much the one has; nothing when one of them was not measured."""
    if more and less:
        times = median(more) / median(less)
        yield Target(figure, against, f"≥ {number(least)} ×", f"{number(times)} ×", times >= least)


def _most(figure: str, against: str, bound: float, measured: float) -> Target:
    return Target(figure, against, f"≤ {number(bound)}", number(measured), measured <= bound)

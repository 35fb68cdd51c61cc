"""Raw data in; each target with what was measured, and whether it is met, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.report import figures
from benchmarks.report.figures import OURS, Data
from benchmarks.report.tables import table
from benchmarks.stats import number

CELERY, TASKIQ, BARE = "celery-postgres", "taskiq-postgres", "bare-postgres"
DRAMATIQ, PGQUEUER = "dramatiq-redis", "pgqueuer"


class Target(NamedTuple):
    """`times`: how many times better TacoQ is than what it is compared with, as measured; to reach: `least`."""

    figure: str
    against: str
    least: float
    times: float


def targets(data: Data) -> Iterator[Target]:
    """Those that this run has figures for."""
    for against, peer, least in (
        ("Celery, results in Postgres", CELERY, 30),
        ("Taskiq, results in Postgres", TASKIQ, 12),
        ("PgQueuer", PGQUEUER, 4),
        ("Dramatiq, results in Redis", DRAMATIQ, 5),
        ("the bare consumer, Postgres", BARE, 8),
    ):
        yield from _more(
            "tasks/s end to end", against, least, figures.capacity(data, OURS), figures.capacity(data, peer)
        )
    yield from _more(
        "publish: single calls, against its bulk",
        "PgQueuer",
        0.5,
        figures.backlogs(data, OURS, "singly"),
        figures.backlogs(data, PGQUEUER, "in_bulk"),
    )
    yield from _latency(data)
    for figure, least, of in (
        ("CPU of a lone task at 200/s", 2, figures.lone_cpu),
        ("CPU of 1,000 tasks", 20, lambda data, peer: figures.cpu_per_1000(data, peer).get("all", [])),
    ):
        yield from _less(figure, "Celery, results in Postgres", least, of(data, OURS), of(data, CELERY))
    yield from _alone(data)


def _latency(data: Data) -> Iterator[Target]:
    starts = {peer: figures.lone(data, peer, "start") for peer in (OURS, CELERY, TASKIQ)}
    slower = max((starts[CELERY], starts[TASKIQ]), key=lambda values: median(values) if values else 0)
    yield from _less(
        "idle: publish → start, p50", "the slower of Celery and Taskiq (Postgres)", 1, starts[OURS], slower
    )
    for against, peer in (("Celery, results in Postgres", CELERY), ("Taskiq, results in Postgres", TASKIQ)):
        results = [figures.lone(data, name, "result") for name in (OURS, peer)]
        yield from _less("idle: publish → result, p50", against, 2, *results)
    p99 = [figures.rate(data, name, "rate", "p99") for name in (OURS, TASKIQ)]
    yield from _less("200/s: publish → start, p99", "Taskiq, results in Postgres", 1, *p99)


def _alone(data: Data) -> Iterator[Target]:
    """Bounds of TacoQ against itself: at most so many times as much."""
    for name, of in (("claim", "claim"), ("lookup of a live task", "lookup_live")):
        for pending, finished in figures.grown(data, of):
            many, kept = data["growth"][1]["pending"], data["growth"][2]["finished"]
            yield Target(f"{name} with {many:,} pending", "with few, at most 1.5 times as slow", 1 / 1.5, 1 / pending)
            yield Target(f"{name} with {kept:,} finished", "with few, at most 1.5 times as slow", 1 / 1.5, 1 / finished)
    if seconds := [run["seconds"] for run in data.get("repeats", [])]:
        times = min(seconds) / max(seconds)
        yield Target(f"{len(seconds)} runs: slowest", "the fastest, at most 1.5 times as slow", 1 / 1.5, times)
    if len(data.get("memory", [])) > 2:
        _, early, *_, late = data["memory"]
        for role in ("manager", "worker"):
            times = early["mib"][role] / late["mib"][role]
            figure = f"memory of the {role} after {late['tasks']:,} tasks"
            yield Target(figure, f"after {early['tasks']:,}, at most 5 % more", 1 / 1.05, times)


def _more(figure: str, against: str, least: float, ours: Sequence[float], theirs: Sequence[float]) -> Iterator[Target]:
    if ours and theirs:
        yield Target(figure, against, least, median(ours) / median(theirs))


def _less(figure: str, against: str, least: float, ours: Sequence[float], theirs: Sequence[float]) -> Iterator[Target]:
    yield from _more(figure, against, least, theirs, ours)


def markdown(data: Data) -> str:
    rows = []
    for target in targets(data):
        met = "yes" if target.times >= target.least else "**no**"
        rows.append([target.figure, target.against, f"{number(target.least)} ×", f"{number(target.times)} ×", met])
    return table(["figure", "against", "times better, at least", "measured", "met"], rows)

"""The page of the benchmarks: what is told is what was measured."""

from __future__ import annotations

from typing import Any

from benchmarks.report import page, targets
from benchmarks.report.bars import Bar, bars


def turn(peer: str, *, seconds: float, start: float, p99: float) -> dict[str, Any]:
    cpu = {"publisher": seconds / 2, "worker": seconds, "postgres": seconds}
    at_rate = {
        "begun": 1_000,
        "per_second": 200.0,
        "cpu": cpu,
        "start": {"p50": start, "p90": start, "p99": p99, "max": p99},
    }
    return {
        "peer": peer,
        "round": 0,
        "versions": {"library": "1.0"},
        "memory_idle": {"publisher": 50.0, "worker": 100.0},
        "memory_after": {"publisher": 50.0, "worker": 110.0},
        "end_to_end": {"1000": {"seconds": seconds, "cpu": cpu}},
        "lone": {"start": [start] * 3, "result": [start * 2] * 3},
        "rate": at_rate,
        "half": at_rate,
    }


DATA = {
    "plan": "quick",
    "date": "2030-01-31",
    "machine": {"processor": "one"},
    "rounds": [
        turn("tacoq-postgres", seconds=0.1, start=5.0, p99=30.0),
        turn("celery-postgres", seconds=5.0, start=4.0, p99=20.0),
        turn("taskiq-postgres", seconds=1.0, start=6.0, p99=10.0),
        {"peer": "pgqueuer", "round": 0, "fault": "pgqueuer does not answer"},
    ],
    "repeats": [{"tasks": 10, "vacuumed": False, "seconds": 1.0}, {"tasks": 10, "vacuumed": True, "seconds": 1.2}],
}


def test_targets_tell_what_was_measured_and_whether_that_is_enough() -> None:
    told = {(target.figure, target.against): target for target in targets.targets(DATA)}
    celery = told["tasks/s end to end", "Celery, results in Postgres"]
    assert (celery.wanted, celery.measured, celery.met) == ("≥ 30.0 ×", "50.0 ×", True)
    taskiq = told["tasks/s end to end", "Taskiq, results in Postgres"]
    assert (taskiq.measured, taskiq.met) == ("10.0 ×", False)
    start = told["idle: publish → start, p50 ms", "the slower of Celery and Taskiq (Postgres)"]
    assert (start.wanted, start.measured, start.met) == ("≤ 6.00", "5.00", True)
    loaded = told["200/s: publish → start, p99 ms", "Taskiq, results in Postgres"]
    assert (loaded.wanted, loaded.measured, loaded.met) == ("≤ 10.0", "30.0", False)
    repeats = told["2 runs: slowest ÷ fastest", "itself"]
    assert (repeats.wanted, repeats.measured, repeats.met) == ("≤ 1.50", "1.20", True)
    assert ("tasks/s end to end", "PgQueuer") not in told, "it failed: nothing is told of it"


def test_page_shows_every_product_that_was_measured_and_every_failure() -> None:
    text = "\n".join(page.sections(DATA))
    assert "| **TacoQ** | 10,000 |" in text
    assert "| Celery, results in Postgres | 200 |" in text
    assert "- PgQueuer, round 0: pgqueuer does not answer" in text


def test_longer_bar_is_the_larger_figure() -> None:
    svg = bars("Speed", "tasks a second", [Bar("slow", 10, 9, 11), Bar("fast", 1_000, 900, 1_100, ours=True)])
    slow, fast = (
        float(part.split('"')[0]) for part in svg.split('<rect x="230"')[1:] for part in [part.split('width="')[1]]
    )
    assert 0 < slow < fast

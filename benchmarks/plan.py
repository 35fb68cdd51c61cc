"""How much of everything is measured: in full, quickly, or just enough to see that it works."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers import PEERS

WARM_TASKS = 200
RATE = 200  # lone publishes a second


@dataclass(frozen=True)
class Plan:
    """`peers_most`: TacoQ's peers are given no more tasks than this. `scaling`: managers and workers."""

    name: str
    peers: tuple[str, ...]
    tasks: tuple[int, ...]
    peers_most: int
    rounds: int
    latency_rounds: int  # of these, with lone trips and steady rates, which take long where results are polled
    trips: int
    rate_seconds: float
    backlog: int
    backlog_rounds: int
    repeats: int
    memory_tasks: int
    scaling: tuple[tuple[int, int], ...]
    scaling_rounds: int
    growth_sample: int
    pending: int
    finished: int

    def tasks_of(self, peer: str) -> list[int]:
        return [tasks for tasks in self.tasks if PEERS[peer].ours or tasks <= self.peers_most]


FULL = Plan(
    name="full",
    peers=tuple(PEERS),
    tasks=(100, 1_000, 10_000),
    peers_most=10_000,
    rounds=5,
    latency_rounds=5,
    trips=50,
    rate_seconds=4,
    backlog=2_000,
    backlog_rounds=2,
    repeats=10,
    memory_tasks=100_000,
    scaling=((1, 1), (1, 2), (1, 4), (2, 1), (2, 2)),
    scaling_rounds=3,
    growth_sample=20_000,
    pending=1_000_000,
    finished=10_000_000,
)
QUICK = Plan(
    name="quick",
    peers=("tacoq-postgres", "celery-postgres", "bare-postgres", "taskiq-postgres", "dramatiq-redis", "pgqueuer"),
    tasks=(100, 1_000, 10_000),
    peers_most=1_000,
    rounds=2,
    latency_rounds=1,
    trips=10,
    rate_seconds=2,
    backlog=300,
    backlog_rounds=1,
    repeats=10,
    memory_tasks=20_000,
    scaling=((1, 1), (1, 4), (2, 1)),
    scaling_rounds=1,
    growth_sample=8_000,
    pending=200_000,
    finished=200_000,
)

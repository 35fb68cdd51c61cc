"""Metrics: what the stages count in, Prometheus text out. Counted per batch, never per task."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tacoq_manager.sessions import Sessions
from tacoq_manager.store.claim import Flow
from tacoq_manager.store.settle import Applied
from tacoq_manager.store.stats import Tally as Ended
from tacoq_protocol.states import FINAL

_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

_FINAL: Final = sorted(state.value for state in FINAL)
MOST_FLOWS: Final = 1_000  # kinds of queues that have series of their own
OTHERS: Final = Flow("other", "other")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one manager, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, labels, registry=self.registry)

        def histogram(name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, meaning, ["statement"], buckets=buckets, registry=self.registry)

        self._accepted = counter("tacoq_tasks_accepted", "Tasks committed by accept, resends included")
        self._absorbed = counter("tacoq_publishes_absorbed", "Publishes answered with another task, by their key")
        self._releases = counter("tacoq_releases", "Releases confirmed by the broker")
        self._messages = counter("tacoq_release_messages", "Messages they were packed into")
        self._publishes_failed = counter("tacoq_publishes_failed", "Batches given back: not confirmed")
        self._moves = counter("tacoq_moves", "Moves of tasks that were committed", "move")
        self._stale = counter("tacoq_moves_stale", "Reports of a closed release, dropped", "move")
        self._final = counter("tacoq_tasks_final", "Tasks that became final", "queue", "kind", "state")
        self._retried = counter("tacoq_runs_retried", "Runs that failed and are followed by another", "queue", "kind")
        self._runs = counter("tacoq_runs", "Runs whose end was reported, however they ended", "queue", "kind")
        self._run_seconds = counter("tacoq_run_seconds", "What these took", "queue", "kind")
        self._flows: set[Flow] = set()
        self._fallen_back = counter("tacoq_results_fallen_back", "Results that Redis did not take, kept in Postgres")
        self._dead = counter("tacoq_dead_lettered", "Messages, or parts of them, sent to the dead letters", "cause")
        self._sizes = histogram("tacoq_batch_size", "Rows of one statement", _SIZES)
        self._seconds = histogram("tacoq_statement_seconds", "Statement with its commit", _SECONDS)

    def accepted(self, tasks: int, seconds: float) -> None:
        """One group was committed."""
        self._accepted.inc(tasks)
        self._statement("accept", tasks, seconds)

    def absorbed(self, publishes: int) -> None:
        self._absorbed.inc(publishes)

    def claimed(self, releases: int, seconds: float) -> None:
        """One claim was committed."""
        self._statement("claim", releases, seconds)

    def dispatched(self, releases: int, messages: int) -> None:
        """Releases were confirmed by the broker."""
        self._releases.inc(releases)
        self._messages.inc(messages)

    def publish_failed(self) -> None:
        self._publishes_failed.inc()

    def settled(self, moves: int, seconds: float) -> None:
        """One transaction of moves was committed."""
        self._statement("settle", moves, seconds)

    def applied(self, moves: Iterable[Applied]) -> None:
        """These moves were committed."""
        for name, count in Tally(move.transition.move for move in moves).items():
            self._moves.labels(name).inc(count)

    def ended(self, tallies: Mapping[Flow, Ended]) -> None:
        """So many tasks and runs of each kind ended."""
        for flow, ended in tallies.items():
            queue, kind = self._shown(flow)
            for state in _FINAL:
                if count := getattr(ended, state):
                    self._final.labels(queue, kind, state).inc(count)
            if ended.retried:
                self._retried.labels(queue, kind).inc(ended.retried)
            if ended.runs:
                self._runs.labels(queue, kind).inc(ended.runs)
                self._run_seconds.labels(queue, kind).inc(ended.run_seconds)

    def _shown(self, flow: Flow) -> Flow:
        """A series is kept for ever: kinds that somebody makes up are not to fill the memory."""
        if flow not in self._flows:
            if len(self._flows) >= MOST_FLOWS:
                return OTHERS
            self._flows.add(flow)
        return flow

    def stale(self, move: str, count: int) -> None:
        self._stale.labels(move).inc(count)

    def fell_back(self, results: int) -> None:
        self._fallen_back.inc(results)

    def dead_lettered(self, cause: str, count: int) -> None:
        self._dead.labels(cause).inc(count)

    def watch(
        self,
        sessions: Sessions,
        *,
        credit: Callable[[], Mapping[str, int]],
        in_flight: Callable[[], Mapping[str, int]],
        dead_letters: Callable[[], int | None],
    ) -> None:
        """Show live sessions, leases past their expiry (0, or a promise broke), queues and, where they are known, dead
        letters, when asked.
        """
        self.registry.register(_Gauges(sessions, credit, in_flight, dead_letters))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def _statement(self, name: str, rows: int, seconds: float) -> None:
        self._sizes.labels(name).observe(rows)
        self._seconds.labels(name).observe(seconds)


class _Gauges(Collector):
    """What is looked up rather than counted."""

    def __init__(
        self,
        sessions: Sessions,
        credit: Callable[[], Mapping[str, int]],
        in_flight: Callable[[], Mapping[str, int]],
        dead_letters: Callable[[], int | None],
    ) -> None:
        self._sessions = sessions
        self._credit = credit
        self._in_flight = in_flight
        self._dead_letters = dead_letters

    def collect(self) -> Iterator[Metric]:
        live = GaugeMetricFamily("tacoq_sessions_live", "Live worker sessions", labels=["queue"])
        for queue, count in Tally(state.queue for state in self._sessions.live()).items():
            live.add_metric([queue], count)
        yield live
        past = self._sessions.past_expiry(time.monotonic())
        yield GaugeMetricFamily("tacoq_leases_past_expiry", "Live sessions past their lease: always 0", past)
        dead = self._dead_letters()
        if dead is not None:
            yield GaugeMetricFamily("tacoq_dead_letters", "Dead letters that wait for somebody to look at them", dead)
        for name, help_text, read in (
            ("tacoq_credit", "Releases the queue's workers can take now", self._credit),
            ("tacoq_in_flight", "Releases with the broker or a worker", self._in_flight),
        ):
            gauge = GaugeMetricFamily(name, help_text, labels=["queue"])
            for queue, value in read().items():
                gauge.add_metric([queue], value)
            yield gauge

"""Credit: what the live workers of a queue can take now, less what is already released. Pure memory.

A slot that ends a run waits for its next one as long as a report takes to come here and a release to go back. So that
it need not wait, short kinds are released beyond the free slots: as much expected work as all slots do in that time.
A release of a kind that runs for `r`, with `l` for the way, so takes r / (r + l) of a slot. One of a long kind, or of
unknown run time, takes a whole one: what stands in Postgres can still go to whichever worker is free first.
"""

from __future__ import annotations

from collections import deque
from uuid import UUID

from tacoq_manager.inflight import InFlight
from tacoq_manager.runtimes import RunTimes
from tacoq_protocol.messages import Fence

MOST_PER_SLOT = 64  # released at once, however short the kind
SHORT_RUN = 0.005  # seconds: about this much work goes in one message
MOST_PER_MESSAGE = 64
MOST_PER_UNKNOWN = 8
LATENCY_WINDOW = 30.0  # seconds
PROBE_SECONDS = 0.2  # between two samples: what is one is settled at once, and shares no commit
FIRST_LATENCY = 0.01  # seconds, until one was measured


class Credit:
    """Weighs what is released and measures the base latency, the shortest way there and back."""

    def __init__(self, runtimes: RunTimes, in_flight: InFlight) -> None:
        self._runtimes = runtimes
        self.in_flight = in_flight
        self._probe: tuple[Fence, float] | None = None
        self._probe_from = 0.0  # monotonic
        self._latencies: deque[tuple[float, float]] = deque()

    def used(self, queue: str) -> float:
        """Slots of the queue that what is released, or about to be, takes."""
        return sum(count * self.weight(queue, kind) for kind, count in self.in_flight.flows(queue))

    def weight(self, queue: str, kind: str) -> float:
        """The part of a slot that one release of the kind takes."""
        run = self._runtimes.p90(queue, kind)
        if run is None or run >= SHORT_RUN:
            return 1.0
        turn = run + self.base_latency()
        return max(run / turn if turn else 0.0, 1 / MOST_PER_SLOT)

    def per_message(self, queue: str, kind: str, *, backlog: bool) -> int:
        """Return how many releases of `kind` travel in one message."""
        run = self._runtimes.p90(queue, kind)
        if run is None:
            return MOST_PER_UNKNOWN if backlog else 1
        return max(1, min(MOST_PER_MESSAGE, int(SHORT_RUN / max(run, 1e-6))))

    def probe(self, fence: Fence, now: float) -> None:
        """Remember that `fence` went out at `now` to a free slot; the next report of it is a sample."""
        if now >= self._probe_from:
            self._probe = (fence, now)
            self._probe_from = now + LATENCY_WINDOW  # should no report come

    def times(self, task_id: UUID) -> bool:
        """True of the task whose way is being measured."""
        return self._probe is not None and self._probe[0].task_id == task_id

    def sample(self, task_id: UUID, release: int | None, seconds: float, now: float) -> None:
        """A run of `seconds` was reported; when it is the probe, the rest of its time was the way."""
        if self._probe is not None and self._probe[0] == (task_id, release):
            latency = max(0.0, now - self._probe[1] - seconds)
            self._probe = None
            self._probe_from = now + PROBE_SECONDS
            while self._latencies and self._latencies[-1][1] >= latency:
                self._latencies.pop()  # not the minimum of any window any more
            self._latencies.append((now, latency))
            while now - self._latencies[0][0] > LATENCY_WINDOW:
                self._latencies.popleft()

    def base_latency(self) -> float:
        """Return seconds: the minimum of the last LATENCY_WINDOW."""
        return self._latencies[0][1] if self._latencies else FIRST_LATENCY

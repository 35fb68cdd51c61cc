"""Credit: what the live workers of a queue can take now, less what is already released. Pure but for its counters.

A slot that ends a run waits for its next one as long as a report takes to come here and a release to go back. So that
it need not wait, short kinds are released beyond the free slots: as much expected work as all slots do in that time.
Long kinds, and those whose run time is unknown, are released against free slots only: what stands in Postgres can still
go to whichever worker is free first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from uuid import UUID

from tacoq_manager.runtimes import RunTimes
from tacoq_protocol.messages import Fence

MOST_PER_SLOT = 64  # released at once, however short the kind
SHORT_RUN = 0.005  # seconds: about this much work goes in one message
MOST_PER_MESSAGE = 64
MOST_PER_UNKNOWN = 8
LATENCY_WINDOW = 30.0  # seconds
FIRST_LATENCY = 0.01  # seconds, until one was measured


class Credit:
    """Counts released tasks by queue and measures the base latency, the shortest way there and back."""

    def __init__(self, runtimes: RunTimes) -> None:
        self._runtimes = runtimes
        self._released: Counter[str] = Counter()
        self._probe: tuple[Fence, float] | None = None
        self._latencies: deque[tuple[float, float]] = deque()

    def released(self, queue: str) -> int:
        return max(0, self._released[queue])

    def total(self) -> int:
        return sum(max(0, count) for count in self._released.values())

    def by_queue(self) -> dict[str, int]:
        return {queue: max(0, count) for queue, count in self._released.items()}

    def counted(self) -> dict[str, int]:
        """The counters as they are, for `recount`: below 0 when releases ended that were not counted here."""
        return dict(self._released)

    def release(self, queue: str, count: int) -> None:
        self._released[queue] += count

    def ended(self, queue: str, count: int = 1) -> None:
        self._released[queue] -= count

    def recount(self, released: Mapping[str, int], before: Mapping[str, int]) -> None:
        """Set the counters to what Postgres has: news may have been lost.

        `before` is `counted` from just before Postgres was asked; what changed since is kept.
        """
        since = {queue: count - before.get(queue, 0) for queue, count in self._released.items()}
        self._released = Counter(released)
        self._released.update(since)

    def free(self, queue: str, kind: str, slots: int) -> int:
        """Return how many tasks of `kind` may be released now; never negative."""
        allowed = float(slots)
        run = self._runtimes.p90(queue, kind)
        if run is not None and run < SHORT_RUN:
            beyond = slots * self.base_latency() / max(run, 1e-6)
            allowed = min(slots + beyond, MOST_PER_SLOT * slots)
        return max(0, int(allowed) - self.released(queue))

    def per_message(self, queue: str, kind: str, *, backlog: bool) -> int:
        """Return how many releases of `kind` travel in one message."""
        run = self._runtimes.p90(queue, kind)
        if run is None:
            return MOST_PER_UNKNOWN if backlog else 1
        return max(1, min(MOST_PER_MESSAGE, int(SHORT_RUN / max(run, 1e-6))))

    def probe(self, fence: Fence, now: float) -> None:
        """Remember that `fence` went out at `now` to a free slot; the next report of it is a sample."""
        if self._probe is None or now - self._probe[1] > LATENCY_WINDOW:
            self._probe = (fence, now)

    def sample(self, task_id: UUID, release: int | None, seconds: float, now: float) -> None:
        """A run of `seconds` was reported; when it is the probe, the rest of its time was the way."""
        if self._probe is not None and self._probe[0] == (task_id, release):
            self._latencies.append((now, max(0.0, now - self._probe[1] - seconds)))
            self._probe = None
            while now - self._latencies[0][0] > LATENCY_WINDOW:
                self._latencies.popleft()

    def base_latency(self) -> float:
        """Return seconds: the minimum of the last LATENCY_WINDOW."""
        return min((latency for _, latency in self._latencies), default=FIRST_LATENCY)

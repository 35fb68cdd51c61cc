"""Credit: what the live workers of a queue can take now, less what is already released. Pure but for its counters.

A slot that ends a run waits for its next one as long as a report takes to come here and a release to go back. So that
it need not wait, short kinds are released beyond the free slots: as much expected work as all slots do in that time.
A release of a kind that runs for `r`, with `l` for the way, so takes r / (r + l) of a slot. One of a long kind, or of
unknown run time, takes a whole one: what stands in Postgres can still go to whichever worker is free first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple
from uuid import UUID

from tacoq_manager.runtimes import RunTimes
from tacoq_manager.store.claim import Flow
from tacoq_protocol.messages import Fence

MOST_PER_SLOT = 64  # released at once, however short the kind
SHORT_RUN = 0.005  # seconds: about this much work goes in one message
MOST_PER_MESSAGE = 64
MOST_PER_UNKNOWN = 8
LATENCY_WINDOW = 30.0  # seconds
FIRST_LATENCY = 0.01  # seconds, until one was measured
_EPSILON = 1e-9  # sums of parts of slots are not exact


class Counted(NamedTuple):
    """How many releases of each flow have gone out and come back since the start."""

    out: Counter[Flow]
    back: Counter[Flow]


class Credit:
    """Counts released tasks by queue and kind and measures the base latency, the shortest way there and back."""

    def __init__(self, runtimes: RunTimes) -> None:
        self._runtimes = runtimes
        self._released: Counter[Flow] = Counter()  # now
        self._reserved: Counter[Flow] = Counter()  # for what is about to be
        self._out: Counter[Flow] = Counter()  # ever
        self._back: Counter[Flow] = Counter()  # ever
        self._probe: tuple[Fence, float] | None = None
        self._latencies: deque[tuple[float, float]] = deque()

    def released(self, queue: str) -> int:
        return self.by_queue().get(queue, 0)

    def total(self) -> int:
        return sum(max(0, count) for count in self._released.values())

    def by_queue(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for flow, count in self._released.items():
            counts[flow.queue] += max(0, count)
        return dict(counts)

    def counted(self) -> Counted:
        """What was counted until now, for `recount`."""
        return Counted(self._out.copy(), self._back.copy())

    def release(self, flow: Flow, count: int) -> None:
        self._released[flow] += count
        self._out[flow] += count

    def reserve(self, flow: Flow, count: int) -> None:
        """Keep room for so many that may be released; a negative count gives it back."""
        self._reserved[flow] += count

    def ended(self, flow: Flow, count: int = 1) -> None:
        self._released[flow] -= count
        self._back[flow] += count

    def recount(self, released: Mapping[Flow, int], before: Counted) -> None:
        """Set the counters right by what Postgres has: news may have been lost.

        `before` is `counted` from just before Postgres was asked. Nobody knows what of that which changed since it had
        seen: a counter that is right if it saw some of it stays.
        """
        counts: Counter[Flow] = Counter()
        for flow in {*released, *self._released}:
            found = released.get(flow, 0)
            least = found - (self._back[flow] - before.back[flow])
            most = found + (self._out[flow] - before.out[flow])
            counts[flow] = min(max(self._released[flow], least), most)
        self._released = Counter({flow: count for flow, count in counts.items() if count})

    def used(self, queue: str) -> float:
        """Slots of the queue that what is released, or about to be, takes."""
        return sum(
            max(0, count) * self.weight(queue, flow.kind)
            for counts in (self._released, self._reserved)
            for flow, count in counts.items()
            if flow.queue == queue
        )

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
        if self._probe is None or now - self._probe[1] > LATENCY_WINDOW:
            self._probe = (fence, now)

    def sample(self, task_id: UUID, release: int | None, seconds: float, now: float) -> None:
        """A run of `seconds` was reported; when it is the probe, the rest of its time was the way."""
        if self._probe is not None and self._probe[0] == (task_id, release):
            latency = max(0.0, now - self._probe[1] - seconds)
            self._probe = None
            while self._latencies and self._latencies[-1][1] >= latency:
                self._latencies.pop()  # not the minimum of any window any more
            self._latencies.append((now, latency))
            while now - self._latencies[0][0] > LATENCY_WINDOW:
                self._latencies.popleft()

    def base_latency(self) -> float:
        """Return seconds: the minimum of the last LATENCY_WINDOW."""
        return self._latencies[0][1] if self._latencies else FIRST_LATENCY


class FreeSlots:
    """The purse of one round: the slots of a queue that nothing takes. `may_run`: whether its sessions know a kind."""

    def __init__(self, credit: Credit, queue: str, slots: int, may_run: Callable[[str], bool]) -> None:
        self._credit = credit
        self._queue = queue
        self._may_run = may_run
        self._free = slots - credit.used(queue)

    def room(self, kind: str) -> int | None:
        """How many more of a kind, never negative; None when it may not run."""
        if not self._may_run(kind):
            return None
        return max(0, int(self._free / self._credit.weight(self._queue, kind) + _EPSILON))

    def spend(self, kind: str, count: int) -> None:
        self._free -= count * self._credit.weight(self._queue, kind)

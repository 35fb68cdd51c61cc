"""Purse: the slots of a queue that nothing takes, and what limits let go, in; what one claim may ask for out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from tacoq_manager.credit import Credit
from tacoq_manager.limits import Limits
from tacoq_manager.store.claim import Flow, Line

_EPSILON: Final = 1e-9  # sums of parts of slots are not exact


class Purse:
    """For one claim of one queue. What is spent counts as released at once: `asked`, until the claim is answered."""

    def __init__(
        self, credit: Credit, limits: Limits, queue: str, *, slots: int, may_run: Callable[[str], bool]
    ) -> None:
        """`may_run`: whether the queue's sessions know a kind."""
        self._credit = credit
        self._limits = limits
        self._queue = queue
        self._may_run = may_run
        self._free = slots - credit.used(queue)
        self._since = limits.in_flight.generation
        self.asked: Counter[Line] = Counter()
        self.opens_in: float | None = None

    def room(self, kind: str) -> int | None:
        """How many more of a kind the slots take, never negative. None: it may not run now, and others go before it."""
        if not self._may_run(kind):
            return None
        if not self._limits.room(Flow(self._queue, kind)):
            self._wait(self._limits.opens_in(Flow(self._queue, kind)))
            return None
        return max(0, int(self._free / self._credit.weight(self._queue, kind) + _EPSILON))

    def most(self, kind: str) -> int:
        """How many of a kind limits let go, whatever the slots are."""
        return self._limits.room(Flow(self._queue, kind))

    def limits_keys(self, kind: str) -> bool:
        """True when `key_room` has something to say about keys of the kind."""
        return self._limits.has_key_limits(Flow(self._queue, kind))

    def key_room(self, kind: str, key: str) -> int:
        """How many of a key its own limits let go."""
        return self._limits.key_room(Line(self._queue, kind, key))

    def key_opens_in(self, kind: str, key: str) -> float | None:
        """Seconds until the limits of a key let something go; None: when something of it ends."""
        return self._limits.key_opens_in(Line(self._queue, kind, key))

    def weight(self, key: str) -> int:
        """How many tasks of a key are served at a time."""
        return self._limits.weight(self._queue, key)

    def spend(self, kind: str, key: str, count: int) -> None:
        """So many of a key are asked for."""
        self._free -= count * self._credit.weight(self._queue, kind)
        line = Line(self._queue, kind, key)
        self.asked[line] += count
        self._limits.reserve(line, count)

    def settle(self, taken: Counter[Line]) -> None:
        """The claim took these of what was asked for: the rest was not needed."""
        self._limits.answered(self.asked, taken, self._since)

    def _wait(self, seconds: float | None) -> None:
        if seconds is not None:
            self.opens_in = seconds if self.opens_in is None else min(self.opens_in, seconds)

"""Purse: the slots of a queue that nothing takes, and what limits let go, in; what one claim may ask for out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from tacoq_manager.buckets import Of
from tacoq_manager.credit import Credit
from tacoq_manager.limits import Limits
from tacoq_manager.store.claim import Flow, Line
from tacoq_protocol.rates import Rate

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
        self._let_go: dict[str, int] = {}  # how many of a kind limits do now
        self._since = limits.in_flight.generation
        self.version = limits.version  # of the limits that it is decided by
        self._rates: dict[Line, list[tuple[Of, Rate]]] = {}  # that what is asked for draws on
        self.asked: Counter[Line] = Counter()
        self.opens_in: float | None = None

    def room(self, kind: str) -> int | None:
        """How many more of a kind the slots take, never negative. None: it may not run now, and others go before it."""
        if not self._may_run(kind):
            return None
        if not self.most(kind):
            self._wait(self._limits.opens_in(Flow(self._queue, kind)))
            return None
        return max(0, int(self._free / self._credit.weight(self._queue, kind) + _EPSILON))

    def most(self, kind: str) -> int:
        """How many of a kind limits let go, whatever the slots are."""
        most = self._let_go.get(kind)
        if most is None:
            most = self._let_go[kind] = self._limits.room(Flow(self._queue, kind))
        return most

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
        """So many of a key are asked for: they count as released, and their tokens as drawn."""
        self._let_go.clear()
        self._free -= count * self._credit.weight(self._queue, kind)
        line = Line(self._queue, kind, key)
        self.asked[line] += count
        self._limits.in_flight.reserve(line, count)
        rates = self._rates.setdefault(line, list(self._limits.draws_on(line)))
        for of, _ in rates:
            self._limits.buckets.reserve(of, count)

    def settle(self, taken: Mapping[Line, int], at: datetime | None) -> None:
        """These were released of what was asked for, at that time of the database; the rest was not needed."""
        if self._since != self._limits.in_flight.generation:
            return  # it was committed before this manager learnt anew what is out
        self._limits.in_flight.answered(self.asked, taken)
        for line, rates in self._rates.items():
            for of, rate in rates:
                self._limits.buckets.reserve(of, -self.asked[line])
                if taken.get(line):
                    self._limits.buckets.draw(of, rate, taken[line], at)

    def lose(self) -> None:
        """Perhaps all were released. They count until they are given back."""
        self.settle(self.asked, None)

    def _wait(self, seconds: float | None) -> None:
        if seconds is not None:
            self.opens_in = seconds if self.opens_in is None else min(self.opens_in, seconds)

"""Lanes: where tasks are pending, as far as this leader knows, and whose turn it is. Pure memory; claims ask Postgres.

Higher priorities go first. Within one, kinds take turns, and within a kind its fairness keys do, whatever the length of
their lines: one that has 100,000 tasks waiting gets as much of a claim as one that has ten.

A lane is noted before it is claimed from and forgotten when a claim took all it had. A task may be committed between a
claim's snapshot and its answer, so a lane is forgotten only if nobody noted it since the claim was sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from math import ceil
from typing import Protocol

from tacoq_manager.store.claim import Lane, Take

Ring = OrderedDict[str, int]  # fairness keys, the next to be served first, with the number of their last note


class Purse(Protocol):
    """What may be taken of a queue now."""

    def room(self, kind: str) -> int | None:
        """How many more of a kind. None: it may not run at all now, and others go before it."""

    def spend(self, kind: str, count: int) -> None: ...


class Lanes:
    """The lanes of every queue, by priority and kind."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[int, dict[str, Ring]]] = {}
        self._count = 0

    def note(self, lanes: Iterable[Lane]) -> None:
        """A task is pending in each of these lanes."""
        self._count += 1
        for queue, kind, fairness_key, priority in lanes:
            rings = self._queues.setdefault(queue, {}).setdefault(priority, {})
            rings.setdefault(kind, OrderedDict())[fairness_key] = self._count

    def forget(self) -> None:
        """Forget all. What is noted afterwards is new to a claim that was sent before."""
        self._queues.clear()

    def queues(self) -> list[str]:
        """Queues in which something may be pending."""
        return list(self._queues)

    def waits(self, queue: str, kind: str) -> bool:
        """True when a task of the kind may be pending in the queue."""
        return any(kind in rings for rings in self._queues.get(queue, {}).values())

    def any_may_run(self, queue: str, purse: Purse) -> bool:
        """True when a task may be pending in the queue of a kind that is not held back."""
        kinds = {kind for rings in self._queues.get(queue, {}).values() for kind in rings}
        return any(purse.room(kind) is not None for kind in kinds)

    def mark(self, lane: Lane) -> int:
        """Return what `drained` wants back."""
        ring = self._queues.get(lane.queue, {}).get(lane.priority, {}).get(lane.kind)
        return 0 if ring is None else ring.get(lane.fairness_key, 0)

    def turn(self, queue: str, purse: Purse, most: int) -> list[Take]:
        """Share out what `purse` has among the lanes whose turn it is, `most` tasks at once.

        A kind whose turn it is and that has no room now is waited for: what is small enough to find room all the time
        would overtake it for ever.
        """
        takes: list[Take] = []
        levels = self._queues.get(queue, {})
        for priority in sorted(levels, reverse=True):
            rings = levels[priority]
            kinds = [kind for kind in rings if purse.room(kind) is not None]
            for place, kind in enumerate(kinds):
                part = ceil(min(most, purse.room(kind) or 0) / (len(kinds) - place))
                if part == 0:
                    return takes
                takes += _shares(rings[kind], queue, kind, priority, part)
                purse.spend(kind, part)
                most -= part
                rings[kind] = rings.pop(kind)  # from now on the last
            if kinds:
                rings[kinds[0]] = rings.pop(kinds[0])  # all had their turn: another one begins
        return takes

    def drained(self, lane: Lane, mark: int) -> None:
        """A claim found the lane empty, as of `mark`."""
        if self.mark(lane) != mark:
            return
        levels = self._queues.get(lane.queue, {})
        rings = levels.get(lane.priority, {})
        rings.get(lane.kind, OrderedDict()).pop(lane.fairness_key, None)
        if not rings.get(lane.kind):
            rings.pop(lane.kind, None)
        if not rings:
            levels.pop(lane.priority, None)
        if not levels:
            self._queues.pop(lane.queue, None)


def _shares(ring: Ring, queue: str, kind: str, priority: int, part: int) -> list[Take]:
    """Give the keys at the front of the ring equal shares of `part`, and put them last."""
    keys = list(islice(ring, part))
    each, more = divmod(part, len(keys))
    for key in keys:
        ring.move_to_end(key)
    if len(keys) == len(ring):
        ring.move_to_end(keys[0])  # all had their turn: another one begins
    return [Take(Lane(queue, kind, key, priority), each + (place < more)) for place, key in enumerate(keys)]

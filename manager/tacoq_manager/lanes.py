"""Lanes: where tasks are pending, as far as this leader knows, and whose turn it is. Pure memory; claims ask Postgres.

Higher priorities go first. Within one, kinds take turns, and within a kind its fairness keys do, whatever the length of
their lines: one that has 100,000 tasks waiting gets as much of a claim as one that has ten.

A lane is noted before it is claimed from and forgotten when a claim took all it had. A task may be committed between a
claim's snapshot and its answer, so a lane is forgotten only if nobody noted it since the claim was sent.

Keys that a limit of their own shuts stand aside until it lets go: a turn does not walk over them.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Protocol

from tacoq_manager.aside import Aside
from tacoq_manager.rings import Ring
from tacoq_manager.store.claim import Flow, Lane, Line, Take


class Purse(Protocol):
    """What may be taken of a queue now."""

    def room(self, kind: str) -> int | None:
        """How many more of a kind. None: it may not run at all now, and others go before it."""

    def most(self, kind: str) -> int:
        """How many of it limits let go, whatever the room is."""

    def limits_keys(self, kind: str) -> bool:
        """True when the next two have something to say."""

    def key_room(self, kind: str, key: str) -> int: ...

    def key_opens_in(self, kind: str, key: str) -> float | None:
        """Seconds until a key that has no room has some; None: when something of it ends."""

    def weight(self, key: str) -> int:
        """How many of a key's tasks are served at a time."""

    def spend(self, kind: str, key: str, count: int) -> None: ...


class Lanes:
    """The lanes of every queue, by priority and kind."""

    def __init__(self, aside: Aside) -> None:
        self._queues: dict[str, dict[int, dict[str, Ring]]] = {}
        self._aside = aside
        self._count = 0

    def note(self, lanes: Iterable[Lane]) -> None:
        """A task is pending in each of these lanes."""
        self._count += 1
        for lane in lanes:
            if not self._aside.note(lane, self._count):
                self._ring(lane.queue, lane.priority, lane.kind).note(lane.fairness_key, self._count)

    def forget(self) -> None:
        """Forget all. What is noted afterwards is new to a claim that was sent before."""
        self._queues.clear()
        self._aside.forget()

    @property
    def empty(self) -> bool:
        """True when nothing is pending, as far as this leader knows."""
        return not self._queues and not self._aside.flows()

    def queues(self) -> list[str]:
        """Queues in which something may be pending that no limit of its key shuts."""
        return list(self._queues)

    def kinds(self) -> set[tuple[str, str]]:
        """Queues and kinds of which tasks may be pending."""
        return {(queue, kind) for queue, levels in self._queues.items() for rings in levels.values() for kind in rings}

    def waits(self, queue: str, kind: str) -> bool:
        """True when a task of the kind may be pending in the queue, in a lane whose turn will come."""
        return any(kind in rings for rings in self._queues.get(queue, {}).values())

    def any_may_run(self, queue: str, purse: Purse) -> bool:
        """True when a task may be pending in the queue of a kind that is not held back."""
        kinds = {kind for rings in self._queues.get(queue, {}).values() for kind in rings}
        return any(purse.room(kind) is not None for kind in kinds)

    def mark(self, lane: Lane) -> int:
        """Return what `drained` wants back."""
        ring = self._queues.get(lane.queue, {}).get(lane.priority, {}).get(lane.kind)
        return (ring.mark(lane.fairness_key) if ring is not None else 0) or self._aside.mark(lane)

    def turn(self, queue: str, purse: Purse, most: int) -> list[Take]:
        """Share out what `purse` has among the lanes whose turn it is, `most` tasks at once.

        A kind whose turn it is and that has no room now is waited for: what is small enough to find room all the time
        would overtake it for ever. So is one that has room for no more of a higher priority.
        """
        takes: dict[Lane, int] = {}
        for priority in sorted(self._queues.get(queue, {}), reverse=True):
            # What keys at their limits leave goes round once more.
            while shares := self._round(queue, priority, purse, most - sum(takes.values())):
                for lane, count in shares.items():
                    takes[lane] = takes.get(lane, 0) + count
            if any(purse.room(kind) == 0 for kind in self._queues.get(queue, {}).get(priority, ())):
                break
        return [Take(lane, count) for lane, count in takes.items()]

    def _round(self, queue: str, priority: int, purse: Purse, most: int) -> dict[Lane, int]:
        """Let each kind of one priority have its turn, as far as there is room."""
        rings = self._queues.get(queue, {}).get(priority, {})
        shares: dict[Lane, int] = {}
        kinds = [kind for kind in rings if purse.room(kind) is not None]
        for place, kind in enumerate(kinds):
            room = purse.room(kind)
            if room is None:  # the queue's own limit is reached
                continue
            part = min(purse.most(kind), ceil(min(most, room) / (len(kinds) - place)))
            if part == 0:
                return shares
            of_kind = self._shares(queue, priority, kind, purse, part)
            shares.update(of_kind)
            most -= sum(of_kind.values())
            if kind in rings:
                rings[kind] = rings.pop(kind)  # from now on the last
        if kinds and kinds[0] in rings:
            rings[kinds[0]] = rings.pop(kinds[0])  # all had their turn: another one begins
        return shares

    def drained(self, lane: Lane, mark: int) -> None:
        """A claim found the lane empty, as of `mark`."""
        if self.mark(lane) != mark:
            return
        self._aside.drained(lane)
        ring = self._queues.get(lane.queue, {}).get(lane.priority, {}).get(lane.kind)
        if ring is not None:
            ring.remove(lane.fairness_key)
            self._tidy(lane.queue, lane.priority, lane.kind)

    def open(self, line: Line) -> None:
        """What kept the key aside may have let go."""
        for lane, mark in self._aside.back(line):
            self._ring(lane.queue, lane.priority, lane.kind).note(lane.fairness_key, mark)

    def open_due(self) -> None:
        """Let those take turns again for which the moment has come."""
        for line in self._aside.due():
            self.open(line)

    def open_all(self, flow: Flow | None = None) -> None:
        """Limits were changed: look again at all that stand aside, or those of a kind."""
        for line in self._aside.lines(flow):
            self.open(line)

    def flows_aside(self) -> list[Flow]:
        """Kinds of which keys stand aside."""
        return self._aside.flows()

    def opens_in(self) -> float | None:
        """Seconds until `open_due` has something to do."""
        return self._aside.opens_in()

    def _shares(self, queue: str, priority: int, kind: str, purse: Purse, part: int) -> dict[Lane, int]:
        ring = self._queues[queue][priority][kind]
        limited = purse.limits_keys(kind)
        shares, shut = ring.share(part, purse.weight, (lambda key: purse.key_room(kind, key)) if limited else None)
        for key, count in shares.items():
            purse.spend(kind, key, count)
        for key, mark in shut.items():
            self._aside.put(Lane(queue, kind, key, priority), mark, purse.key_opens_in(kind, key))
        self._tidy(queue, priority, kind)
        return {Lane(queue, kind, key, priority): count for key, count in shares.items()}

    def _ring(self, queue: str, priority: int, kind: str) -> Ring:
        rings = self._queues.setdefault(queue, {}).setdefault(priority, {})
        ring = rings.get(kind)
        if ring is None:
            ring = rings[kind] = Ring()
        return ring

    def _tidy(self, queue: str, priority: int, kind: str) -> None:
        """Forget a ring that has become empty."""
        levels = self._queues[queue]
        rings = levels[priority]
        if not rings[kind]:
            del rings[kind]
        if not rings:
            del levels[priority]
        if not levels:
            del self._queues[queue]

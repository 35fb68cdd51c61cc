"""In flight: releases that went out and ended in, how many are out by queue, kind and fairness key. Pure memory.

What a claim asks for counts from before it is sent: a limit is not passed by two that decide at the same time. Until
its answer is there nobody knows how much of it Postgres has; a recount leaves room for all and for nothing of it.
Ends are told by the transaction that made them, so that none is counted twice: told late, and seen by a recount before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from tacoq_manager.store.claim import Flow, Line
from tacoq_manager.store.snapshot import Snapshot

K = TypeVar("K")


class InFlight:
    """Counts of released tasks. They mean something to the leader only: it alone hears of releases."""

    def __init__(self) -> None:
        self._lines: Counter[Line] = Counter()
        self._flows: Counter[Flow] = Counter()
        self._queues: Counter[str] = Counter()
        self._asked: Counter[Line] = Counter()  # of these, what claims ask for whose answers are not there
        self._out: Counter[Line] | None = None  # while a recount asks Postgres: what went out since
        self._back: list[tuple[int, Mapping[Line, int]]] = []  # and what ended, by transaction
        self._seen: Snapshot | None = None  # of the last recount
        self.generation = 0
        self._known = False

    def line(self, line: Line) -> int:
        return max(0, self._lines[line])

    def flow(self, flow: Flow) -> int:
        return max(0, self._flows[flow])

    def queue(self, queue: str) -> int:
        return max(0, self._queues[queue])

    def total(self) -> int:
        return sum(max(0, count) for count in self._queues.values())

    def by_queue(self) -> dict[str, int]:
        return {queue: max(0, count) for queue, count in self._queues.items()}

    def flows(self, queue: str) -> list[tuple[str, int]]:
        """Kinds of the queue, with how many of each are out."""
        return [(flow.kind, max(0, count)) for flow, count in self._flows.items() if flow.queue == queue]

    def forget(self) -> None:
        """Another manager may have released since, or will: nothing is known until a recount."""
        for counts in (self._lines, self._flows, self._queues, self._asked):
            counts.clear()
        self._out = None
        self._back.clear()
        self._seen = None
        self._known = False
        self.generation += 1

    def reserve(self, line: Line, count: int) -> None:
        """Count what a claim is to ask for."""
        self._add(line, count)
        self._asked[line] += count

    def answered(self, asked: Mapping[Line, int], taken: Mapping[Line, int]) -> None:
        """A claim that had reserved `asked`, in this generation, took `taken`; it is committed."""
        for line, count in asked.items():
            _add(self._asked, line, -count)
            self._add(line, taken.get(line, 0) - count)
            if self._out is not None:
                self._out[line] += taken.get(line, 0)

    def moved(self, ended: Mapping[Line, int], transaction: int) -> None:
        """So many releases ended by it; a negative number: so many tasks count as released again."""
        if self._seen is not None and self._seen.sees(transaction):
            return  # the last recount did not find them any more
        for line, count in ended.items():
            self._add(line, -count)
        if self._out is not None:
            self._back.append((transaction, ended))

    def watch(self) -> None:
        """Postgres is about to be asked for what `recount` is told."""
        self._out = Counter()
        self._back.clear()

    def recount(self, found: Mapping[Line, int], seen: Snapshot) -> list[Line]:
        """Set the counts right by what Postgres has: news may have been lost. Return what was found to have ended.

        Nobody knows what was seen of what went out since `watch`: a count that is right if some of it was stays. After
        `forget` nothing is known to stay, and all of it is taken to come on top.
        """
        if self._out is None:
            return []  # forgotten since `watch`: whoever did it counts anew
        back: Counter[Line] = Counter()
        for transaction, ended in self._back:
            if not seen.sees(transaction):
                back.update(ended)
        fewer = []
        for line in {*found, *self._lines, *self._out, *back}:
            asked = self._asked[line]
            most = found.get(line, 0) + self._out[line] - back[line]
            least = found.get(line, 0) - back[line] - asked
            known = self._lines[line] - asked
            right = min(max(known, least), most) if self._known else most
            self._add(line, right - known)
            if right < known:
                fewer.append(line)
        self._out = None
        self._back.clear()
        self._seen = seen
        self._known = True
        return fewer

    def _add(self, line: Line, count: int) -> None:
        if count:
            _add(self._lines, line, count)
            _add(self._flows, Flow(line.queue, line.kind), count)
            _add(self._queues, line.queue, count)


def _add(counts: Counter[K], key: K, count: int) -> None:
    counts[key] += count
    if not counts[key]:
        del counts[key]

"""Lanes: where tasks are pending, as far as this leader knows. Pure memory; Postgres is asked by claims.

A lane is noted before it is claimed from and forgotten when a claim took all it had. A task may be committed between a
claim's snapshot and its answer, so a lane is forgotten only if nobody noted it since the claim was sent.
"""

from __future__ import annotations

from collections.abc import Iterable

from tacoq_manager.store.claim import Lane


class Lanes:
    """The lanes of every queue, each with the number of times it was noted."""

    def __init__(self) -> None:
        self._noted: dict[str, dict[Lane, int]] = {}
        self._count = 0

    def note(self, lanes: Iterable[Lane]) -> None:
        """A task is pending in each of these lanes."""
        self._count += 1
        for lane in lanes:
            self._noted.setdefault(lane.queue, {})[lane] = self._count

    def queues(self) -> list[str]:
        """Queues in which something may be pending."""
        return list(self._noted)

    def of(self, queue: str) -> dict[Lane, int]:
        """The queue's lanes, each with the mark that `drained` wants back."""
        return dict(self._noted.get(queue, {}))

    def drained(self, lane: Lane, mark: int) -> None:
        """A claim found the lane empty, as of `mark`."""
        lanes = self._noted.get(lane.queue)
        if lanes is not None and lanes.get(lane) == mark:
            del lanes[lane]
            if not lanes:
                del self._noted[lane.queue]

    def clear(self) -> None:
        self._noted.clear()

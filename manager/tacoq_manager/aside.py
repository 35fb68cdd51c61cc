"""Aside: lanes of fairness keys that a limit of their own shuts in; those for which it may have let go out."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from tacoq_manager.store.claim import Flow, Lane, Line


class Aside:
    """What stands aside costs nothing until something of it ends, its moment comes, or limits are changed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: dict[Flow, dict[str, dict[int, int]]] = {}  # by key and priority
        self._due: list[tuple[float, Line]] = []  # a heap; what has come back meanwhile may stand in it

    def put(self, lane: Lane, mark: int, seconds: float | None) -> None:
        """Set a lane aside, with its mark; in so many seconds its key may be let go."""
        keys = self._marks.setdefault(Flow(lane.queue, lane.kind), {})
        keys.setdefault(lane.fairness_key, {})[lane.priority] = mark
        if seconds is not None:
            heappush(self._due, (self._clock() + seconds, lane.line))

    def note(self, lane: Lane, mark: int) -> bool:
        """A task is pending in the lane; False when its key does not stand aside."""
        priorities = self._marks.get(Flow(lane.queue, lane.kind), {}).get(lane.fairness_key)
        if priorities is None:
            return False
        priorities[lane.priority] = mark
        return True

    def mark(self, lane: Lane) -> int:
        """The mark of a lane that stands aside, else 0."""
        return self._marks.get(Flow(lane.queue, lane.kind), {}).get(lane.fairness_key, {}).get(lane.priority, 0)

    def drained(self, lane: Lane) -> None:
        """Nothing is pending in the lane."""
        self._marks.get(Flow(lane.queue, lane.kind), {}).get(lane.fairness_key, {}).pop(lane.priority, None)

    def back(self, line: Line) -> list[tuple[Lane, int]]:
        """Take the lanes of a key back, each with its mark."""
        flow = Flow(line.queue, line.kind)
        keys = self._marks.get(flow, {})
        lanes = [(Lane(*line, priority), mark) for priority, mark in keys.pop(line.fairness_key, {}).items()]
        if not keys:
            self._marks.pop(flow, None)
        return lanes

    def due(self) -> list[Line]:
        """Return those whose moment has come, once."""
        now = self._clock()
        lines = []
        while self._due and self._due[0][0] <= now:
            lines.append(heappop(self._due)[1])
        return lines

    def opens_in(self) -> float | None:
        """Seconds until the next of these moments."""
        return max(0.0, self._due[0][0] - self._clock()) if self._due else None

    def flows(self) -> list[Flow]:
        """Kinds of which keys stand aside."""
        return list(self._marks)

    def lines(self, flow: Flow | None = None) -> list[Line]:
        """All that stand aside, or those of a kind."""
        flows = self._marks if flow is None else [flow]
        return [Line(*each, key) for each in flows for key in self._marks.get(each, {})]

    def forget(self) -> None:
        self._marks.clear()
        self._due.clear()

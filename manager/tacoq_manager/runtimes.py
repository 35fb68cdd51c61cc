"""Run times: the lengths of runs in, the 90th percentile of a kind's latest ones out."""

from __future__ import annotations

from collections import deque
from math import inf

WINDOW = 200  # runs that count
MIN_RUNS = 10  # below, a kind's run time is unknown


class RunTimes:
    """Of every (queue, kind) that reported lately."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], deque[float]] = {}
        self._p90: dict[tuple[str, str], float] = {}

    def add(self, queue: str, kind: str, seconds: float) -> None:
        if not 0.0 <= seconds < inf:
            return  # a worker's mistake; a NaN would make one of all that is worked out from it
        runs = self._runs.get((queue, kind))
        if runs is None:
            runs = self._runs[queue, kind] = deque(maxlen=WINDOW)
        runs.append(seconds)
        self._p90.pop((queue, kind), None)

    def outlasted(self, queue: str, kind: str, seconds: float) -> None:
        """A run goes on after so many seconds. If the others were shorter lately they say nothing any more.

        It stands for as many as make a run time known; the kind is short again when nine times as many were.
        """
        known = self.p90(queue, kind)
        if 0.0 < seconds < inf and (known is None or known < seconds):
            self._runs[queue, kind] = deque([seconds] * MIN_RUNS, maxlen=WINDOW)
            self._p90.pop((queue, kind), None)

    def p90(self, queue: str, kind: str) -> float | None:
        """Return seconds, or None while fewer than MIN_RUNS runs are known."""
        known = self._p90.get((queue, kind))
        if known is None:
            runs = self._runs.get((queue, kind))
            if runs is None or len(runs) < MIN_RUNS:
                return None
            known = self._p90[queue, kind] = sorted(runs)[int(0.9 * (len(runs) - 1))]
        return known

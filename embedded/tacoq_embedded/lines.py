"""Lines: one for each run in, as many as somebody can read out. A developer sees what happens, whatever the load."""

from __future__ import annotations

import logging
from time import monotonic

MOST_A_SECOND = 10


class AtMost(logging.Filter):
    """Lets so many lines a second through; the next one after that says how many it left out."""

    def __init__(self, most: int = MOST_A_SECOND) -> None:
        super().__init__()
        self._most = most
        self._since = 0.0
        self._passed = 0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = monotonic()
        if now - self._since >= 1.0:
            if self._left_out:
                record.left_out = self._left_out
            self._since, self._passed, self._left_out = now, 0, 0
        self._passed += 1
        if self._passed > self._most:
            self._left_out += 1
            return False
        return True


def show_runs() -> None:
    """Have a line logged for each run that ends."""
    runs = logging.getLogger("tacoq.runs")
    runs.setLevel(logging.DEBUG)
    runs.addFilter(AtMost())

"""Due times: moments noticed anywhere in, a step run when the earliest has come."""

from __future__ import annotations

import asyncio
import logging
import time

from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.upkeep.loops import Step

log = logging.getLogger("tacoq.upkeep")

RETRY_SECONDS = 0.5
EARLIEST = 0.002  # a clock a little ahead of the database's must not spin


class DueTimer:
    """Wakes a step when work is due.

    Whoever learns of a due time tells `notice`; the leader's tick tells what it missed.
    """

    def __init__(self, name: str, step: Step) -> None:
        self._name = name
        self._step = step
        self._next: float | None = None
        self._changed = asyncio.Event()

    def notice(self, seconds: float) -> None:
        """Something is due `seconds` from now, which may be past."""
        at = time.monotonic() + max(seconds, EARLIEST)
        if self._next is None or at < self._next:
            self._next = at
            self._changed.set()

    async def run(self) -> None:
        while True:
            await self._sleep()
            self._next = None
            try:
                while await self._step():
                    pass
            except DatabaseUnavailable as error:
                log.warning("a step has to wait", extra={"step": self._name, "error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                self.notice(0)

    async def _sleep(self) -> None:
        """Return when the earliest noticed moment has come."""
        while self._next is None or time.monotonic() < self._next:
            self._changed.clear()
            seconds = None if self._next is None else self._next - time.monotonic()
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                return

"""Running: stages in, at work beside each other for ever; errands in, done once. A stage that ends breaks the whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

log = logging.getLogger("tacoq.manager")


class Running:
    """What a manager has at work. `broken` is set when a stage has ended: then its process should, to begin anew."""

    def __init__(self) -> None:
        self.broken = asyncio.Event()
        self.errands: set[asyncio.Task[Any]] = set()
        self._stages: list[asyncio.Task[None]] = []

    def begin(self, name: str, stage: Coroutine[Any, Any, None]) -> None:
        """Run a stage until `stop`."""
        task = asyncio.create_task(stage, name=f"tacoq {name}")
        self._stages.append(task)
        self.watch([task])

    def watch(self, loops: Iterable[asyncio.Task[None]]) -> None:
        """These are stages, too; others run and end them."""
        for loop in loops:
            loop.add_done_callback(self._ended)

    def errand(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` beside all else; it handles its own errors."""
        task = asyncio.create_task(work)
        self.errands.add(task)
        task.add_done_callback(self.errands.discard)

    async def stop(self) -> None:
        """End the stages, and let errands end."""
        for stage in self._stages:
            stage.cancel()
        await asyncio.gather(*self._stages, *self.errands, return_exceptions=True)
        self._stages.clear()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("a stage stopped", extra={"stage": task.get_name()}, exc_info=task.exception())
            self.broken.set()

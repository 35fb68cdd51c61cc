"""Handles in, handles out in the order in which their tasks end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Generic, TypeVar
from uuid import UUID

from tacoq_protocol.durations import Duration, parse_duration
from tacoq_protocol.errors import WaitTimeout
from tacoq_publisher.handle import TaskHandle
from tacoq_publisher.manager import WaitLine
from tacoq_publisher.waiting import Waits

R = TypeVar("R")


class _Together(Generic[R]):
    """Handles that are awaited together, by id: those of one id end together."""

    def __init__(self) -> None:
        self.left: dict[UUID, tuple[TaskHandle[R], ...]] = {}
        self.ended: list[TaskHandle[R]] = []
        self.error: Exception | None = None
        self.news = asyncio.Event()

    def add(self, handle: TaskHandle[R]) -> None:
        self.left[handle.id] = (*self.left.get(handle.id, ()), handle)

    def told(self, line: WaitLine) -> None:
        for handle in self.left.pop(line.id):
            handle.remember(line)
            self.ended.append(handle)
        self.news.set()

    def failed(self, error: Exception) -> None:
        self.error = error
        self.news.set()


async def completed_batches(
    waits: Waits, handles: Iterable[TaskHandle[R]], timeout: Duration | None
) -> AsyncGenerator[list[TaskHandle[R]]]:
    """Give the handles whose tasks are final, those of one moment together, until all were given, each once.

    Raises WaitTimeout, naming one that is not final, `timeout` after the first step; ManagerUnavailable.
    """
    seconds = None if timeout is None else parse_duration(timeout, name="timeout").total_seconds()
    deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
    together = _Together[R]()
    for handle in dict.fromkeys(handles):
        if handle.ended:
            together.ended.append(handle)
        else:
            together.add(handle)
    if together.left:
        waits.watch(together.left, together)
    try:
        while together.left or together.ended:
            if together.ended:
                batch, together.ended = together.ended, []
                yield batch
                continue
            if together.error is not None:
                raise together.error
            try:
                async with asyncio.timeout_at(deadline):
                    await together.news.wait()
            except TimeoutError:
                raise WaitTimeout(next(iter(together.left)), seconds or 0.0) from waits.fault
            together.news.clear()
    finally:
        waits.unwatch(together.left, together)

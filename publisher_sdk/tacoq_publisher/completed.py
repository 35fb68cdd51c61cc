"""Handles in, handles out in the order in which their tasks end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, TypeVar

from tacoq_protocol.durations import Duration, parse_duration
from tacoq_protocol.errors import WaitTimeout
from tacoq_publisher.handle import TaskHandle
from tacoq_publisher.manager import WaitLine
from tacoq_publisher.waiting import Waits

R = TypeVar("R")


async def completed_batches(
    waits: Waits, handles: Iterable[TaskHandle[R]], timeout: Duration | None
) -> AsyncGenerator[list[TaskHandle[R]]]:
    """Give the handles whose tasks are final, those of one moment together, until all were given, each once.

    Raises WaitTimeout, naming one that is not final, `timeout` after the first step; ManagerUnavailable.
    """
    seconds = None if timeout is None else parse_duration(timeout, name="timeout").total_seconds()
    deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
    told: list[TaskHandle[R]] = []
    some_told = asyncio.Event()
    left: dict[TaskHandle[R], asyncio.Future[WaitLine]] = {}

    def teller(handle: TaskHandle[R]) -> Callable[[asyncio.Future[Any]], None]:
        def tell(_: asyncio.Future[Any]) -> None:
            told.append(handle)
            some_told.set()

        return tell

    try:
        known = []
        for handle in dict.fromkeys(handles):
            if handle.ended:
                known.append(handle)
            else:
                left[handle] = waits.watch(handle.id)
                left[handle].add_done_callback(teller(handle))
        if known:
            yield known
        while left:
            try:
                async with asyncio.timeout_at(deadline):
                    await some_told.wait()
            except TimeoutError:
                raise WaitTimeout(next(iter(left)).id, seconds or 0.0) from waits.fault
            some_told.clear()
            batch, told[:] = told[:], []
            for handle in batch:
                handle.remember(left[handle].result())
                del left[handle]
            yield batch
    finally:
        for handle, future in left.items():
            waits.unwatch(handle.id, future)

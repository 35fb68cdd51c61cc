"""Load: a steady stream of mixed tasks, published until told to stop, each in the ledger.

Short and long, on the event loop, in threads and in processes, some that ask for a second run, some that callers
wait for, some that are cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tacoq_publisher import ManagerUnavailable, Publisher, TaskCall, TaskHandle
from tests.faults.effects import Effects
from tests.faults.handlers import add, fails_once, nap, nap_in_process, nap_in_thread
from tests.faults.ledger import PATIENCE, Ledger
from tests.support.eventually import eventually

PER_SECOND = 30
SECONDS_BETWEEN = 0.25  # bursts: what is published at the same time shares requests


@dataclass(slots=True)
class Load:
    """One stream. `processes`: with tasks of the queue of that name; `cancels`: the share of tasks cancelled."""

    ledger: Ledger
    effects: Effects
    random: Random
    per_second: float = PER_SECOND
    processes: bool = True
    cancels: float = 0.0
    _errands: set[asyncio.Task[None]] = field(default_factory=set)
    _failed: list[BaseException] = field(default_factory=list)

    async def run(self, tacoq: Publisher) -> None:
        """Publish until cancelled. A slow answer holds nothing up: bursts go on."""
        due = 0.0
        while True:
            due += self.per_second * SECONDS_BETWEEN
            for _ in range(int(due)):
                self._begin(self._one(tacoq))
            due -= int(due)
            await asyncio.sleep(SECONDS_BETWEEN)

    async def ran(self, more: int, seconds: float = 60.0) -> None:
        """Wait until `more` runs have begun from now on: work is being done."""
        already = await self.effects.count()

        async def begun() -> bool:
            return await self.effects.count() >= already + more

        await eventually(begun, seconds, what=f"{more} more runs under load")

    async def finish(self) -> None:
        """Wait for every answer under way."""
        while self._errands:
            await asyncio.gather(*self._errands, return_exceptions=True)
        if self._failed:
            raise self._failed[0]

    def _begin(self, errand: Any) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed.append(error)

    async def _one(self, tacoq: Publisher) -> None:
        call, result = self._draw()
        waits, cancels = self.random.random() < 0.1, self.random.random() < self.cancels
        patience = self.random.uniform(0.0, 2.0)
        try:
            handle: TaskHandle[Any] = await self.ledger.publish(tacoq, call, result)
            if cancels:
                await asyncio.sleep(patience)
                await self.ledger.cancel(handle)
            if waits:
                await self.ledger.wait(handle)
        except ManagerUnavailable:
            pass  # not known whether it was accepted

    def _draw(self) -> tuple[TaskCall[Any], object]:
        draw, seconds = self.random.random(), round(self.random.uniform(0.3, 3.0), 3)
        x = self.random.randrange(1_000_000)
        if self.processes and draw < 0.06:
            return nap_in_process.task(seconds / 20), seconds / 20
        if draw < 0.18:
            return nap.task(seconds), seconds
        if draw < 0.28:
            return nap_in_thread.task(seconds), seconds
        if draw < 0.32:
            return fails_once.task(), 1
        return add.task(x, 1), x + 1


@asynccontextmanager
async def under_load(
    url: str,
    ledger: Ledger,
    effects: Effects,
    *,
    seed: int,
    per_second: float = PER_SECOND,
    processes: bool = False,
    cancels: float = 0.0,
) -> AsyncIterator[Load]:
    """Publish while the block lasts; it begins when work is being done, and ends when every publish is answered."""
    load = Load(ledger, effects, Random(seed), per_second, processes, cancels)
    async with Publisher(url, retry_for=PATIENCE) as tacoq:
        running = asyncio.create_task(load.run(tacoq))
        try:
            await load.ran(20)
            yield load
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await load.finish()


@asynccontextmanager
async def under_load_over(
    urls: Sequence[str],
    ledger: Ledger,
    effects: Effects,
    *,
    seed: int,
    per_second: float = PER_SECOND,
    processes: bool = False,
    cancels: float = 0.0,
) -> AsyncIterator[Load]:
    """`under_load` over several managers at the same time, each with its part of it; return the load of the last."""
    async with AsyncExitStack() as loads:
        for number, url in enumerate(urls):
            each = under_load(
                url,
                ledger,
                effects,
                seed=seed + number,
                per_second=per_second / len(urls),
                processes=processes,
                cancels=cancels,
            )
            load = await loads.enter_async_context(each)
        yield load

"""Taskiq on RabbitMQ with two worker processes; results in Postgres or Redis."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskiq import AsyncTaskiqTask
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue

from benchmarks.peer import HANDLERS, Kind, Leftovers, Value
from benchmarks.place import Place, here

PROCESSES = 2
PREFETCH = 100  # as many as a process runs at once by default
AT_ONCE = 1_000  # publishes under way
READERS = 20  # results waited for at once: 10,000 would poll each other to a stand

place = here()


def _backend() -> Any:
    """Only one of the two is imported."""
    if place.results == "redis":
        from taskiq_redis import RedisAsyncResultBackend

        return RedisAsyncResultBackend(place.redis_url)
    from taskiq_pg.asyncpg import AsyncpgResultBackend

    return AsyncpgResultBackend(place.database_url)


broker = AioPikaBroker(
    place.broker_url,
    qos=PREFETCH,
    exchange=Exchange(name=place.name),
    task_queues=[Queue(name=place.name)],
    dead_letter_queue=Queue(name=f"{place.name}.dead"),
).with_result_backend(_backend())


@broker.task("add")
async def add(x: int, y: int) -> int:
    return x + y


@broker.task("stamp")
async def stamp(x: int, y: int) -> float:
    return HANDLERS["stamp"](x, y)


TASKS: dict[Kind, Any] = {"add": add, "stamp": stamp}


class TaskiqPeer:
    async def prepare(self) -> None:
        """The result backend makes its table when it starts up."""

    def commands(self) -> dict[str, list[list[str]]]:
        worker = [str(Path(sys.executable).with_name("taskiq")), "worker", "benchmarks.peers.taskiq:broker"]
        options = ["--workers", str(PROCESSES), "--log-level", "WARNING"]
        return {"worker": [[*worker, *options]] * place.workers}

    async def open(self) -> None:
        await broker.startup()

    async def close(self) -> None:
        await broker.shutdown()

    async def publish(self, kind: Kind, x: int) -> AsyncTaskiqTask[Any]:
        task: AsyncTaskiqTask[Any] = await TASKS[kind].kiq(x, 1)
        return task

    async def publish_many(self, kind: Kind, xs: Sequence[int]) -> list[AsyncTaskiqTask[Any]]:
        tasks: list[AsyncTaskiqTask[Any]] = []
        for start in range(0, len(xs), AT_ONCE):
            tasks += await asyncio.gather(*(self.publish(kind, x) for x in xs[start : start + AT_ONCE]))
        return tasks

    async def result(self, ticket: AsyncTaskiqTask[Any]) -> Value:
        value: Value = (await ticket.wait_result()).return_value
        return value

    async def results(self, tickets: Sequence[AsyncTaskiqTask[Any]]) -> list[Value]:
        turn = asyncio.Semaphore(READERS)

        async def one(ticket: AsyncTaskiqTask[Any]) -> Value:
            async with turn:
                return await self.result(ticket)

        return await asyncio.gather(*map(one, tickets))

    def leftovers(self) -> Leftovers:
        return Leftovers([place.name, f"{place.name}.dead"], [place.name])


def make(_: Place) -> TaskiqPeer:
    return TaskiqPeer()

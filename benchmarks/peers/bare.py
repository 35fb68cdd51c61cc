"""What one writes by hand: an aio-pika consumer, prefetch 100, an INSERT (or SET) a message by a pool of 4, then ack.

`python -m benchmarks.peers.bare` is the worker.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractRobustConnection

from benchmarks.peer import HANDLERS, Kind, Leftovers, Value
from benchmarks.peers import tables
from benchmarks.place import Place, here

PREFETCH = 100
POOL = 4
AT_ONCE = 1_000  # publishes under way

Store = Callable[[str, Value], Awaitable[None]]


class Bare:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._rabbit: AbstractRobustConnection
        self._channel: AbstractChannel
        self._postgres: asyncpg.Connection[Any] | None = None
        self._redis: Any = None

    async def prepare(self) -> None:
        if self._place.results == "postgres":
            await tables.make(self._place.database_url)
        connection = await aio_pika.connect(self._place.broker_url)
        async with connection, connection.channel() as channel:
            await channel.declare_queue(self._place.name, durable=True)

    def commands(self) -> dict[str, list[list[str]]]:
        return {"worker": [[sys.executable, "-m", "benchmarks.peers.bare"]] * self._place.workers}

    async def open(self) -> None:
        self._rabbit = await aio_pika.connect_robust(self._place.broker_url)
        self._channel = await self._rabbit.channel()  # with publisher confirms
        if self._place.results == "postgres":
            self._postgres = await asyncpg.connect(self._place.database_url)
        else:
            self._redis = _redis(self._place)

    async def close(self) -> None:
        await self._rabbit.close()
        if self._postgres is not None:
            await self._postgres.close()
        if self._redis is not None:
            await self._redis.aclose()

    async def publish(self, kind: Kind, x: int) -> str:
        task = str(uuid4())
        message = aio_pika.Message(
            json.dumps({"task": task, "kind": kind, "x": x, "y": 1}).encode(),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._channel.default_exchange.publish(message, routing_key=self._place.name)
        return task

    async def publish_many(self, kind: Kind, xs: Sequence[int]) -> list[str]:
        tasks: list[str] = []
        for start in range(0, len(xs), AT_ONCE):
            tasks += await asyncio.gather(*(self.publish(kind, x) for x in xs[start : start + AT_ONCE]))
        return tasks

    async def result(self, ticket: str) -> Value:
        return (await self.results([ticket]))[0]

    async def results(self, tickets: Sequence[str]) -> list[Value]:
        if self._postgres is not None:
            return await tables.wait(self._postgres, tickets)
        while True:
            values = await self._redis.mget([f"{self._place.name}:{task}" for task in tickets])
            if None not in values:
                return [float(value) for value in values]
            await asyncio.sleep(tables.LONE_SECONDS if len(tickets) == 1 else tables.MANY_SECONDS)

    def leftovers(self) -> Leftovers:
        return Leftovers([self._place.name])


def make(place: Place) -> Bare:
    return Bare(place)


async def work(place: Place) -> None:
    """Consume for ever."""
    store = await _store(place)

    async def handle(message: AbstractIncomingMessage) -> None:
        call = json.loads(message.body)
        await store(call["task"], HANDLERS[call["kind"]](call["x"], call["y"]))
        await message.ack()

    connection = await aio_pika.connect_robust(place.broker_url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.declare_queue(place.name, durable=True)
    await queue.consume(handle)
    await asyncio.Event().wait()


async def _store(place: Place) -> Store:
    if place.results == "postgres":
        pool = await asyncpg.create_pool(place.database_url, min_size=POOL, max_size=POOL)

        async def insert(task: str, value: Value) -> None:
            await pool.execute(tables.INSERT, task, value)

        return insert
    redis = _redis(place)

    async def put(task: str, value: Value) -> None:
        await redis.set(f"{place.name}:{task}", value)

    return put


def _redis(place: Place) -> Any:
    """The other environment has no redis."""
    from redis.asyncio import BlockingConnectionPool, Redis

    return Redis(connection_pool=BlockingConnectionPool.from_url(place.redis_url, max_connections=POOL))


if __name__ == "__main__":
    asyncio.run(work(here()))

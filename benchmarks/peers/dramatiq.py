"""Dramatiq on RabbitMQ with its default processes and threads; results in Redis."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peer import HANDLERS, Kind, Leftovers, Value
from benchmarks.place import Place, here

PROCESSES, THREADS = 2, 8  # the defaults: a process for each core
RESULT_MILLISECONDS = 60_000

place = here()
broker = RabbitmqBroker(url=place.broker_url)
broker.add_middleware(Results(backend=RedisBackend(url=place.redis_url), store_results=True))
dramatiq.set_broker(broker)

actors = {kind: dramatiq.actor(handler, actor_name=kind, queue_name=place.name) for kind, handler in HANDLERS.items()}


class DramatiqPeer:
    async def prepare(self) -> None: ...

    def commands(self) -> dict[str, list[list[str]]]:
        worker = [str(Path(sys.executable).with_name("dramatiq")), "benchmarks.peers.dramatiq:broker"]
        return {"worker": [[*worker, "-p", str(PROCESSES), "-t", str(THREADS)]] * place.workers}

    async def open(self) -> None: ...

    async def close(self) -> None:
        broker.close()

    async def publish(self, kind: Kind, x: int) -> Any:
        return actors[kind].send(x, 1)

    async def publish_many(self, kind: Kind, xs: Sequence[int]) -> list[Any]:
        return [actors[kind].send(x, 1) for x in xs]

    async def result(self, ticket: Any) -> Value:
        value: Value = ticket.get_result(block=True, timeout=RESULT_MILLISECONDS)
        return value

    async def results(self, tickets: Sequence[Any]) -> list[Value]:
        return [await self.result(ticket) for ticket in tickets]

    def leftovers(self) -> Leftovers:
        return Leftovers([place.name, f"{place.name}.DQ", f"{place.name}.XQ"])


def make(_: Place) -> DramatiqPeer:
    return DramatiqPeer()

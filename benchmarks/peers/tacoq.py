"""TacoQ as `tacoq manager` and `tacoq worker` run it, with its defaults."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any

from benchmarks.peer import HANDLERS, Kind, Leftovers, Value
from benchmarks.place import Place
from tacoq_protocol.topology import Topology
from tacoq_publisher import Publisher, TaskHandle
from tacoq_worker import Worker

TACOQ = str(Path(sys.executable).with_name("tacoq"))
START_SECONDS = 60

worker = Worker()


@worker.task
async def add(x: int, y: int) -> int:
    return x + y


@worker.task
async def stamp(x: int, y: int) -> float:
    return HANDLERS["stamp"](x, y)


class Tacoq:
    """One publisher for each manager: lone tasks go to them in turn, many are divided."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._urls = [f"http://127.0.0.1:{port}" for port in place.manager_ports]
        self._publishers = [Publisher(url) for url in self._urls]
        self._turn = cycle(self._publishers)
        os.environ |= {
            "TACOQ_DATABASE_URL": place.database_url,
            "TACOQ_BROKER_URL": place.broker_url,
            "TACOQ_NAMESPACE": place.name,
        }
        if place.results == "redis":
            os.environ["TACOQ_RESULTS_URL"] = place.redis_url

    async def prepare(self) -> None:
        migrate = await asyncio.create_subprocess_exec(TACOQ, "migrate", stdout=subprocess.DEVNULL)
        if await migrate.wait():
            raise RuntimeError(f"tacoq migrate ended with {migrate.returncode}")

    def commands(self) -> dict[str, list[list[str]]]:
        return {
            "manager": [[TACOQ, "manager", "--port", str(port)] for port in self._place.manager_ports],
            "worker": [[TACOQ, "worker", "benchmarks.peers.tacoq:worker"]] * self._place.workers,
        }

    async def open(self) -> None:
        for url in self._urls:
            _wait_until_ready(url)
        for publisher in self._publishers:
            publisher.open()

    async def close(self) -> None:
        for publisher in self._publishers:
            await publisher.close()

    async def publish(self, kind: Kind, x: int) -> TaskHandle[Any]:
        return await next(self._turn).publish(kind, {"x": x, "y": 1})

    async def publish_many(self, kind: Kind, xs: Sequence[int]) -> list[TaskHandle[Any]]:
        shares = [xs[start :: len(self._publishers)] for start in range(len(self._publishers))]
        handles = await asyncio.gather(
            *(
                publisher.publish_many((kind, {"x": x, "y": 1}) for x in share)
                for publisher, share in zip(self._publishers, shares, strict=True)
            )
        )
        return [handle for row in zip_longest(*handles) for handle in row if handle is not None]

    async def result(self, ticket: TaskHandle[Any]) -> Value:
        return Value(await ticket.result())

    async def results(self, tickets: Sequence[TaskHandle[Any]]) -> list[Value]:
        async for _ in self._publishers[0].as_completed(tickets):
            pass
        return [Value(await ticket.result()) for ticket in tickets]

    def leftovers(self) -> Leftovers:
        topology = Topology(self._place.name)
        queues = [queue.name for queue in topology.fixed_queues] + [topology.task_queue_name("default")]
        return Leftovers(queues, [exchange.name for exchange in topology.exchanges])


def make(place: Place) -> Tacoq:
    return Tacoq(place)


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)

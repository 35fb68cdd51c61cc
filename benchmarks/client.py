"""The publisher's process: commands as lines of JSON in, what the measures found out. It starts the product's, too.

    python -m benchmarks.client tacoq-postgres

`system` runs it, with the interpreter of the environment that the product is installed in.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from importlib.metadata import version
from typing import Any, TextIO

from benchmarks.measures import backlog, rate
from benchmarks.measures.end_to_end import end_to_end
from benchmarks.measures.trips import trips
from benchmarks.peers import PEERS
from benchmarks.place import here
from benchmarks.processes import Processes

WARM_SECONDS = 60


class Client:
    """One product. Each method is a command; what it returns is its answer."""

    def __init__(self, name: str, processes: Processes) -> None:
        self._packages = PEERS[name].packages
        self._peer = PEERS[name].peer(here())
        self._processes = processes
        self._published: rate.Published | None = None
        self._backlog: list[Any] = []

    async def prepare(self) -> dict[str, Any]:
        await self._peer.prepare()
        left = self._peer.leftovers()
        return {
            "versions": {name: version(name) for name in self._packages},
            "queues": left.queues,
            "exchanges": left.exchanges,
        }

    async def start(self) -> None:
        """All but the workers."""
        for role, commands in self._peer.commands().items():
            if role != "worker":
                self._processes.start(role, commands)
        await self._peer.open()

    async def work(self, warm: int) -> dict[str, list[int]]:
        """Start the workers and have them do `warm` tasks. Answers with all processes by role."""
        self._processes.start("worker", self._peer.commands()["worker"])
        if warm:
            async with asyncio.timeout(WARM_SECONDS):
                await end_to_end(self._peer, warm)
        return self._processes.pids()

    async def rest(self) -> None:
        self._processes.stop("worker")

    async def end_to_end(self, tasks: int) -> float:
        return await end_to_end(self._peer, tasks)

    async def trips(self, count: int) -> tuple[list[float], list[float]]:
        return await trips(self._peer, count)

    async def publish_at(self, per_second: float, seconds: float) -> float:
        self._published = await rate.publish_at(self._peer, per_second, seconds)
        return self._published.per_second

    async def starts(self) -> tuple[list[float], int]:
        assert self._published is not None
        return await rate.starts(self._peer, self._published)

    async def publish_singly(self, tasks: int) -> float:
        tickets, seconds = await backlog.publish_singly(self._peer, tasks)
        self._backlog += tickets
        return seconds

    async def publish_in_bulk(self, tasks: int) -> float:
        tickets, seconds = await backlog.publish_in_bulk(self._peer, tasks)
        self._backlog += tickets
        return seconds

    async def drain(self) -> tuple[int, float, float]:
        self._processes.start("worker", self._peer.commands()["worker"])
        tickets, self._backlog = self._backlog, []
        return len(tickets), *await backlog.drain(self._peer, tickets)

    async def close(self) -> None:
        await self._peer.close()
        self._processes.stop()


async def serve(name: str, processes: Processes, answers: TextIO) -> None:
    """Answer commands until there are none: then whoever steered us is gone."""
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    client: Client | None = None
    while line := await commands.readline():
        given = json.loads(line)
        try:
            client = client or Client(name, processes)
            began = time.perf_counter()
            value = await getattr(client, given.pop("do"))(**given)
            answer = {"value": value, "seconds": time.perf_counter() - began}
        except Exception:
            answer = {"fault": f"{traceback.format_exc()}\n{processes.faults()}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> int:
    processes = Processes()
    answers, sys.stdout = sys.stdout, sys.stderr  # what a product prints is no answer
    try:
        asyncio.run(serve(sys.argv[1], processes, answers))
    finally:
        processes.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""PgQueuer with batches of 100; handlers put their results into a table, as the library keeps none.

`python -m benchmarks.peers.pgqueuer` is the worker: the library's `run`, of which `pgq run` is the command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pgqueuer
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peer import HANDLERS, Kind, Leftovers, Value
from benchmarks.peers import tables
from benchmarks.place import Place, here

BATCH = 100
BULK = 1_000  # jobs an enqueue

place = here()


@asynccontextmanager
async def main() -> AsyncIterator[PgQueuer]:
    """One connection for the queue, as the documentation has it, and a pool for the handlers."""
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(place.database_url)))
    pool = await asyncpg.create_pool(place.database_url)

    async def run(job: Job) -> None:
        assert job.payload is not None
        call = json.loads(job.payload)
        await pool.execute(tables.INSERT, call["task"], HANDLERS[job.entrypoint](call["x"], call["y"]))

    for kind in HANDLERS:
        queuer.entrypoint(kind)(run)
    yield queuer
    await pool.close()


class PgQueuerPeer:
    def __init__(self) -> None:
        self._queries: Queries
        self._pool: asyncpg.Pool[Any]
        self._results: asyncpg.Connection[Any]

    async def prepare(self) -> None:
        await tables.make(place.database_url)
        connection = await asyncpg.connect(place.database_url)
        queries = Queries(AsyncpgDriver(connection))
        await queries.install()
        await queries.optimize_autovacuum()
        await connection.close()

    def commands(self) -> dict[str, list[list[str]]]:
        return {"worker": [[sys.executable, "-m", "benchmarks.peers.pgqueuer"]] * place.workers}

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(place.database_url)
        self._queries = Queries(AsyncpgPoolDriver(self._pool))
        self._results = await asyncpg.connect(place.database_url)

    async def close(self) -> None:
        await self._results.close()
        await self._pool.close()

    async def publish(self, kind: Kind, x: int) -> str:
        task, payload = _job(x)
        await self._queries.enqueue(kind, payload)
        return task

    async def publish_many(self, kind: Kind, xs: Sequence[int]) -> list[str]:
        tasks: list[str] = []
        for start in range(0, len(xs), BULK):
            jobs = [_job(x) for x in xs[start : start + BULK]]
            await self._queries.enqueue([kind] * len(jobs), [payload for _, payload in jobs], [0] * len(jobs))
            tasks += [task for task, _ in jobs]
        return tasks

    async def result(self, ticket: str) -> Value:
        return (await tables.wait(self._results, [ticket]))[0]

    async def results(self, tickets: Sequence[str]) -> list[Value]:
        return await tables.wait(self._results, tickets)

    def leftovers(self) -> Leftovers:
        return Leftovers()


def make(_: Place) -> PgQueuerPeer:
    return PgQueuerPeer()


def _job(x: int) -> tuple[str, bytes]:
    task = str(uuid4())
    return task, json.dumps({"task": task, "x": x, "y": 1}).encode()


if __name__ == "__main__":
    uvloop.run(pgqueuer.run(main, batch_size=BATCH))

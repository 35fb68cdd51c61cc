"""Procrastinate with 10 jobs at once; handlers put their results into a table, as the library keeps none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from procrastinate import App, PsycopgConnector

from benchmarks.peer import HANDLERS, Kind, Leftovers, Value
from benchmarks.peers import tables
from benchmarks.place import Place, here

CONCURRENCY = 10
BULK = 1_000  # jobs a defer

place = here()
app = App(connector=PsycopgConnector(conninfo=place.database_url, min_size=CONCURRENCY, max_size=CONCURRENCY + 2))
INSERT = "INSERT INTO results (task, value) VALUES (%(task)s::uuid, %(value)s)"


def _register(kind: Kind) -> Any:
    @app.task(name=kind)
    async def run(task: str, x: int, y: int) -> None:
        await app.connector.execute_query_async(INSERT, task=task, value=HANDLERS[kind](x, y))

    return run


TASKS: dict[Kind, Any] = {"add": _register("add"), "stamp": _register("stamp")}


class ProcrastinatePeer:
    def __init__(self) -> None:
        self._results: asyncpg.Connection[Any]

    async def prepare(self) -> None:
        await tables.make(place.database_url)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    def commands(self) -> dict[str, list[list[str]]]:
        command = [str(Path(sys.executable).with_name("procrastinate")), "--log-level", "warning", "--app"]
        worker = [*command, "benchmarks.peers.procrastinate.app", "worker", "--concurrency", str(CONCURRENCY)]
        return {"worker": [worker] * place.workers}

    async def open(self) -> None:
        await app.open_async()
        self._results = await asyncpg.connect(place.database_url)

    async def close(self) -> None:
        await self._results.close()
        await app.close_async()

    async def publish(self, kind: Kind, x: int) -> str:
        task = str(uuid4())
        await TASKS[kind].defer_async(task=task, x=x, y=1)
        return task

    async def publish_many(self, kind: Kind, xs: Sequence[int]) -> list[str]:
        tasks = [str(uuid4()) for _ in xs]
        jobs = [{"task": task, "x": x, "y": 1} for task, x in zip(tasks, xs, strict=True)]
        for start in range(0, len(jobs), BULK):
            await TASKS[kind].batch_defer_async(*jobs[start : start + BULK])
        return tasks

    async def result(self, ticket: str) -> Value:
        return (await tables.wait(self._results, [ticket]))[0]

    async def results(self, tickets: Sequence[str]) -> list[Value]:
        return await tables.wait(self._results, tickets)

    def leftovers(self) -> Leftovers:
        return Leftovers()


def make(_: Place) -> ProcrastinatePeer:
    return ProcrastinatePeer()

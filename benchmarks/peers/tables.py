"""A results table for products that keep none: handlers insert into it, the publisher polls it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from benchmarks.peer import Value

MAKE = "CREATE TABLE IF NOT EXISTS results (task uuid PRIMARY KEY, value float8 NOT NULL)"
INSERT = "INSERT INTO results (task, value) VALUES ($1, $2)"
_SELECT = "SELECT task, value FROM results WHERE task = ANY ($1::uuid[])"

LONE_SECONDS = 0.002  # between two looks for one result
MANY_SECONDS = 0.05  # and for many


async def make(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(MAKE)
    await connection.close()


async def wait(connection: asyncpg.Connection[Any], tasks: Sequence[str]) -> list[Value]:
    """Return the values of `tasks`, in their order, as soon as all are there."""
    found: dict[str, Value] = {}
    while True:
        rows = await connection.fetch(_SELECT, [task for task in tasks if task not in found])
        found.update((str(row["task"]), row["value"]) for row in rows)
        if len(found) == len(tasks):
            return [found[task] for task in tasks]
        await asyncio.sleep(LONE_SECONDS if len(tasks) == 1 else MANY_SECONDS)

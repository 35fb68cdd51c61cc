"""Effects: a row for each run of a handler, in a database that no fault reaches. A context in, marks out; runs read.

A mark of a start is committed before the handler goes on: a run that did anything is here, however its process ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from datetime import datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from tacoq_worker import Context

T = TypeVar("T")

EFFECTS_URL = "FAULTS_EFFECTS_URL"  # in the environment of workers
_TABLE = """
CREATE TABLE effects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id uuid NOT NULL,
    release int NOT NULL,
    pid int NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz
)
"""
_BEGIN = "INSERT INTO effects (task_id, release, pid) VALUES ($1, $2, $3) RETURNING id"
_END = "UPDATE effects SET ended_at = clock_timestamp() WHERE id = $1"


class Ran(NamedTuple):
    """One run. `ended_at` is None when its process died over it."""

    task_id: UUID
    release: int
    pid: int
    started_at: datetime
    ended_at: datetime | None


class Effects:
    """The test's side: makes the table and reads it."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def create(self) -> None:
        await self._fetch(_TABLE)

    async def runs(self) -> list[Ran]:
        """Return every run, in the order of their starts."""
        rows = await self._fetch("SELECT task_id, release, pid, started_at, ended_at FROM effects ORDER BY started_at")
        return [Ran(*row) for row in rows]

    async def of(self, task_id: UUID) -> list[Ran]:
        return [ran for ran in await self.runs() if ran.task_id == task_id]

    async def count(self) -> int:
        (row,) = await self._fetch("SELECT count(*) FROM effects")
        return int(row[0])

    async def _fetch(self, statement: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()


class _Marks:
    """The handlers' side: one connection for a process, on a loop of its own, for async and plain handlers alike."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="effects", daemon=True).start()
        self._connection: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()

    def begin(self, context: Context) -> Future[int]:
        return self._submit(self._execute(_BEGIN, context.task_id, context.release, os.getpid()))

    def end(self, number: int) -> Future[int]:
        return self._submit(self._execute(_END, number))

    def _submit(self, work: Coroutine[None, None, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _execute(self, statement: str, *arguments: object) -> int:
        async with self._lock:
            if self._connection is None:
                settings = {"synchronous_commit": "off"}
                self._connection = await asyncpg.connect(os.environ[EFFECTS_URL], server_settings=settings)
            number: int = await self._connection.fetchval(statement, *arguments) or 0
            return number


@functools.cache
def _marks() -> _Marks:
    return _Marks()


@contextlib.contextmanager
def run_of(context: Context) -> Iterator[None]:
    """Mark the start and, however the block ends, the end of a plain handler's run."""
    number = _marks().begin(context).result()
    try:
        yield
    finally:
        _marks().end(number).result()


@contextlib.asynccontextmanager
async def async_run_of(context: Context) -> AsyncIterator[None]:
    """The same for an async handler."""
    number = await asyncio.wrap_future(_marks().begin(context))
    try:
        yield
    finally:
        await asyncio.wrap_future(_marks().end(number))

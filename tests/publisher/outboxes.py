"""Databases of applications, with an outbox in them: what its tests do to one, on SQLite and on Postgres alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tacoq_protocol.http import NewTask
from tacoq_publisher import outbox


class Application(Protocol):
    """An application with a database of its own. `url` is what its forwarder is given."""

    url: str

    async def commit(self, work: Callable[[Any], object]) -> None:
        """Do `work` with a session, and commit."""

    async def execute(self, statement: Any) -> list[Any]:
        """Run a statement in a transaction; return its rows, if it has any."""


class OnSQLite:
    """With a plain Session."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'app.db'}"
        self.engine = create_engine(self.url)

    async def commit(self, work: Callable[[Any], object]) -> None:
        with Session(self.engine) as session, session.begin():
            work(session)

    async def execute(self, statement: Any) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(statement)
            return list(result.all()) if result.returns_rows else []


class OnPostgres:
    """With an AsyncSession."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))

    async def commit(self, work: Callable[[Any], object]) -> None:
        async with AsyncSession(self.engine) as session, session.begin():
            work(session)

    async def execute(self, statement: Any) -> list[Any]:
        async with self.engine.begin() as connection:
            result = await connection.execute(statement)
            return list(result.all()) if result.returns_rows else []


@asynccontextmanager
async def on_sqlite(folder: Path) -> AsyncIterator[OnSQLite]:
    application = OnSQLite(folder)
    outbox.metadata.create_all(application.engine)
    yield application
    application.engine.dispose()


@asynccontextmanager
async def on_postgres(url: str) -> AsyncIterator[OnPostgres]:
    application = OnPostgres(url)
    async with application.engine.begin() as connection:
        await connection.run_sync(outbox.metadata.create_all)
    yield application
    await application.engine.dispose()


async def tasks_in(application: Application) -> list[NewTask]:
    """The tasks that wait there, in the order in which they will be forwarded."""
    rows = await application.execute(select(outbox.table.c.task).order_by(outbox.table.c.seq))
    return [msgspec.json.decode(task, type=NewTask) for (task,) in rows]

"""The rows of an outbox: the URL of the application's database in; its oldest rows, and which of them go, out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeVar

import asyncpg
from sqlalchemy import URL, Connection, Engine, create_engine, delete, inspect, make_url, select, type_coerce, update
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.types import NullType

from tacoq_protocol.errors import ConfigurationError, TacoqError
from tacoq_publisher.outbox import CHANNEL, table

T = TypeVar("T")

MOST: Final = 200  # rows at a time: each may have a mebibyte
ANSWER_SECONDS: Final = 30.0

# What URLs have for other drivers, and for SQLAlchemy's use of this one; asyncpg would ask the server for it.
_NOT_ITS: Final = {
    "async_fallback", "channel_binding", "connect_timeout", "gssencmode", "keepalives", "prepared_statement_cache_size",
}  # fmt: skip
_FAULTS: Final = (DBAPIError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class OutboxUnavailable(TacoqError):
    """The application's database is away, or refuses what it was asked."""


class Waiting(NamedTuple):
    """A row that is to be sent. `task`: its JSON, if that is what somebody wrote there."""

    seq: int
    task: bytes


class Rows:
    """The outbox in the application's database, by whichever driver its URL names; on Postgres by asyncpg.

    While the database is away or refuses, methods raise OutboxUnavailable.
    """

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError."""
        parsed = _url(url)
        self.place = _place(parsed)
        self._engine: AsyncEngine | Engine
        self._dsn: str | None = None
        self._ear: asyncpg.Connection[asyncpg.Record] | None = None
        if parsed.get_backend_name() in {"postgres", "postgresql"}:
            given = {name: value for name, value in parsed.query.items() if name not in _NOT_ITS}
            query = {("sslmode" if name == "ssl" else name): value for name, value in given.items()}
            self._dsn = parsed.set(drivername="postgresql", query=query).render_as_string(hide_password=False)
            self._engine = create_async_engine("postgresql+asyncpg://", async_creator=self._connect, pool_pre_ping=True)
            return
        if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
            raise ConfigurationError("an outbox in the memory of its application cannot be read: give sqlite:///app.db")
        try:
            make = create_async_engine if parsed.get_dialect().is_async else create_engine
            self._engine = make(parsed, pool_pre_ping=True)
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise ConfigurationError(f"the database of the outbox, {self.place}, needs a driver: {error}") from None

    async def listen(self, heard: Callable[[], None]) -> None:
        """On Postgres have `heard` called at commits from now on, if it is not so already."""
        if self._dsn is None or (self._ear is not None and not self._ear.is_closed()):
            return
        with self._faults():
            async with asyncio.timeout(ANSWER_SECONDS):
                ear = await self._connect()
                try:
                    await ear.add_listener(CHANNEL, lambda *_: heard())
                except BaseException:
                    ear.terminate()
                    raise
        self._ear = ear

    async def exist(self) -> bool:
        """Whether the table is there."""
        return await self._run(lambda connection: inspect(connection).has_table(table.name))

    async def first(self) -> list[Waiting]:
        """Return the oldest that are to be sent, up to MOST."""
        written = type_coerce(table.c.task, NullType)  # as it is: on SQLite others may write what they like
        statement = select(table.c.seq, written).where(table.c.error.is_(None)).order_by(table.c.seq).limit(MOST)
        rows = await self._run(lambda connection: connection.execute(statement).all())
        return [Waiting(seq, task if isinstance(task, bytes) else str(task).encode()) for seq, task in rows]

    async def settle(self, sent: Sequence[int], refused: Mapping[int, str]) -> None:
        """Delete those that were accepted, and note why others were not; by their numbers."""

        def note(connection: Connection) -> None:
            for seq, error in refused.items():
                connection.execute(update(table).where(table.c.seq == seq).values(error=error.replace("\0", "\\0")))

        if sent:
            await self._run(lambda connection: connection.execute(delete(table).where(table.c.seq.in_(sent))))
        if refused:
            await self._run(note)

    async def close(self) -> None:
        if self._ear is not None:
            self._ear.terminate()
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()
        else:
            self._engine.dispose()

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """Do it in a transaction."""
        with self._faults():
            if isinstance(self._engine, AsyncEngine):
                async with asyncio.timeout(ANSWER_SECONDS), self._engine.begin() as connection:
                    return await connection.run_sync(work)
            return await asyncio.to_thread(_in_transaction, self._engine, work)

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self._dsn, timeout=ANSWER_SECONDS)
        return connection

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except _FAULTS as error:
            told = error.orig if isinstance(error, DBAPIError) else error  # SQLAlchemy's own has the statement
            raise OutboxUnavailable(f"{self.place}: {str(told) or type(told).__name__}") from error


def _in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _url(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # which would tell the password
        raise ConfigurationError(
            "the URL of the outbox's database is none: give one as SQLAlchemy has it, as in "
            "postgresql://user:password@host/name or sqlite:///app.db"
        ) from None


def _place(url: URL) -> str:
    """The database, and nothing that might be a secret."""
    host = (url.host or "").rpartition("@")[2] or None
    return URL.create(url.drivername, host=host, port=url.port, database=url.database).render_as_string()

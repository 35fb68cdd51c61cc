"""Connections: one for each hot statement, which opens itself again, and a SQLAlchemy engine for the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from tacoq_manager.store.functions import ACCEPT_FUNCTION
from tacoq_manager.store.keyed_function import ACCEPT_KEYED_FUNCTION
from tacoq_protocol.errors import TacoqError

log = logging.getLogger("tacoq.store")

# The live table is often empty when a statement is planned, and a plan made then must not go quadratic later:
# only nested loops over indexes are left to choose from.
HOT_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",  # it takes, and locks, rows in the order of the heap; batches lock in the order of ids
}

_RETRIED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_TRIES = 5
LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,  # "connection is closed", "connection was closed in the middle of operation"
    asyncpg.InternalClientError,  # "cannot switch to state": the connection broke between two steps of the driver
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutdown, terminated by an administrator
    asyncpg.CannotConnectNowError,
    # Of the server, and not of the data that it was given:
    asyncpg.InsufficientResourcesError,  # no connection left, disk full, out of memory
    asyncpg.PostgresSystemError,  # it cannot read or write its files
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or a primary that was told to take nothing
)

UNREACHABLE = (
    *LOST,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,  # there is no such database; while a manager runs: not yet again
)

# A migration is at work, or a grant is missing: it says nothing about the data, which has to wait for it.
UNFIT = (asyncpg.SyntaxOrAccessError, asyncpg.ObjectNotInPrerequisiteStateError)

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 30.0

_POOL, _OVERFLOW = 2, 4
SEARCHES = 2  # at a time, of these
CONNECTIONS = 7 + _POOL + _OVERFLOW  # of one manager at most: those of a Database


class DatabaseUnavailable(TacoqError):
    """Postgres is not reachable or takes nothing, or the connection broke inside a statement: it may have committed."""


class HotConnection:
    """One asyncpg connection for one caller's statements, one at a time, opened when needed.

    `setup` is run at each opening.

    Deadlock victims and serialisation failures (40P01, 40001) are run again: nothing of them was applied.
    """

    def __init__(self, url: str, name: str, *, setup: str | None = None) -> None:
        self._url = url
        self._name = name
        self._setup = setup
        self._connection: asyncpg.Connection[Any] | None = None
        self._turn = asyncio.Lock()
        self._listens: tuple[str, Callable[[str | None], None]] | None = None

    def listen(self, channel: str, heard: Callable[[str | None], None]) -> None:
        """Have `heard` called with what is notified on `channel`, from the next opening on.

        It is called with None at each opening: what was notified before may have been lost.
        """
        self._listens = channel, heard

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run one statement in its own transaction and return its rows; committed when it returns.

        Raises DatabaseUnavailable when Postgres is away or takes nothing, or when the connection broke (then it may
        have committed); errors of the data are asyncpg's.
        """
        async with self._turn:
            for attempt in range(1, _TRIES + 1):
                connection = await self._open()
                try:
                    rows: list[asyncpg.Record] = await connection.fetch(
                        statement, *arguments, timeout=STATEMENT_SECONDS
                    )
                    return rows
                except _RETRIED as error:
                    if attempt == _TRIES:
                        raise DatabaseUnavailable(f"given up after {_TRIES} tries: {_text(error)}") from error
                    log.info("statement retried", extra={"connection": self._name, "attempt": attempt})
                except ValueError:
                    raise  # asyncpg's error for an argument of the wrong type is an InterfaceError, too
                except LOST as error:
                    await self._drop()
                    raise DatabaseUnavailable(f"the connection to Postgres broke: {_text(error)}") from error
                except UNFIT as error:
                    await self._drop()  # the next one is set up anew
                    raise DatabaseUnavailable(f"Postgres cannot run the statement now: {_text(error)}") from error
                except asyncio.CancelledError:
                    await self._drop()  # asyncpg may be in the middle of a protocol exchange
                    raise
        raise AssertionError("unreachable")

    async def _open(self) -> asyncpg.Connection[Any]:
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection = await self._connect()
            except UNREACHABLE as error:
                raise DatabaseUnavailable(f"Postgres is not reachable: {_text(error)}") from error
        return self._connection

    async def _connect(self) -> asyncpg.Connection[Any]:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            self._url,
            timeout=CONNECT_SECONDS,
            server_settings={"application_name": f"tacoq {self._name}", **HOT_SETTINGS},
        )
        try:
            if self._setup is not None:
                await connection.execute(self._setup, timeout=STATEMENT_SECONDS)
            if self._listens is not None:
                await self._begin_to_listen(connection, *self._listens)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _begin_to_listen(
        self, connection: asyncpg.Connection[Any], channel: str, heard: Callable[[str | None], None]
    ) -> None:
        async with asyncio.timeout(STATEMENT_SECONDS):
            await connection.add_listener(channel, lambda _connection, _pid, _channel, payload: heard(str(payload)))
        heard(None)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Close the connection. The next statement would open it again."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=CONNECT_SECONDS)
            except LOST:
                connection.terminate()


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


class Database:
    """All connections of one manager: one per flow, so that a slow accept never makes a settle wait."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.accept = HotConnection(url, "accept", setup=f"{ACCEPT_FUNCTION};{ACCEPT_KEYED_FUNCTION}")
        self.claim = HotConnection(url, "claim")
        self.settle = HotConnection(url, "settle")
        self.read = HotConnection(url, "read")
        self.events = HotConnection(url, "events")  # not opened while nobody listens
        self.upkeep = HotConnection(url, "upkeep")
        # A renewal must not stand behind a long step of upkeep. It also shows that the connection hears prompts.
        self.leader = HotConnection(url, "leader")
        self.engine: AsyncEngine = create_async_engine(
            url.replace("postgresql://", "postgresql+asyncpg://", 1),
            poolclass=AsyncAdaptedQueuePool,
            pool_size=_POOL,
            max_overflow=_OVERFLOW,
            pool_pre_ping=True,
            connect_args={"server_settings": {"application_name": "tacoq"}, "timeout": CONNECT_SECONDS},
        )
        self.searches = asyncio.Semaphore(SEARCHES)

    async def close(self) -> None:
        hot = (self.accept, self.claim, self.settle, self.read, self.events, self.upkeep, self.leader)
        for connection in hot:
            await connection.close()
        await self.engine.dispose()

"""Reading: a database URL in, one connection that changes nothing, for commands that look and go, out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from tacoq_manager.store.engine import CONNECT_SECONDS, UNFIT, UNREACHABLE, DatabaseUnavailable

CLOSE_SECONDS: Final = 2.0

SPARE_SECONDS: Final = 2.0  # for the answer of a server that gave up by itself

# Whatever the statistics say, history is probed by its keys and never hashed whole.
_SETTINGS: Final = {"enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}
_TAKES_NOTHING: Final = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean"


class Reader:
    """Statements one after the other, each with a deadline. `takes_nothing`: the server would take no writes either."""

    def __init__(self, connection: asyncpg.Connection[Any], seconds: float, takes_nothing: bool) -> None:
        self.takes_nothing = takes_nothing
        self._connection = connection
        self._seconds = seconds

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run one statement and return its rows.

        Raises DatabaseUnavailable when there is no answer, none in time, or when the tables are not as they should be.
        """
        try:
            async with asyncio.timeout(self._seconds + SPARE_SECONDS):
                rows: list[asyncpg.Record] = await self._connection.fetch(statement, *arguments)
                return rows
        except TimeoutError:
            raise DatabaseUnavailable(f"Postgres did not answer within {self._seconds:g} s") from None
        except (*UNREACHABLE, *UNFIT) as error:
            raise DatabaseUnavailable(f"Postgres cannot tell: {_text(error)}") from error


@asynccontextmanager
async def reading(url: str, name: str, *, seconds: float) -> AsyncIterator[Reader]:
    """Connect once; `seconds` is for each statement. Raises DatabaseUnavailable."""
    settings = {"application_name": f"tacoq {name}", "statement_timeout": f"{seconds * 1000:.0f}", **_SETTINGS}
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS, server_settings=settings)
    except UNREACHABLE as error:
        raise DatabaseUnavailable(f"Postgres is not reachable: {_text(error)}") from error
    try:
        try:
            takes_nothing = await connection.fetchval(_TAKES_NOTHING, timeout=CONNECT_SECONDS)
            await connection.execute("SET default_transaction_read_only = on", timeout=CONNECT_SECONDS)
        except UNREACHABLE as error:
            raise DatabaseUnavailable(f"Postgres does not answer: {_text(error)}") from error
        yield Reader(connection, seconds, bool(takes_nothing))
    finally:
        try:
            await connection.close(timeout=CLOSE_SECONDS)
        except (*UNREACHABLE, asyncpg.PostgresError):
            connection.terminate()


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__

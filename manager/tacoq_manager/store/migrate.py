"""The schema's version: a database in, this version's tables, or the reason to refuse it, out. Runs Alembic.

Migrations run in a thread, one at a time: Alembic keeps what it is doing in module globals.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

import tacoq_manager
from tacoq_manager.store.engine import CONNECT_SECONDS
from tacoq_manager.store.faults import database_faults, driver_error
from tacoq_manager.store.schema import PARTITIONED
from tacoq_protocol.errors import TacoqError

T = TypeVar("T")

_LOCK_KEY = 0x7AC0_0001  # of the advisory lock; keys are per database
_LOCK_RETRY_SECONDS = 0.1
_PARTITION = re.compile(rf"({'|'.join(PARTITIONED)})_(default|\d{{8}})")
_one_at_a_time = threading.Lock()


class OldSchema(TacoqError):
    """The database's tables are older than this version needs, or not there yet."""

    def __init__(self, found: str | None, wanted: str) -> None:
        super().__init__(
            f"the database schema is at revision {found or 'none (empty or missing)'}, "
            f"this version needs {wanted}; run: tacoq migrate"
        )
        self.found = found
        self.wanted = wanted


class UnknownSchema(TacoqError):
    """The database's tables are of a version that this one has never heard of, so a newer one."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(
            f"the database schema is at revision {found}, which this version ({wanted}) does not know: "
            "upgrade tacoq-manager"
        )
        self.found = found
        self.wanted = wanted


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did: from which revision to which. None: no tables."""

    before: str | None
    after: str | None


async def upgrade(database_url: str) -> Migrated:
    """Bring the database to this version's schema, creating it when missing. Safe to run twice, also at once.

    Raises DatabaseUnavailable when Postgres cannot be reached, UnknownSchema when the database is newer.
    """
    return await asyncio.to_thread(_in_turn, database_url, _upgrade)


async def downgrade(database_url: str, to: str) -> Migrated:
    """Go back to revision `to`, or to "base": no tables, and nothing of what was in them."""
    return await asyncio.to_thread(_in_turn, database_url, lambda config: command.downgrade(config, to))


async def check(database_url: str) -> None:
    """Return when the database has this version's schema.

    Raises OldSchema, which names the command to run; UnknownSchema; DatabaseUnavailable.
    """
    engine = engine_for(database_url)
    try:
        async with _connected(engine) as connection:
            await check_connection(connection)
    except _NoDatabase:
        raise OldSchema(None, wanted_revision()) from None


async def check_connection(connection: AsyncConnection) -> None:
    """`check`, on a connection at hand."""
    check_revision(await connection.run_sync(_revision))


def check_revision(found: str | None) -> None:
    """`check`, of a revision at hand; None: no tables."""
    if found == wanted_revision():
        return
    if found is not None and found not in _known_revisions():
        raise UnknownSchema(found, wanted_revision())
    raise OldSchema(found, wanted_revision())


@cache
def wanted_revision() -> str:
    """The schema revision that this version of the code works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, "there are no migrations"
    return head


def is_partition(table: str) -> bool:
    """True for the name of a partition of one of `schema.PARTITIONED`."""
    return _PARTITION.fullmatch(table) is not None


def engine_for(database_url: str) -> AsyncEngine:
    """An engine that keeps no connections, for a one-off piece of work."""
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    settings = {"application_name": "tacoq migrate"}
    return create_async_engine(
        url, poolclass=NullPool, connect_args={"timeout": CONNECT_SECONDS, "server_settings": settings}
    )


def _in_turn(database_url: str, work: Callable[[Config], None]) -> Migrated:
    with _one_at_a_time:
        return asyncio.run(_migrate(database_url, work))


async def _migrate(database_url: str, work: Callable[[Config], None]) -> Migrated:
    engine = engine_for(database_url)
    try:
        return await _locked(engine, work)
    except _NoDatabase:
        await _create_database(engine.url)
        return await _locked(engine, work)


async def _locked(engine: AsyncEngine, work: Callable[[Config], None]) -> Migrated:
    async with _connected(engine) as connection:
        # Asked again and again rather than waited for: a waiting statement holds a snapshot, for which an index
        # that is built concurrently would wait.
        while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}):
            await connection.commit()
            await asyncio.sleep(_LOCK_RETRY_SECONDS)
        await connection.commit()
        before = await connection.run_sync(_revision)
        await connection.commit()
        await connection.run_sync(lambda sync: work(_config(sync)))
        await connection.commit()
        return Migrated(before, await connection.run_sync(_revision))  # closing the connection frees the lock


def _upgrade(config: Config) -> None:
    found = _revision(config.attributes["connection"])
    if found is not None and found not in _known_revisions():
        raise UnknownSchema(found, wanted_revision())
    command.upgrade(config, "head")


def _known_revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _scripts() -> Path:
    package = Path(tacoq_manager.__file__).parent
    inside_wheel = package / "alembic"
    return inside_wheel if inside_wheel.is_dir() else package.parent.parent / "alembic"


def _revision(connection: Connection) -> str | None:
    revision: str | None = MigrationContext.configure(connection).get_current_revision()
    return revision


class _NoDatabase(Exception):
    """The server is there, the database is not."""


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection, with the faults of connecting told apart."""
    with database_faults():
        try:
            connection = await engine.connect()
        except DBAPIError as error:
            if isinstance(driver_error(error), asyncpg.InvalidCatalogNameError):
                raise _NoDatabase from error
            raise
    try:
        yield connection
    finally:
        await connection.close()


async def _create_database(url: URL) -> None:
    engine = engine_for(url.set(database="postgres").render_as_string(hide_password=False))
    name = engine.dialect.identifier_preparer.quote_identifier(url.database or "")
    async with _connected(engine) as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            await connection.execute(text(f"CREATE DATABASE {name}"))
        except DBAPIError as error:
            # Somebody else was faster; at the very same time, it is the catalog's unique index that says so.
            if not isinstance(driver_error(error), (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError)):
                raise

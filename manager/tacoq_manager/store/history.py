"""Partitions: days in, a partition for each of them out; what is older than the retention dropped whole.

`task_history` and `attempts` are cut by the day inside the task's id. Partitions are made beside their parent a week
before they are needed, and attached. DEFAULT takes ids of days that have none.

Who plans a statement while a partition comes or goes may plan without it, and rows that are moved meanwhile would seem
not to exist; so rows are only moved, and days that ids are made for now only attached, with the parent locked against
everybody, which takes milliseconds. The lock is asked for briefly, and at the next step when it is not to be had.
(Postgres detaches CONCURRENTLY only where there is no DEFAULT.)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, TypeVar

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from tacoq_manager.store.engine import Database
from tacoq_manager.store.faults import database_faults, driver_error
from tacoq_manager.store.schema import PARTITIONED
from tacoq_protocol.ids import MAX_AHEAD, first_id_of

T = TypeVar("T")

log = logging.getLogger("tacoq.partitions")

MOST_STRAYS: Final = 10_000  # moved under a lock that every lookup waits for
LOCK_TIMEOUT: Final = "500ms"  # others queue behind us while we wait
_LOCK_KEY: Final = 0x7AC0_0002
ENDED_AT: Final = {"task_history": "finished_at", "attempts": "ended_at"}
_LIST: Final = text("""
SELECT child.relname, child.relispartition FROM pg_class AS child JOIN pg_class AS parent USING (relnamespace)
WHERE parent.oid = CAST(:parent AS text)::regclass AND child.relkind = 'r' AND child.relname ~ :pattern
""")
_DAY: Final = re.compile(r"_(\d{8})$")


async def ensure_partitions(database: Database, today: date, *, days_ahead: int = 7) -> int:
    """See that `today` and the days after it have partitions; return how many were made. Idempotent.

    Two managers may do it at the same time. Days that cannot be made now are logged, and left to DEFAULT and the next
    call. Raises DatabaseUnavailable.
    """
    made = 0
    for table in PARTITIONED:
        existing = await _partitions(database, table)
        wanted = (today + timedelta(days=ahead) for ahead in range(days_ahead + 1))
        missing = [day for day in wanted if day not in existing]
        if missing:
            in_use = missing[0] <= today + MAX_AHEAD
            made += await _make(database, table, missing, alone=in_use)
    return made


async def drop_partitions(database: Database, older_than: datetime) -> int:
    """Forget tasks that ended before `older_than`, a day of creation at a time; return how many partitions went.

    What was created on such a day and ended later moves to DEFAULT. Raises DatabaseUnavailable.
    """
    dropped = 0
    for table in PARTITIONED:
        for day, attached in sorted((await _partitions(database, table)).items()):
            if _midnight(day + timedelta(days=1)) > older_than:
                break
            if attached and not await _detach(database, table, day, older_than):
                continue
            dropped += await _drop(database, table, day, older_than)
        await _purge_default(database, table, older_than)
    return dropped


async def _partitions(database: Database, table: str) -> dict[date, bool]:
    """Days with a table of their own, and whether it is attached; one that is not was about to be dropped."""
    with database_faults():
        async with database.engine.connect() as connection:
            rows = await connection.execute(_LIST, {"pattern": rf"^{table}_\d{{8}}$", "parent": table})
            return {_day(name): attached for name, attached in rows}


class _Strays(Exception):
    """DEFAULT has rows of a day that is to be made: they can only be moved with nobody looking."""


async def _make(database: Database, table: str, days: Sequence[date], *, alone: bool) -> int:
    """Create and attach the partitions of `days`, with their strays out of DEFAULT; return how many.

    `alone`: lock everybody out; else only writers, who would be refused by DEFAULT once they have chosen it.
    """
    mode = "ACCESS EXCLUSIVE" if alone else "SHARE ROW EXCLUSIVE"

    async def work(connection: AsyncConnection) -> int:
        await connection.execute(text(f"LOCK TABLE ONLY {table} IN {mode} MODE"))
        return sum([await _make_one(connection, table, day, alone=alone) for day in days])

    try:
        return await _locked(database, work, otherwise=f"partitions of {table} are not made") or 0
    except _Strays:
        return await _make(database, table, days, alone=True)


async def _make_one(connection: AsyncConnection, table: str, day: date, *, alone: bool) -> bool:
    column, name, default = PARTITIONED[table], partition_name(table, day), f"{table}_default"
    first, end = (first_id_of(_midnight(at)) for at in (day, day + timedelta(days=1)))
    inside = f"{column} >= '{first}' AND {column} < '{end}'"
    if await connection.scalar(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": name}):
        return False  # by another manager, meanwhile
    counted = f"SELECT count(*) FROM (SELECT FROM {default} WHERE {inside} LIMIT {MOST_STRAYS + 1}) AS strays"
    strays = await connection.scalar(text(counted)) or 0
    if strays > MOST_STRAYS:
        log.warning("a day stays in DEFAULT: too many tasks have its ids", extra={"partition": name})
        return False
    if strays and not alone:
        raise _Strays
    await connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)"))
    # With it, ATTACH does not look through the rows.
    await connection.execute(text(f"ALTER TABLE {name} ADD CONSTRAINT {name}_range CHECK ({inside})"))
    if strays:
        moved = f"WITH moved AS (DELETE FROM {default} WHERE {inside} RETURNING *)"
        await connection.execute(text(f"{moved} INSERT INTO {name} SELECT * FROM moved"))
    bounds = f"FOR VALUES FROM ('{first}') TO ('{end}')"
    await connection.execute(text(f"ALTER TABLE {table} ATTACH PARTITION {name} {bounds}"))
    return True


async def _detach(database: Database, table: str, day: date, older_than: datetime) -> bool:
    """Detach a partition; its latecomers are in DEFAULT at the same moment."""
    name, column = partition_name(table, day), PARTITIONED[table]
    late = text(f"SELECT {column} FROM {name} WHERE {ENDED_AT[table]} >= :older_than LIMIT {MOST_STRAYS + 1}")
    with database_faults():
        async with database.engine.connect() as connection:  # before any lock: it reads the whole day
            ids = (await connection.scalars(late, {"older_than": older_than})).all()
    if len(ids) > MOST_STRAYS:
        log.warning("a day is kept: too many of its tasks ended lately", extra={"partition": name})
        return False

    async def work(connection: AsyncConnection) -> bool:
        await connection.execute(text(f"ALTER TABLE {table} DETACH PARTITION {name}"))
        copied = text(f"INSERT INTO {table} SELECT * FROM {name} WHERE {column} = ANY (:ids)")
        await connection.execute(copied, {"ids": ids})
        return True

    return await _locked(database, work, otherwise=f"{name} is not detached") or False


async def _drop(database: Database, table: str, day: date, older_than: datetime) -> bool:
    """Drop a detached partition; what ended lately in it, and is not in DEFAULT yet, goes there first."""
    name = partition_name(table, day)

    async def work(connection: AsyncConnection) -> bool:
        late = f"SELECT * FROM {name} WHERE {ENDED_AT[table]} >= :older_than"
        copied = text(f"INSERT INTO {table} {late} ON CONFLICT DO NOTHING")
        await connection.execute(copied, {"older_than": older_than})
        await connection.execute(text(f"DROP TABLE {name}"))
        log.info("partition dropped", extra={"partition": name})
        return True

    return await _locked(database, work, otherwise=f"{name} is not dropped") or False


async def _purge_default(database: Database, table: str, older_than: datetime) -> None:
    old = f"SELECT ctid FROM {table}_default WHERE {ENDED_AT[table]} < :older_than LIMIT {MOST_STRAYS}"
    with database_faults():
        async with database.engine.begin() as connection:
            statement = text(f"DELETE FROM {table}_default WHERE ctid = ANY (ARRAY({old}))")
            await connection.execute(statement, {"older_than": older_than})


async def _locked(database: Database, work: Callable[[AsyncConnection], Awaitable[T]], *, otherwise: str) -> T | None:
    """Do `work` in a transaction, one manager at a time. None, and logged, when it would have to wait for a lock."""
    with database_faults():
        try:
            async with database.engine.begin() as connection:
                await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
                return await work(connection)
        except DBAPIError as error:
            if not isinstance(driver_error(error), (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)):
                raise
            log.warning("history is busy: tried again later", extra={"outcome": otherwise})
            return None


def partition_name(table: str, day: date) -> str:
    """Return what the partition of that day is called."""
    return f"{table}_{day:%Y%m%d}"


def _day(name: str) -> date:
    found = _DAY.search(name)
    assert found is not None
    return datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).date()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)

"""Vitals: a reader in; what the doctor wants to know of Postgres, and what stands there of managers and workers, out.

Nothing here reads a table whole but `workers`: the tasks are probed by their indexes, the history not at all.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Final, NamedTuple
from uuid import UUID

from msgspec import json

from tacoq_manager.store.claim import Flow
from tacoq_manager.store.reading import Reader
from tacoq_manager.store.schema import PARTITIONED
from tacoq_protocol.ids import first_id_of

MOST_COUNTED: Final = 10_000

_SERVER: Final = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
    current_setting('fsync')::boolean AS fsync,
    current_setting('full_page_writes')::boolean AS full_page_writes,
    current_setting('synchronous_commit') <> 'off' AS synchronous_commit,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0)
        - (SELECT sum(numbackends) FROM pg_stat_database)::int AS connections_left
"""
_NOW: Final = "SELECT clock_timestamp() AS now"
_REVISION: Final = "SELECT version_num FROM alembic_version"
_HAS_REVISION: Final = "SELECT to_regclass('alembic_version') IS NOT NULL AS has"
_LEADER: Final = """
SELECT holder, extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds_left FROM leader
"""
_PARTITIONS: Final = """
SELECT child.relname AS name FROM pg_class AS child JOIN pg_class AS parent USING (relnamespace)
WHERE parent.oid = $1::text::regclass AND child.relkind = 'r' AND child.relname ~ $2
"""
_STRAYS: Final = """
SELECT count(*) AS strays FROM (SELECT FROM {table}_default WHERE {column} >= $1 LIMIT {most}) AS found
"""
_WORKERS: Final = "SELECT session, queue, kinds::text AS kinds FROM workers WHERE state = 'live'"
# Loose index scan: a probe for each kind that waits, whatever lies behind it.
_WAITING: Final = """
WITH RECURSIVE flow AS (
    (SELECT queue, kind FROM tasks WHERE state = 'pending' ORDER BY queue, kind LIMIT 1)
    UNION ALL
    SELECT following.* FROM flow CROSS JOIN LATERAL (
        SELECT t.queue, t.kind FROM tasks AS t
        WHERE t.state = 'pending' AND (t.queue, t.kind) > (flow.queue, flow.kind)
        ORDER BY t.queue, t.kind LIMIT 1
    ) AS following
)
SELECT queue, kind FROM flow
"""
_RELEASED: Final = "SELECT DISTINCT queue FROM tasks WHERE state IN ('queued', 'running')"
_DAY: Final = re.compile(r"_(\d{8})$")


class Server(NamedTuple):
    """A Postgres as it is set for who asks."""

    version: str
    major: int
    fsync: bool
    full_page_writes: bool
    synchronous_commit: bool
    connections_left: int  # for users that are not superusers
    takes_nothing: bool  # a standby, or set to take no writes


class Lead(NamedTuple):
    """The leader's row. `holder` None: it was given up; `seconds_left` of its lease, below 0 when it ran out."""

    holder: UUID | None
    seconds_left: float


class LiveWorker(NamedTuple):
    """A session that is written down as live."""

    session: UUID
    queue: str
    kinds: frozenset[str]


async def server(reader: Reader) -> Server:
    """Raises DatabaseUnavailable, as all of these do."""
    (row,) = await reader.fetch(_SERVER)
    return Server(**dict(row), takes_nothing=reader.takes_nothing)


async def clock(reader: Reader) -> datetime:
    """Return the time it is there."""
    (row,) = await reader.fetch(_NOW)
    now: datetime = row["now"]
    return now


async def revision(reader: Reader) -> str | None:
    """Return the revision of the schema, None where there are no tables."""
    (row,) = await reader.fetch(_HAS_REVISION)
    rows = await reader.fetch(_REVISION) if row["has"] else []
    return rows[0]["version_num"] if rows else None


async def lead(reader: Reader) -> Lead | None:
    """Return the leader's row; None when there is none."""
    rows = await reader.fetch(_LEADER)
    return Lead(*rows[0]) if rows else None


async def partitions(reader: Reader, table: str) -> set[date]:
    """Return the days that have a table of their own, attached or not."""
    rows = await reader.fetch(_PARTITIONS, table, rf"^{table}_\d{{8}}$")
    days = (_DAY.search(row["name"]) for row in rows)
    return {datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).date() for found in days if found is not None}


async def strays(reader: Reader, table: str, since: date) -> int:
    """Count the rows in DEFAULT of that day's ids and later ones, up to MOST_COUNTED."""
    statement = _STRAYS.format(table=table, column=PARTITIONED[table], most=MOST_COUNTED)
    (row,) = await reader.fetch(statement, first_id_of(datetime.combine(since, time(), UTC)))
    found: int = row["strays"]
    return found


async def live_workers(reader: Reader) -> list[LiveWorker]:
    """Return the sessions that are written down as live: soon after they come, until a lease after they are gone."""
    rows = await reader.fetch(_WORKERS)
    return [LiveWorker(row["session"], row["queue"], frozenset(json.decode(row["kinds"]))) for row in rows]


async def waiting(reader: Reader) -> list[Flow]:
    """Return the kinds of which a task is pending, by queue."""
    return [Flow(*row) for row in await reader.fetch(_WAITING)]


async def released(reader: Reader) -> set[str]:
    """Return the queues of which a task is queued or running."""
    return {row["queue"] for row in await reader.fetch(_RELEASED)}

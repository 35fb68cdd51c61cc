"""Stats: tallies of one manager in, added to its rows of this minute; sums over all managers out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Column, delete, func, select

from tacoq_manager.store.claim import Flow
from tacoq_manager.store.engine import Database, HotConnection
from tacoq_manager.store.faults import database_faults
from tacoq_manager.store.schema import task_stats
from tacoq_protocol.stats import KindStats, MinuteStats, Stats

KEPT: Final = timedelta(days=1)


@dataclass(slots=True)
class Tally:
    """Tasks that ended, by state; runs that failed and have another one to come; runs that ended, and their seconds."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    retried: int = 0
    runs: int = 0
    run_seconds: float = 0.0

    def add(self, more: Tally) -> None:
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(more, name))


COUNTED: Final = tuple(field.name for field in fields(Tally))

# Each manager has rows of its own: none waits for another's.
_ADD: Final = f"""
INSERT INTO task_stats AS s (minute, queue, kind, manager, {", ".join(COUNTED)})
SELECT date_trunc('minute', now()), u.queue, u.kind, $1, {", ".join(f"u.{name}" for name in COUNTED)}
FROM unnest($2::text[], $3::text[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[], $10::float8[])
    AS u (queue, kind, {", ".join(COUNTED)})
ON CONFLICT (minute, queue, kind, manager) DO UPDATE
SET {", ".join(f"{name} = s.{name} + excluded.{name}" for name in COUNTED)}
"""


async def add(connection: HotConnection, manager: UUID, tallies: Mapping[Flow, Tally]) -> None:
    """Add to what `manager` counted in this minute, by the clock of the database. Raises DatabaseUnavailable."""
    columns = [[getattr(tally, name) for tally in tallies.values()] for name in COUNTED]
    await connection.fetch(_ADD, manager, [flow.queue for flow in tallies], [flow.kind for flow in tallies], *columns)


async def read(database: Database, *, minutes: int, queue: str | None = None, kind: str | None = None) -> Stats:
    """Return the last so many minutes, this one included, by minute and by kind. Raises DatabaseUnavailable."""
    now = func.date_trunc("minute", func.now())
    meant = [task_stats.c.minute > now - timedelta(minutes=minutes)]
    meant += [] if queue is None else [task_stats.c.queue == queue]
    meant += [] if kind is None else [task_stats.c.kind == kind]

    async def sums(*by: Column[Any]) -> list[dict[str, Any]]:
        summed = [func.sum(task_stats.c[name]).label(name) for name in COUNTED]
        found = await connection.execute(select(*by, *summed).where(*meant).group_by(*by).order_by(*by))
        return [dict(row) for row in found.mappings()]

    with database_faults():
        async with database.searches, database.engine.connect() as connection:
            this_minute = (await connection.execute(select(now))).scalar_one()
            by_minute = await sums(task_stats.c.minute)
            by_kind = await sums(task_stats.c.queue, task_stats.c.kind)
    return Stats(
        this_minute=this_minute,
        minutes=[MinuteStats(**row) for row in by_minute],
        kinds=[KindStats(**row) for row in by_kind],
    )


async def prune(database: Database) -> int:
    """Delete minutes that are over since KEPT; return how many rows. Raises DatabaseUnavailable."""
    with database_faults():
        async with database.engine.begin() as connection:
            old = task_stats.c.minute < func.now() - KEPT
            return (await connection.execute(delete(task_stats).where(old))).rowcount

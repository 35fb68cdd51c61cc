"""Schedules: what people and code ask of them in; their rows, those that are due, and what became of these, out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import (
    ColumnElement,
    Executable,
    RowMapping,
    and_,
    case,
    delete,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert

from tacoq_manager.store.engine import Database, HotConnection
from tacoq_manager.store.faults import database_faults
from tacoq_manager.store.schema import schedules
from tacoq_protocol.cron import Cron, MissedPolicy
from tacoq_protocol.schedules import NewSchedule, ScheduleView

_DUE: Final = """
SELECT name, source, kind, queue, cron, timezone, missed, payload, priority, expires_in, next_fire_at, now() AS now
FROM schedules WHERE next_fire_at <= now() ORDER BY next_fire_at LIMIT $1
"""

# A row that was changed since it was read keeps the fire time that the change gave it. The names stand there twice so
# that the rows are found by their key, however the statement was planned when there were none.
_MOVE_ON: Final = """
UPDATE schedules AS s SET
    next_fire_at = CASE WHEN s.next_fire_at = m.due_at THEN m.next_fire_at ELSE s.next_fire_at END,
    retired_at = CASE WHEN s.next_fire_at = m.due_at AND m.retired THEN now() ELSE s.retired_at END,
    last_fire_at = coalesce(m.fired_at, s.last_fire_at),
    last_task = coalesce(m.task, s.last_task)
FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::uuid[], $6::boolean[])
    AS m (name, due_at, next_fire_at, fired_at, task, retired)
WHERE s.name = m.name AND s.name = ANY ($1::text[])
"""

_SHOWN: Final = [column for column in schedules.c if column.name not in ("payload", "declared_at")]


class Due(NamedTuple):
    """A schedule whose time `due_at` has come; `now` is the database's."""

    name: str
    source: str
    kind: str
    queue: str | None
    cron: Cron
    payload: bytes
    priority: int
    expires_in: float | None
    due_at: datetime
    now: datetime


class Moved(NamedTuple):
    """What a schedule that was due at `due_at` goes on with. `fired_at` and `task` are of the last task it made."""

    name: str
    due_at: datetime
    next_fire_at: datetime | None = None
    fired_at: datetime | None = None
    task: UUID | None = None
    retired: bool = False


class Declared(NamedTuple):
    """A schedule as a session that began at `declared_at` declares it."""

    name: str
    queue: str
    cron: Cron
    declared_at: datetime
    next_fire_at: datetime | None


async def due(connection: HotConnection, most: int) -> list[Due]:
    """Return up to `most` schedules whose time has come, the earliest first."""
    return [
        Due(
            row["name"],
            row["source"],
            row["kind"],
            row["queue"],
            Cron(row["cron"], row["timezone"], MissedPolicy(row["missed"])),
            row["payload"],
            row["priority"],
            row["expires_in"],
            row["next_fire_at"],
            row["now"],
        )
        for row in await connection.fetch(_DUE, most)
    ]


async def move_on(connection: HotConnection, moved: Sequence[Moved]) -> None:
    """Let schedules that were due wait for their next fire time. Committed when it returns."""
    in_order = sorted(moved)  # by name: others that change several do so, too
    await connection.fetch(_MOVE_ON, *(list(column) for column in zip(*in_order, strict=True)))


async def now(database: Database) -> datetime:
    """Return the database's time. Raises DatabaseUnavailable."""
    ((moment,),) = await _fetch(database, select(func.now()))
    found: datetime = moment
    return found


async def list_all(database: Database) -> list[ScheduleView]:
    """Return all schedules by name, without payloads. Raises DatabaseUnavailable."""
    return [_view(row) for row in await _fetch_mappings(database, select(*_SHOWN).order_by(schedules.c.name))]


async def get(database: Database, name: str) -> ScheduleView | None:
    """Return a schedule with its payload. Raises DatabaseUnavailable."""
    statement = select(*_SHOWN, schedules.c.payload).where(schedules.c.name == name)
    return next((_view(row) for row in await _fetch_mappings(database, statement)), None)


async def put(database: Database, name: str, new: NewSchedule, next_fire_at: datetime | None) -> bool | None:
    """Make a schedule (True) or replace one (False), which stays paused; None when code declares it.

    While the expression stays, so does the fire time that it waits for. Raises DatabaseUnavailable.
    """
    statement = insert(schedules).values(
        name=name,
        source="api",
        kind=new.kind,
        queue=new.queue,
        cron=new.cron,
        timezone=new.timezone,
        missed=new.missed,
        payload=bytes(new.payload),
        priority=new.priority,
        expires_in=new.expires_in,
        declared_at=None,
        next_fire_at=next_fire_at,
    )
    ours = or_(schedules.c.source == "api", schedules.c.retired_at.is_not(None))
    rows = await _fetch(database, _replacing(statement, ours).returning(literal_column("xmax = 0")))
    return rows[0][0] if rows else None


async def declare(database: Database, declared: Sequence[Declared]) -> list[str]:
    """Write down what code declares, unless a newer session did; return names that the API has, and which stay its.

    Raises DatabaseUnavailable.
    """
    values = [
        {
            "name": one.name,
            "source": "code",
            "kind": one.name,
            "queue": one.queue,
            "cron": one.cron.text,
            "timezone": one.cron.timezone,
            "missed": one.cron.missed,
            "payload": b"null",
            "priority": 0,
            "expires_in": None,
            "declared_at": func.least(one.declared_at, func.now()),  # a worker's clock may be ahead
            "next_fire_at": one.next_fire_at,
        }
        for one in sorted(declared)
    ]
    statement = insert(schedules).values(values)
    newer = or_(schedules.c.declared_at <= statement.excluded.declared_at, schedules.c.retired_at.is_not(None))
    await _fetch(database, _replacing(statement, and_(schedules.c.source == "code", newer)).returning(schedules.c.name))
    names = [one.name for one in declared]
    of_api = select(schedules.c.name).where(schedules.c.name.in_(names), schedules.c.source == "api")
    return [row.name for row in await _fetch(database, of_api)]


async def pause(database: Database, name: str) -> bool:
    """Let a schedule fire no more; False when there is none. Raises DatabaseUnavailable."""
    return await _update(database, schedules.c.name == name, paused=True, next_fire_at=None)


async def resume(database: Database, view: ScheduleView, next_fire_at: datetime | None) -> bool:
    """Let a paused schedule fire again; False when it is not any more as in `view`. Raises DatabaseUnavailable."""
    as_seen = and_(schedules.c.name == view.name, schedules.c.cron == view.cron, schedules.c.timezone == view.timezone)
    waits_for = case((schedules.c.retired_at.is_(None), literal(next_fire_at, schedules.c.next_fire_at.type)))
    return await _update(database, and_(as_seen, schedules.c.paused), paused=False, next_fire_at=waits_for)


async def remove(database: Database, name: str) -> bool:
    """Delete a schedule; False when there is none. Raises DatabaseUnavailable."""
    statement = delete(schedules).where(schedules.c.name == name).returning(schedules.c.name)
    return bool(await _fetch(database, statement))


def _replacing(statement: Insert, where: ColumnElement[bool]) -> Insert:
    """On conflict take what is new, and begin anew only when it fires at other times."""
    new, old = statement.excluded, schedules.c
    same_times = and_(old.cron == new.cron, old.timezone == new.timezone, old.retired_at.is_(None))
    kept = ("name", "created_at", "paused", "last_fire_at", "last_task")
    changed: dict[str, Any] = {column.name: new[column.name] for column in schedules.c if column.name not in kept}
    changed["next_fire_at"] = case(
        (old.paused, null()), (same_times, func.coalesce(old.next_fire_at, new.next_fire_at)), else_=new.next_fire_at
    )
    return statement.on_conflict_do_update(index_elements=["name"], set_=changed, where=where)


async def _update(database: Database, where: ColumnElement[bool], **values: Any) -> bool:
    return bool(await _fetch(database, update(schedules).where(where).values(**values).returning(schedules.c.name)))


async def _fetch(database: Database, statement: Executable) -> Sequence[Any]:
    with database_faults():
        async with database.engine.begin() as connection:
            return (await connection.execute(statement)).all()


async def _fetch_mappings(database: Database, statement: Executable) -> Sequence[RowMapping]:
    with database_faults():
        async with database.engine.connect() as connection:
            return (await connection.execute(statement)).mappings().all()


def _view(row: RowMapping) -> ScheduleView:
    fields = dict(row)
    if "payload" in fields:
        fields["payload"] = msgspec.Raw(fields["payload"])
    fields["missed"] = MissedPolicy(fields["missed"])
    return ScheduleView(**fields)

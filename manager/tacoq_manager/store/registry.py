"""Registry: sessions and kinds in, rows for people and for the next start out. Beats never come here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Table, and_, cast, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB, Insert, insert

from tacoq_manager.store.engine import Database
from tacoq_manager.store.faults import database_faults
from tacoq_manager.store.schema import kinds, workers
from tacoq_protocol.limits import KindLimits
from tacoq_protocol.messages import KindSpec, Register

ENDED_SHOWN: Final = 50


class WorkerRow(msgspec.Struct, frozen=True):
    """A session as it was last written down. `state`: live, left or lost."""

    session: UUID
    queue: str
    state: str
    host: str
    pid: int
    slots: int
    kinds: list[str]
    labels: dict[str, str]
    version: str
    started_at: datetime
    ended_at: datetime | None
    detail: str | None


class KindRow(msgspec.Struct, frozen=True):
    """A kind of one queue, when a session last registered it, and which limits were set for it."""

    queue: str
    spec: KindSpec
    seen_at: datetime
    limits: KindLimits | None = None


async def register(database: Database, sessions: Sequence[Register]) -> None:
    """Write down live sessions with their kinds, all in one transaction. Idempotent.

    Raises DatabaseUnavailable.
    """
    if not sessions:
        return
    rows = {session.session: _worker_values(session) for session in sessions}
    specs = {(session.queue, spec.name): spec for session in sessions for spec in session.kinds}
    with database_faults():
        async with database.engine.begin() as connection:
            # In the order of keys: managers write the same rows at the same time.
            values = [rows[id] for id in sorted(rows)]
            await connection.execute(_upsert(workers, values, keep=("session",)))
            if specs:
                values = [_kind_values(queue, specs[queue, name]) for queue, name in sorted(specs)]
                await connection.execute(_upsert(kinds, values, keep=("queue", "name")))


async def end(database: Database, sessions: Mapping[UUID, tuple[str, str | None]]) -> None:
    """Write down that sessions ended, each with its state (left, lost) and the reason; those not known are left out.

    Raises DatabaseUnavailable.
    """
    with database_faults():
        async with database.engine.begin() as connection:
            for session in sorted(sessions):
                state, detail = sessions[session]
                statement = update(workers).where(workers.c.session == session)
                await connection.execute(statement.values(state=state, ended_at=func.now(), detail=detail))


async def end_unheard(database: Database, live: Collection[UUID], detail: str) -> int:
    """Write down as lost what stands there as live and is none of `live`; return how many."""
    forgotten = and_(workers.c.state == "live", workers.c.session.not_in(list(live)))
    statement = update(workers).where(forgotten).values(state="lost", ended_at=func.now(), detail=detail)
    with database_faults():
        async with database.engine.begin() as connection:
            return (await connection.execute(statement)).rowcount


async def forget(database: Database, *, sessions: datetime, kinds_seen: datetime) -> int:
    """Delete sessions that ended before `sessions`; and kinds that were last registered before `kinds_seen`, for which
    nothing is set and that no live session has. Return how many that was. Raises DatabaseUnavailable.
    """
    ended = delete(workers).where(workers.c.ended_at < sessions)
    knows = select(workers.c.session).where(
        workers.c.state == "live",
        workers.c.queue == kinds.c.queue,
        cast(workers.c.kinds, JSONB).has_key(kinds.c.name),
    )
    unused = and_(kinds.c.seen_at < kinds_seen, kinds.c.limits.is_(None), ~knows.exists())
    with database_faults():
        async with database.engine.begin() as connection:
            gone = (await connection.execute(ended)).rowcount
            # What is being registered at this moment is in use, and whoever does so waits for nobody.
            found = await connection.execute(
                select(kinds.c.queue, kinds.c.name).where(unused).with_for_update(of=kinds, skip_locked=True)
            )
            for queue, name in found.all():
                await connection.execute(delete(kinds).where(kinds.c.queue == queue, kinds.c.name == name))
                gone += 1
    return gone


async def list_workers(database: Database) -> list[WorkerRow]:
    """Return the sessions written down as live and the ENDED_SHOWN that ended last, newest start first."""
    recent = (
        select(workers.c.session).where(workers.c.ended_at.is_not(None)).order_by(workers.c.ended_at.desc())
    ).limit(ENDED_SHOWN)
    wanted = or_(workers.c.state == "live", workers.c.session.in_(recent))
    rows = await _read(database, workers, wanted, order=(workers.c.started_at.desc(),))
    return [WorkerRow(**row) for row in rows]


async def get_worker(database: Database, session: UUID) -> WorkerRow | None:
    """Return a session as it was written down, None when it never was. Raises DatabaseUnavailable."""
    rows = await _read(database, workers, workers.c.session == session, order=(workers.c.started_at,))
    return WorkerRow(**rows[0]) if rows else None


async def list_kinds(database: Database) -> list[KindRow]:
    """Return every kind that is known, by queue and name."""
    rows = await _read(database, kinds, order=(kinds.c.queue, kinds.c.name))
    return [
        KindRow(
            row["queue"],
            msgspec.convert(row["spec"], KindSpec),
            row["seen_at"],
            None if row["limits"] is None else KindLimits.model_validate(row["limits"]),
        )
        for row in rows
    ]


async def load_specs(database: Database) -> dict[tuple[str, str], KindSpec]:
    """Return the specs of all kinds by (queue, kind), as at the last registration. Raises DatabaseUnavailable."""
    return {(row.queue, row.spec.name): row.spec for row in await list_kinds(database)}


async def _read(
    database: Database,
    table: Table,
    *conditions: ColumnElement[bool],
    order: Sequence[ColumnElement[Any]],
) -> Sequence[RowMapping]:
    statement = select(table).where(*conditions).order_by(*order)
    with database_faults():
        async with database.engine.connect() as connection:
            return (await connection.execute(statement)).mappings().all()


def _upsert(table: Table, values: list[dict[str, Any]], *, keep: Sequence[str]) -> Insert:
    statement = insert(table).values(values)
    changed = {name: statement.excluded[name] for name in values[0] if name not in keep}
    return statement.on_conflict_do_update(index_elements=keep, set_=changed)


def _worker_values(session: Register) -> dict[str, Any]:
    return {
        "session": session.session,
        "queue": session.queue,
        "state": "live",
        "host": session.host,
        "pid": session.pid,
        "slots": session.slots,
        "kinds": sorted(spec.name for spec in session.kinds),
        "labels": session.labels,
        "version": session.version,
        "started_at": session.started_at,
        "ended_at": None,
        "detail": None,
    }


def _kind_values(queue: str, spec: KindSpec) -> dict[str, Any]:
    return {"queue": queue, "name": spec.name, "spec": msgspec.to_builtins(spec), "seen_at": func.now()}

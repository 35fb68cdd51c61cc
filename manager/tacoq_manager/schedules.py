"""Schedules: what people and code ask of them in, checked; rows, a task to run now, or an error that says why, out.

When a schedule fires is in `upkeep/cron.py`. The leader hears of a change with its next tick.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime
from typing import assert_never

import msgspec

from tacoq_manager.accept import DEFAULT_QUEUE, Accepter
from tacoq_manager.payloads import PayloadCheck
from tacoq_manager.sessions import Sessions
from tacoq_manager.store import schedules as store
from tacoq_manager.store.engine import Database
from tacoq_protocol.cron import Cron, cron_problem, fire_times, timezone_problem
from tacoq_protocol.errors import InvalidSchedule, ScheduleConflict, ScheduleNotFound
from tacoq_protocol.http import MAX_PAYLOAD_BYTES, Accepted, NewTask
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Register
from tacoq_protocol.schedules import NewSchedule, ScheduleView

log = logging.getLogger("tacoq.schedules")


async def put(database: Database, sessions: Sessions, name: str, new: NewSchedule) -> tuple[ScheduleView, bool]:
    """Make or replace a schedule, and say whether it is new; one that is paused stays so.

    Raises InvalidSchedule, ScheduleConflict when code declares it, DatabaseUnavailable.
    """
    _check(new, sessions, now := await store.now(database))
    match await store.put(database, name, new, _next(new.cron, new.timezone, now)):
        case None:
            raise _declared(name, "change the code; when no worker has it any more, delete it first")
        case bool() as created:
            return await get(database, name), created
        case never:
            assert_never(never)


async def get(database: Database, name: str) -> ScheduleView:
    """Return a schedule with its payload. Raises ScheduleNotFound, DatabaseUnavailable."""
    view = await store.get(database, name)
    if view is None:
        raise ScheduleNotFound(name)
    return view


async def pause(database: Database, name: str) -> ScheduleView:
    """Let it fire no more until it is resumed; a task that is being made in this moment may still come.

    Raises ScheduleNotFound, DatabaseUnavailable.
    """
    await store.pause(database, name)
    return await get(database, name)


async def resume(database: Database, name: str) -> ScheduleView:
    """Let it fire again, from now on: what it would have fired at meanwhile is not missed.

    Raises ScheduleNotFound, DatabaseUnavailable.
    """
    while (view := await get(database, name)).paused:
        await store.resume(database, view, _next(view.cron, view.timezone, await store.now(database)))
    return view


async def remove(database: Database, sessions: Sessions, name: str) -> None:
    """Delete it. Raises ScheduleNotFound, ScheduleConflict while a live session declares it, DatabaseUnavailable."""
    if sessions.declare(name) and (await get(database, name)).source == "code":
        raise _declared(name, "take it out of the code, or pause it")
    if not await store.remove(database, name):
        raise ScheduleNotFound(name)


async def run(database: Database, accepter: Accepter, name: str) -> Accepted:
    """Make a task of it now, paused or not, beside those of its fire times. Raises ScheduleNotFound and as accept."""
    view = await get(database, name)
    assert isinstance(view.payload, msgspec.Raw)
    task = NewTask(
        id=new_task_id(),
        kind=view.kind,
        payload=view.payload,
        queue=view.queue,
        priority=view.priority,
        expires_in=view.expires_in,
    )
    (accepted,) = await accepter.accept([task])
    return accepted


async def declare(database: Database, sessions: Collection[Register]) -> None:
    """Take over the schedules in the code of these sessions: of several with one name, that of the newest.

    Raises DatabaseUnavailable.
    """
    found: dict[str, tuple[Register, Cron]] = {}
    for session in sorted(sessions, key=lambda session: session.started_at):
        found |= {spec.name: (session, spec.cron) for spec in session.kinds if spec.cron is not None}
    if not found:
        return
    now = await store.now(database)
    declared = []
    for name, (session, cron) in found.items():
        if problem := cron_problem(cron.text, now) or timezone_problem(cron.timezone):
            log.warning("schedule in code is refused", extra={"schedule": name, "problem": problem})
            continue
        next_fire_at = _next(cron.text, cron.timezone, now)
        declared.append(store.Declared(name, session.queue, cron, session.started_at, next_fire_at))
    for name in await store.declare(database, declared) if declared else ():
        log.warning("schedule in code stands back: one of its name was made by the API", extra={"schedule": name})


def _check(new: NewSchedule, sessions: Sessions, now: datetime) -> None:
    if problem := cron_problem(new.cron, now):
        raise InvalidSchedule(f"cron: {problem}", field="cron")
    if problem := timezone_problem(new.timezone):
        raise InvalidSchedule(f"timezone: {problem}", field="timezone")
    payload = bytes(new.payload)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise InvalidSchedule(
            f"payload: it has {len(payload):,} bytes, the limit is {MAX_PAYLOAD_BYTES:,}: store the data elsewhere and "
            "send a reference",
            field="payload",
        )
    queue = new.queue or sessions.queue_of_kind(new.kind) or DEFAULT_QUEUE
    if problem := PayloadCheck(sessions).problem(queue, new.kind, payload):
        raise InvalidSchedule(f"payload: it does not fit kind {new.kind!r}: {problem}", field="payload")


def _next(cron: str, timezone: str, now: datetime) -> datetime | None:
    return next(fire_times(cron, timezone, after=now), None)


def _declared(name: str, remedy: str) -> ScheduleConflict:
    return ScheduleConflict(f"schedule {name!r} is declared by the code of its workers: {remedy}", schedule=name)

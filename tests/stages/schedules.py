"""Schedules of a floor: made, looked at, and stepped with their accepts at work."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from tacoq_manager import schedules
from tacoq_manager.manager import Manager
from tacoq_manager.upkeep.cron import CronStep
from tacoq_protocol.cron import Cron
from tacoq_protocol.ids import created_at
from tacoq_protocol.messages import KindSpec, Register
from tacoq_protocol.schedules import NewSchedule
from tests.stages.floor import Floor

NIGHTLY = Cron("0 3 * * *", "Europe/Lisbon")


def step_of(manager: Manager) -> CronStep:
    return CronStep(manager.database.upkeep, manager.leader, manager.accepter, manager.sessions)


async def stepped(manager: Manager) -> int:
    """One step, with what accepts for it at work meanwhile. Who leads goes on leading, however slow the machine."""
    if manager.leader._epoch is not None:
        manager.leader._until = time.monotonic() + 60
    accepting = asyncio.create_task(manager.accepter.run())
    try:
        return await step_of(manager).step()
    finally:
        accepting.cancel()


async def make(floor: Floor, name: str = "nightly", *, due: str | None = None, **fields: Any) -> datetime | None:
    """Make a schedule of the API; `due`: so long ago, as an interval. Return when it is due."""
    fields = {"kind": "k", "cron": "0 3 * * *", "queue": "default", **fields}
    await schedules.put(floor.manager.database, floor.manager.sessions, name, NewSchedule(**fields))
    if due is not None:
        await floor.connection.execute(
            "UPDATE schedules SET next_fire_at = date_trunc('second', now()) - $2::text::interval WHERE name = $1",
            name,
            due,
        )
    at: datetime | None = (await row(floor, name))["next_fire_at"]
    return at


async def row(floor: Floor, name: str = "nightly") -> asyncpg.Record:
    found: asyncpg.Record = await floor.connection.fetchrow("SELECT * FROM schedules WHERE name = $1", name)
    return found


async def fired(floor: Floor) -> list[datetime]:
    """The fire times of the tasks there are, as their ids and their due times tell them."""
    tasks = await floor.connection.fetch("SELECT id, run_at FROM tasks ORDER BY run_at")
    assert [created_at(task["id"]) for task in tasks] == [task["run_at"] for task in tasks]
    return [task["run_at"] for task in tasks]


def session_of(
    *kinds: KindSpec, session: UUID | None = None, started_at: datetime | None = None, queue: str = "default"
) -> Register:
    started_at = started_at or datetime.now(UTC)
    return Register(session or uuid4(), queue, 1, list(kinds), str(uuid4()), "host", 1, "0", started_at)

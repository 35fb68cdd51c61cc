"""Cron: one task for each fire time, whoever fires and however often; what was missed, by its policy; retirement."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from tacoq_manager import schedules
from tacoq_manager.manager import Manager
from tacoq_manager.sessions import LEASE_SECONDS
from tacoq_manager.settings import Settings
from tacoq_manager.store import schedules as store
from tacoq_manager.upkeep import cron
from tacoq_manager.upkeep.cron import CronStep
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.cron import Cron, MissedPolicy
from tacoq_protocol.errors import InvalidSchedule
from tacoq_protocol.http import NewSchedule
from tacoq_protocol.ids import created_at
from tacoq_protocol.messages import KindSpec, Register
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


async def test_a_due_schedule_makes_its_task_and_waits_for_the_next_time(floor: Floor) -> None:
    at = await make(floor, due="1 second", payload=msgspec.Raw(b'{"x":1}'), priority=7, expires_in=3600.0)
    assert await stepped(floor.manager) == 1
    (task,) = await floor.connection.fetch("SELECT * FROM tasks")
    assert (task["kind"], task["queue"], task["priority"], task["payload"]) == ("k", "default", 7, b'{"x":1}')
    assert (task["state"], task["run_at"], task["queue_given"]) == ("pending", at, True)
    assert task["expires_at"] - task["created_at"] == timedelta(hours=1)
    after = await row(floor)
    assert (after["last_fire_at"], after["last_task"]) == (at, task["id"])
    assert after["next_fire_at"].hour == 3
    assert after["next_fire_at"] > datetime.now(UTC)
    assert await stepped(floor.manager) == 0


async def test_the_task_is_released_and_runs_as_any_other(floor: Floor) -> None:
    floor.join("k")
    await make(floor, due="0 seconds")
    await stepped(floor.manager)
    assert await floor.dispatch() == 1
    assert floor.releases[0].task_id == (await row(floor))["last_task"]


async def test_a_payload_that_fits_no_more_makes_a_task_that_fails_where_it_is_seen(floor: Floor) -> None:
    await make(floor, due="0 seconds", payload=msgspec.Raw(b'"text"'))
    schema = b'{"type":"object"}'
    floor.manager.sessions.register(session_of(KindSpec("k", payload_schema=schema)), time.monotonic())
    with pytest.raises(InvalidSchedule, match="does not fit kind 'k'"):
        await make(floor, "another", payload=msgspec.Raw(b'"text"'))
    assert await stepped(floor.manager) == 1
    assert len(await fired(floor)) == 1


async def test_what_is_not_due_does_not_fire(floor: Floor) -> None:
    at = await make(floor)
    assert await stepped(floor.manager) == 0
    assert (await row(floor))["next_fire_at"] == at


async def test_the_leaders_tick_tells_the_next_fire_time(floor: Floor) -> None:
    ticks: list[Any] = []
    floor.manager.leader._on_tick = ticks.append
    await floor.manager.leader.step()
    await make(floor, due="-1 hour")
    await make(floor, "later", due="-2 hours")
    await floor.manager.leader.step()
    assert ticks[0].fire is None
    assert 3500 < ticks[1].fire <= 3600


async def test_who_does_not_lead_fires_nothing(floor: Floor) -> None:
    await make(floor, due="1 second")
    await floor.manager.leader.give_up()
    assert await stepped(floor.manager) == 0
    assert await fired(floor) == []


async def test_who_lost_the_lead_while_it_looked_fires_nothing(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that was frozen between looking and firing, and woke up."""
    look = store.due

    async def look_for_long(*arguments: Any) -> list[store.Due]:
        found = await look(*arguments)
        await floor.manager.leader.give_up()
        return found

    monkeypatch.setattr(store, "due", look_for_long)
    await make(floor, due="1 second")
    assert await stepped(floor.manager) == 0
    assert await fired(floor) == []


@pytest_asyncio.fixture
async def rival(database: str, floor: Floor) -> AsyncIterator[Manager]:
    """A second manager on the same database, which believes to lead, too."""
    manager = Manager(Settings(database_url=database), MemoryBroker(MemoryHub(), "rival"))
    manager.leader._epoch = floor.manager.leader._epoch
    yield manager
    await manager.stop()


async def test_two_managers_that_fire_at_once_make_one_task_for_each_fire_time(floor: Floor, rival: Manager) -> None:
    names = [f"schedule-{i}" for i in range(20)]
    for name in names:
        await make(floor, name, cron="* * * * * *")
    await floor.connection.execute("UPDATE schedules SET next_fire_at = date_trunc('second', now()) - interval '3 s'")
    await asyncio.gather(*(stepped(manager) for manager in (floor.manager, rival) for _ in range(2)))
    tasks = await floor.connection.fetch("SELECT run_at, count(*) FROM tasks GROUP BY 1 ORDER BY 1")
    assert len(tasks) >= 4
    assert {task["count"] for task in tasks[:4]} == {len(names)}  # a later second may not be there for all
    last = await floor.connection.fetch("SELECT DISTINCT last_task FROM schedules")
    assert len(last) == len(names)


async def test_died_before_the_schedule_moved_on_it_fires_again_without_harm(
    floor: Floor, rival: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = await make(floor, due="1 second")

    async def die(*_: object) -> None:
        raise ConnectionAbortedError

    with monkeypatch.context() as patch:
        patch.setattr(store, "move_on", die)
        with pytest.raises(ConnectionAbortedError):
            await stepped(floor.manager)
    assert await fired(floor) == [at]
    assert (await row(floor))["next_fire_at"] == at
    assert await stepped(rival) == 1
    assert await fired(floor) == [at]
    assert (await row(floor))["last_fire_at"] == at


async def test_died_and_then_changed_it_keeps_the_task_it_made(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fire time has its task; those that came due since have theirs."""
    first = await make(floor, due="2 seconds", cron="* * * * * *")
    until = [datetime.now(UTC)]

    async def die(*_: object) -> None:
        until[0] = (await fired(floor))[-1]
        raise ConnectionAbortedError

    with monkeypatch.context() as patch:
        patch.setattr(store, "move_on", die)
        with pytest.raises(ConnectionAbortedError):
            await stepped(floor.manager)
    await make(floor, cron="* * * * * *", payload=msgspec.Raw(b"2"))
    assert (await row(floor))["next_fire_at"] == first, "the same expression goes on waiting for the same time"
    await floor.connection.execute("SELECT pg_sleep_until($1)", until[0] + timedelta(seconds=1))
    await stepped(floor.manager)
    tasks = await floor.connection.fetch("SELECT run_at, payload FROM tasks ORDER BY run_at")
    assert {task["payload"] for task in tasks if task["run_at"] <= until[0]} == {b"null"}
    assert {task["payload"] for task in tasks if task["run_at"] > until[0]} == {b"2"}


@pytest.mark.parametrize(
    ("missed", "expected"), [(MissedPolicy.SKIP, 0), (MissedPolicy.RUN_ONCE, 1), (MissedPolicy.RUN_ALL, 3)]
)
async def test_missed_fire_times(floor: Floor, missed: MissedPolicy, expected: int) -> None:
    """Three nights with nobody there."""
    now = datetime.now(UTC)
    cron_text = f"{(now - timedelta(hours=1)).minute} {(now - timedelta(hours=1)).hour} * * *"
    at = (now - timedelta(hours=1, days=2)).replace(second=0, microsecond=0)
    await make(floor, missed=missed, cron=cron_text)
    await floor.connection.execute("UPDATE schedules SET next_fire_at = $1", at)
    assert await stepped(floor.manager) == 1
    nights = [at + timedelta(days=n) for n in range(3)]
    assert await fired(floor) == nights[3 - expected :]
    after = await row(floor)
    assert after["next_fire_at"] == at + timedelta(days=3)
    assert after["last_fire_at"] == (nights[-1] if expected else None)


@pytest.mark.parametrize("missed", list(MissedPolicy))
async def test_a_takeover_misses_nothing(floor: Floor, missed: MissedPolicy) -> None:
    """What is less than a minute late is on time: a task for every second of it."""
    at = await make(floor, due="5 seconds", cron="* * * * * *", missed=missed)
    assert at is not None
    await stepped(floor.manager)
    assert (await fired(floor))[:6] == [at + timedelta(seconds=n) for n in range(6)]


def test_the_id_of_a_fire_time_is_the_same_whoever_makes_it() -> None:
    at = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    made = cron.task_id_of("nightly", at)
    assert made == cron.task_id_of("nightly", at.astimezone(ZoneInfo("Europe/Lisbon")))
    assert (made.version, created_at(made)) == (7, at)
    assert made not in (cron.task_id_of("weekly", at), cron.task_id_of("nightly", at + timedelta(seconds=1)))


def due_since(at: datetime, now: datetime, missed: MissedPolicy, text: str) -> store.Due:
    return store.Due("s", "api", "k", None, Cron(text, "UTC", missed), b"null", 0, None, at, now)


def times(due: store.Due) -> list[datetime | None]:
    return [task.run_at for task in cron.fire(due)[1]]


def test_run_all_makes_up_for_the_last_hundred_after_any_time() -> None:
    """A schedule of every second, and a year: millions of fire times, of which few are looked at."""
    now = datetime(2026, 11, 22, tzinfo=UTC)
    began = time.process_time()
    found = times(due_since(now - timedelta(days=365), now, MissedPolicy.RUN_ALL, "* * * * * *"))
    assert found == [now - timedelta(seconds=n) for n in range(cron.MOST_MISSED - 1, -1, -1)]
    assert time.process_time() - began < 5, "it looked at all of them"


def test_run_once_takes_the_task_on_time_for_what_was_missed_before() -> None:
    now = datetime(2026, 11, 22, 12, 0, 10, tzinfo=UTC)
    missed = due_since(now - timedelta(hours=2), now, MissedPolicy.RUN_ONCE, "*/15 * * * *")
    assert times(missed) == [datetime(2026, 11, 22, 12, tzinfo=UTC)]
    late = due_since(now - timedelta(hours=2), now, MissedPolicy.RUN_ONCE, "50 * * * *")
    assert times(late) == [datetime(2026, 11, 22, 11, 50, tzinfo=UTC)]


def test_what_it_has_waited_for_fires_whatever_the_expression_says_today() -> None:
    """The rules of a time zone change now and then; the fire time that was shown is kept."""
    now = datetime(2026, 11, 22, 2, 0, 1, tzinfo=UTC)
    at = datetime(2026, 11, 22, 2, tzinfo=UTC)
    moved, tasks = cron.fire(due_since(at, now, MissedPolicy.SKIP, "0 3 * * *"))
    assert [task.run_at for task in tasks] == [at]
    assert moved.next_fire_at == at + timedelta(hours=1)


@pytest.mark.parametrize("nonsense", ["cron = 'daily'", "timezone = 'Europe/Atlantis'"])
async def test_one_that_this_manager_cannot_read_stops_alone(
    floor: Floor, nonsense: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer manager wrote it, or one with other time zones."""
    await make(floor, due="1 second")
    await make(floor, "readable", due="1 second")
    await floor.connection.execute(f"UPDATE schedules SET {nonsense} WHERE name = 'nightly'")
    assert await stepped(floor.manager) == 2
    assert len(await fired(floor)) == 1
    assert (await row(floor))["next_fire_at"] is None
    assert "schedule cannot fire" in caplog.text
    assert await stepped(floor.manager) == 0


async def test_paused_it_does_not_fire_and_resumed_it_has_missed_nothing(floor: Floor) -> None:
    await make(floor, due="1 hour")
    paused = await schedules.pause(floor.manager.database, "nightly")
    assert (paused.paused, paused.next_fire_at) == (True, None)
    assert await stepped(floor.manager) == 0
    await make(floor, payload=msgspec.Raw(b"2"))  # replaced it stays paused
    assert (await row(floor))["next_fire_at"] is None
    resumed = await schedules.resume(floor.manager.database, "nightly")
    assert not resumed.paused
    assert resumed.next_fire_at is not None
    assert resumed.next_fire_at > datetime.now(UTC)
    assert await schedules.resume(floor.manager.database, "nightly") == resumed
    assert await stepped(floor.manager) == 0
    assert await fired(floor) == []


async def test_paused_while_it_fires_it_stays_paused(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    move_on = store.move_on

    async def pause_first(*arguments: Any) -> None:
        await schedules.pause(floor.manager.database, "nightly")
        await move_on(*arguments)

    monkeypatch.setattr(store, "move_on", pause_first)
    at = await make(floor, due="1 second")
    await stepped(floor.manager)
    after = await row(floor)
    assert (after["paused"], after["next_fire_at"], after["last_fire_at"]) == (True, None, at)


async def test_replaced_with_other_times_it_waits_for_the_new_ones(floor: Floor) -> None:
    await make(floor)
    at = await make(floor, cron="0 4 * * *")
    assert at is not None
    assert at.hour == 4


# Schedules in the code of workers.


def session_of(
    *kinds: KindSpec, session: UUID | None = None, started_at: datetime | None = None, queue: str = "default"
) -> Register:
    started_at = started_at or datetime.now(UTC)
    return Register(session or uuid4(), queue, 1, list(kinds), str(uuid4()), "host", 1, "0", started_at)


async def declare(floor: Floor, *sessions: Register) -> None:
    """Sessions register, and are written down."""
    for one in sessions:
        floor.manager.sessions.register(one, time.monotonic())
    await schedules.declare(floor.manager.database, sessions)


def presence_works(floor: Floor) -> None:
    """For longer than a lease."""
    moment = time.monotonic() - 2 * LEASE_SECONDS
    while moment <= time.monotonic():
        floor.manager.sessions.own_beat(moment)
        moment += 1
    floor.manager.sessions.own_beat(time.monotonic())


async def make_due(floor: Floor, name: str = "nightly") -> None:
    await floor.connection.execute(
        "UPDATE schedules SET next_fire_at = date_trunc('second', now()) WHERE name = $1", name
    )


async def test_a_schedule_in_code_is_taken_over_and_fires_in_the_queue_of_its_worker(floor: Floor) -> None:
    await declare(floor, session_of(KindSpec("nightly", cron=NIGHTLY), KindSpec("add"), queue="reports"))
    view = await schedules.get(floor.manager.database, "nightly")
    assert (view.source, view.kind, view.queue) == ("code", "nightly", "reports")
    assert Cron(view.cron, view.timezone, view.missed) == NIGHTLY
    await make_due(floor)
    await stepped(floor.manager)
    (task,) = await floor.connection.fetch("SELECT kind, queue, payload FROM tasks")
    assert tuple(task) == ("nightly", "reports", b"null")


async def test_registered_again_it_waits_for_the_same_time_and_stays_paused(floor: Floor) -> None:
    session = session_of(KindSpec("nightly", cron=NIGHTLY))
    await declare(floor, session)
    await make_due(floor)
    at = (await row(floor))["next_fire_at"]
    await declare(floor, session)
    assert (await row(floor))["next_fire_at"] == at, "the fire time that was just due is not lost"
    await schedules.pause(floor.manager.database, "nightly")
    await declare(floor, session_of(KindSpec("nightly", cron=Cron("0 4 * * *"))))
    after = await row(floor)
    assert (after["cron"], after["paused"], after["next_fire_at"]) == ("0 4 * * *", True, None)


async def test_of_two_versions_in_a_rolling_deploy_the_newer_stands(floor: Floor) -> None:
    now = datetime.now(UTC)
    old = session_of(KindSpec("nightly", cron=NIGHTLY), started_at=now - timedelta(hours=1))
    new = session_of(KindSpec("nightly", cron=Cron("0 4 * * *")), started_at=now)
    await declare(floor, new)
    await declare(floor, old)  # it was asked to introduce itself again
    assert (await row(floor))["cron"] == "0 4 * * *"
    await declare(floor, old, new)
    assert (await row(floor))["cron"] == "0 4 * * *"


async def test_a_worker_whose_clock_is_ahead_does_not_hold_the_schedule(floor: Floor) -> None:
    ahead = datetime.now(UTC) + timedelta(days=365)
    await declare(floor, session_of(KindSpec("nightly", cron=NIGHTLY), started_at=ahead))
    await declare(floor, session_of(KindSpec("nightly", cron=Cron("0 4 * * *"))))
    assert (await row(floor))["cron"] == "0 4 * * *"


async def test_no_longer_in_the_code_it_is_retired_when_it_is_due(floor: Floor) -> None:
    old = session_of(KindSpec("nightly", cron=NIGHTLY))
    await declare(floor, old)
    floor.manager.sessions.leave(old.session)
    await declare(floor, session_of(KindSpec("add")))
    presence_works(floor)
    await make_due(floor)
    assert await stepped(floor.manager) == 1
    assert await fired(floor) == []
    view = await schedules.get(floor.manager.database, "nightly")
    assert (view.retired_at is None, view.next_fire_at) == (False, None)
    await declare(floor, session_of(KindSpec("nightly", cron=NIGHTLY)))
    view = await schedules.get(floor.manager.database, "nightly")
    assert (view.retired_at, view.next_fire_at is None) == (None, False)


async def test_it_fires_while_any_worker_still_declares_it(floor: Floor) -> None:
    await declare(floor, session_of(KindSpec("nightly", cron=NIGHTLY)), session_of(KindSpec("add")))
    presence_works(floor)
    await make_due(floor)
    await stepped(floor.manager)
    assert len(await fired(floor)) == 1


async def test_it_fires_while_its_workers_are_away(floor: Floor) -> None:
    """A worker that is away must not silently end a schedule; its task waits."""
    session = session_of(KindSpec("nightly", cron=NIGHTLY))
    await declare(floor, session, session_of(KindSpec("add"), queue="another"))
    floor.manager.sessions.leave(session.session)
    presence_works(floor)
    await make_due(floor)
    await stepped(floor.manager)
    assert len(await fired(floor)) == 1


async def test_nothing_is_retired_before_every_session_had_time_to_be_heard(floor: Floor) -> None:
    """A manager that has just started has heard one of two sessions."""
    old = session_of(KindSpec("nightly", cron=NIGHTLY))
    await declare(floor, old)
    floor.manager.sessions.leave(old.session)
    await declare(floor, session_of(KindSpec("add")))
    floor.manager.sessions.own_beat(time.monotonic())
    await make_due(floor)
    await stepped(floor.manager)
    assert len(await fired(floor)) == 1


async def test_code_does_not_take_a_schedule_from_the_api(floor: Floor, caplog: pytest.LogCaptureFixture) -> None:
    await make(floor, cron="0 5 * * *")
    with caplog.at_level(logging.WARNING, "tacoq.schedules"):
        await declare(floor, session_of(KindSpec("nightly", cron=NIGHTLY)))
    assert (await row(floor))["cron"] == "0 5 * * *"
    assert "stands back" in caplog.text


async def test_nonsense_of_a_foreign_worker_is_refused_and_the_others_stand(
    floor: Floor, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = [
        KindSpec("nonsense", cron=Cron("every day")),
        KindSpec("nowhere", cron=Cron("0 3 * * *", "Nowhere")),
        KindSpec("nightly", cron=NIGHTLY),
    ]
    with caplog.at_level(logging.WARNING, "tacoq.schedules"):
        await declare(floor, session_of(*kinds))
    assert [view.name for view in await store.list_all(floor.manager.database)] == ["nightly"]
    assert [record.message for record in caplog.records] == ["schedule in code is refused"] * 2

"""Cron: one task for each fire time, whoever fires and however often; what was missed, by its policy; retirement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import pytest_asyncio

from tacoq_manager import schedules
from tacoq_manager.manager import Manager
from tacoq_manager.settings import Settings
from tacoq_manager.store import schedules as store
from tacoq_manager.upkeep import cron
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.cron import Cron, MissedPolicy
from tacoq_protocol.errors import InvalidSchedule
from tacoq_protocol.ids import created_at
from tacoq_protocol.messages import KindSpec
from tests.stages.floor import Floor
from tests.stages.schedules import fired, make, row, session_of, stepped


async def test_a_due_schedule_makes_its_task_and_waits_for_the_next_time(
    floor: Floor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tacoq")
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
    assert not [record for record in caplog.records if record.name == "tacoq.cron"]


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

"""Schedules in code: declared by workers that register, changed by deploys, retired when nobody declares them."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta

import pytest

from tacoq_manager import schedules
from tacoq_manager.sessions import LEASE_SECONDS
from tacoq_manager.store import schedules as store
from tacoq_protocol.cron import Cron
from tacoq_protocol.messages import KindSpec, Register
from tests.stages.floor import Floor
from tests.stages.schedules import NIGHTLY, fired, make, row, session_of, stepped


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

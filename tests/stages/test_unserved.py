"""Kinds that nobody serves: told once, and again when they come back."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tacoq_protocol.messages import Heartbeat
from tests.stages.floor import Floor


class Clock:
    """Seconds of `step`; its presence works from the beginning."""

    def __init__(self, floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.floor = floor
        self.now = 1_000.0
        monkeypatch.setattr("tacoq_manager.upkeep.unserved.monotonic", lambda: self.now)
        floor.manager.sessions.own_beat(self.now)

    async def after(self, seconds: float) -> int:
        self.now += seconds
        return await self.floor.manager.unserved.step()


@pytest.fixture
def clock(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(floor, monkeypatch)


def told(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = [record for record in caplog.records if record.name == "tacoq.unserved"]
    caplog.clear()
    return vars(record)


async def test_kind_that_nobody_knows_is_told_once(
    floor: Floor, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    floor.join("add", "bill")
    await floor.accept(3, kind="ad")
    await floor.accept(kind="add")
    assert [await clock.after(seconds) for seconds in (0, 4, 2, 60)] == [0, 0, 1, 0]
    fields = told(caplog)
    assert fields["msg"] == "tasks wait for a kind that no live worker of their queue knows: start one that does"
    assert (fields["queue"], fields["kind"], fields["known"]) == ("default", "ad", ["add", "bill"])


async def test_queue_that_nobody_serves(floor: Floor, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    await floor.accept(kind="k", queue="nowhere")
    assert [await clock.after(seconds) for seconds in (0, 6)] == [0, 1]
    assert "no live worker serves" in told(caplog)["msg"]


async def test_worker_that_lacks_the_kind_is_named(
    floor: Floor, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old = uuid4()
    floor.join("k")
    floor.join("other", session=old)
    await floor.accept()
    assert [await clock.after(seconds) for seconds in (0, 6)] == [0, 1]
    assert told(caplog)["sessions"] == [str(old)]


async def test_queue_whose_workers_are_drained(floor: Floor, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    floor.join("k")
    floor.manager.sessions.heartbeat(Heartbeat(floor.session, "default", 10, 0, [], "('k',)", "0", draining=True), 0.0)
    await floor.accept()
    assert [await clock.after(seconds) for seconds in (0, 6)] == [0, 1]
    assert "drained" in told(caplog)["msg"]


async def test_it_is_told_again_after_it_was_served(floor: Floor, clock: Clock) -> None:
    await floor.accept(2)
    assert [await clock.after(seconds) for seconds in (0, 6)] == [0, 1]
    floor.join("k", slots=1)
    assert await floor.dispatch() == 1
    assert await clock.after(60) == 0
    floor.manager.sessions.leave(floor.session)
    assert [await clock.after(seconds) for seconds in (0, 6)] == [0, 1]


async def test_nothing_is_told_of_what_does_not_wait_any_more(floor: Floor, clock: Clock) -> None:
    (task_id,) = await floor.accept()
    await floor.manager.canceller.cancel(task_id)
    assert [await clock.after(seconds) for seconds in (0, 6)] == [0, 0]
    await floor.accept()
    assert [await clock.after(seconds) for seconds in (1, 5)] == [0, 1], "Postgres is not asked every second"


async def test_nothing_is_told_while_workers_may_not_have_been_heard(floor: Floor, clock: Clock) -> None:
    await floor.accept()
    floor.manager.sessions.interrupt()
    assert [await clock.after(seconds) for seconds in (0, 60)] == [0, 0]
    floor.manager.sessions.own_beat(clock.now)
    assert [await clock.after(seconds) for seconds in (0, 4, 2)] == [0, 0, 1]

"""Rescue: what nobody works on is freed; what anybody may still work on is not."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from tacoq_manager.sessions import LEASE_SECONDS
from tacoq_manager.store import rescue as store
from tacoq_protocol import codec
from tacoq_protocol.broker import Outgoing
from tacoq_protocol.messages import Completed, Fence, Heartbeat, Reports, Started
from tests.stages.floor import Floor
from tests.support.eventually import eventually


class Scene:
    """One released task, older than a lease, on a floor whose presence has worked for longer than that."""

    def __init__(self, floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.floor = floor
        self.held: dict[UUID, frozenset[Fence]] | None = {floor.session: frozenset()}
        monkeypatch.setattr(floor.manager.presence, "inventory", self._inventory)
        self.beat(time.monotonic() - 2 * LEASE_SECONDS)
        self.task_id = UUID(int=0)

    async def _inventory(self, *_: Any) -> dict[UUID, frozenset[Fence]] | None:
        return self.held

    def beat(self, since: float) -> None:
        """The manager has heard itself, without a gap, since then."""
        sessions = self.floor.manager.sessions
        moment = since
        while moment <= time.monotonic():
            sessions.own_beat(moment)
            moment += 2.0
        sessions.own_beat(time.monotonic())

    async def release(self) -> None:
        self.floor.join("k")
        (self.task_id,) = await self.floor.accept()
        await self.floor.dispatch()
        for delivery in self.floor.deliveries:
            delivery.ack()  # no message of it is left
        await self.floor.connection.execute("UPDATE tasks SET queued_at = now() - interval '1 minute'")

    async def start(self) -> None:
        await self.floor.report(Started(self.task_id, 1, datetime(2026, 1, 1, tzinfo=UTC)))

    async def completed(self) -> None:
        """The session's report of a completion is on its way."""
        report = Completed(self.task_id, 1, datetime(2026, 1, 1, tzinfo=UTC), 1.0, b"1")
        topology = self.floor.manager.topology
        body = codec.encode(Reports(self.floor.session, "default", [report]))
        message = Outgoing(topology.reports.name, topology.reports_queue.name, codec.REPORTS.name, body)
        await self.floor.worker.publish([message], seconds=5)

    async def state_after_step(self) -> str:
        await self.floor.manager.rescuer.step()
        return await self.floor.state(self.task_id)


@pytest.fixture
async def scene(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(floor, monkeypatch)
    await made.release()
    return made


async def test_release_that_nobody_holds_is_freed_and_announced(scene: Scene) -> None:
    assert await scene.state_after_step() == "pending"
    row = await scene.floor.row(scene.task_id)
    assert (row["release"], row["attempt"], row["announced"]) == (1, 0, True)


async def test_release_that_a_session_holds_is_left(scene: Scene) -> None:
    scene.held = {scene.floor.session: frozenset({Fence(scene.task_id, 1)})}
    assert await scene.state_after_step() == "queued"


async def test_nothing_is_freed_while_a_session_does_not_answer(scene: Scene) -> None:
    scene.held = None
    assert await scene.state_after_step() == "queued"


async def test_nothing_is_freed_before_presence_has_worked_for_a_lease(scene: Scene) -> None:
    scene.floor.manager.sessions.interrupt()
    scene.beat(time.monotonic() - LEASE_SECONDS / 2)
    assert await scene.state_after_step() == "queued"


async def test_release_that_is_young_is_left(scene: Scene) -> None:
    await scene.floor.connection.execute("UPDATE tasks SET queued_at = now()")
    assert await scene.state_after_step() == "queued"


async def test_release_whose_message_may_be_in_the_queue_is_left(scene: Scene) -> None:
    """Unless its message was handed back: then it is not the one that is there."""
    floor = scene.floor
    await floor.worker.stop()
    floor.manager.credit.ended("default", 1)
    floor.join("k", slots=10)
    await floor.accept()
    await floor.manager.dispatcher.step()
    assert await floor.manager.broker.message_count(floor.manager.topology.task_queue_name("default")) == 1
    assert await scene.state_after_step() == "queued"
    floor.manager.rescuer.redelivered(Fence(scene.task_id, 1))
    assert await scene.state_after_step() == "pending"


async def test_run_of_a_session_that_is_not_live_is_freed_and_costs_an_attempt(scene: Scene) -> None:
    await scene.start()
    scene.floor.manager.sessions.lost(scene.floor.session)
    assert await scene.state_after_step() == "pending"
    row = await scene.floor.row(scene.task_id)
    assert (row["attempt"], row["crashes"]) == (1, 1)


async def test_long_run_that_its_session_lists_is_left_and_nobody_is_asked(scene: Scene) -> None:
    await scene.start()
    scene.held = {scene.floor.session: frozenset()}
    scene.floor.manager.sessions.heartbeat(
        Heartbeat(scene.floor.session, "default", 10, 1, [Fence(scene.task_id, 1)], "('k',)", "0"), time.monotonic()
    )
    assert await scene.state_after_step() == "running"


async def test_run_that_its_live_session_knows_nothing_of_is_freed(scene: Scene) -> None:
    await scene.start()
    assert await scene.state_after_step() == "pending"


async def test_report_under_way_is_waited_for(scene: Scene) -> None:
    """The session does not hold the release any more because it has reported it."""
    await scene.start()
    floor = scene.floor
    await floor.manager.broker.stop()  # reports stay in their queue
    await floor.manager.broker.start()
    await floor.manager.broker.wait_open(5)
    await scene.completed()
    assert await scene.state_after_step() == "running"


async def test_outcome_that_a_lost_session_has_reported_counts(scene: Scene) -> None:
    """Even when its loss would have been the last attempt."""
    floor = scene.floor
    await floor.connection.execute("UPDATE tasks SET max_attempts = 1")
    await scene.start()
    await scene.completed()
    await eventually(lambda: bool(floor.manager.settler._arrived))
    freeing = asyncio.create_task(floor.manager.rescuer.session_lost(floor.session, "default", "signal 9"))
    await asyncio.wait([freeing], timeout=0.2)  # long enough, did it not wait for the report
    await floor.manager.settler.step()
    assert await freeing == 0
    assert await floor.state(scene.task_id) == "completed"


async def test_run_of_a_session_that_was_not_heard_yet_is_left_for_a_lease(scene: Scene) -> None:
    """It took a message that was there before it, and its registration is still to come."""
    floor, begun = scene.floor, uuid4()
    report = Started(scene.task_id, 1, datetime.now(UTC))
    await floor.send(codec.encode(Reports(begun, "default", [report])))
    assert await scene.state_after_step() == "running"
    floor.manager.rescuer._absent[begun] -= LEASE_SECONDS
    assert await scene.state_after_step() == "pending"


async def test_run_of_a_session_that_joins_while_postgres_is_asked_is_left(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor, begun = scene.floor, uuid4()
    floor.manager.rescuer._absent[begun] = time.monotonic() - LEASE_SECONDS
    doubtful = store.doubtful

    async def meanwhile(*arguments: Any) -> list[store.Doubtful]:
        await floor.send(codec.encode(Reports(begun, "default", [Started(scene.task_id, 1, datetime.now(UTC))])))
        floor.join("k", session=begun)
        return await doubtful(*arguments)

    monkeypatch.setattr("tacoq_manager.rescue.store.doubtful", meanwhile)
    scene.held = {begun: frozenset({Fence(scene.task_id, 1)})}
    assert await scene.state_after_step() == "running"


async def test_lost_session_is_freed_of_its_runs_at_once(scene: Scene) -> None:
    await scene.start()
    assert await scene.floor.manager.rescuer.session_lost(scene.floor.session, "default", "signal 9") == 1
    assert await scene.floor.state(scene.task_id) == "pending"


async def test_take_back_all_frees_queued_and_running(scene: Scene) -> None:
    (other,) = await scene.floor.accept()
    await scene.floor.dispatch()
    await scene.start()
    assert await scene.floor.manager.rescuer.take_back_all() == 2
    assert [await scene.floor.state(id) for id in (scene.task_id, other)] == ["pending", "pending"]

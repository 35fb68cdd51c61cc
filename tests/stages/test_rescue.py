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
from tacoq_protocol.messages import Completed, Fence, Heartbeat, Reports, Returned, ReturnReason, Started
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

    async def message_that_nobody_takes(self) -> None:
        """The session is live, and deaf: another release stays in the queue."""
        floor = self.floor
        await floor.worker.stop()
        floor.join("k", slots=10)
        await floor.accept()
        await floor.manager.dispatcher.step()
        assert await self.messages() == 1

    async def messages(self) -> int | None:
        topology = self.floor.manager.topology
        return await self.floor.manager.broker.message_count(topology.task_queue_name("default"))

    async def completed(self) -> None:
        """The session's report of a completion is on its way."""
        report = Completed(self.task_id, 1, datetime(2026, 1, 1, tzinfo=UTC), 1.0, b"1")
        topology = self.floor.manager.topology
        body = codec.encode(Reports(self.floor.session, "default", [report]))
        message = Outgoing(topology.reports.name, topology.reports_queue.name, codec.REPORTS.name, body)
        await self.floor.manager.broker.publish([message], seconds=5)

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


async def test_young_release_that_came_back_and_is_held_by_nobody_is_freed_at_once(scene: Scene) -> None:
    """Its holder died before it began: it waits for no lease, and costs nothing."""
    await scene.floor.connection.execute("UPDATE tasks SET queued_at = now()")
    rescuer = scene.floor.manager.rescuer
    assert not rescuer.wake.is_set()
    await scene.floor.report(Returned(scene.task_id, 1, ReturnReason.REDELIVERED))
    assert rescuer.wake.is_set()
    assert await scene.state_after_step() == "pending"
    row = await scene.floor.row(scene.task_id)
    assert (row["attempt"], row["crashes"]) == (0, 0)


async def test_young_release_that_came_back_and_is_still_held_is_left(scene: Scene) -> None:
    await scene.floor.connection.execute("UPDATE tasks SET queued_at = now()")
    await scene.floor.report(Returned(scene.task_id, 1, ReturnReason.REDELIVERED))
    scene.held = {scene.floor.session: frozenset({Fence(scene.task_id, 1)})}
    assert await scene.state_after_step() == "queued"


@pytest.mark.parametrize("drained", [False, True])
async def test_releases_of_a_queue_without_workers_are_taken_back_with_their_messages(
    scene: Scene, drained: bool
) -> None:
    """Whoever comes later would run the old message beside the new release."""
    await scene.message_that_nobody_takes()
    await scene.floor.connection.execute("UPDATE tasks SET queued_at = now() - interval '1 minute'")
    sessions, session = scene.floor.manager.sessions, scene.floor.session
    if drained:
        sessions.heartbeat(Heartbeat(session, "default", 10, 0, [], "", "0", draining=True), time.monotonic())
    else:
        sessions.leave(session)
    scene.held = {}
    await scene.floor.manager.rescuer.step()
    rows = await scene.floor.connection.fetch("SELECT state, attempt, crashes FROM tasks")
    assert [tuple(row) for row in rows] == [("pending", 0, 0)] * 2
    assert await scene.messages() == 0


async def test_queue_that_is_not_empty_beside_a_suspect_is_held_back_by_turns(scene: Scene) -> None:
    """So that it is seen empty, and yet does not stand still when it never is."""
    floor = scene.floor
    await scene.message_that_nobody_takes()
    await floor.accept()
    await scene.state_after_step()
    assert await floor.manager.dispatcher.step() == 0
    await scene.state_after_step()
    assert await floor.manager.dispatcher.step() == 1


async def test_queue_that_was_seen_empty_is_let_go_although_its_suspect_is_held(scene: Scene) -> None:
    """It may wait in its worker behind a run of hours, beside workers that are idle."""
    floor = scene.floor
    await scene.message_that_nobody_takes()
    await floor.accept()
    await scene.state_after_step()
    scene.held = {floor.session: frozenset({Fence(scene.task_id, 1)})}
    await floor.manager.broker.purge(floor.manager.topology.task_queue_name("default"))
    for _ in range(2):
        assert await scene.state_after_step() == "queued"
    assert await floor.manager.dispatcher.step() == 1


@pytest.mark.parametrize("gap", ["lasts", "is over"])
async def test_queue_is_let_go_when_presence_does_not_work(scene: Scene, gap: str) -> None:
    """Nobody is rescued for a lease from then on; work is to go on at once."""
    floor = scene.floor
    await scene.message_that_nobody_takes()
    await floor.accept()
    await scene.state_after_step()
    floor.manager.sessions.interrupt()
    if gap == "is over":
        floor.manager.sessions.own_beat(time.monotonic())
    await scene.state_after_step()
    assert await floor.manager.dispatcher.step() == 1


async def test_queue_is_let_go_when_there_is_no_suspect_any_more(scene: Scene) -> None:
    floor = scene.floor
    await scene.message_that_nobody_takes()
    await floor.accept()
    await scene.state_after_step()
    await scene.completed()
    await eventually(lambda: bool(floor.manager.settler._arrived))
    await floor.manager.settler.step()
    await floor.manager.rescuer.step()
    assert await floor.manager.dispatcher.step() == 1


async def test_release_whose_message_may_be_in_the_queue_is_left(scene: Scene) -> None:
    """Unless its message was handed back: then it is not the one that is there."""
    floor = scene.floor
    await scene.message_that_nobody_takes()
    assert await scene.state_after_step() == "queued"
    floor.manager.rescuer.redelivered([Fence(scene.task_id, 1)])
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
    """Lost within a process that lives: an attempt, and no crash."""
    await scene.start()
    assert await scene.state_after_step() == "pending"
    row = await scene.floor.row(scene.task_id)
    assert (row["attempt"], row["crashes"]) == (1, 0)


async def test_start_that_a_wrong_clock_puts_into_the_future_hides_no_lost_run(scene: Scene) -> None:
    await scene.floor.report(Started(scene.task_id, 1, datetime(2100, 1, 1, tzinfo=UTC)))
    assert await scene.state_after_step() == "pending"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([0, 0], [1, 1]),
        ([1, 0], [2, 1]),  # the first time, the second may have died before its start was known
        ([2, 0], [3, 0]),
        ([2, 1], [2, 2]),  # which of the two it was is seen when each runs without the other
        ([2, 1, 0], [2, 2, 0]),
    ],
)
async def test_of_the_runs_lost_with_a_session_those_suspected_most_are_charged(
    scene: Scene, before: list[int], after: list[int]
) -> None:
    """Nobody knows which of them ended it; who was there before when one died is more likely."""
    floor = scene.floor
    ids = [scene.task_id, *await floor.accept(len(before) - 1)]
    await floor.dispatch()
    await floor.report(*(Started(id, 1, datetime.now(UTC)) for id in ids))
    for id, crashes in zip(ids, before, strict=True):
        await floor.connection.execute("UPDATE tasks SET crashes = $2, max_attempts = 9 WHERE id = $1", id, crashes)
    await floor.manager.rescuer.session_lost(floor.session, "default", "signal 9")
    assert [await crashes_of(floor, id) for id in ids] == after


async def crashes_of(floor: Floor, task_id: UUID) -> int:
    found: int = await floor.connection.fetchval(
        "SELECT crashes FROM tasks WHERE id = $1 UNION ALL SELECT crashes FROM task_history WHERE id = $1", task_id
    )
    return found


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

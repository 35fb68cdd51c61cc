"""Cancel, of one task and of many: whoever may still hold a release of the task hears of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tacoq_manager import bulk
from tacoq_manager.runtimes import MIN_RUNS
from tacoq_manager.transitions import give_back, lose
from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Declared, Delivery
from tacoq_protocol.http import BulkDone, BulkRequest, TaskFilter
from tacoq_protocol.messages import Cancelled, CancelRuns, Completed, Fence, KindSpec
from tacoq_protocol.topology import Binding, Queue
from tests.stages.floor import Floor
from tests.support.eventually import eventually


class Ear:
    """A session's ear on the queue of its name."""

    def __init__(self) -> None:
        self.cancelled: list[UUID] = []

    async def listen(self, floor: Floor) -> None:
        control = floor.manager.topology.control
        await floor.worker.declare(Declared(exchanges=[control]))
        bindings = [Binding(control.name, "", "queue.default")]
        await floor.worker.consume(Consumer(Queue(exclusive=True), self._hear, bindings=bindings))

    def _hear(self, delivery: Delivery) -> None:
        message = codec.decode_control(delivery.format, delivery.body)
        if isinstance(message, CancelRuns):
            self.cancelled += message.task_ids
        delivery.ack()


def everything() -> BulkRequest:
    return BulkRequest(filter=TaskFilter(kind="k"), most=1_000)


async def test_cancel_of_a_released_task_is_a_request_that_the_workers_hear(floor: Floor) -> None:
    ear = Ear()
    await ear.listen(floor)
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.dispatch()
    answer = await floor.manager.canceller.cancel(task_id)
    assert (answer.state, answer.cancel_requested) == ("queued", True)
    await eventually(lambda: ear.cancelled == [task_id])


async def test_task_behind_one_that_is_cancelled_under_a_claim_is_released(floor: Floor, lock: Any) -> None:
    """The claim finds nothing, and yet its lane is not empty."""
    floor.join("k", slots=1)
    first, second = await floor.accept(2)

    async def waiting(count: int) -> bool:
        found = await floor.connection.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return len(found) == count

    await lock.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", first)
    cancelling = asyncio.create_task(floor.manager.canceller.cancel(first))
    await eventually(lambda: waiting(1), what="the cancel waits for the row")
    claiming = asyncio.create_task(floor.manager.dispatcher.step())
    await eventually(lambda: waiting(2), what="the claim waits for the row, too")
    await lock.close()
    assert (await cancelling).state == "cancelled"
    assert await claiming + await floor.manager.dispatcher.step() == 1
    assert await floor.state(second) == "queued"


async def test_cancel_of_a_task_that_was_given_back_is_a_request_that_the_workers_hear(floor: Floor) -> None:
    """Its older message may be with the broker all the same: what becomes of that decides."""
    ear = Ear()
    await ear.listen(floor)
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.dispatch()
    await floor.manager.settler.apply([give_back(Fence(task_id, 1))])
    answer = await floor.manager.canceller.cancel(task_id)
    assert (answer.state, answer.cancel_requested) == ("queued", True)
    await eventually(lambda: ear.cancelled == [task_id])
    await floor.report(Cancelled(task_id, 1, None, 0.0, "asked"))
    assert await floor.state(task_id) == "cancelled"


async def test_cancel_of_a_task_that_was_given_back_takes_its_slot_again(floor: Floor) -> None:
    """What holds its release may still begin it: no other is released for that slot until it has been told."""
    floor.join("k", slots=2)
    ids = await floor.accept(2)
    await floor.dispatch()
    await floor.manager.settler.apply([give_back(Fence(task_id, 1)) for task_id in ids])
    await floor.manager.canceller.cancel(ids[0])
    await floor.accept(5)
    assert await floor.dispatch() == 1
    await floor.report(Cancelled(ids[0], 1, None, 0.0, "cancelled on request"))
    assert await floor.dispatch() == 1


async def test_cancel_of_a_task_that_was_given_back_is_final_when_nobody_holds_it(floor: Floor) -> None:
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.dispatch()
    await floor.manager.settler.apply([give_back(Fence(task_id, 1))])
    await floor.manager.canceller.cancel(task_id)
    assert await floor.dispatch() == 0
    spec = KindSpec("k")
    await floor.manager.settler.apply([lose(Fence(task_id, 1), started=False, session=None, spec=spec, detail="d")])
    assert await floor.state(task_id) == "cancelled"


async def test_cancel_of_a_task_that_was_never_released_is_final_and_nobody_needs_to_hear(floor: Floor) -> None:
    ear = Ear()
    await ear.listen(floor)
    never, released = await floor.accept(2)
    assert (await floor.manager.canceller.cancel(never)).state == "cancelled"
    floor.join("k")
    await floor.dispatch()
    await floor.manager.canceller.cancel(released)
    await eventually(lambda: ear.cancelled == [released])


async def test_cancel_of_many_is_heard_for_those_that_somebody_may_hold(floor: Floor) -> None:
    ear = Ear()
    await ear.listen(floor)
    floor.join("k", slots=4)
    ids = await floor.accept(6)
    assert await floor.dispatch() == 4
    await floor.manager.settler.apply([give_back(Fence(ids[0], 1))])
    answer = await floor.manager.bulk.cancel(everything())
    assert isinstance(answer, BulkDone)
    assert (answer.done, answer.requested) == (2, 4)
    await eventually(lambda: set(ear.cancelled) == set(ids[:4]))


@pytest.mark.parametrize("round", range(5))
async def test_cancel_of_many_beside_releases_and_completions_leaves_each_with_one_end(
    floor: Floor, round: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH_TASKS", 7)
    ear = Ear()
    await ear.listen(floor)
    floor.join("k", slots=40)
    ids = await floor.accept(20, delay=3600.0)
    ids += await floor.accept(30)
    await floor.dispatch()
    ids += await floor.accept(30)  # some of which are released while they are cancelled
    begun = datetime.now(UTC)
    held = [release.fence for release in floor.releases]
    done = [Completed(fence.task_id, fence.release, begun, 0.01, b"1") for fence in held[round::3]]
    answer, *_ = await asyncio.gather(
        floor.manager.bulk.cancel(everything()), floor.report(*done), floor.dispatch(), floor.manager.dispatcher.step()
    )
    assert isinstance(answer, BulkDone)
    requested = await floor.manager.canceller.remind()
    await eventually(lambda: len(set(ear.cancelled)) >= requested)
    stopped = [r.fence for r in floor.releases if r.fence not in {(c.task_id, c.release) for c in done}]
    await floor.report(*(Cancelled(fence.task_id, fence.release, None, 0.0, "asked to") for fence in stopped))
    ends = await floor.connection.fetch("SELECT id, state FROM task_history")
    assert sorted(row["id"] for row in ends) == sorted(ids)
    assert await floor.connection.fetchval("SELECT count(*) FROM tasks") == 0
    states = Counter(row["state"] for row in ends)
    assert states == {"completed": len(done), "cancelled": len(ids) - len(done)}
    assert answer.done + answer.requested <= len(ids)


async def test_cancel_of_many_looks_again_at_what_was_released_just_then(floor: Floor) -> None:
    """When the cancel has found it pending, and waits for its row, neither of the two moves fits any more."""
    ids = await floor.accept(3)
    transaction = floor.connection.transaction()
    await transaction.start()
    await floor.connection.execute("UPDATE tasks SET state = 'queued', release = 1 WHERE id = $1", ids[1])
    cancelling = asyncio.ensure_future(floor.manager.bulk.cancel(everything()))

    async def waits_for_the_row() -> bool:
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(await floor.manager.database.read.fetch(waiting))

    await eventually(waits_for_the_row)
    await transaction.commit()
    answer = await cancelling
    assert isinstance(answer, BulkDone)
    assert (answer.done, answer.requested) == (2, 1)


async def test_runs_that_were_cancelled_before_they_began_say_nothing_of_run_times(floor: Floor) -> None:
    floor.join("k")
    await floor.accept(MIN_RUNS)
    await floor.dispatch()
    await floor.report(*(Cancelled(*release.fence, None, 0.0, "asked") for release in floor.releases))
    assert floor.manager.runtimes.p90("default", "k") is None

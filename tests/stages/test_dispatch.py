"""Dispatch: what is released, in which order, in which messages, and what happens when the broker does not take it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from scripts.cleanup import delete_queues
from tacoq_manager.credit import MOST_PER_MESSAGE, MOST_PER_SLOT, MOST_PER_UNKNOWN
from tacoq_manager.store.claim import CLAIM_BYTES
from tacoq_manager.transitions import MAX_CRASHES, cancel, lose
from tacoq_protocol.broker import LinkState, Outgoing
from tacoq_protocol.brokers.memory import MemoryHub
from tacoq_protocol.errors import BrokerUnavailable, PublishUnconfirmed, Unroutable
from tacoq_protocol.http import MAX_PAYLOAD_BYTES
from tacoq_protocol.messages import Completed, Heartbeat, KindSpec, Returned, ReturnReason, Started
from tests.stages.floor import Floor
from tests.support.eventually import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_no_more_is_released_than_there_are_free_slots(floor: Floor) -> None:
    floor.join("k", slots=4)
    await floor.accept(10)
    assert await floor.dispatch() == 4
    await floor.report(Completed(floor.releases[0].task_id, 1, NOW, 1.0, b"1"))
    assert await floor.dispatch() == 1


async def test_runs_of_a_worker_that_drains_take_no_slot_of_the_one_that_comes_after_it(floor: Floor) -> None:
    floor.join("k", slots=4)
    await floor.accept(10)
    assert await floor.dispatch() == 4
    floor.join("k", slots=4, session=uuid4())

    def drain(held: int) -> None:
        beat = Heartbeat(floor.session, "default", 4, held, [], "('k',)", "0", draining=True)
        floor.manager.sessions.heartbeat(beat, time.monotonic())

    drain(held=4)
    assert await floor.dispatch() == 4
    await floor.report(*[Completed(release.task_id, 1, NOW, 1.0, b"1") for release in floor.releases[:4]])
    drain(held=0)
    assert await floor.dispatch() == 0


async def test_order_is_priority_then_accept(floor: Floor) -> None:
    first, second = await floor.accept(2)
    (urgent,) = await floor.accept(priority=9)
    (third,) = await floor.accept()
    floor.join("k")
    await floor.dispatch()
    assert [release.task_id for release in floor.releases] == [urgent, first, second, third]


async def test_priority_counts_over_kinds_too(floor: Floor) -> None:
    (low,) = await floor.accept(kind="a")
    (high,) = await floor.accept(kind="b", priority=5)
    floor.join("a", "b", slots=1)
    await floor.dispatch()
    assert [release.task_id for release in floor.releases] == [high]
    assert await floor.state(low) == "pending"


async def test_kind_that_found_no_free_slot_is_not_forgotten(floor: Floor) -> None:
    await floor.accept(4, kind="a")
    await floor.accept(4, kind="b")
    floor.join("a", "b", slots=4)
    assert await floor.dispatch() == 4
    await floor.report(*[Completed(release.task_id, 1, NOW, 1.0, b"1") for release in floor.releases])
    assert await floor.dispatch() == 4
    assert [release.kind for release in floor.releases] == ["a", "a", "b", "b"] * 2


async def test_kind_waits_until_every_live_session_knows_it(floor: Floor) -> None:
    floor.join("other")
    await floor.accept()
    assert await floor.dispatch() == 0
    newer = uuid4()
    floor.join("other", "k", session=newer)
    assert await floor.dispatch() == 0
    floor.manager.sessions.leave(floor.session)
    assert await floor.dispatch() == 1


async def test_nothing_is_released_without_a_worker(floor: Floor) -> None:
    await floor.accept()
    assert await floor.dispatch() == 0


async def test_lone_task_travels_alone_and_a_backlog_in_small_messages_while_run_times_are_unknown(
    floor: Floor,
) -> None:
    floor.join("k", slots=20)
    await floor.accept()
    await floor.dispatch()
    assert [len(message) for message in floor.messages] == [1]
    await floor.accept(100)
    await floor.dispatch()
    assert [len(message) for message in floor.messages[1:]] == [MOST_PER_UNKNOWN, MOST_PER_UNKNOWN, 3]


async def test_short_kinds_are_released_beyond_the_slots_in_large_messages(floor: Floor) -> None:
    floor.join("k", slots=4)
    for _ in range(50):
        floor.manager.runtimes.add("default", "k", 0.00001)
    await floor.accept(1_000)
    assert await floor.dispatch() == 4 * MOST_PER_SLOT
    assert {len(message) for message in floor.messages} == {MOST_PER_MESSAGE}


async def test_kind_that_was_short_and_is_slow_now_gets_free_slots_only(floor: Floor) -> None:
    """Its runs have not ended: that they go on is what tells. What came back of it is for whoever has a slot."""
    floor.join("k", slots=4)
    for _ in range(50):
        floor.manager.runtimes.add("default", "k", 0.001)
    await floor.accept(30)
    assert await floor.dispatch() == 30
    starts = [Started(*release.fence, NOW, 0.1) for release in floor.releases[:4]]
    returns = [Returned(*release.fence, ReturnReason.SLOW) for release in floor.releases[4:]]
    await floor.report(*starts, *returns)
    assert await floor.dispatch() == 0
    floor.join("k", slots=4, session=uuid4())
    floor.deliveries.clear()
    assert await floor.dispatch() == 4
    assert [len(message) for message in floor.messages] == [1] * 4


async def test_announced_start_says_nothing_of_run_times(floor: Floor) -> None:
    floor.join("k", slots=4)
    for _ in range(50):
        floor.manager.runtimes.add("default", "k", 0.001)
    await floor.accept(8, max_attempts=1)
    assert await floor.dispatch() == 8
    await floor.report(*[Started(*release.fence, NOW) for release in floor.releases])
    assert floor.manager.runtimes.p90("default", "k") == 0.001


async def test_task_that_was_lost_travels_alone_and_announced(floor: Floor) -> None:
    floor.join("k")
    ids = await floor.accept(3)
    await floor.dispatch()
    fence = floor.releases[1].fence
    await floor.manager.settler.apply(
        [lose(fence, started=False, session=None, spec=KindSpec("k"), detail="message lost")]
    )
    for _ in range(50):
        floor.manager.runtimes.add("default", "k", 0.00001)
    await floor.accept(3)
    floor.deliveries.clear()
    await floor.dispatch()
    announced = [message for message in floor.messages if message[0].announced]
    assert [[release.task_id for release in message] for message in announced] == [[ids[1]]]
    assert announced[0][0].release == 2


async def test_kind_that_must_not_run_twice_is_always_announced(floor: Floor) -> None:
    """A worker that dies at once after its start has then said so before: the loss is known to be of a run."""
    floor.join("k", on_lost="fail")
    await floor.accept(3)
    await floor.dispatch()
    assert [[release.announced for release in message] for message in floor.messages] == [[True]] * 3


async def test_task_with_one_attempt_is_always_announced(floor: Floor) -> None:
    floor.join("k")
    await floor.accept(max_attempts=1)
    await floor.accept()
    await floor.dispatch()
    assert [release.announced for release in floor.releases] == [True, False]


async def test_blocked_broker_gets_nothing_and_the_tasks_stay_pending(floor: Floor, hub: MemoryHub) -> None:
    floor.join("k")
    (task_id,) = await floor.accept()
    hub.block()
    await eventually(lambda: floor.manager.broker.state is LinkState.BLOCKED)
    assert await floor.manager.dispatcher.step() == 0
    assert (await floor.row(task_id))["state"] == "pending"
    hub.unblock()
    await eventually(lambda: floor.manager.broker.state is LinkState.OPEN)
    assert await floor.dispatch() == 1


@pytest.mark.parametrize("fault", [BrokerUnavailable, PublishUnconfirmed])
async def test_publish_that_is_not_confirmed_is_given_back_with_its_release_open(
    floor: Floor, fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may have the message all the same: the number grows at the next claim, and only then."""

    async def refuse(*_: object, **__: object) -> None:
        raise fault("not confirmed")

    floor.join("k")
    (task_id,) = await floor.accept()
    with monkeypatch.context() as patch:
        patch.setattr(floor.manager.broker, "publish", refuse)
        with pytest.raises(fault):
            await floor.manager.dispatcher.step()
    row = await floor.row(task_id)
    assert (row["state"], row["release"]) == ("pending", 1)
    assert floor.manager.in_flight.queue("default") == 0
    assert await floor.dispatch() == 1
    assert floor.releases[0].release == 2


@pytest.mark.parametrize(("on_lost", "max_attempts"), [("fail", None), ("retry", 1)])
async def test_what_may_run_once_only_is_not_released_again_when_its_confirm_is_lost(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, on_lost: str, max_attempts: int | None
) -> None:
    """Both messages would run: their starts are on record with the broker, who knows nothing of fences."""
    publish = floor.manager.broker.publish

    async def lose_the_confirm(messages: Sequence[Outgoing], *, seconds: float) -> None:
        await publish(messages, seconds=seconds)
        raise PublishUnconfirmed("the link was lost")

    floor.join("k", on_lost=on_lost)
    (once,) = await floor.accept(max_attempts=max_attempts)
    monkeypatch.setattr(floor.manager.broker, "publish", lose_the_confirm)
    with pytest.raises(PublishUnconfirmed):
        await floor.manager.dispatcher.step()
    monkeypatch.setattr(floor.manager.broker, "publish", publish)
    assert await floor.manager.dispatcher.step() == 0
    await eventually(lambda: [release.fence for release in floor.releases] == [(once, 1)])
    assert floor.releases[0].max_attempts == max_attempts
    await floor.report(Completed(once, 1, NOW, 1.0, b"1"))
    assert await floor.state(once) == "completed"


async def test_queue_that_the_broker_takes_nothing_for_holds_up_no_other(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A length limit that somebody gave it, say: its backlog stands first, round after round."""
    publish = floor.manager.broker.publish

    async def refuse_full(messages: Sequence[Outgoing], *, seconds: float) -> None:
        if any(message.routing_key == "full" for message in messages):
            raise PublishUnconfirmed("it is full")
        await publish(messages, seconds=seconds)

    floor.join("k", slots=4, queue="full", session=uuid4())
    await floor.accept(10, queue="full")
    floor.join("k")
    (task_id,) = await floor.accept()
    monkeypatch.setattr(floor.manager.broker, "publish", refuse_full)
    for _ in range(2):
        with pytest.raises(PublishUnconfirmed):
            await floor.manager.dispatcher.step()
    assert await floor.state(task_id) == "queued"


async def recounted(floor: Floor) -> int:
    """Dispatch after the leader has looked again where tasks are pending."""
    await floor.manager.recount.step()
    return await floor.dispatch()


async def test_claim_takes_no_more_bytes_than_can_be_published_in_time(floor: Floor) -> None:
    floor.join("k", "small", slots=100)
    large = await floor.accept(20, payload=b'"' + b"x" * (MAX_PAYLOAD_BYTES - 2) + b'"')
    small = await floor.accept(kind="small")
    assert await floor.manager.dispatcher.step() == CLAIM_BYTES // MAX_PAYLOAD_BYTES
    assert await floor.dispatch() == 21 - CLAIM_BYTES // MAX_PAYLOAD_BYTES
    released = [release.task_id for release in floor.releases]
    assert [task_id for task_id in released if task_id in large] == large
    assert set(released) == {*large, *small}
    assert floor.manager.dispatcher._lanes.queues() == []


async def test_tasks_on_their_last_chance_are_released_one_at_a_time(floor: Floor) -> None:
    """A crash of theirs makes them poison: it must be known whose it was. Others go on beside them."""
    floor.join("k", "other")
    ids = await floor.accept(2)
    (elsewhere,) = await floor.accept(kind="other")
    doomed = [*ids, elsewhere]
    await floor.connection.execute("UPDATE tasks SET crashes = $1", MAX_CRASHES - 1)
    await floor.accept(5)
    assert await floor.dispatch() == 6
    assert floor.releases[0].task_id == doomed[0]
    assert [await floor.state(task_id) for task_id in doomed] == ["queued", "pending", "pending"]
    await floor.report(Started(doomed[0], 1, NOW))
    assert await recounted(floor) == 0, "it runs"
    for ended, following in pairwise(doomed):  # the next one's turn comes with the end of the one before
        await floor.report(Completed(ended, 1, NOW, 1.0, b"1"))
        await eventually(floor.manager.dispatcher._lanes.queues)
        assert await floor.dispatch() == 1
        assert floor.releases[-1].task_id == following


async def test_task_on_its_last_chance_that_nobody_can_run_holds_nobody_back(floor: Floor) -> None:
    floor.join("k")
    await floor.accept(kind="unknown")
    await floor.accept()
    await floor.connection.execute("UPDATE tasks SET crashes = $1", MAX_CRASHES - 1)
    assert await floor.dispatch() == 1


async def test_cancel_asked_for_while_it_was_published_is_kept_when_it_is_given_back(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever waits for the task hears of it, as of any other end."""
    told: list[UUID] = []

    async def refuse(*_: object, **__: object) -> None:
        await floor.manager.settler.apply(cancel(task_id))
        raise PublishUnconfirmed("not confirmed")

    floor.join("k")
    (task_id,) = await floor.accept()
    monkeypatch.setattr(floor.manager.broker, "publish", refuse)
    monkeypatch.setattr(floor.manager.waiters, "settled", lambda ids, _: told.extend(ids))
    with pytest.raises(PublishUnconfirmed):
        await floor.manager.dispatcher.step()
    assert await floor.state(task_id) == "cancelled"
    assert told == [task_id]
    assert floor.manager.in_flight.queue("default") == 0
    assert b'tacoq_moves_total{move="give_back"} 1.0' in floor.manager.metrics.text()


@pytest.fixture(params=["memory", "rabbitmq"])
def deletable(request: pytest.FixtureRequest) -> tuple[Floor, Callable[[str], Awaitable[None]]]:
    """A floor, and what deletes a queue of its broker."""
    if request.param == "memory":
        hub: MemoryHub = request.getfixturevalue("hub")

        async def delete(name: str) -> None:
            hub.delete_queue(name)

        return request.getfixturevalue("floor"), delete
    url: str = request.getfixturevalue("broker_url")
    return request.getfixturevalue("rabbit_floor"), lambda name: delete_queues(url, [name])


async def test_task_queue_that_somebody_deleted_is_made_again(
    deletable: tuple[Floor, Callable[[str], Awaitable[None]]],
) -> None:
    floor, delete = deletable
    queue = floor.manager.topology.task_queue_name("default")
    floor.join("k")
    await floor.accept()
    assert await floor.dispatch() == 1
    assert floor.consuming is not None
    await floor.consuming.close()  # or it would make the queue itself
    await delete(queue)
    await floor.accept()
    with pytest.raises(Unroutable):
        await floor.manager.dispatcher.step()
    assert await floor.manager.dispatcher.step() == 1
    assert await floor.manager.broker.message_count(queue) == 1


async def test_queue_that_is_held_back_gets_nothing_until_it_is_let_go(floor: Floor) -> None:
    dispatcher = floor.manager.dispatcher
    floor.join("k")
    await floor.accept()
    dispatcher.hold("default", True)
    assert await floor.dispatch() == 0
    dispatcher._changed.clear()
    dispatcher.hold("default", False)
    assert dispatcher._changed.is_set()
    assert await floor.dispatch() == 1


async def test_expired_task_is_not_released(floor: Floor) -> None:
    floor.join("k")
    (task_id,) = await floor.accept(expires_in=60)
    await floor.connection.execute("UPDATE tasks SET expires_at = now() - interval '1 second'")
    assert await floor.dispatch() == 0
    assert await floor.manager.expiry._step() == 1
    assert await floor.state(task_id) == "expired"


async def test_due_tasks_become_pending_in_one_step(floor: Floor) -> None:
    floor.join("k")
    ids = await floor.accept(3, delay=60)
    assert await floor.dispatch() == 0
    await floor.connection.execute("UPDATE tasks SET run_at = now() - interval '1 second'")
    assert await floor.manager.schedule._step() == 3
    await floor.dispatch()
    assert [release.task_id for release in floor.releases] == ids

"""From delivery to ack: batching of reports, redeliveries, slow messages, broker faults."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import UTC, datetime, timedelta

import pytest

from tacoq_protocol.broker import BrokerFactory, Consumer, Outgoing
from tacoq_protocol.brokers.memory import MemoryHub
from tacoq_protocol.codec import RELEASES, encode
from tacoq_protocol.messages import AskHeld, Completed, Inventory, Rebuild, Release, Releases, Returned, ReturnReason
from tacoq_worker import Worker
from tacoq_worker.held import Message
from tacoq_worker.session import Session
from tacoq_worker.settings import Pace
from tests.support import eventually
from tests.worker.manager import QUICK, TOPOLOGY, FakeManager, make_release, playing


class Gate:
    """A worker whose runs wait until the test lets them go on."""

    def __init__(self, concurrency: int = 2) -> None:
        self.worker = Worker("gate", concurrency=concurrency)
        self.entered = 0
        self.runs = 0
        self.open = asyncio.Event()

        @self.worker.task
        async def wait() -> None:
            self.entered += 1
            await self.open.wait()

        @self.worker.task
        async def noop() -> None:
            self.runs += 1


def disconnect(hub: MemoryHub, session: Session) -> None:
    hub.disconnect(f"tacoq worker {session.id}")


def broker_holds(hub: MemoryHub, manager: FakeManager) -> int:
    """Task messages in the broker, ready or given to the session and not acked."""
    queue = hub._queues[manager.topology.task_queue_name(manager.queue)]
    return len(queue.ready) + sum(len(tap.unacked) for tap in queue.taps)


def messages_in_memory() -> int:
    gc.collect()
    return sum(isinstance(thing, Message) for thing in gc.get_objects())


async def test_reports_gather_while_a_publish_is_in_flight(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (_, manager):
        await manager.publish(*(make_release("noop") for _ in range(64)))
        await manager.until(lambda: len(manager.reports) == 64)
        assert len(manager.batches) <= 2
        await manager.until(lambda: broker_holds(hub, manager) == 0)


async def test_a_delivery_is_acked_only_when_all_its_reports_are_confirmed(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        await manager.publish(make_release("noop"), make_release("wait"))
        await manager.until(lambda: gate.runs == 1 and gate.entered == 1)
        await manager.until(lambda: any(isinstance(r, Completed) for r in manager.reports))
        assert broker_holds(hub, manager) == 1
        assert len(session._intake.held) == 1
        gate.open.set()
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert not session._intake.held


async def test_messages_behind_a_long_run_are_let_go_of_when_they_are_acked(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        await manager.publish(make_release("wait"))
        await manager.until(lambda: gate.entered == 1)
        before = messages_in_memory()
        for _ in range(20):
            assert isinstance(await manager.run("noop"), Completed)
        await manager.until(lambda: broker_holds(hub, manager) == 1)
        assert messages_in_memory() == before
        gate.open.set()
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert not session._intake.held


async def test_reports_that_are_not_confirmed_are_kept_and_sent_again(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        first, second = make_release("wait"), make_release("noop")
        await manager.publish(first)
        await manager.until(lambda: gate.entered == 1)
        hub.freeze()
        gate.open.set()
        await manager.until(lambda: not session._slots.running())
        hub.disconnect(f"tacoq worker {session.id}")  # what was sent may be stored or not
        hub.thaw()
        await manager.publish(second)
        await manager.until(lambda: bool(manager.outcomes(first) and manager.outcomes(second)))
        assert all(isinstance(r, Completed) for r in [*manager.outcomes(first), *manager.outcomes(second)])
        await manager.until(lambda: broker_holds(hub, manager) == 0 and not session._intake.held)


async def test_while_the_broker_takes_nothing_deliveries_stay_unacked(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        release = make_release("wait")
        await manager.publish(release)
        await manager.until(lambda: gate.entered == 1)
        hub.block()
        gate.open.set()
        await manager.until(lambda: not session._slots.running())
        assert (broker_holds(hub, manager), len(session._intake.held)) == (1, 1)
        hub.unblock()
        assert isinstance(await manager.outcome(release), Completed)
        await manager.until(lambda: broker_holds(hub, manager) == 0)


async def test_order_and_number_of_reports_survive_many_lost_connections(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        releases = [make_release("noop") for _ in range(300)]
        for n, release in enumerate(releases):
            await manager.publish(release)
            if n % 30 == 0:
                await manager.until(lambda: len(manager.reports) >= n // 2)  # noqa: B023
                disconnect(hub, session)
        await manager.until(lambda: all(manager.outcomes(r) for r in releases))
        await manager.until(lambda: broker_holds(hub, manager) == 0 and not session._intake.held)


async def test_a_redelivery_of_what_runs_is_taken_over(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        release = make_release("wait")
        await manager.publish(release)
        await manager.until(lambda: gate.entered == 1)
        (lost,) = session._intake.held[release.fence].messages
        disconnect(hub, session)
        await manager.until(lambda: session._intake.held[release.fence].messages != [lost])
        assert broker_holds(hub, manager) == 1
        gate.open.set()
        assert isinstance(await manager.outcome(release), Completed)
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert gate.entered == 1
        assert len(manager.outcomes(release)) == 1


async def test_a_redelivery_of_what_another_session_had_is_handed_back(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate()
    release = make_release("noop")
    # Another consumer gets it first, and goes away without an ack.
    other = FakeManager(make_broker("other"), TOPOLOGY, "gate")
    await other.start()
    taken = asyncio.Event()
    consuming = await other.broker.consume(Consumer(TOPOLOGY.task_queue("gate"), lambda _: taken.set(), prefetch=1))
    await other.publish(release)
    await taken.wait()
    await consuming.close()
    await other.broker.stop()
    async with playing(gate.worker, make_broker) as (_, manager):
        assert await manager.outcome(release) == Returned(release.task_id, 1, ReturnReason.REDELIVERED)
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert gate.runs == 0


async def test_the_same_release_sent_twice_runs_once(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (_, manager):
        release = make_release("wait")
        await manager.publish(release, release)
        await manager.publish(release)
        await manager.until(lambda: gate.entered == 1)
        gate.open.set()
        await manager.outcome(release)
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert (gate.entered, len(manager.outcomes(release))) == (1, 1)


async def test_rebuild_consumes_anew_and_runs_nothing_twice(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        before, after = make_release("wait"), make_release("noop")
        await manager.publish(before)
        await manager.until(lambda: gate.entered == 1)
        (given_back,) = session._intake.held[before.fence].messages
        await manager.control(session.id, Rebuild())
        await manager.until(lambda: session._intake.held[before.fence].messages != [given_back])
        await manager.publish(after)
        assert isinstance(await manager.outcome(after), Completed)
        gate.open.set()
        assert isinstance(await manager.outcome(before), Completed)
        await manager.until(lambda: broker_holds(hub, manager) == 0)
        assert gate.entered == 1


def consumers(hub: MemoryHub, manager: FakeManager) -> int:
    return len(hub._queues[manager.topology.task_queue_name(manager.queue)].taps)


async def close_slowly(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over a network: others run before the consumer is closed."""
    consuming = await eventually(lambda: session._intake._consuming)
    assert consuming is not None
    close = consuming.close

    async def slowly() -> None:
        await asyncio.sleep(0)
        await close()

    monkeypatch.setattr(consuming, "close", slowly)


async def test_two_rebuilds_at_once_leave_one_consumer(
    hub: MemoryHub, make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        await close_slowly(session, monkeypatch)
        await asyncio.gather(session._intake.rebuild(), session._intake.rebuild())
        assert consumers(hub, manager) == 1
        assert isinstance(await manager.run("noop"), Completed)


async def test_a_rebuild_under_way_does_not_outlive_the_beginning_of_a_drain(
    hub: MemoryHub, make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        await close_slowly(session, monkeypatch)
        await asyncio.gather(session._intake.rebuild(), session._intake.stop())
        assert consumers(hub, manager) == 0


async def test_what_is_held_is_told_also_when_it_only_waits_for_a_confirm(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate(concurrency=1)
    async with playing(gate.worker, make_broker, pace=Pace(slow_run=60.0)) as (session, manager):
        running, waiting = make_release("wait"), make_release("wait")
        await manager.publish(running, waiting)
        await manager.until(lambda: gate.entered == 1)
        question = make_release("x").task_id
        await manager.control(session.id, AskHeld(question))
        answer = await manager.seen(Inventory)
        assert answer.question == question
        assert set(answer.held) == {running.fence, waiting.fence}
        gate.open.set()
        await manager.outcome(waiting)


async def test_a_slow_run_hands_back_the_rest_of_its_message_when_no_slot_is_free(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate(concurrency=2)
    async with playing(gate.worker, make_broker) as (_, manager):
        releases = [make_release("wait") for _ in range(5)]
        await manager.publish(*releases)
        returned = [await manager.outcome(r) for r in releases[2:]]
        assert returned == [Returned(r.task_id, 1, ReturnReason.SLOW) for r in releases[2:]]
        assert gate.entered == 2  # free slots took what they could
        gate.open.set()
        for release in releases[:2]:
            assert isinstance(await manager.outcome(release), Completed)


async def test_whole_messages_behind_slow_runs_go_back_when_every_slot_has_one(make_broker: BrokerFactory) -> None:
    """After the starts: whoever gets to know that they wait knows by then that no slot is free."""
    gate = Gate(concurrency=2)
    async with playing(gate.worker, make_broker) as (_, manager):
        running, waiting = [make_release("wait") for _ in range(2)], [make_release("noop") for _ in range(3)]
        await manager.publish(*running)
        await manager.until(lambda: gate.entered == 2)
        await manager.publish(*waiting)
        for release in waiting:
            assert await manager.outcome(release) == Returned(release.task_id, 1, ReturnReason.SLOW)
        assert all(manager.started(release) for release in running)
        assert gate.runs == 0
        gate.open.set()
        for release in running:
            assert isinstance(await manager.outcome(release), Completed)


async def test_messages_wait_while_a_slot_does_short_runs(make_broker: BrokerFactory) -> None:
    gate = Gate(concurrency=2)
    async with playing(gate.worker, make_broker) as (_, manager):
        slow = make_release("wait")
        await manager.publish(slow)
        await manager.until(lambda: manager.started(slow))
        short = [make_release("noop") for _ in range(20)]
        for release in short:
            await manager.publish(release)
        outcomes = [await manager.outcome(release) for release in short]
        assert {type(outcome) for outcome in outcomes} == {Completed}
        gate.open.set()
        await manager.outcome(slow)


async def test_a_run_that_blocks_the_loop_hands_back_the_rest_too(make_broker: BrokerFactory) -> None:
    worker = Worker("gate", concurrency=1)

    @worker.task
    async def block() -> None:
        time.sleep(0.1)  # noqa: ASYNC251 (what it should not do)

    async with playing(worker, make_broker) as (_, manager):
        releases = [make_release("block") for _ in range(3)]
        await manager.publish(*releases)
        outcomes = [await manager.outcome(r) for r in releases]
    assert [type(o) for o in outcomes] == [Completed, Returned, Returned]


async def test_starts_are_reported_late_or_not_at_all(make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (_, manager):
        long, short = make_release("wait"), make_release("noop")
        await manager.publish(long)
        await manager.publish(short)
        await manager.until(lambda: manager.started(long))
        gate.open.set()
        await manager.outcome(long)
        assert not manager.started(short)
        kinds = [type(r).__name__ for r in manager.reports if r.task_id == long.task_id]
        assert kinds == ["Started", "Completed"]


async def test_an_announced_release_starts_after_its_start_is_confirmed(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (session, manager):
        release = make_release("wait", announced=True)
        await manager.until(lambda: session._intake.active)
        hub.block()
        await manager_publish_anyway(hub, manager, release)
        await manager.until(lambda: len(session._slots.running()) == 1)
        assert gate.entered == 0
        hub.unblock()
        await manager.until(lambda: gate.entered == 1)
        assert manager.started(release)
        gate.open.set()
        assert isinstance(await manager.outcome(release), Completed)


async def manager_publish_anyway(hub: MemoryHub, manager: FakeManager, release: Release) -> None:
    """Put a release into the queue of a broker that takes nothing any more: it was sent just before."""
    body = encode(Releases(manager.queue, [release]))
    with hub._lock:
        hub._store([Outgoing(manager.topology.tasks.name, manager.queue, RELEASES.name, body)])


async def test_a_message_nobody_can_read_goes_to_the_dead_letters(make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (_, manager):
        await manager.publish_raw(b"not msgpack")
        await manager.publish_raw(b"{}", format="releases/99")
        await manager.until(lambda: len(manager.dead) == 2)
        assert isinstance(await manager.run("noop"), Completed)


async def test_an_empty_message_is_acked(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (_, manager):
        await manager.publish()
        assert isinstance(await manager.run("noop"), Completed)
        await manager.until(lambda: broker_holds(hub, manager) == 0)


async def test_the_broker_may_be_away_when_the_session_starts(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    gate = Gate()
    async with playing(gate.worker, make_broker) as (_, manager):
        hub.go_down()
        other = Session(gate.worker, make_broker, manager.topology, pace=QUICK)
        await other.start()
        hub.come_up()
        assert isinstance(await manager.run("noop"), Completed)
        assert await other.stop()


async def test_expiry_is_looked_at_when_a_slot_is_free_not_when_it_arrives(make_broker: BrokerFactory) -> None:
    gate = Gate(concurrency=1)
    async with playing(gate.worker, make_broker, pace=Pace(slow_run=60.0)) as (_, manager):
        soon = datetime.now(UTC) + timedelta(milliseconds=50)
        first, second = make_release("wait"), make_release("noop", expires_at=soon)
        await manager.publish(first, second)
        await manager.until(lambda: datetime.now(UTC) > soon and gate.entered == 1)
        gate.open.set()
        assert type(await manager.outcome(second)).__name__ == "Expired"

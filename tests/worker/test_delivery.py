"""From delivery to ack: batching of reports, slow messages, broker faults."""

from __future__ import annotations

import gc
import time
from datetime import UTC, datetime, timedelta

from tacoq_protocol.broker import BrokerFactory, Outgoing
from tacoq_protocol.brokers.memory import MemoryHub
from tacoq_protocol.codec import RELEASES, encode
from tacoq_protocol.messages import Completed, Release, Releases, Returned, ReturnReason
from tacoq_worker import Worker
from tacoq_worker.held import Message
from tacoq_worker.session import Session
from tacoq_worker.settings import Pace
from tests.worker.gate import Gate, broker_holds, disconnect
from tests.worker.manager import QUICK, FakeManager, make_release, playing


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

"""Runs older than the ack deadline: their messages are acked, their slots stay taken, nothing is hoarded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from tacoq_protocol.broker import BrokerFactory, Consumer, Consuming, Outgoing
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tacoq_protocol.codec import REPORTS
from tacoq_protocol.messages import (
    AskHeld,
    Completed,
    Heartbeat,
    Inventory,
    Rebuild,
    Returned,
    ReturnReason,
)
from tacoq_protocol.topology import Topology
from tacoq_worker.early_ack import CHANGE_SECONDS
from tacoq_worker.session import Session
from tacoq_worker.settings import Pace
from tests.worker.bench import Bench, wait_release
from tests.worker.manager import TOPOLOGY

PATIENT = Pace(beat=0.05, listed_after=0.1, slow_run=60.0, last_reports=2.0)


def unacked(hub: MemoryHub) -> int:
    (tap,) = hub._queues[TOPOLOGY.task_queue_name("bench")].taps
    return len(tap.unacked)


class Gated(MemoryBroker):
    """The session's own link; reports are held up while the gate is closed."""

    gate: asyncio.Event
    tries = 0

    async def publish(self, messages: Sequence[Outgoing], *, seconds: float) -> None:
        if any(message.format == REPORTS.name for message in messages):
            type(self).tries += 1
            await self.gate.wait()
        await super().publish(messages, seconds=seconds)


@pytest.fixture
def gated() -> type[Gated]:
    return type("TheGated", (Gated,), {"gate": asyncio.Event()})


def through(gated: type[Gated], hub: MemoryHub) -> BrokerFactory:
    return lambda name: (gated if "worker" in name else MemoryBroker)(hub, name)


async def test_a_long_run_is_acked_when_its_start_is_confirmed_and_not_before(
    hub: MemoryHub, gated: type[Gated]
) -> None:
    bench = Bench(2)
    async with bench.at_work(through(gated, hub)):
        (long,) = await bench.release("long")
        await bench.runs("long")
        bench.grow_old(long)
        bench.sweep()
        await bench.manager.until(lambda: gated.tries == 1)
        bench.sweep()
        assert not bench.session._intake._early.watching
        assert (unacked(hub), bench.messages_of(long)) == (1, 1)
        gated.gate.set()
        await bench.manager.until(lambda: bench.manager.started(long))
        await bench.acked_early(long)
        assert unacked(hub) == 0
        bench.go_on["long"].set()
        assert isinstance(await bench.manager.outcome(long), Completed)
        await bench.manager.until(lambda: not bench.held)


async def test_the_setting_decides_without_help(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    bench = Bench(2)
    pace = Pace(beat=0.05, slow_run=0.01, started_after=0.01, ack_deadline=0.05)
    async with bench.at_work(make_broker, pace=pace):
        (long,) = await bench.release("long")
        await bench.runs("long")
        await bench.acked_early(long)
        assert (unacked(hub), bench.held) == (0, 1)
        bench.go_on["long"].set()
        assert isinstance(await bench.manager.outcome(long), Completed)


async def test_nothing_is_done_while_no_run_is_long(
    hub: MemoryHub, make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(2)
    async with bench.at_work(make_broker):
        early = bench.session._intake._early
        monkeypatch.setattr(early, "ended", lambda _: pytest.fail("work for nothing"))
        await bench.release("a", "b")
        await bench.runs("a", "b")
        bench.sweep()
        for name in ("a", "b"):
            bench.go_on[name].set()
        await bench.manager.until(lambda: not bench.held)
        assert not early.watching


@pytest.fixture(params=["memory", "rabbitmq"])
def either(request: pytest.FixtureRequest, make_broker: BrokerFactory) -> tuple[BrokerFactory, Topology]:
    if request.param == "memory":
        return make_broker, TOPOLOGY
    url, namespace = request.getfixturevalue("broker_url"), request.getfixturevalue("namespace")
    return (lambda name: RabbitBroker(url, name)), Topology(namespace)


async def test_no_more_is_held_than_there_are_slots(either: tuple[BrokerFactory, Topology]) -> None:
    bench = Bench(4)
    make_broker, topology = either
    async with bench.at_work(make_broker, topology=topology, pace=Pace()):
        names = [f"run {number}" for number in range(12)]
        releases = await bench.release(*names)
        await bench.runs(*names[:4])
        await bench.waiting(8)
        await bench.ack_early(releases[0])
        assert (bench.held, bench.prefetch) == (4, 0)
        for number in range(1, 5):  # each end lets one in
            bench.go_on[names[number]].set()
            await bench.runs(names[number + 3])
            await bench.waiting(8 - number)
            assert bench.held == 4
        await bench.ack_early(*releases[5:8])
        await bench.waiting(4)
        assert (bench.held, bench.prefetch) == (4, 0)
        for name in names:
            bench.go_on[name].set()
        await bench.runs(*names)
        for release in releases:
            await bench.manager.outcome(release)
        assert [len(bench.manager.outcomes(release)) for release in releases] == [1] * 12
        assert sorted(bench.begun) == sorted(names)
        assert bench.most_held == 4
        await bench.manager.until(lambda: bench.prefetch == 4)


async def test_runs_of_one_message_count_for_a_slot_each(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    bench = Bench(2)
    async with bench.at_work(make_broker):
        together = [wait_release("a"), wait_release("b")]
        await bench.manager.publish(*together)
        await bench.runs("a", "b")
        await bench.ack_early(*together)
        await bench.manager.until(lambda: bench.prefetch == 0)
        await bench.release("c")
        await bench.waiting(1)
        bench.go_on["a"].set()
        await bench.runs("c")
        assert unacked(hub) == 1


async def test_with_a_long_run_short_ones_need_no_further_change(
    make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(4)
    async with bench.at_work(make_broker):
        changes = count_changes(bench.session, monkeypatch)
        long, _ = await bench.release("long", "a")
        await bench.runs("long", "a")
        await bench.ack_early(long)
        await bench.manager.until(lambda: bench.prefetch == 2)
        bench.go_on["a"].set()
        await bench.naps(300)
        await bench.manager.until(lambda: bench.prefetch == 3 and not bench.session._intake._early._changing)
        assert len(changes) <= 8, "for each burst that an earlier consumer had, not for each message"
        changes.clear()
        await bench.naps(300)
        assert changes == []
        bench.go_on["long"].set()
        await bench.naps(300)
        await bench.manager.until(lambda: bench.prefetch == 4)
        assert len(changes) <= 8


async def test_runs_that_end_beside_one_that_goes_on_are_one_change_a_second(
    make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(6)
    async with bench.at_work(make_broker):
        long, *_ = await bench.release("long", "stays", *"abcd")
        await bench.runs("long", "stays", *"abcd")
        await bench.ack_early(long)
        await bench.manager.until(lambda: bench.prefetch == 0)
        changes, began = count_changes(bench.session, monkeypatch), time.monotonic()
        last = bench.session._intake._early._changed_at
        for number, name in enumerate("abcd"):
            bench.go_on[name].set()
            await bench.manager.until(lambda left=5 - number: bench.held == left)  # type: ignore[misc]
        await bench.manager.until(lambda: bench.prefetch == 4)
        assert [prefetch for prefetch, _ in changes[-2:]] == [0, 4]
        assert len(changes) <= 2 * (1 + (time.monotonic() - began) / CHANGE_SECONDS)
        assert changes[0][1] - last >= CHANGE_SECONDS * 0.9, "until then the others that may come still come"
        for name in ("long", "stays"):
            bench.go_on[name].set()


def count_changes(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """The prefetches that the session's consumers are changed to, from now on, and when."""
    changes: list[tuple[int, float]] = []
    early = session._intake._early
    find = early._consuming

    def found() -> Consuming | None:
        consuming = find()
        if consuming is not None and not hasattr(consuming, "counted"):
            again = consuming.consume_again

            async def counted(prefetch: int) -> None:
                changes.append((prefetch, asyncio.get_running_loop().time()))
                await again(prefetch)

            monkeypatch.setattr(consuming, "consume_again", counted)
            monkeypatch.setattr(consuming, "counted", True, raising=False)
        return consuming

    monkeypatch.setattr(early, "_consuming", found)
    return changes


async def test_a_lost_connection_neither_reruns_nor_loses_an_early_acked_run(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    bench = Bench(3)
    async with bench.at_work(make_broker):
        long, short = await bench.release("long", "short")
        await bench.runs("long", "short")
        await bench.ack_early(long)
        assert bench.prefetch == 1
        before = bench.session._intake.held[short.fence].messages
        hub.disconnect(f"tacoq worker {bench.session.id}")
        await bench.manager.until(lambda: bench.session._intake.held[short.fence].messages != before)
        assert (bench.held, bench.messages_of(long)) == (2, 0)
        await bench.release("third", "fourth")
        await bench.runs("third")
        await bench.waiting(1)
        for name in ("long", "short", "third", "fourth"):
            bench.go_on[name].set()
        await bench.runs("fourth")
        for release in (long, short):
            await bench.manager.outcome(release)
        await bench.manager.until(lambda: not bench.held)
        assert sorted(bench.begun) == ["fourth", "long", "short", "third"]
        assert [len(bench.manager.outcomes(release)) for release in (long, short)] == [1, 1]
        assert (unacked(hub), await bench.manager.ready_messages()) == (0, 0)


async def test_an_early_acked_message_that_comes_again_is_acked_again(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    bench = Bench(2)
    async with bench.at_work(make_broker):
        (long,) = await bench.release("long")
        await bench.runs("long")
        await bench.ack_early(long)
        await bench.manager.publish(long)  # as after an ack that was lost with its connection
        await bench.manager.until(lambda: bench.messages_of(long) == 1)
        bench.sweep()
        await bench.acked_early(long)
        await bench.manager.until(lambda: bench.prefetch == 1)
        bench.go_on["long"].set()
        await bench.manager.outcome(long)
        await bench.manager.until(lambda: bench.prefetch == 2)
        assert bench.begun == ["long"]


async def test_early_acked_runs_are_told_to_managers(make_broker: BrokerFactory) -> None:
    bench = Bench(2)
    async with bench.at_work(make_broker):
        (long,) = await bench.release("long")
        await bench.runs("long")
        await bench.ack_early(long)
        bench.manager.presence.clear()
        beat = await bench.manager.seen(Heartbeat)
        assert (beat.held, beat.running) == (1, [long.fence])
        await bench.manager.control(bench.session.id, AskHeld(long.task_id))
        assert (await bench.manager.seen(Inventory)).held == [long.fence]


async def test_what_waits_in_a_long_runs_message_is_handed_back_before_the_ack(
    hub: MemoryHub, gated: type[Gated]
) -> None:
    bench = Bench(1)
    async with bench.at_work(through(gated, hub), pace=PATIENT):
        long, behind = wait_release("long"), wait_release("behind")
        await bench.manager.publish(long, behind)
        await bench.runs("long")
        held = bench.session._intake.held[long.fence]
        bench.session._reporter.started(held)
        gated.gate.set()
        await bench.manager.until(lambda: held.start_confirmed)
        gated.gate.clear()
        bench.grow_old(long)
        bench.sweep()
        bench.sweep()
        assert not bench.session._intake._early.watching
        gated.gate.set()
        assert await bench.manager.outcome(behind) == Returned(behind.task_id, 1, ReturnReason.SLOW)
        await bench.manager.until(lambda: bench.held == 1)
        bench.sweep()
        await bench.acked_early(long)
        assert unacked(hub) == 0
        assert bench.begun == ["long"]


async def test_consuming_anew_with_every_slot_taken_takes_nothing(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    bench = Bench(1)
    async with bench.at_work(make_broker):
        (long,) = await bench.release("long")
        await bench.runs("long")
        await bench.ack_early(long)
        consuming = bench.session._intake._consuming
        await bench.manager.control(bench.session.id, Rebuild())
        await bench.manager.until(lambda: bench.session._intake._consuming not in (None, consuming))
        await bench.release("next")
        await bench.waiting(1)
        assert bench.session._intake.active
        bench.go_on["long"].set()
        await bench.runs("next")


class OpenedSlowly(MemoryBroker):
    """The session's own link; a consumer is opened when the gate is."""

    gate: asyncio.Event

    async def consume(self, consumer: Consumer) -> Consuming:
        await self.gate.wait()
        return await super().consume(consumer)


async def test_a_slot_that_is_freed_while_the_consumer_is_opened_anew_counts(hub: MemoryHub) -> None:
    bench, gate = Bench(1), asyncio.Event()
    gate.set()
    slowly = type("Slowly", (OpenedSlowly,), {"gate": gate})
    async with bench.at_work(lambda name: (slowly if "worker" in name else MemoryBroker)(hub, name)):
        (long,) = await bench.release("long")
        await bench.runs("long")
        await bench.ack_early(long)
        await bench.manager.until(lambda: bench.prefetch == 0)
        gate.clear()
        await bench.manager.control(bench.session.id, Rebuild())
        await bench.manager.until(lambda: bench.session._intake._consuming is None)
        bench.go_on["long"].set()
        await bench.manager.until(lambda: not bench.held)
        gate.set()
        await bench.release("next")
        await bench.runs("next")
        bench.go_on["next"].set()


async def test_a_run_that_grows_long_in_a_drain_is_acked_too(hub: MemoryHub, make_broker: BrokerFactory) -> None:
    bench = Bench(2)
    async with bench.at_work(make_broker):
        (long,) = await bench.release("long")
        await bench.runs("long")
        draining = asyncio.create_task(bench.session.drain(30.0))
        await bench.manager.until(lambda: bench.session._slots.watcher is not None)
        await bench.release("other")
        await bench.ack_early(long)
        assert bench.begun == ["long"]
        bench.go_on["long"].set()
        assert await draining
        assert await bench.manager.ready_messages() == 1
        assert isinstance(await bench.manager.outcome(long), Completed)

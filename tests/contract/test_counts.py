"""Contract of every broker adapter: who may have a message, told by the counts of its queue and by what has arrived."""

from __future__ import annotations

import time

from tacoq_protocol.broker import Broker, Outgoing, QueueCounts
from tests.contract.worlds import FORMAT, Inbox, World
from tests.support import eventually


async def report(world: World, broker: Broker, count: int) -> None:
    known = world.topology
    message = Outgoing(known.reports.name, known.reports_queue.name, FORMAT, b"x", persistent=True)
    await broker.publish([message] * count, seconds=10)


async def counts(world: World, broker: Broker) -> QueueCounts | None:
    return await broker.counts(world.topology.reports_queue.name)


async def test_consumers_of_all_clients_are_counted(world: World) -> None:
    one, two = await world.open("one"), await world.open("two")
    assert await counts(world, one) == (0, 0)
    await one.consume(Inbox().consumer(world.topology.reports_queue))
    consuming = await two.consume(Inbox().consumer(world.topology.reports_queue))
    assert await counts(world, one) == (0, 2)
    await consuming.close()

    async def alone() -> bool:
        return await counts(world, one) == (0, 1)

    await eventually(alone)


async def test_queue_that_is_not_there_has_no_counts(world: World) -> None:
    assert await (await world.open()).counts("no-such-queue") is None


async def test_what_was_given_before_has_arrived(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    began = time.monotonic()
    consuming = await broker.consume(inbox.consumer(world.topology.reports_queue))
    await report(world, broker, 500)

    async def given() -> bool:
        return await counts(world, broker) == (0, 1)

    await eventually(given)
    since = await consuming.arrived()
    assert len(inbox.bodies) == 500
    assert since is not None
    assert began <= since <= time.monotonic()


async def test_to_ask_what_has_arrived_leaves_the_prefetch_as_it_is(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    consuming = await broker.consume(inbox.consumer(world.topology.reports_queue, prefetch=2))
    await report(world, broker, 5)
    first, _ = await inbox.holds(2)
    await consuming.arrived()
    first.ack()
    await inbox.holds(3)
    assert await counts(world, broker) == (2, 1)


async def test_consumer_that_was_stopped_counts_while_it_has_messages(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    consuming = await broker.consume(inbox.consumer(world.topology.reports_queue, prefetch=1))
    await report(world, broker, 1)
    (delivery,) = await inbox.holds(1)
    await consuming.stop()
    assert await counts(world, broker) == (0, 1)
    assert await consuming.arrived() is None
    delivery.ack()

    async def nobody() -> bool:
        return await counts(world, broker) == (0, 0)

    await eventually(nobody)


async def test_a_consumer_that_was_lost_consumes_since_it_came_back(world: World) -> None:
    broker = await world.open("one")
    consuming = await broker.consume(Inbox().consumer(world.topology.reports_queue))
    first = await consuming.arrived()
    assert first is not None
    await world.lose("one")

    async def anew() -> bool:
        since = await consuming.arrived()
        return since is not None and since > first

    await eventually(anew)

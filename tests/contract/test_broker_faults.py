"""Contract of every broker adapter: lost links, silent and restarted servers, deleted queues."""

from __future__ import annotations

import asyncio

import pytest

from tacoq_protocol.broker import LinkState, Outgoing
from tacoq_protocol.errors import BrokerUnavailable, PublishUnconfirmed
from tacoq_protocol.topology import Binding, Queue
from tests.contract.worlds import FORMAT, Inbox, World
from tests.support import eventually


async def test_after_a_lost_connection_consuming_and_publishing_go_on(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    states: list[LinkState] = []
    broker.on_state(states.append)
    consuming = await broker.consume(inbox.consumer(world.queue))
    await world.lose("one")
    await inbox.lost_for_the(1)
    await world.send(broker, *world.tasks(b"x"))
    await inbox.has(b"x")
    assert consuming.active
    assert (states[0], states[-1]) == (LinkState.CLOSED, LinkState.OPEN)
    assert inbox.lost == 1


async def test_what_was_not_acked_comes_again_marked_and_old_acks_do_nothing(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(b"a", b"b"), seconds=10)
    await broker.consume(inbox.consumer(world.queue, prefetch=2))
    first, second = list(await inbox.holds(2))
    await world.lose("one")
    await inbox.holds(4)
    assert inbox.lost == 1
    assert [(d.body, d.redelivered) for d in inbox.deliveries[2:]] == [(b"a", True), (b"b", True)]
    first.ack()
    second.ack(multiple=True)
    second.reject()
    for delivery in inbox.deliveries[2:]:
        delivery.ack()
    await world.send(broker, *world.tasks(b"c"))
    await inbox.has(b"c")
    await broker.stop()
    other, again = await world.open("other"), Inbox()
    await other.consume(again.consumer(world.queue))
    await again.has(b"c")
    assert set(again.bodies) == {b"c"}


async def test_another_broker_gets_what_a_lost_one_held(world: World) -> None:
    broker, other, inbox, again = await world.open(), await world.open("other"), Inbox(), Inbox()
    await broker.publish(world.tasks(b"a"), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue))
    await inbox.holds(1)
    await other.consume(again.consumer(world.queue))
    await consuming.stop()
    await world.lose("one")
    (delivery,) = await again.holds(1)
    assert delivery.redelivered
    await inbox.lost_for_the(1)
    await broker.wait_open(10)
    assert not consuming.active


async def test_exclusive_queues_come_back_bound(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    presence = world.topology.presence.name
    consuming = await broker.consume(inbox.consumer(Queue(exclusive=True), bindings=[Binding(presence, "")]))
    await world.lose("one")
    await inbox.lost_for_the(1)
    await eventually(lambda: consuming.active)
    await world.send(broker, Outgoing(presence, "", FORMAT, b"beat"))
    await inbox.has(b"beat")


async def test_while_the_server_is_down_publish_raises_at_once_and_afterwards_all_is_there(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.consume(inbox.consumer(world.queue))
    await world.go_down()
    await eventually(lambda: broker.state is LinkState.CLOSED)
    with pytest.raises(BrokerUnavailable):
        await broker.publish(world.tasks(b"x"), seconds=10)
    with pytest.raises(BrokerUnavailable):
        await broker.message_count(world.queue.name)
    with pytest.raises(BrokerUnavailable):
        await broker.wait_open(0.3)
    await broker.declare(world.things)
    await world.come_up()
    await broker.wait_open(10)
    await broker.publish(world.tasks(b"x"), seconds=10)
    await inbox.holds(1)


async def test_a_broker_started_while_the_server_is_down_opens_once_it_is_up(world: World) -> None:
    await world.open()
    await world.go_down()
    late = await world.broker("one")
    await late.start()
    with pytest.raises(BrokerUnavailable):
        await late.wait_open(0.2)
    await world.come_up()
    await late.wait_open(10)


async def test_a_consumer_stopped_or_closed_while_disconnected_stays_so(world: World) -> None:
    broker, stopped, closed = await world.open(), Inbox(), Inbox()
    one = await broker.consume(stopped.consumer(world.queue))
    two = await broker.consume(closed.consumer(world.queue))
    await world.go_down()
    await eventually(lambda: (stopped.lost, closed.lost) == (1, 1))
    await one.stop()
    await two.close()
    await world.come_up()
    await broker.wait_open(10)
    await broker.publish(world.tasks(b"x"), seconds=10)
    assert await broker.message_count(world.queue.name) == 1
    assert not one.active
    assert not two.active


async def test_a_broker_stops_while_the_server_is_down(world: World) -> None:
    broker = await world.open()
    await world.go_down()
    async with asyncio.timeout(5):
        await broker.stop()
    assert broker.state is LinkState.CLOSED


async def test_a_cancelled_task_can_still_stop_close_and_publish(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    consuming = await broker.consume(inbox.consumer(world.queue))

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await consuming.stop()
            await broker.publish(world.tasks(b"last words"), seconds=10)
            await consuming.close()
            await broker.stop()

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert broker.state is LinkState.CLOSED
    await world.counts(1)


async def test_a_publish_in_flight_when_the_link_is_lost_is_unconfirmed(world: World) -> None:
    broker = await world.open()
    world.lose_replies("one")
    publishing = asyncio.create_task(broker.publish(world.tasks(b"x"), seconds=30))
    await world.arrives(1)
    await world.lose("one")
    world.thaw()
    with pytest.raises(PublishUnconfirmed):
        await publishing
    await broker.wait_open(10)


async def test_a_batch_that_its_caller_gives_up_leaves_the_link_as_it_is(world: World) -> None:
    broker = await world.open()
    states: list[LinkState] = []
    broker.on_state(states.append)
    world.lose_replies("one")
    publishing = asyncio.create_task(broker.publish(world.tasks(b"x"), seconds=30))
    await world.arrives(1)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    world.thaw()
    await broker.publish(world.tasks(b"y"), seconds=10)
    await world.counts(2)
    assert states == []


async def test_a_queue_deleted_under_its_consumer_is_declared_and_consumed_again(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    consuming = await broker.consume(inbox.consumer(world.queue))
    await world.delete_queue(world.queue.name)
    await inbox.lost_for_the(1)
    await eventually(lambda: consuming.active)
    await broker.publish(world.tasks(b"x"), seconds=10)
    (delivery,) = await inbox.holds(1)
    delivery.ack()
    assert inbox.lost == 1


async def test_twenty_losses_in_a_row_are_survived(world: World) -> None:
    broker, inbox = await world.open(), Inbox(acks=True)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=1))
    for number in range(20):
        await world.lose("one")
        await inbox.lost_for_the(number + 1)
        await world.send(broker, *world.tasks(b"%d" % number))
        await inbox.has(b"%d" % number)
    assert consuming.active


async def test_a_queue_deleted_while_nobody_consumed_is_bound_when_it_is_consumed_again(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    consuming = await broker.consume(inbox.consumer(world.queue))
    await consuming.close()
    await world.delete_queue(world.queue.name)
    await broker.consume(inbox.consumer(world.queue))
    await broker.publish(world.tasks(b"x"), seconds=10)
    await inbox.holds(1)

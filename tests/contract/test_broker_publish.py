"""Contract of every broker adapter: publish, declare, count, purge."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tacoq_protocol.broker import Declared, LinkState, Outgoing
from tacoq_protocol.errors import BrokerUnavailable, ConfigurationError, PublishUnconfirmed, Unroutable
from tacoq_protocol.topology import Queue
from tests.contract.worlds import FORMAT, Inbox, World
from tests.support import eventually


async def test_confirmed_batches_arrive_whole_and_in_order(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    bodies = [str(number).encode() for number in range(1000)]
    for start in range(0, 1000, 100):
        await broker.publish(world.tasks(*bodies[start : start + 100]), seconds=10)
    await broker.consume(inbox.consumer(world.queue))
    await inbox.holds(1000)
    assert inbox.bodies == bodies


async def test_what_is_confirmed_is_counted(world: World) -> None:
    broker = await world.open()
    await broker.publish(world.tasks(b"a", b"b", b"c"), seconds=10)
    assert await broker.message_count(world.queue.name) == 3


async def test_batches_published_at_once_are_all_confirmed(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.consume(inbox.consumer(world.queue))
    await asyncio.gather(*(broker.publish(world.tasks(b"x", b"y"), seconds=10) for _ in range(50)))
    await inbox.holds(100)


async def test_an_empty_batch_is_confirmed(world: World) -> None:
    broker = await world.open()
    await broker.publish([], seconds=10)


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 1_500_000])
async def test_bodies_of_any_size_arrive_as_sent(world: World, size: int) -> None:
    broker, inbox = await world.open(), Inbox()
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    await broker.consume(inbox.consumer(world.queue))
    await broker.publish(world.tasks(body, b"after"), seconds=10)
    await inbox.holds(2)
    assert inbox.bodies == [body, b"after"]


async def test_format_and_first_delivery_are_told(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.consume(inbox.consumer(world.queue))
    await broker.publish(world.tasks(b"x"), seconds=10)
    (delivery,) = await inbox.holds(1)
    assert (delivery.format, delivery.redelivered) == (FORMAT, False)


async def test_a_mandatory_message_without_a_queue_is_told_and_the_others_arrive(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.consume(inbox.consumer(world.queue))
    nowhere = Outgoing(world.topology.tasks.name, "no-such-queue", FORMAT, b"lost")
    with pytest.raises(Unroutable):
        await broker.publish([*world.tasks(b"a"), nowhere, *world.tasks(b"b")], seconds=10)
    await inbox.holds(2)
    assert inbox.bodies == [b"a", b"b"]


async def test_a_fanout_nobody_listens_to_is_no_error(world: World) -> None:
    broker = await world.open()
    news = Outgoing(world.topology.presence.name, "", FORMAT, b"x", mandatory=False)
    await broker.publish([news], seconds=10)


async def test_publish_raises_at_once_before_start_and_after_stop(world: World) -> None:
    broker = await world.broker()
    with pytest.raises(BrokerUnavailable):
        await broker.publish(world.tasks(b"x"), seconds=10)
    await broker.start()
    await broker.wait_open(10)
    await broker.stop()
    assert broker.state is LinkState.CLOSED
    with pytest.raises(BrokerUnavailable):
        await broker.publish(world.tasks(b"x"), seconds=10)


async def test_publish_to_an_exchange_that_is_not_there_fails_and_the_link_recovers(world: World) -> None:
    broker = await world.open()
    with pytest.raises(PublishUnconfirmed):
        await broker.publish([Outgoing("no-such-exchange", "", FORMAT, b"x")], seconds=10)
    await broker.wait_open(10)
    await broker.publish(world.tasks(b"x"), seconds=10)


async def test_a_publish_without_a_confirm_ends_at_its_deadline(world: World) -> None:
    broker = await world.open()
    unhandled: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context["message"]))
    world.freeze()
    with pytest.raises(PublishUnconfirmed):
        await broker.publish(world.tasks(b"late"), seconds=0.3)
    world.thaw()
    # Nobody promised that it is not stored: it is, as soon as the server is heard of again.
    await world.counts(1)
    await world.send(broker, *world.tasks(b"next"))
    gc.collect()
    assert unhandled == [], "what was cut off leaves nothing behind for asyncio to complain of"


async def test_count_leaves_out_what_consumers_hold(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(*[b"x"] * 5), seconds=10)
    await broker.consume(inbox.consumer(world.queue, prefetch=2))
    await inbox.holds(2)
    await world.counts(3)


async def test_count_of_an_unknown_queue_is_none(world: World) -> None:
    broker = await world.open()
    assert await broker.message_count("no-such-queue") is None
    assert await broker.message_count(world.queue.name) == 0


async def test_count_without_a_connection_raises(world: World) -> None:
    broker = await world.broker()
    with pytest.raises(BrokerUnavailable):
        await broker.message_count(world.queue.name)


async def test_purge_deletes_what_is_ready_and_leaves_what_a_consumer_has(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(*[b"%d" % number for number in range(5)]), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=2))
    held = await inbox.holds(2)
    await world.counts(3)
    assert await broker.purge(world.queue.name) == 3
    assert await broker.purge(world.queue.name) == 0
    held[0].ack()
    await consuming.close()
    await world.counts(1)
    await broker.publish(world.tasks(b"later"), seconds=10)
    again = Inbox()
    await broker.consume(again.consumer(world.queue))
    await again.holds(2)
    assert again.bodies == [b"1", b"later"]


async def test_purge_of_an_unknown_queue_deletes_nothing_and_the_link_goes_on(world: World) -> None:
    broker = await world.open()
    await broker.publish(world.tasks(b"x"), seconds=10)
    assert await broker.purge("no-such-queue") == 0
    assert await broker.message_count(world.queue.name) == 1


async def test_purge_without_a_connection_raises(world: World) -> None:
    broker = await world.broker()
    with pytest.raises(BrokerUnavailable):
        await broker.purge(world.queue.name)


async def test_declared_while_open_is_there_when_it_returns(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    extra = Queue(world.topology.task_queue_name("extra"), {"x-queue-type": "classic"}, rebuildable=True)
    await broker.declare(Declared(queues=[extra], bindings=[world.topology.task_binding("extra")]))
    await broker.publish([Outgoing(world.topology.tasks.name, "extra", FORMAT, b"x")], seconds=10)
    await broker.consume(inbox.consumer(extra))
    await inbox.holds(1)
    await world.delete_queue(extra.name)


async def test_declaring_again_changes_nothing(world: World) -> None:
    broker = await world.open()
    await broker.publish(world.tasks(b"x"), seconds=10)
    await broker.declare(world.things)
    await world.open("other")
    assert await broker.message_count(world.queue.name) == 1


async def test_a_rebuildable_queue_with_other_arguments_is_declared_anew(world: World) -> None:
    broker = await world.open()
    await broker.publish(world.tasks(b"x"), seconds=10)
    other = Queue(world.queue.name, {"x-queue-type": "classic"}, rebuildable=True)
    await broker.declare(Declared(queues=[other], bindings=[world.topology.task_binding("default")]))
    assert await broker.message_count(world.queue.name) == 0
    await broker.publish(world.tasks(b"y"), seconds=10)


async def test_two_that_want_other_arguments_do_not_delete_the_queue_in_turns(world: World) -> None:
    broker, inbox = await world.open(), Inbox(acks=True)
    other, again = await world.open("other"), Inbox(acks=True)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=1))
    changed = Queue(world.queue.name, {"x-queue-type": "classic"}, rebuildable=True)
    await other.declare(Declared(queues=[changed], bindings=[world.topology.task_binding("default")]))
    await other.consume(again.consumer(changed, prefetch=1))
    await inbox.lost_for_the(1)
    await eventually(lambda: consuming.active)
    await other.publish(world.tasks(*[b"%d" % number for number in range(50)]), seconds=10)
    await eventually(lambda: len(inbox.deliveries) + len(again.deliveries) == 50)
    assert inbox.deliveries
    assert (inbox.lost, again.lost) == (1, 0)


async def test_any_other_queue_with_other_arguments_is_refused_by_name(world: World) -> None:
    await world.open()
    other = await world.broker("other")
    dead = Queue(world.topology.dead_queue.name, {"x-queue-type": "classic", "x-max-length": 7})
    await other.declare(Declared(queues=[dead]))
    await other.start()
    with pytest.raises(BrokerUnavailable, match=rf"(?s){dead.name}.*x-max-length"):
        await other.wait_open(1.5)
    assert other.state is LinkState.CLOSED


async def test_a_refused_declaration_raises_where_it_is_made(world: World) -> None:
    broker = await world.open()
    dead = Queue(world.topology.dead_queue.name, {"x-queue-type": "classic", "x-max-length": 7})
    with pytest.raises(ConfigurationError, match="x-max-length"):
        await broker.declare(Declared(queues=[dead]))
    await eventually(lambda: broker.state is LinkState.CLOSED)

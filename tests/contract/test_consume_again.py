"""Contract of every broker adapter: a consumer that goes on with another prefetch."""

from __future__ import annotations

from tacoq_protocol.topology import Topology
from tests.contract.worlds import Inbox, RabbitWorld, World
from tests.support import eventually


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def test_what_is_at_hand_can_be_acked_and_does_not_count(world: World) -> None:
    await at_hand_does_not_count(world)


async def test_on_a_quorum_queue_too(rabbit: RabbitWorld) -> None:
    rabbit.topology = Topology(rabbit.topology.namespace, "quorum")
    rabbit.queue = rabbit.topology.task_queue("default")
    await at_hand_does_not_count(rabbit)


async def at_hand_does_not_count(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(*numbers(20)), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=8))
    earlier = list(await inbox.holds(8))
    await consuming.consume_again(2)
    present = (await inbox.holds(10))[8]
    for delivery in earlier:
        delivery.ack()
    present.ack()  # the broker reads it last: what the others let in would be here before its own
    await inbox.has(b"10")
    await world.counts(9)
    assert inbox.bodies == numbers(11)
    await consuming.close()
    await world.counts(11)
    assert inbox.lost == 0


async def test_at_zero_nothing_comes_until_it_is_called_again(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(b"a"), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=5))
    (held,) = await inbox.holds(1)
    await consuming.consume_again(0)
    assert consuming.active
    await broker.publish(world.tasks(b"b"), seconds=10)
    held.ack()
    await world.counts(1)
    await consuming.consume_again(3)
    await inbox.holds(2)
    assert inbox.bodies == [b"a", b"b"]


async def test_it_can_begin_at_zero(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(b"a"), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=0))
    await eventually(lambda: consuming.active)
    await world.counts(1)
    await consuming.consume_again(1)
    await inbox.has(b"a")


async def test_changes_while_messages_come_lose_none(world: World) -> None:
    broker, inbox = await world.open(), Inbox(acks=True)
    await broker.publish(world.tasks(*numbers(300)), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=10))
    for number in range(1, 20):
        await consuming.consume_again(number % 4)
    await consuming.consume_again(10)
    await inbox.holds(300)
    assert inbox.bodies == numbers(300)
    await consuming.close()
    await world.counts(0)


async def test_when_it_returns_all_that_was_on_its_way_is_here(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(*numbers(100)), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=50))
    await consuming.consume_again(0)
    here = len(inbox.deliveries)
    await world.counts(100 - here)
    assert len(inbox.deliveries) == here


async def test_after_a_loss_the_last_prefetch_is_used(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(*numbers(5)), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=3))
    await inbox.holds(3)
    await consuming.consume_again(1)
    await inbox.holds(4)
    await world.lose("one")
    await inbox.lost_for_the(1)
    await inbox.holds(5)
    await world.counts(4)
    assert inbox.bodies[4:] == [b"0"]
    await consuming.consume_again(0)
    await world.lose("one")
    await inbox.lost_for_the(2)
    await eventually(lambda: consuming.active)
    await world.counts(5)
    await consuming.consume_again(5)
    await inbox.holds(10)


async def test_a_change_while_the_server_is_down_counts_when_it_is_up(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=5))
    await world.go_down()
    await inbox.lost_for_the(1)
    await consuming.consume_again(0)
    await consuming.consume_again(2)
    assert not consuming.active
    await world.come_up()
    await broker.wait_open(10)
    await broker.publish(world.tasks(*numbers(5)), seconds=10)
    await inbox.holds(2)
    await world.counts(3)


async def test_a_loss_during_a_change_loses_nothing(world: World) -> None:
    broker, inbox = await world.open(), Inbox(acks=True)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=5))
    for number in range(1, 11):
        await world.lose("one")
        await consuming.consume_again(number % 3)
    await consuming.consume_again(5)
    await world.send(broker, *world.tasks(b"x"))
    await inbox.has(b"x")
    await eventually(lambda: consuming.active)


async def test_a_queue_deleted_while_nothing_comes_is_there_again_with_the_change(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=1))
    await consuming.consume_again(0)
    await world.delete_queue(world.queue.name)
    await consuming.consume_again(1)
    await inbox.lost_for_the(1)
    await eventually(lambda: consuming.active)
    await world.send(broker, *world.tasks(b"x"))
    await inbox.has(b"x")


async def test_a_stopped_consumer_stays_stopped(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(*numbers(3)), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=1))
    (held,) = await inbox.holds(1)
    await consuming.stop()
    await consuming.consume_again(2)
    assert not consuming.active
    held.ack()
    await consuming.close()
    await consuming.consume_again(2)
    await world.counts(2)
    await inbox.holds(1)


async def test_a_stop_at_zero_leaves_what_is_at_hand_to_be_acked(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(*numbers(2)), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue))
    one, _ = await inbox.holds(2)
    await consuming.consume_again(0)
    await consuming.stop()
    one.ack()
    await consuming.close()
    await world.counts(1)

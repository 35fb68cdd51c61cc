"""Contract of every broker adapter: consume, ack, reject, stop, close."""

from __future__ import annotations

import asyncio

import pytest

from tacoq_protocol.broker import Consumer, Delivery, Outgoing
from tacoq_protocol.errors import Unroutable
from tacoq_protocol.topology import Binding, Queue
from tests.contract.worlds import FORMAT, Inbox, World
from tests.support import eventually

EXCLUSIVE = Queue(exclusive=True)


async def test_prefetch_bounds_what_is_unacked_and_an_ack_lets_the_next_in(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(b"a", b"b", b"c", b"d"), seconds=10)
    await broker.consume(inbox.consumer(world.queue, prefetch=2))
    first, _ = await inbox.holds(2)
    first.ack()
    await inbox.holds(3)
    assert inbox.bodies == [b"a", b"b", b"c"]


async def test_prefetch_is_of_one_consumer_alone(world: World) -> None:
    broker, one, two = await world.open(), Inbox(), Inbox()
    await broker.consume(one.consumer(world.queue, prefetch=1))
    await broker.consume(two.consumer(world.queue, prefetch=3))
    await broker.publish(world.tasks(*[b"x"] * 10), seconds=10)
    await one.holds(1)
    await two.holds(3)


async def test_ack_multiple_settles_all_up_to_it(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(*[b"%d" % number for number in range(10)]), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=5))
    (await inbox.holds(5))[3].ack(multiple=True)
    await inbox.holds(9)
    await consuming.close()
    await world.counts(6)


async def test_acks_in_any_order_twice_and_mixed_settle_each_delivery_once(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(*[b"x"] * 12), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=12))
    held = await inbox.holds(12)
    held[5].ack()
    await asyncio.sleep(0)
    held[5].ack()
    held[2].reject()
    held[3].ack(multiple=True)
    held[2].ack()
    held[5].ack(multiple=True)
    held[8].ack()
    held[5].reject()
    held[7].ack()
    held[8].ack(multiple=True)
    await consuming.close()
    assert await broker.message_count(world.topology.dead_queue.name) == 1
    await world.counts(3)
    assert inbox.lost == 0


async def test_a_rejected_delivery_is_a_dead_letter_as_it_was(world: World) -> None:
    broker, inbox, dead = await world.open(), Inbox(), Inbox()
    await broker.consume(inbox.consumer(world.queue))
    await broker.consume(dead.consumer(world.topology.dead_queue))
    await broker.publish(world.tasks(b"bad", b"good"), seconds=10)
    bad, good = await inbox.holds(2)
    bad.reject()
    good.ack()
    (letter,) = await dead.holds(1)
    assert (letter.format, letter.body) == (FORMAT, b"bad")
    letter.ack()


async def test_consumers_of_one_queue_take_turns(world: World) -> None:
    broker, one, two = await world.open(), Inbox(), Inbox()
    await broker.consume(one.consumer(world.queue, prefetch=50))
    await broker.consume(two.consumer(world.queue, prefetch=50))
    await broker.publish(world.tasks(*[b"x"] * 20), seconds=10)
    await eventually(lambda: len(one.deliveries) + len(two.deliveries) == 20)
    assert len(one.deliveries) == len(two.deliveries) == 10


async def test_a_stopped_consumer_gets_no_more_and_may_still_ack(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    await broker.publish(world.tasks(b"a", b"b"), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=2))
    held = await inbox.holds(2)
    await consuming.stop()
    await consuming.stop()
    assert not consuming.active
    await broker.publish(world.tasks(b"c"), seconds=10)
    for delivery in held:
        delivery.ack()
    await consuming.close()
    await world.counts(1)
    await inbox.holds(2)


async def test_a_closed_consumer_gives_back_in_place_what_it_did_not_ack(world: World) -> None:
    broker, inbox, again = await world.open(), Inbox(), Inbox()
    await broker.publish(world.tasks(b"a", b"b", b"c"), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue, prefetch=3))
    (await inbox.holds(3))[1].ack()
    await consuming.close()
    await consuming.close()
    await broker.publish(world.tasks(b"d"), seconds=10)
    await broker.consume(again.consumer(world.queue))
    seen = await again.holds(3)
    assert [(delivery.body, delivery.redelivered) for delivery in seen] == [(b"a", True), (b"c", True), (b"d", False)]
    assert inbox.lost == 0


async def test_a_stopped_broker_gives_back_what_it_did_not_ack(world: World) -> None:
    broker, inbox, again = await world.open(), Inbox(), Inbox()
    await broker.publish(world.tasks(b"a", b"b"), seconds=10)
    await broker.consume(inbox.consumer(world.queue))
    (await inbox.holds(2))[0].ack()
    await broker.stop()
    other = await world.open("other")
    await other.consume(again.consumer(world.queue))
    (delivery,) = await again.holds(1)
    assert (delivery.body, delivery.redelivered) == (b"b", True)


async def test_acks_after_the_end_of_a_consumer_do_nothing(world: World) -> None:
    broker, inbox, again = await world.open(), Inbox(), Inbox()
    await broker.publish(world.tasks(b"a"), seconds=10)
    consuming = await broker.consume(inbox.consumer(world.queue))
    (stale,) = await inbox.holds(1)
    await consuming.close()
    stale.ack()
    stale.reject()
    await broker.consume(again.consumer(world.queue))
    await again.holds(1)


async def test_every_exclusive_queue_of_a_fanout_gets_each_message(world: World) -> None:
    broker, other, one, two = await world.open(), await world.open("other"), Inbox(), Inbox()
    bindings = [Binding(world.topology.presence.name, "")]
    await broker.consume(one.consumer(EXCLUSIVE, bindings=bindings))
    await other.consume(two.consumer(EXCLUSIVE, bindings=bindings))
    await broker.publish([Outgoing(world.topology.presence.name, "", FORMAT, b"beat")], seconds=10)
    await one.holds(1)
    await two.holds(1)


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("session.1", {"session.1"}),
        ("session.*", {"session.1", "session.2"}),
        ("#", {"session.1", "session.2", "queue.a.b", "all"}),
        ("queue.#", {"queue.a.b"}),
        ("*.a.#", {"queue.a.b"}),
    ],
)
async def test_topic_patterns_choose_by_words(world: World, pattern: str, matching: set[str]) -> None:
    broker, inbox = await world.open(), Inbox()
    control = world.topology.control.name
    # A second binding of the same queue: a message that fits both still comes once.
    bindings = [Binding(control, "", pattern), Binding(control, "", "end"), Binding(control, "", "en*")]
    await broker.consume(inbox.consumer(EXCLUSIVE, bindings=bindings))
    keys = ("session.1", "session.2", "queue.a.b", "all", "end")
    await broker.publish([Outgoing(control, key, FORMAT, key.encode(), mandatory=False) for key in keys], seconds=10)
    await inbox.holds(len(matching) + 1)
    assert {body.decode() for body in inbox.bodies} == matching | {"end"}


async def test_an_exclusive_queue_ends_with_its_consumer(world: World) -> None:
    broker, inbox = await world.open(), Inbox()
    settled = world.topology.settled.name
    consuming = await broker.consume(inbox.consumer(EXCLUSIVE, bindings=[Binding(settled, "")]))
    news = [Outgoing(settled, "", FORMAT, b"x")]
    await broker.publish(news, seconds=10)
    await inbox.holds(1)
    await consuming.close()

    with pytest.raises(Unroutable):
        await broker.publish(news, seconds=10)


async def test_a_consumer_asked_for_before_the_start_consumes_once_open(world: World) -> None:
    broker, inbox = await world.broker(), Inbox()
    consuming = await broker.consume(inbox.consumer(world.queue))
    assert not consuming.active
    await broker.start()
    await broker.wait_open(10)
    await broker.publish(world.tasks(b"x"), seconds=10)
    await inbox.holds(1)
    await eventually(lambda: consuming.active)


async def test_a_callback_that_raises_does_not_stop_the_others(world: World, caplog: pytest.LogCaptureFixture) -> None:
    broker = await world.open()
    seen: list[bytes] = []

    def on_delivery(delivery: Delivery) -> None:
        if delivery.body == b"bad":
            raise ZeroDivisionError
        seen.append(delivery.body)

    await broker.consume(Consumer(world.queue, on_delivery))
    await broker.publish(world.tasks(b"a", b"bad", b"c"), seconds=10)
    await eventually(lambda: seen == [b"a", b"c"])
    assert "delivery callback failed" in caplog.messages

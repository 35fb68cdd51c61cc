"""The in-process broker over threads: each broker on its own loop, one hub."""

from __future__ import annotations

import asyncio
import threading

from tacoq_protocol.brokers.memory import MemoryBroker
from tests.contract.worlds import Inbox, MemoryWorld
from tests.support import eventually


async def test_messages_cross_from_a_loop_in_another_thread() -> None:
    world, inbox = MemoryWorld(), Inbox(acks=True)
    broker = await world.open()
    await broker.consume(inbox.consumer(world.queue, prefetch=7))
    bodies = [b"%d" % number for number in range(500)]

    async def publish() -> None:
        beats = MemoryBroker(world.hub, "beats")
        await beats.start()
        for body in bodies:
            await beats.publish(world.tasks(body), seconds=5)
        await beats.stop()

    thread = threading.Thread(target=lambda: asyncio.run(publish()))
    thread.start()
    await inbox.holds(500)
    await asyncio.to_thread(thread.join)
    assert inbox.bodies == bodies
    await world.close()


async def test_faults_from_another_thread_reach_the_loop_of_the_broker() -> None:
    world, inbox = MemoryWorld(), Inbox()
    broker = await world.open()
    consuming = await broker.consume(inbox.consumer(world.queue))
    home = threading.get_ident()
    heard: list[int] = []
    broker.on_state(lambda _: heard.append(threading.get_ident()))
    await asyncio.to_thread(world.hub.disconnect, "one")
    await inbox.lost_for_the(1)
    await eventually(lambda: consuming.active)
    assert heard == [home, home]
    await world.close()


async def test_a_loop_that_is_gone_does_not_trouble_the_hub() -> None:
    world = MemoryWorld()

    async def leave_without_a_word() -> None:
        lost = MemoryBroker(world.hub, "lost")
        await lost.declare(world.things)
        await lost.start()
        await lost.consume(Inbox().consumer(world.queue, prefetch=1))

    await asyncio.to_thread(lambda: asyncio.run(leave_without_a_word()))
    broker = await world.open()
    await broker.publish(world.tasks(b"x"), seconds=5)
    world.hub.disconnect("lost")
    inbox = Inbox()
    await broker.consume(inbox.consumer(world.queue))
    await inbox.has(b"x")
    await world.close()


async def test_a_blocked_hub_takes_nothing_until_it_is_unblocked() -> None:
    world = MemoryWorld()
    broker = await world.open()
    states: list[str] = []
    broker.on_state(lambda state: states.append(state.value))
    world.hub.block()
    await eventually(lambda: states == ["blocked"])
    assert await broker.message_count(world.queue.name) == 0
    world.hub.unblock()
    await broker.wait_open(5)
    assert states == ["blocked", "open"]
    await world.close()


async def test_going_down_loses_what_is_not_persistent() -> None:
    world = MemoryWorld()
    broker = await world.open()
    await broker.publish(world.tasks(b"x"), seconds=5)
    await world.go_down()
    await world.come_up()
    await broker.wait_open(5)
    await world.counts(0)
    await world.close()

"""What sessions are asked and told over the broker, and how their answers are gathered."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from tacoq_protocol import codec
from tacoq_protocol.broker import Outgoing
from tacoq_protocol.brokers.memory import MemoryHub
from tacoq_protocol.messages import (
    AskHeld,
    Drain,
    Fence,
    Introduce,
    Lost,
)
from tests.manager.sessions import TOPOLOGY, Listener, Worker
from tests.support import eventually


async def test_an_inventory_is_what_every_live_session_holds(hub: MemoryHub, manager: Listener, worker: Worker) -> None:
    other, elsewhere = Worker(hub), Worker(hub, queue="other")
    for each in (other, elsewhere):
        await each.start()
    fences = [Fence(uuid4(), 1), Fence(uuid4(), 2)]
    worker.holds, other.holds = fences, []
    for each in (worker, other, elsewhere):
        await each.register()
    await eventually(lambda: len(manager.sessions.live()) == 3)
    answer = await manager.presence.inventory("default", 5)
    assert answer == {worker.session: frozenset(fences), other.session: frozenset()}
    for each in (other, elsewhere):
        await each.broker.stop()


async def test_an_inventory_that_not_all_answer_is_none(hub: MemoryHub, manager: Listener, worker: Worker) -> None:
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))
    assert await manager.presence.inventory("default", 0.1) is None
    assert not manager.presence._questions


async def test_an_inventory_does_not_wait_for_one_that_died_meanwhile(manager: Listener, worker: Worker) -> None:
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))
    asking = asyncio.create_task(manager.presence.inventory("default", 30))
    await eventually(lambda: any(isinstance(message, AskHeld) for message in worker.heard))
    await worker.say(Lost(worker.session, "default", "gone"))
    assert await asking == {}


async def test_an_inventory_waits_for_one_that_registered_meanwhile(
    hub: MemoryHub, manager: Listener, worker: Worker
) -> None:
    worker.holds = []
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))
    newcomer = Worker(hub)
    await newcomer.start()
    await newcomer.register()  # heard before any answer: it was said before the question
    assert await manager.presence.inventory("default", 0.2) is None
    await newcomer.broker.stop()


async def test_an_inventory_without_sessions_is_empty_and_without_a_broker_none(
    hub: MemoryHub, manager: Listener
) -> None:
    assert await manager.presence.inventory("default", 5) == {}
    hub.block()
    assert await manager.presence.inventory("default", 5) is None


async def test_messages_reach_sessions_by_key(hub: MemoryHub, manager: Listener, worker: Worker) -> None:
    other = Worker(hub, queue="other")
    await other.start()
    assert await manager.presence.send("queue.default", Drain())
    assert await manager.presence.send(f"session.{other.session}", Introduce())
    assert await manager.presence.send(f"session.{uuid4()}", Drain())  # nobody there is no fault
    await eventually(lambda: worker.heard == [Drain()] and other.heard == [Introduce()])
    hub.go_down()
    await eventually(lambda: manager.broker.state == "closed")
    assert not await manager.presence.send("all", Drain())
    await other.broker.stop()


async def test_messages_that_cannot_be_read_do_not_deafen(manager: Listener, worker: Worker) -> None:
    for format, body in ((codec.PRESENCE.name, b"\xc1"), ("presence/9", b"")):
        await worker.broker.publish([Outgoing(TOPOLOGY.presence.name, "", format, body)], seconds=5)
    await worker.register()
    await eventually(lambda: manager.sessions.is_live(worker.session))

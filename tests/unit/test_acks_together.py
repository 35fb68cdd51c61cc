"""Acks of a consumer on RabbitMQ: those of lone messages wait for each other, as long as they keep nothing back."""

from __future__ import annotations

from struct import pack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tacoq_protocol.broker import Outgoing
from tacoq_protocol.brokers import consuming, frames
from tacoq_protocol.brokers.consuming import RabbitDelivery, Session
from tacoq_protocol.brokers.wire import Wire
from tests.support.eventually import eventually, others_ran
from tests.unit.test_wire import FRAME_MAX, Socket, method_frame

CHANNEL = 3
PREFETCH = 40


class World:
    """A consumer on a socket without a network."""

    def __init__(self, prefetch: int | None = PREFETCH) -> None:
        self.socket = Socket()
        self.wire = Wire(cast("Any", self.socket))
        self.came: list[RabbitDelivery] = []
        channel: Any = SimpleNamespace(number=CHANNEL, is_closed=False, basic_qos=_done, basic_consume=_done)
        self.session = Session(self.wire, channel, "queue", self.came.append)
        self.prefetch = prefetch

    async def deliver(self, count: int, *, first: int = 1) -> None:
        await self.session.consume(self.prefetch)
        for tag in range(first, first + count):
            _, _, _, *content = frames.message_frames(CHANNEL, Outgoing("x", "k", "f/1", b"1"), 7, FRAME_MAX)
            deliver = b"\x05tag-1" + pack(">QB", tag, False) + b"\x01x\x01k"
            self.wire.data_received(method_frame(CHANNEL, frames.DELIVER, deliver) + b"".join(content))


async def _done(*_: object, **__: object) -> None:
    """The broker says yes."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for others does so for the rest of the test, unless it says otherwise."""
    monkeypatch.setattr(consuming, "ACK_SECONDS", 600.0)


async def ack(*deliveries: RabbitDelivery) -> None:
    """Each in a turn of the loop of its own."""
    for delivery in deliveries:
        delivery.ack()
        await others_ran()


async def test_acks_of_several_turns_are_one_frame() -> None:
    world = World()
    await world.deliver(3)
    await ack(*world.came)
    assert world.socket.written == b""
    world.session.flush()
    assert world.socket.written == frames.ack_frame(CHANNEL, 3, multiple=True)


async def test_acks_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "ACK_SECONDS", 0.01)
    world = World()
    await world.deliver(1)
    await ack(*world.came)
    await eventually(lambda: world.socket.written == frames.ack_frame(CHANNEL, 1, multiple=False))


async def test_an_ack_does_not_wait_while_more_than_half_of_the_prefetch_is_taken() -> None:
    """The broker holds back what would be given for it."""
    world = World()
    await world.deliver(PREFETCH // 2 + 1)
    await ack(world.came[0])
    assert world.socket.written == frames.ack_frame(CHANNEL, 1, multiple=False)
    await ack(world.came[1])
    assert world.socket.written == frames.ack_frame(CHANNEL, 1, multiple=False), "half of it is free now"


async def test_acks_that_wait_do_so_no_longer_when_the_prefetch_fills_up() -> None:
    world = World()
    await world.deliver(2)
    await ack(*world.came)
    await world.deliver(PREFETCH // 2 - 2, first=3)
    await others_ran()
    assert world.socket.written == b""
    await world.deliver(1, first=PREFETCH // 2 + 1)
    await others_ran()
    assert world.socket.written == frames.ack_frame(CHANNEL, 2, multiple=True)


async def test_the_ack_of_a_consumer_that_takes_one_at_a_time_never_waits() -> None:
    world = World(prefetch=1)
    await world.deliver(1)
    await ack(*world.came)
    assert world.socket.written == frames.ack_frame(CHANNEL, 1, multiple=False)


async def test_a_reject_takes_the_acks_before_it_along() -> None:
    world = World()
    await world.deliver(2)
    world.came[0].ack()
    world.came[1].reject()
    await others_ran()
    assert world.socket.written == frames.reject_frame(CHANNEL, 2) + frames.ack_frame(CHANNEL, 1, multiple=False)

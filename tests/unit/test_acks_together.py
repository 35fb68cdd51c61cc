"""Acks of a consumer on RabbitMQ: those of lone messages wait for each other, as long as they keep nothing back."""

from __future__ import annotations

from collections.abc import Callable
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

    async def deliver(self, count: int) -> None:
        await self.session.consume(self.prefetch)
        for tag in range(1, count + 1):
            _, _, _, *content = frames.message_frames(CHANNEL, Outgoing("x", "k", "f/1", b"1"), 7, FRAME_MAX)
            deliver = b"\x05tag-1" + pack(">QB", tag, False) + b"\x01x\x01k"
            self.wire.data_received(method_frame(CHANNEL, frames.DELIVER, deliver) + b"".join(content))


async def _done(*_: object, **__: object) -> None:
    """The broker says yes."""


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long acks wait; for the rest of the test unless it says so."""

    def wait(seconds: float) -> None:
        monkeypatch.setattr(consuming, "ACK_SECONDS", seconds)

    wait(600.0)
    return wait


async def test_acks_of_several_turns_are_one_frame(later: Callable[[float], None]) -> None:
    later(0.05)
    world = World()
    await world.deliver(3)
    for delivery in world.came:
        delivery.ack()
        await others_ran()
    assert world.socket.written == b""
    await eventually(lambda: world.socket.written)
    assert world.socket.written == frames.ack_frame(CHANNEL, 3, multiple=True)


@pytest.mark.usefixtures("later")
async def test_acks_do_not_wait_while_they_keep_a_quarter_of_the_prefetch() -> None:
    world = World()
    await world.deliver(11)
    for delivery in world.came[:9]:
        delivery.ack()
        await others_ran()
    assert world.socket.written == b""
    world.came[9].ack()
    await others_ran()
    assert world.socket.written == frames.ack_frame(CHANNEL, 10, multiple=True)
    world.came[10].ack()
    await others_ran()
    assert world.socket.written == frames.ack_frame(CHANNEL, 10, multiple=True), "and then they wait again"


@pytest.mark.usefixtures("later")
async def test_the_ack_of_a_consumer_that_takes_one_at_a_time_never_waits() -> None:
    world = World(prefetch=1)
    await world.deliver(1)
    world.came[0].ack()
    await others_ran()
    assert world.socket.written == frames.ack_frame(CHANNEL, 1, multiple=False)


@pytest.mark.usefixtures("later")
async def test_a_reject_takes_the_acks_before_it_along() -> None:
    world = World()
    await world.deliver(2)
    world.came[0].ack()
    world.came[1].reject()
    await others_ran()
    assert world.socket.written == frames.reject_frame(CHANNEL, 2) + frames.ack_frame(CHANNEL, 1, multiple=False)


@pytest.mark.usefixtures("later")
async def test_a_consumer_that_stops_waits_for_no_more_acks() -> None:
    world = World(prefetch=None)
    await world.deliver(1)
    world.came[0].ack()
    world.session.flush()
    assert world.socket.written == frames.ack_frame(CHANNEL, 1, multiple=False)

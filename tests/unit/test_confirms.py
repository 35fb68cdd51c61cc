"""Batches on a publishing channel, answered as the broker may: together, one by one, refused, returned, or never."""

from __future__ import annotations

import asyncio
from struct import pack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tacoq_protocol.broker import Outgoing
from tacoq_protocol.brokers import confirms, frames
from tacoq_protocol.brokers.confirms import Confirms
from tacoq_protocol.brokers.wire import Wire
from tacoq_protocol.errors import PublishUnconfirmed, Unroutable
from tests.support.eventually import eventually, others_ran
from tests.unit.test_wire import FRAME_MAX, Socket, method_frame

CHANNEL = 5


class World:
    """A channel on a socket without a network."""

    def __init__(self) -> None:
        self.socket = Socket()
        self.wire = Wire(cast("asyncio.Transport", self.socket))
        self.ended = 0
        tune = SimpleNamespace(frame_max=FRAME_MAX)
        channel: Any = SimpleNamespace(
            number=CHANNEL,
            is_closed=False,
            connection=SimpleNamespace(connection_tune=tune),
            closing=asyncio.get_running_loop().create_future(),
        )
        self.confirms = Confirms(self.wire, channel, self._on_end)

    def _on_end(self, _: Confirms) -> None:
        self.ended += 1

    def hear(self, id: int, tag: int, bits: int = 0) -> None:
        self.wire.data_received(method_frame(CHANNEL, id, pack(">QB", tag, bits)))

    def send(self, *bodies: bytes) -> asyncio.Task[None]:
        batch = self.confirms.begin([Outgoing("exchange", "key", "format/1", body) for body in bodies])
        return asyncio.create_task(self.confirms.finish(batch))


async def test_one_ack_confirms_all_before_it_and_nothing_after() -> None:
    world = World()
    one, other = world.send(b"1", b"2"), world.send(b"3", b"4")
    world.hear(frames.ACK, 3, bits=1)
    await one
    assert not other.done()
    world.hear(frames.ACK, 4)
    await other


async def test_confirms_may_come_in_any_order() -> None:
    world = World()
    sent = world.send(b"1", b"2", b"3")
    for tag in (2, 3, 1):
        assert not sent.done()
        world.hear(frames.ACK, tag)
    await sent


async def test_what_is_refused_is_not_confirmed() -> None:
    world = World()
    sent = world.send(b"1", b"2")
    world.hear(frames.NACK, 2, bits=1)
    with pytest.raises(PublishUnconfirmed, match="2 of 2"):
        await sent


async def test_what_comes_back_tells_its_own_batch_only() -> None:
    world = World()
    one, other = world.send(b"1"), world.send(b"2" * 10_000)
    _, _, _, *content = frames.message_frames(CHANNEL, Outgoing("x", "k", "f", b"2" * 10_000), 2, FRAME_MAX)
    back = pack(">H", 312) + b"\x08NO_ROUTE" + b"\x01x\x01k"
    world.wire.data_received(method_frame(CHANNEL, frames.RETURN, back) + b"".join(content))
    world.hear(frames.ACK, 2, bits=1)
    await one
    with pytest.raises(Unroutable, match="NO_ROUTE"):
        await other


async def test_a_channel_that_is_closed_loses_what_is_not_confirmed_and_takes_no_more() -> None:
    world = World()
    sent = world.send(b"1")
    world.wire.data_received(method_frame(CHANNEL, frames.CLOSE, pack(">H", 404) + b"\x00" + pack(">HH", 60, 40)))
    assert world.ended == 1
    assert world.confirms.is_closed
    with pytest.raises(PublishUnconfirmed, match="the link was lost"):
        await sent
    written = world.socket.written
    with pytest.raises(PublishUnconfirmed):
        await world.send(b"2")
    assert world.socket.written == written


async def test_a_full_socket_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirms, "WRITE_BYTES", 1)
    world = World()
    world.wire.pause_writing()
    sent = world.send(b"1", b"2")
    await eventually(lambda: world.confirms._waiting)
    assert not world.socket.written
    world.wire.resume_writing()
    await eventually(lambda: world.socket.written.count(b"format/1") == 2)
    world.hear(frames.ACK, 2, bits=1)
    await sent


async def test_the_end_of_the_channel_ends_the_wait_for_room() -> None:
    world = World()
    world.wire.pause_writing()
    sent = world.send(b"1")
    await eventually(lambda: world.confirms._waiting)
    world.confirms.closed()
    with pytest.raises(PublishUnconfirmed):
        await sent


async def test_who_waits_no_more_harms_nobody() -> None:
    world = World()
    one, other = world.send(b"1"), world.send(b"2")
    await others_ran()
    one.cancel()
    world.hear(frames.ACK, 2, bits=1)
    await other
    with pytest.raises(asyncio.CancelledError):
        await one

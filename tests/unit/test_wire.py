"""Frames of the hot flows, read whatever the pieces are that they come in; the rest is aiormq's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import pack
from typing import Any, cast

import pytest

from tacoq_protocol.broker import Outgoing
from tacoq_protocol.brokers import frames, wire
from tacoq_protocol.brokers.wire import Wire

FRAME_MAX = 4096
CHANNEL = 3


@dataclass
class Inner(asyncio.Protocol):
    """Where aiormq reads."""

    heard: bytes = b""

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.heard += data


@dataclass
class Socket:
    """A transport without a network."""

    protocol: Any = field(default_factory=Inner)
    closing: bool = False
    written: bytes = b""

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written += data


@dataclass
class Reader:
    """Puts deliveries together, as a consumer's session does."""

    messages: list[tuple[int, bool, str, bytes]] = field(default_factory=list)
    over: bool = False
    _coming: list[Any] = field(default_factory=list)

    def method(self, id: int, method: bytes) -> bool:
        if id != frames.DELIVER:
            return False
        self._coming = [*frames.read_deliver(method), "", 0, b""]
        return True

    def header(self, header: bytes) -> bool:
        self._coming[2:4] = [frames.read_properties(header).format, frames.read_size(header)]
        return True

    def body(self, body: bytes) -> bool:
        self._coming[4] += body
        tag, again, format, size, whole = self._coming
        if len(whole) == size:
            self.messages.append((tag, again, format, whole))
        return True

    def closed(self) -> None:
        self.over = True


def method_frame(channel: int, id: int, rest: bytes) -> bytes:
    return frames.FRAME.pack(frames.METHOD, channel, 4 + len(rest)) + pack(">I", id) + rest + frames.END


def _delivered(tag: int, body: bytes, *, again: bool = False) -> bytes:
    """A message as the broker sends it on: what we publish, with another method in front."""
    message = Outgoing("exchange", "key", "releases/1", body)
    _, _, _, *content = frames.message_frames(CHANNEL, message, 7, FRAME_MAX)
    deliver = b"\x05tag-1" + pack(">QB", tag, again) + b"\x08exchange\x03key"
    return method_frame(CHANNEL, frames.DELIVER, deliver) + b"".join(content)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 100, 100_000])
def test_messages_are_read_in_whatever_pieces_they_come(size: int) -> None:
    socket, reader = Socket(), Reader()
    inner = socket.protocol
    link = Wire(cast("asyncio.Transport", socket))
    link.take(CHANNEL, reader)
    long = bytes(range(256)) * 50
    foreign = (
        method_frame(1, (50 << 16) + 11, b"declared"),
        frames.HEARTBEAT,
        method_frame(CHANNEL, (60 << 16) + 21, b"\x05tag-1"),
    )
    stream = foreign[0] + _delivered(1, b"short") + foreign[1] + _delivered(2, long, again=True) + foreign[2]
    for piece in _pieces(stream, size):
        link.data_received(piece)
    assert reader.messages == [(1, False, "releases/1", b"short"), (2, True, "releases/1", long)]
    assert inner.heard == b"".join(foreign)


def test_a_channel_that_the_broker_closes_is_over_at_once_and_aiormq_hears_of_it() -> None:
    socket, reader = Socket(), Reader()
    inner = socket.protocol
    link = Wire(cast("asyncio.Transport", socket))
    link.take(CHANNEL, reader)
    close = method_frame(CHANNEL, frames.CLOSE, pack(">H", 404) + b"\x04gone" + pack(">HH", 60, 40))
    link.data_received(close)
    assert reader.over
    assert inner.heard == close


def test_while_only_messages_come_aiormq_hears_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(wire, "monotonic", lambda: now)
    socket, reader = Socket(), Reader()
    inner = socket.protocol
    link = Wire(cast("asyncio.Transport", socket))
    link.take(CHANNEL, reader)
    for number in range(1, 31):
        now += 0.1
        link.data_received(_delivered(number, b"x"))
    assert len(reader.messages) == 30
    assert inner.heard == frames.HEARTBEAT * (len(inner.heard) // len(frames.HEARTBEAT))
    assert 2 <= len(inner.heard) // len(frames.HEARTBEAT) <= 4


def test_what_is_no_amqp_goes_to_aiormq_as_it_is() -> None:
    socket = Socket()
    inner = socket.protocol
    Wire(cast("asyncio.Transport", socket)).data_received(b"AMQP\x00\x00\x09\x01")
    assert inner.heard == b"AMQP\x00\x00\x09\x01"


def test_a_closed_connection_is_not_written_to() -> None:
    socket = Socket(closing=True)
    with pytest.raises(ConnectionError):
        Wire(cast("asyncio.Transport", socket)).write(b"x")


def test_properties_of_others_are_read_past() -> None:
    short = b"\x02ab"
    flags = 0xFFE0  # all up to the type
    values = [short, short, pack(">I", 3) + b"xyz", b"\x02", b"\x05", short, short, short, b"\x0217", pack(">Q", 9)]
    header = pack(">HHQH", 60, 0, 5, flags) + b"".join(values) + b"\x09reports/1" + short
    assert frames.read_properties(header) == ("reports/1", "17")
    assert frames.read_properties(header[:20]) == ("", "")
    assert frames.read_properties(pack(">HHQH", 60, 0, 5, 0)) == ("", "")


def test_a_name_that_amqp_has_no_room_for_is_refused() -> None:
    with pytest.raises(ValueError, match="255"):
        frames.message_frames(1, Outgoing("x", "k" * 256, "f", b""), 1, FRAME_MAX)

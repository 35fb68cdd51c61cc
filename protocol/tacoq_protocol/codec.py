"""Wire messages ↔ (format, bytes); a format that is not known is refused by name.

msgpack, because payload and result then pass as bytes that nobody parses. The format stands in the AMQP `type`
property.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import msgspec

from tacoq_protocol.errors import DecodeError, UnknownFormat
from tacoq_protocol.messages import Control, DeadLetter, Presence, Releases, Reports, Settled

MAX_MESSAGE_BYTES: Final = 256 * 1024

M = TypeVar("M")
T = TypeVar("T")


class Format(msgspec.Struct, frozen=True):
    """One message type on the wire: its name with version, and how it is read."""

    name: str
    decoder: msgspec.msgpack.Decoder[Any]


RELEASES = Format("releases/1", msgspec.msgpack.Decoder(Releases))
REPORTS = Format("reports/1", msgspec.msgpack.Decoder(Reports))
PRESENCE = Format("presence/1", msgspec.msgpack.Decoder(Presence))
CONTROL = Format("control/1", msgspec.msgpack.Decoder(Control))
SETTLED = Format("settled/1", msgspec.msgpack.Decoder(Settled))
DEAD = Format("dead/1", msgspec.msgpack.Decoder(DeadLetter))

_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")


def encode(message: Releases | Reports | Presence | Control | Settled | DeadLetter) -> bytes:
    """Return the bytes of `message`; its format is the caller's to name."""
    return _encoder.encode(message)


def _decode(format: Format, found: str, body: bytes) -> Any:
    if found != format.name:
        raise UnknownFormat(found, [format.name])
    try:
        return format.decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"a message that says it is {found!r} cannot be read: {error}") from error


def decode_releases(found: str, body: bytes) -> Releases:
    """Read a message of `tacoq.tasks`. Raises UnknownFormat or DecodeError."""
    message: Releases = _decode(RELEASES, found, body)
    return message


def decode_reports(found: str, body: bytes) -> Reports:
    """Read a message of `tacoq.reports`. Raises UnknownFormat or DecodeError."""
    message: Reports = _decode(REPORTS, found, body)
    return message


def decode_presence(found: str, body: bytes) -> Presence:
    """Read a message of `tacoq.presence`. Raises UnknownFormat or DecodeError."""
    message: Presence = _decode(PRESENCE, found, body)
    return message


def decode_control(found: str, body: bytes) -> Control:
    """Read a message of `tacoq.control`. Raises UnknownFormat or DecodeError."""
    message: Control = _decode(CONTROL, found, body)
    return message


def decode_settled(found: str, body: bytes) -> Settled:
    """Read a message of `tacoq.settled`. Raises UnknownFormat or DecodeError."""
    message: Settled = _decode(SETTLED, found, body)
    return message


def decode_dead(found: str, body: bytes) -> DeadLetter:
    """Read a message of `tacoq.dead` that a manager sent. Raises UnknownFormat or DecodeError."""
    message: DeadLetter = _decode(DEAD, found, body)
    return message


def cut(
    items: Iterable[T], size: Callable[[T], int], *, most: int, max_bytes: int = MAX_MESSAGE_BYTES
) -> Iterator[list[T]]:
    """Yield `items` in order, in lists of at most `most` and of `max_bytes` together, or of one item however large."""
    chunk: list[T] = []
    total = 0
    for item in items:
        weight = size(item)
        if chunk and (len(chunk) >= most or total + weight > max_bytes):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += weight
    if chunk:
        yield chunk

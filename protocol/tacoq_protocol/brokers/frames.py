"""AMQP frames of the hot flows: messages, acks and rejects in, their bytes out; what the broker sends of these, read.

All else that goes over a connection is aiormq's. By hand a message costs a tenth of what it costs by way of objects.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import Final, NamedTuple

from tacoq_protocol.broker import Outgoing

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
KINDS: Final = (METHOD, HEADER, BODY, 8)
END: Final = b"\xce"
OVERHEAD: Final = 8  # bytes of a frame around its content
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

# Class and method, as they stand at the front of a method frame.
DELIVER: Final = (60 << 16) + 60
RETURN: Final = (60 << 16) + 50
ACK: Final = (60 << 16) + 80
NACK: Final = (60 << 16) + 120
CLOSE: Final = (20 << 16) + 40
CLOSE_OK: Final = (20 << 16) + 41

FRAME: Final = Struct(">BHI")
METHOD_ID: Final = Struct(">I")
_PUBLISH: Final = Struct(">IH")
_HEADER: Final = Struct(">HHQH")
_ACK: Final = Struct(">BHIIQB")
_TAG: Final = Struct(">QB")
_SIZE: Final = Struct(">Q")
_FLAGS: Final = Struct(">H")
_TABLE: Final = Struct(">I")

_BASIC: Final = 60
_REJECT: Final = (60 << 16) + 90
_PUBLISH_ID: Final = (60 << 16) + 40
_SETTLE_BYTES: Final = 13
_MODE, _MESSAGE_ID, _TYPE = 1 << 12, 1 << 7, 1 << 5  # flags of properties
_OURS: Final = _MODE | _MESSAGE_ID | _TYPE
# The properties that stand before the type, in their order: how long each is. None: a short text, 0: a table.
_BEFORE_TYPE: Final = (None, None, 0, 1, 1, None, None, None, None, 8)


class Properties(NamedTuple):
    """Of a message: those that we use."""

    format: str
    message_id: str


def message_frames(channel: int, message: Outgoing, tag: int, frame_max: int) -> list[bytes]:
    """The frames of one message. Its `message_id` is `tag`: by that it is known when it comes back.

    Raises ValueError for a name that AMQP has no room for.
    """
    method = b"".join(
        (
            _PUBLISH.pack(_PUBLISH_ID, 0),
            _short(message.exchange),
            _short(message.routing_key),
            b"\x01" if message.mandatory else b"\x00",
        )
    )
    mode = b"\x02" if message.persistent else b"\x01"
    properties = mode + _short(str(tag)) + _short(message.format)
    header = _HEADER.pack(_BASIC, 0, len(message.body), _OURS) + properties
    frames = [
        FRAME.pack(METHOD, channel, len(method)),
        method,
        END,
        FRAME.pack(HEADER, channel, len(header)),
        header,
        END,
    ]
    body, most = message.body, frame_max - OVERHEAD
    for start in range(0, len(body), most):
        part = body if len(body) <= most else body[start : start + most]
        frames += (FRAME.pack(BODY, channel, len(part)), part, END)
    return frames


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    return _ACK.pack(METHOD, channel, _SETTLE_BYTES, ACK, tag, multiple) + END


def reject_frame(channel: int, tag: int) -> bytes:
    """Not to be given again: it goes to the dead letters."""
    return _ACK.pack(METHOD, channel, _SETTLE_BYTES, _REJECT, tag, False) + END


def read_deliver(method: bytes) -> tuple[int, bool]:
    """The delivery tag, and whether it was delivered before."""
    tag, redelivered = _TAG.unpack_from(method, 5 + method[4])
    return tag, bool(redelivered)


def read_confirm(method: bytes) -> tuple[int, bool]:
    """The tag of an ack or nack of the broker, and whether all before it are meant, too."""
    tag, bits = _TAG.unpack_from(method, 4)
    return tag, bool(bits & 1)


def read_return(method: bytes) -> str:
    """Why a message came back."""
    return method[7 : 7 + method[6]].decode(errors="replace")


def read_size(header: bytes) -> int:
    """How long the body of a message is."""
    size: int = _SIZE.unpack_from(header, 4)[0]
    return size


def read_properties(header: bytes) -> Properties:
    """Anybody may send messages: what is not there, or cannot be read, is empty."""
    try:
        texts = _texts(header)
    except (IndexError, struct.error):
        texts = {}
    return Properties(
        texts.get(_TYPE, b"").decode(errors="replace"), texts.get(_MESSAGE_ID, b"").decode(errors="replace")
    )


def _texts(header: bytes) -> dict[int, bytes]:
    """The properties that are short texts, by flag, up to the type."""
    (flags,) = _FLAGS.unpack_from(header, 12)
    texts: dict[int, bytes] = {}
    at = 14
    for place, length in enumerate(_BEFORE_TYPE):
        flag = 1 << (15 - place)
        if not flags & flag:
            continue
        if length is None:
            end = at + 1 + header[at]
            texts[flag] = header[at + 1 : end]
            at = end
        elif length == 0:
            at += 4 + _TABLE.unpack_from(header, at)[0]
        else:
            at += length
    if flags & _TYPE:
        texts[_TYPE] = header[at + 1 : at + 1 + header[at]]
    return texts


def _short(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 255:
        raise ValueError(f"{text[:40]!r}… is longer than the 255 bytes that AMQP has for a name")
    return bytes((len(raw),)) + raw

"""Confirms: batches of messages in, written in one go; each batch's future, done when all of it is confirmed, out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aiormq.channel import Channel

from tacoq_protocol.broker import Outgoing
from tacoq_protocol.brokers import frames
from tacoq_protocol.brokers.wire import Wire
from tacoq_protocol.errors import PublishUnconfirmed, Unroutable

WRITE_BYTES: Final = 1024 * 1024  # at once: what is more waits until the socket has room again


class Batch:
    """Messages that were given together. `written`: how many of them."""

    __slots__ = ("done", "left", "messages", "nacked", "returned", "why", "written")

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self.messages = messages
        self.left = len(messages)
        self.written = self.nacked = self.returned = 0
        self.why = ""  # one came back
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def whole(self) -> bool:
        """True when there is nothing left to write, or no use in it."""
        return self.written == len(self.messages) or self.done.done()

    def end(self) -> None:
        """All have an answer."""
        if self.done.done():
            return  # nobody waits any more
        if self.nacked:
            self.done.set_exception(PublishUnconfirmed(f"{self.nacked} of {len(self.messages)} messages were refused"))
        elif self.returned:
            text = f"{self.returned} of {len(self.messages)} messages had no queue, one with {self.why}"
            self.done.set_exception(Unroutable(f"{text}: declare and bind it first"))
        else:
            self.done.set_result(None)

    def lose(self) -> None:
        if not self.done.done():
            text = f"not all of {len(self.messages)} messages were confirmed: the link was lost"
            self.done.set_exception(PublishUnconfirmed(text))


class Confirms:
    """A channel that publishes. `on_end` is called once, when nothing more is confirmed on it."""

    def __init__(self, wire: Wire, channel: Channel, on_end: Callable[[Confirms], None]) -> None:
        self.channel = channel
        self._wire = wire
        self._on_end = on_end
        self._frame_max: int = channel.connection.connection_tune.frame_max or 131_072
        self._tag = 0
        self._open: dict[int, Batch] = {}  # by tag, those that have no answer yet; in order
        self._waiting: dict[Batch, None] = {}  # for room
        self._back: str | None = None  # why the message whose content comes now came back
        self._body_left = 0
        self._over = False
        wire.take(channel.number, self)
        channel.closing.add_done_callback(lambda _: self._end())

    @property
    def is_closed(self) -> bool:
        return self._over or self.channel.is_closed

    def begin(self, messages: Sequence[Outgoing]) -> Batch:
        """Write what there is room for now. The batch is to be given to `finish`."""
        batch = Batch(messages)
        if not self._wire.full:
            self._write(batch)
        return batch

    async def finish(self, batch: Batch) -> None:
        """Write the rest; return when all are confirmed. Raises PublishUnconfirmed or Unroutable."""
        try:
            while not batch.whole:
                if self._wire.full:
                    await self._wait_for_room(batch)
                self._write(batch)
        except BaseException:
            batch.done.cancel()
            raise
        await batch.done

    async def _wait_for_room(self, batch: Batch) -> None:
        """The end of the channel ends it as well."""
        self._waiting[batch] = None
        room = asyncio.ensure_future(self._wire.room())
        try:
            await asyncio.wait((room, batch.done), return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()
            del self._waiting[batch]

    def _write(self, batch: Batch) -> None:
        """Write as many as go at once."""
        number, size = self.channel.number, 0
        parts: list[bytes] = []
        at, tag = batch.written, self._tag
        while at < len(batch.messages) and size < WRITE_BYTES:
            tag += 1
            parts += frames.message_frames(number, batch.messages[at], tag, self._frame_max)
            size += len(batch.messages[at].body)
            at += 1
        try:
            if self.is_closed:
                raise ConnectionResetError("the channel was closed")
            self._wire.write(b"".join(parts))
        except OSError:
            batch.lose()
        else:
            self._open.update(dict.fromkeys(range(self._tag + 1, tag + 1), batch))
            self._tag, batch.written = tag, at

    def method(self, id: int, method: bytes) -> bool:
        if id in (frames.ACK, frames.NACK):
            tag, multiple = frames.read_confirm(method)
            self._confirmed(tag, multiple=multiple, refused=id == frames.NACK)
            return True
        if id == frames.RETURN:
            self._back = frames.read_return(method)
            return True
        return False

    def header(self, header: bytes) -> bool:
        if self._back is None:
            return False
        self._came_back(frames.read_properties(header).message_id, self._back)
        self._back = None
        self._body_left = frames.read_size(header)
        return True

    def body(self, body: bytes) -> bool:
        if self._body_left <= 0:
            return False
        self._body_left -= len(body)
        return True

    def closed(self) -> None:
        self._end()

    def _came_back(self, message_id: str, why: str) -> None:
        """Its confirm is yet to come."""
        batch = self._open.get(int(message_id)) if message_id.isdecimal() else None
        if batch is not None:
            batch.returned += 1
            batch.why = why

    def _confirmed(self, tag: int, *, multiple: bool, refused: bool) -> None:
        tags = [tag]
        if multiple:
            tags = []
            for earlier in self._open:
                if earlier > tag:
                    break
                tags.append(earlier)
        for each in tags:
            batch = self._open.pop(each, None)
            if batch is None:
                continue
            batch.left -= 1
            batch.nacked += refused
            if batch.left == 0:
                batch.end()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self._wire.leave(self.channel.number, self)
        lost, self._open = list(dict.fromkeys((*self._open.values(), *self._waiting))), {}
        for batch in lost:
            batch.lose()
        self._on_end(self)

"""A consumer on RabbitMQ: one channel while there is a connection, deliveries called back, acks in bundles."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

from tacoq_protocol.broker import Consumer
from tacoq_protocol.brokers import frames
from tacoq_protocol.brokers.acks import Acks
from tacoq_protocol.brokers.declare import declare_exclusive, open_channel
from tacoq_protocol.brokers.faults import LinkLost, Refused, call
from tacoq_protocol.brokers.wire import Wire
from tacoq_protocol.topology import Queue

log = logging.getLogger("tacoq.broker")

# Acks wait for others to come with them: each that is sent costs the broker almost as much as a message. A broker that
# hears of them late gives more of them again after a crash, which is told from what is new. They do not wait where the
# broker would soon hold messages back for them: while they take part in filling more than half of the prefetch.
ACK_SECONDS: Final = 0.05
CONSUMER_TAG: Final = "tacoq"  # one consumer a channel at a time: only its earlier ones have to be told from it


class RabbitDelivery:
    """A delivery of RabbitMQ."""

    __slots__ = ("_session", "body", "format", "redelivered", "tag")

    def __init__(self, session: Session, tag: int, *, redelivered: bool, format: str, body: bytes) -> None:
        self._session = session
        self.tag = tag
        self.redelivered = redelivered
        self.format = format
        self.body = body

    def ack(self, *, multiple: bool = False) -> None:
        self._session.ack(self.tag, multiple=multiple)

    def reject(self) -> None:
        self._session.reject(self.tag)


class Session:
    """A consumer's time on one channel. Acks after it do nothing: the broker gives the messages again."""

    def __init__(
        self, wire: Wire, channel: AbstractChannel, queue: str, on_delivery: Callable[[RabbitDelivery], None]
    ) -> None:
        self.channel = channel
        self._wire = wire
        self._queue = queue
        self._tags = 0
        self._tag = ""  # none while nothing is to come
        self.confirmed = False
        self.since = 0.0  # monotonic, when it was confirmed
        self.accepting = True
        self._on_delivery = on_delivery
        self._coming: tuple[int, bool] | None = None  # tag and whether again, of the message that is just read
        self._format = ""
        self._parts: list[bytes] = []
        self._left = 0
        self._acks = Acks()
        self._rejects: list[int] = []
        self._prefetch: int | None = None
        self._writing: asyncio.Handle | None = None  # this turn of the loop, or later
        self._writes_soon = False
        self._shut = False
        self._loop = asyncio.get_running_loop()
        wire.take(channel.number, self)

    async def consume(self, prefetch: int | None) -> None:
        """Let messages come. Raises Refused or LinkLost."""
        self._prefetch = prefetch
        if prefetch == 0:
            return
        # A tag of its own: the broker knows by it which unacked messages count in which prefetch.
        self._tags += 1
        self._tag = f"{CONSUMER_TAG}-{self._tags}"
        await call(self.channel.basic_qos(prefetch_count=prefetch or 0))
        await call(self.channel.basic_consume(self._queue, _passed_by, consumer_tag=self._tag))

    async def cancel(self) -> None:
        """Let none come: when this returns, those on their way are here. Raises Refused or LinkLost."""
        tag, self._tag = self._tag, ""
        if tag:
            await call(self.channel.basic_cancel(tag))

    async def arrived(self) -> None:
        """Return when what the broker sent before is here: its answers come on the same channel. Raises as `consume`.

        A prefetch is for consumers to come: to say it changes nothing.
        """
        await call(self.channel.basic_qos(prefetch_count=0))

    def method(self, id: int, method: bytes) -> bool:
        if id != frames.DELIVER:
            return False
        self._coming = frames.read_deliver(method)
        return True

    def header(self, header: bytes) -> bool:
        if self._coming is None:
            return False
        self._format, _ = frames.read_properties(header)
        self._left = frames.read_size(header)
        if not self._left:
            self._arrived(b"")
        return True

    def body(self, body: bytes) -> bool:
        if self._coming is None:
            return False
        self._parts.append(body)
        self._left -= len(body)
        if self._left <= 0:
            parts, self._parts = self._parts, []
            self._arrived(parts[0] if len(parts) == 1 else b"".join(parts))
        return True

    def closed(self) -> None:
        """The channel is, or is about to be: to write to it would close the connection."""
        self._shut = True
        self._wire.leave(self.channel.number, self)

    def ack(self, tag: int, *, multiple: bool) -> None:
        if not self._acks.ack(tag, multiple=multiple):
            return
        if self._fills_up:
            self._write_soon()
        elif self._writing is None:
            self._writing = self._loop.call_later(ACK_SECONDS, self.flush)

    def reject(self, tag: int) -> None:
        if self._acks.reject(tag):
            self._rejects.append(tag)
            self._write_soon()

    def flush(self) -> None:
        """Send all acks and rejects so far; what is sent after this comes after them."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._writes_soon = False
        rejects, self._rejects = self._rejects, []
        acks = self._acks.take()
        if self._shut or self.channel.is_closed or not (rejects or acks):
            return  # the broker gives the messages again
        number = self.channel.number
        # Rejects first: an ack of all up to some tag would take them with it.
        written = [frames.reject_frame(number, tag) for tag in rejects]
        written += [frames.ack_frame(number, tag, multiple=multiple) for tag, multiple in acks]
        with suppress(OSError):
            self._wire.write(b"".join(written))

    def end(self) -> None:
        """The channel is closed, or about to be."""
        self.accepting = False
        self.closed()

    def _arrived(self, body: bytes) -> None:
        assert self._coming is not None
        (tag, redelivered), self._coming = self._coming, None
        if not self.accepting:
            return
        delivery = RabbitDelivery(self, tag, redelivered=redelivered, format=self._format, body=body)
        self._acks.delivered(tag)
        if self._acks.any and self._fills_up:
            self._write_soon()
        try:
            self._on_delivery(delivery)
        except Exception:
            # A promise of the port's user is broken. The message stays unacked; the others must not suffer.
            log.exception("delivery callback failed")

    @property
    def _fills_up(self) -> bool:
        return self._prefetch is not None and 2 * self._acks.unsettled > self._prefetch

    def _write_soon(self) -> None:
        # Once for all the acks of a turn of the loop.
        if not self._writes_soon:
            self._writes_soon = True
            if self._writing is not None:
                self._writing.cancel()
            self._writing = self._loop.call_soon(self.flush)


async def _passed_by(_message: DeliveredMessage) -> None:
    """Messages do not come by way of aiormq: the wire takes them before."""


class RabbitConsuming:
    """A consumer that its broker's link opens on every connection, until it is stopped.

    `establish` declares a queue and binds it; `poke` asks the link to open it again; `redeclare` says that its queue
    may be missing; `forget` ends the interest in it.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        establish: Callable[[AbstractConnection, Queue], Awaitable[None]],
        poke: Callable[[], None],
        redeclare: Callable[[], None],
        forget: Callable[[RabbitConsuming], None],
    ) -> None:
        self._consumer = consumer
        self._prefetch = consumer.prefetch
        self._establish = establish
        self._poke = poke
        self._redeclare = redeclare
        self._forget = forget
        self._session: Session | None = None
        self._ending: asyncio.Task[None] | None = None
        self._stopped = False
        self._turn = asyncio.Lock()  # opening, stopping and closing take turns

    @property
    def active(self) -> bool:
        session = self._session
        return session is not None and session.confirmed and not session.channel.is_closed and not self._stopped

    async def open(self, connection: AbstractConnection, wire: Wire) -> None:
        """Consume on this connection, if it does not already. Raises Refused, LinkLost or ConfigurationError."""
        async with self._turn:
            if self._stopped or self._session is not None:
                return
            queue = self._consumer.queue
            if not queue.exclusive:
                await self._establish(connection, queue)
            channel = await open_channel(connection)
            await self._open(channel, wire)

    async def _open(self, channel: AbstractChannel, wire: Wire) -> None:
        wanted = self._consumer
        name = wanted.queue.name
        if wanted.queue.exclusive:
            name = await declare_exclusive(channel, wanted.queue, wanted.bindings)
        session = Session(wire, channel, name, wanted.on_delivery)
        channel.on_consumer_cancel_callbacks.add(lambda _: self._cancelled(session))
        channel.closing.add_done_callback(lambda _: self._lost(session))
        self._session = session
        try:
            await session.consume(self._prefetch)
        except BaseException:
            self._session = None  # it never was: there is nothing to be told as lost
            session.end()
            raise
        session.since = time.monotonic()
        session.confirmed = True

    async def consume_again(self, prefetch: int) -> None:
        async with self._turn:
            self._prefetch = prefetch
            session = self._session
            if session is None or self._stopped:
                return
            try:
                await session.cancel()
                await session.consume(prefetch)
            except (LinkLost, Refused):
                self._redeclare()  # the channel is gone, perhaps because the queue is: the link opens both anew

    async def arrived(self) -> float | None:
        async with self._turn:
            session = self._session
            if session is None or not session.confirmed:
                return None
            try:
                await session.arrived()
            except (LinkLost, Refused):
                return None
            return session.since if self.active else None

    async def stop(self) -> None:
        async with self._turn:
            if self._stopped:
                return
            self._stopped = True
            session = self._session
            if session is None:
                self._forget(self)
                return
            try:
                session.flush()
                await session.cancel()
            except (LinkLost, Refused):
                pass  # the channel is gone, and with it the consumer
            session.accepting = False

    async def close(self) -> None:
        async with self._turn:
            self._stopped = True
            self._forget(self)
            session, self._session = self._session, None
            if session is not None:
                await self._end(session)

    async def end(self) -> None:
        """The broker stops for good: send what is acked, hear nothing more."""
        self._stopped = True
        session, self._session = self._session, None
        if session is not None:
            session.accepting = False
            session.flush()

    async def _end(self, session: Session) -> None:
        session.flush()
        session.end()
        try:
            await call(session.channel.close())
        except (LinkLost, Refused):
            pass  # gone already: the broker has given back what was not acked

    async def _cancelled(self, session: Session) -> None:
        """The broker ended the consumer, its queue was deleted say: the channel has no more use."""
        log.warning("consumer cancelled by the broker", extra={"queue": self._consumer.queue.name})
        self._redeclare()
        self._lost(session)
        self._ending = asyncio.create_task(self._end(session))

    def _lost(self, session: Session) -> None:
        session.end()
        if session is not self._session:
            return
        self._session = None
        if self._stopped:
            self._forget(self)
        self._poke()
        if self._consumer.on_lost is not None:
            try:
                self._consumer.on_lost()
            except Exception:
                log.exception("loss callback failed", extra={"queue": self._consumer.queue.name})

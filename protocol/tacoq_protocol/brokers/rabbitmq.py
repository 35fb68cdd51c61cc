"""The broker port on RabbitMQ: two supervised connections, one to declare and consume, one to publish.

They are two because an alarm makes the broker stop reading from connections that publish: acks, cancels and
declares must still get through. The state is open when both are ready: what was declared exists when one publishes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from aiormq.abc import AbstractConnection
from aiormq.channel import Channel

from tacoq_protocol.broker import Consumer, Consuming, Declared, LinkState, Outgoing, QueueCounts
from tacoq_protocol.brokers.confirms import Batch, Confirms
from tacoq_protocol.brokers.consuming import RabbitConsuming
from tacoq_protocol.brokers.declare import count, declare, open_channel, purge_ready
from tacoq_protocol.brokers.faults import LinkLost, Refused
from tacoq_protocol.brokers.supervisor import Link, is_blocked
from tacoq_protocol.brokers.wanted import Wanted
from tacoq_protocol.errors import BrokerUnavailable, ConfigurationError, PublishUnconfirmed
from tacoq_protocol.topology import Queue

log = logging.getLogger("tacoq.broker")

T = TypeVar("T")


class RabbitBroker:
    """Client of RabbitMQ for the loop it is started on. `name` is shown in RabbitMQ's own pages."""

    def __init__(self, url: str, name: str = "tacoq") -> None:
        self.name = name
        self._consume = Link(url, f"{name} consume", self._prepare_consume, self._refresh)
        self._publish = Link(url, f"{name} publish", self._prepare_publish, self._refresh)
        self._publisher: Confirms | None = None
        self._wanted = Wanted()
        self._declared_on: AbstractConnection | None = None
        self._declaring = asyncio.Lock()
        self._consuming: list[RabbitConsuming] = []
        self._state = LinkState.CLOSED
        self._state_changed = asyncio.Event()
        self._callbacks: list[Callable[[LinkState], None]] = []

    async def start(self) -> None:
        self._consume.start()
        self._publish.start()

    async def wait_open(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while self._state is not LinkState.OPEN:
                    self._state_changed.clear()
                    await self._state_changed.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"broker not open after {seconds:g} s: {self._fault()}") from None

    async def stop(self) -> None:
        consuming, self._consuming = self._consuming, []
        for each in consuming:
            await each.end()
        await asyncio.gather(self._consume.stop(), self._publish.stop())

    @property
    def state(self) -> LinkState:
        return self._state

    def on_state(self, callback: Callable[[LinkState], None]) -> None:
        self._callbacks.append(callback)

    async def declare(self, things: Declared) -> None:
        self._wanted.add(things)
        connection = self._consume.connection
        if connection is None:
            return
        try:
            # Also while the link is not ready: its owner may have looked before at what is wanted.
            await self._establish(connection, things)
        except (LinkLost, Refused) as error:
            # All is declared with the next connection, or again on this one: it may only have been slow.
            log.info("declared later", extra={"link": self.name, "reason": str(error)})
            self._redeclare()
            self._consume.poke()
        except ConfigurationError as error:
            self._consume.refuse(error)
            raise

    async def consume(self, consumer: Consumer) -> Consuming:
        poke = self._consume.poke
        consuming = RabbitConsuming(
            consumer, establish=self._establish_queue, poke=poke, redeclare=self._redeclare, forget=self._forget
        )
        self._consuming.append(consuming)
        connection = self._consume.connection
        if connection is None or not self._consume.ready or not await self._open(consuming, connection):
            poke()  # also while the link is not ready: its owner may have looked before at who consumes
        return consuming

    def publish(self, messages: Sequence[Outgoing], *, seconds: float) -> Coroutine[Any, Any, None]:
        try:
            publisher = self._open_publisher()
        except BrokerUnavailable as error:
            return _raise(error)
        return self._confirmed(publisher, publisher.begin(messages) if messages else None, seconds)

    async def _confirmed(self, publisher: Confirms, batch: Batch | None, seconds: float) -> None:
        if batch is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await publisher.finish(batch)
        except TimeoutError:
            why = f"waited {seconds:g} s"
            self._distrust(publisher, why)
            raise PublishUnconfirmed(f"not all of {len(batch.messages)} messages were confirmed: {why}") from None

    async def message_count(self, queue: str) -> int | None:
        counts = await self.counts(queue)
        return None if counts is None else counts.ready

    async def counts(self, queue: str) -> QueueCounts | None:
        return await self._ask(count, queue)

    async def purge(self, queue: str) -> int:
        return await self._ask(purge_ready, queue)

    async def _ask(self, question: Callable[[AbstractConnection, str], Awaitable[T]], queue: str) -> T:
        connection = self._consume.connection
        if connection is None or not self._consume.ready:
            raise BrokerUnavailable(f"broker is not connected: {self._consume.fault}")
        try:
            return await question(connection, queue)
        except (LinkLost, Refused) as error:
            raise BrokerUnavailable(f"broker was lost: {error}") from error

    def _open_publisher(self) -> Confirms:
        """What to publish on. Raises BrokerUnavailable when the link is not open."""
        publisher, connection = self._publisher, self._publish.connection
        if self._state is LinkState.OPEN and publisher is not None and connection is not None:
            late = publisher.is_closed or is_blocked(connection)  # and our state has not followed yet
            if not late:
                return publisher
        raise BrokerUnavailable(f"broker takes no messages now: {self._fault()}; nothing was sent")

    def _distrust(self, publisher: Confirms, why: str) -> None:
        """It did not confirm in time. Unless the broker said why, it is deaf, or half-open: have another one.

        All that is published on it meanwhile would only be there twice later.
        """
        connection = self._publish.connection
        if publisher is self._publisher and connection is not None and not is_blocked(connection):
            self._publisher = None
            self._publish.fault = f"it confirmed nothing: {why}"
            self._publish.refuse(LinkLost(self._publish.fault))
            self._refresh()

    async def _prepare_consume(self, connection: AbstractConnection) -> bool:
        """Declare what was not declared on this connection, open the consumers that are not open."""
        if self._declared_on is not connection:
            self._declared_on = connection
            await self._establish(connection, self._wanted.all())
        return all([await self._open(consuming, connection) for consuming in list(self._consuming)])

    async def _establish(self, connection: AbstractConnection, things: Declared) -> None:
        async with self._declaring:
            await declare(connection, things, self._wanted.established)

    async def _establish_queue(self, connection: AbstractConnection, queue: Queue) -> None:
        await self._establish(connection, self._wanted.around(queue))

    async def _open(self, consuming: RabbitConsuming, connection: AbstractConnection) -> bool:
        wire = self._consume.wire
        if wire is None:
            return False
        try:
            await consuming.open(connection, wire)
        except (LinkLost, Refused, ConfigurationError) as error:
            if not connection.is_closed:
                log.warning("consumer not opened", extra={"link": self.name, "reason": str(error)})
                self._redeclare()
            return False
        return True

    async def _prepare_publish(self, connection: AbstractConnection) -> bool:
        """Open the channel that publishes, if it is not open."""
        wire = self._publish.wire
        if wire is not None and (self._publisher is None or self._publisher.is_closed):
            channel = await open_channel(connection, confirms=True)
            assert isinstance(channel, Channel)
            self._publisher = Confirms(wire, channel, self._publisher_closed)
        return True

    def _publisher_closed(self, publisher: Confirms) -> None:
        if publisher is self._publisher:
            self._publisher = None
            self._publish.fault = "the publishing channel was closed"
            self._refresh()
            self._publish.poke()

    def _redeclare(self) -> None:
        self._declared_on = None

    def _forget(self, consuming: RabbitConsuming) -> None:
        if consuming in self._consuming:
            self._consuming.remove(consuming)

    def _fault(self) -> str:
        if self._state is LinkState.BLOCKED:
            return "it is short of memory or disk"
        return self._publish.fault if self._consume.ready else self._consume.fault

    def _refresh(self) -> None:
        """Work out the state; tell it when it changed."""
        if not self._consume.ready or not self._publish.ready or self._publisher is None:
            state = LinkState.CLOSED
        else:
            state = LinkState.BLOCKED if self._publish.blocked else LinkState.OPEN
        if state is self._state:
            return
        self._state = state
        self._state_changed.set()
        for callback in self._callbacks:
            try:
                callback(state)
            except Exception:
                log.exception("state callback failed", extra={"link": self.name, "state": state})


async def _raise(error: Exception) -> None:
    raise error

"""A look at RabbitMQ: a URL, exchanges and queues in; what is there, and whether it is as it should be, out.

Nothing is made and nothing is kept. What is there is declared once more, as it should be: RabbitMQ compares, and a
difference is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final, NamedTuple, TypeVar

import aio_pika
from aiormq.abc import AbstractConnection
from aiormq.channel import Channel

from tacoq_protocol.broker import QueueCounts
from tacoq_protocol.brokers.declare import NOT_FOUND, PRECONDITION_FAILED, count, open_channel
from tacoq_protocol.brokers.faults import LinkLost, Refused, call
from tacoq_protocol.brokers.supervisor import checked, is_blocked, shown
from tacoq_protocol.errors import BrokerUnavailable
from tacoq_protocol.topology import Exchange, Queue

T = TypeVar("T")

DIAL_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0
ALARM_SECONDS: Final = 3.0
POLL_SECONDS: Final = 0.02


class Found(NamedTuple):
    """An exchange or a queue. `difference`: what the broker says when it should be as expected."""

    there: bool
    difference: str | None = None
    counts: QueueCounts | None = None  # of a queue that is there


class Inspection:
    """One connection. Every look raises BrokerUnavailable when it breaks, or when the user may not look."""

    def __init__(self, connection: AbstractConnection, place: str) -> None:
        self._connection = connection
        self.place = place  # its address, to be shown

    @property
    def version(self) -> str:
        """As RabbitMQ tells it."""
        found = self._connection.server_properties.get("version", "")
        return found.decode() if isinstance(found, bytes) else str(found)

    async def exchange(self, exchange: Exchange) -> Found:
        """Look at an exchange."""
        channel = await _asked(open_channel(self._connection))
        if await _difference(channel.exchange_declare(exchange.name, passive=True), NOT_FOUND) is not None:
            return Found(False)
        expected = channel.exchange_declare(exchange.name, exchange_type=exchange.type, durable=True)
        difference = await _difference(expected, PRECONDITION_FAILED)
        if difference is None:  # else the broker has closed it
            await _asked(channel.close())
        return Found(True, difference)

    async def queue(self, queue: Queue) -> Found:
        """Look at a queue that has a name."""
        counts = await self.counts(queue.name)
        if counts is None:
            return Found(False)
        channel = await _asked(open_channel(self._connection))
        expected = channel.queue_declare(queue.name, durable=True, arguments={**queue.arguments})
        difference = await _difference(expected, PRECONDITION_FAILED)
        if difference is None:
            await _asked(channel.close())
        return Found(True, difference, counts)

    async def counts(self, queue: str) -> QueueCounts | None:
        """Return the messages ready in a queue, and its consumers; None when there is no such queue."""
        return await _asked(count(self._connection, queue))

    async def blocks(self, exchange: Exchange) -> bool:
        """True when the broker takes no messages now. It tells who publishes: a message that no queue gets.

        Then this connection is of no more use: the broker has stopped to read from it.
        """
        channel = await _asked(open_channel(self._connection))
        assert isinstance(channel, Channel)
        await _asked(channel.basic_publish(b"", exchange=exchange.name, routing_key="", wait=False))
        # Whoever is blocked is told so, and is not answered any more.
        answered = asyncio.ensure_future(open_channel(self._connection))
        deadline = monotonic() + ALARM_SECONDS
        try:
            while not is_blocked(self._connection):
                if (await asyncio.wait([answered], timeout=POLL_SECONDS))[0]:
                    break
                if monotonic() > deadline:
                    raise BrokerUnavailable(f"the broker did not answer within {ALARM_SECONDS:g} s")
        finally:
            answered.cancel()
            await asyncio.gather(answered, return_exceptions=True)
        return is_blocked(self._connection)


@asynccontextmanager
async def inspect(url: str, name: str) -> AsyncIterator[Inspection]:
    """Connect once. Raises BrokerUnavailable, or ConfigurationError when the URL is none."""
    parsed = checked(url)
    connection = aio_pika.Connection(parsed, client_properties={"connection_name": name})
    try:
        try:
            await call(connection.connect(), seconds=DIAL_SECONDS)
        except (LinkLost, Refused) as error:
            raise BrokerUnavailable(f"cannot connect to {shown(parsed)}: {error}") from error
        assert connection.transport is not None
        yield Inspection(connection.transport.connection, shown(parsed))
    finally:
        try:
            await call(connection.close(), seconds=CLOSE_SECONDS)
        except (LinkLost, Refused):
            pass  # it was of no more use


async def _difference(declared: Awaitable[object], code: int) -> str | None:
    """Return what the broker says when it refuses with `code`, None when it does not refuse."""
    try:
        await call(declared)
    except Refused as refused:
        if refused.code != code:
            raise BrokerUnavailable(f"the broker refuses to be looked at: {refused}") from refused
        return str(refused)
    except LinkLost as lost:
        raise BrokerUnavailable(str(lost)) from lost
    return None


async def _asked(answer: Awaitable[T]) -> T:
    try:
        return await call(answer)
    except (LinkLost, Refused) as error:
        raise BrokerUnavailable(str(error)) from error

"""Exchanges, queues and bindings in, the same on RabbitMQ out; a queue that differs is rebuilt if it may be.

Raises ConfigurationError, naming the thing, when the broker refuses it; LinkLost when the connection ends.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from aiormq.abc import AbstractChannel, AbstractConnection

from tacoq_protocol.broker import Declared, QueueCounts
from tacoq_protocol.brokers.faults import Refused, call
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.topology import Binding, Exchange, Queue

log = logging.getLogger("tacoq.broker")

NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 406


async def declare(connection: AbstractConnection, things: Declared, established: set[str]) -> None:
    """Make all of `things` exist. Queues are added to `established`, and never rebuilt when they are in it."""
    channel = await open_channel(connection)
    for exchange in things.exchanges:
        await _declare_exchange(channel, exchange)
    for queue in things.queues:
        if not await _declare_queue(channel, queue):
            channel = await open_channel(connection)  # the refusal closed the other
            if queue.name not in established:
                await _rebuild_queue(channel, queue)
        established.add(queue.name)
    for binding in things.bindings:
        await _bind(channel, binding, binding.queue)
    await call(channel.close())


async def open_channel(connection: AbstractConnection, *, confirms: bool = False) -> AbstractChannel:
    """Open a channel; with `confirms` for publishing."""
    return await call(connection.channel(publisher_confirms=confirms))


async def declare_exclusive(channel: AbstractChannel, queue: Queue, bindings: Sequence[Binding]) -> str:
    """Make a queue of this connection alone, bound; return the name the broker gave it."""
    # It goes with its consumer. The type is written out, for a virtual host may have another default, which
    # exclusive queues cannot have.
    arguments: dict[str, Any] = {"x-queue-type": "classic", **queue.arguments}
    declared = channel.queue_declare("", exclusive=True, auto_delete=True, arguments=arguments)
    name = (await call(declared)).queue or ""
    for binding in bindings:
        await _bind(channel, binding, name)
    return name


async def count(connection: AbstractConnection, queue: str) -> QueueCounts | None:
    """Messages ready in a queue, and its consumers; None when there is no such queue."""
    channel = await open_channel(connection)
    try:
        found = await call(channel.queue_declare(queue, passive=True))
    except Refused as refused:
        if refused.code == NOT_FOUND:
            return None
        raise
    await call(channel.close())
    return QueueCounts(found.message_count or 0, found.consumer_count or 0)


async def purge_ready(connection: AbstractConnection, queue: str) -> int:
    """Delete the messages ready in a queue; return how many they were, 0 when there is no such queue."""
    channel = await open_channel(connection)
    try:
        purged = await call(channel.queue_purge(queue))
    except Refused as refused:
        if refused.code == NOT_FOUND:
            return 0
        raise
    await call(channel.close())
    return purged.message_count or 0


async def _declare_exchange(channel: AbstractChannel, exchange: Exchange) -> None:
    wanted = channel.exchange_declare(exchange.name, exchange_type=exchange.type, durable=True)
    await _insist(wanted, f"exchange {exchange.name!r} of type {exchange.type}")


async def _declare_queue(channel: AbstractChannel, queue: Queue) -> bool:
    """False when the queue is there with other arguments and may be rebuilt."""
    try:
        await call(channel.queue_declare(queue.name, durable=True, arguments={**queue.arguments}))
    except Refused as refused:
        if refused.code != PRECONDITION_FAILED or not queue.rebuildable:
            raise _refusal(refused, f"queue {queue.name!r} with arguments {queue.arguments}") from refused
        log.warning(
            "queue has other arguments",
            extra={"queue": queue.name, "arguments": queue.arguments, "reason": str(refused)},
        )
        return False
    return True


async def _rebuild_queue(channel: AbstractChannel, queue: Queue) -> None:
    log.warning("queue rebuilt", extra={"queue": queue.name, "arguments": queue.arguments})
    await _insist(channel.queue_delete(queue.name), f"deletion of queue {queue.name!r}")
    wanted = channel.queue_declare(queue.name, durable=True, arguments={**queue.arguments})
    await _insist(wanted, f"queue {queue.name!r} with arguments {queue.arguments}")


async def _bind(channel: AbstractChannel, binding: Binding, queue: str) -> None:
    wanted = channel.queue_bind(queue, binding.exchange, binding.routing_key)
    await _insist(wanted, f"binding of queue {queue!r} to exchange {binding.exchange!r}")


async def _insist(wanted: Awaitable[object], thing: str) -> None:
    try:
        await call(wanted)
    except Refused as refused:
        raise _refusal(refused, thing) from refused


def _refusal(refused: Refused, thing: str) -> ConfigurationError:
    return ConfigurationError(f"the broker refuses {thing}: {refused}")

"""The broker port: what TacoQ asks of a message broker, and nothing more. Adapters are under `brokers/`.

A `Broker` belongs to one event loop. It looks after its own connections: after `start` it connects, and connects again
for as long as it lives; everything declared and every consumer is put back after each reconnect.

Rules every adapter keeps (tests/contract):
- `publish` is a batch: it returns when every message is confirmed, and raises within the deadline otherwise.
- A delivery ends in exactly one `ack` or `reject`. After its connection is gone both do nothing: the broker will give
  the message again, marked `redelivered`, to somebody.
- Callbacks are plain functions called on the loop, in order of arrival; they must not block.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from tacoq_protocol.topology import Binding, Exchange, Queue


class LinkState(StrEnum):
    """Of the publishing link. Only `OPEN` sends."""

    OPEN = "open"
    BLOCKED = "blocked"  # the broker is short of memory or disk and takes nothing
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish. `format` names its type and version; `persistent` survives a broker restart."""

    exchange: str
    routing_key: str
    format: str
    body: bytes
    persistent: bool = False
    mandatory: bool = True  # False for fanouts that may have no listener


class Delivery(Protocol):
    """A message given to a consumer."""

    @property
    def format(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def redelivered(self) -> bool: ...

    def ack(self, *, multiple: bool = False) -> None:
        """Take it off the queue; with `multiple`, also all earlier deliveries of the same consumer.

        Sent at once, not awaited.
        """

    def reject(self) -> None:
        """Send it to the dead letters."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """What to consume: a declared queue, or a fresh exclusive one with these bindings (their `queue` is ignored).

    `prefetch` bounds messages not acked yet, for this consumer alone; None is no bound, at 0 nothing comes. `on_lost`
    is called when the connection under it is gone: what was delivered before can no longer be acked.
    """

    queue: Queue
    on_delivery: Callable[[Delivery], None]
    prefetch: int | None = None
    bindings: Sequence[Binding] = ()
    on_lost: Callable[[], None] | None = None


class QueueCounts(NamedTuple):
    """Messages ready in a queue, without those given to consumers, and who consumes it, all clients together."""

    ready: int
    consumers: int


class Consuming(Protocol):
    """A consumer at work."""

    @property
    def active(self) -> bool:
        """True while the broker would give it messages: connected, consumer confirmed. At prefetch 0 as well."""

    async def consume_again(self, prefetch: int) -> None:
        """Cancel, and consume the declared queue again with another prefetch; works while disconnected.

        What is at hand, and what was on its way and came before this returned, can still be acked and is not counted in
        the new prefetch. At 0 nothing more comes until this is called again.
        """

    async def arrived(self) -> float | None:
        """Return once all that the broker had given to it is here: since when, by `time.monotonic`, it consumes.

        That is without a break in its connection. None when it does not consume.
        """

    async def stop(self) -> None:
        """Get no more deliveries once this returns; those on their way still come before. Those at hand can be acked.

        Idempotent; works while disconnected. `close` ends it.
        """

    async def close(self) -> None:
        """Stop, and give what was not acked back to the broker. Idempotent."""


@dataclass(frozen=True, slots=True)
class Declared:
    """Things that must exist whenever the link is open."""

    exchanges: Sequence[Exchange] = ()
    queues: Sequence[Queue] = ()
    bindings: Sequence[Binding] = field(default=())


class Broker(Protocol):
    """The port."""

    async def start(self) -> None:
        """Begin to connect and return without waiting for it. `wait_open` waits."""

    async def wait_open(self, seconds: float) -> None:
        """Return when the publishing link is open. Raises BrokerUnavailable, with the last fault, after `seconds`."""

    async def stop(self) -> None:
        """Close every connection; consumers get nothing more; unacked deliveries go back to the broker."""

    @property
    def state(self) -> LinkState: ...

    def on_state(self, callback: Callable[[LinkState], None]) -> None:
        """Call back at each change of `state`."""

    async def declare(self, things: Declared) -> None:
        """Declare now when connected, and again after each reconnect.

        Idempotent. Never raises for a missing connection.
        """

    async def consume(self, consumer: Consumer) -> Consuming:
        """Consume from now on, or from the next connect on, until stopped."""

    def publish(self, messages: Sequence[Outgoing], *, seconds: float) -> Coroutine[Any, Any, None]:
        """Publish all; return when all are confirmed. To be awaited: it may be sent before that.

        Raises BrokerUnavailable at once when the link is not open: nothing was sent. Raises Unroutable when a mandatory
        message had no queue, PublishUnconfirmed when not all were confirmed within `seconds` or the link was lost: of
        the batch any part may be stored. A link on which `seconds` went by may be replaced: it is closed until then.
        """

    async def message_count(self, queue: str) -> int | None:
        """Messages ready in a declared queue, without those given to consumers; None when no such queue exists.

        Raises BrokerUnavailable when not connected.
        """

    async def counts(self, queue: str) -> QueueCounts | None:
        """Messages and consumers of a declared queue, as they were at one moment; None when no such queue exists.

        Of a quorum queue: one that is too busy to answer seems to have no consumer. A consumer that was stopped counts
        while it has messages, one whose connection is silent until the broker takes it for dead and its messages back.
        Raises BrokerUnavailable when not connected.
        """

    async def purge(self, queue: str) -> int:
        """Delete the messages ready in a declared queue, not those given to consumers; return how many they were.

        0 when no such queue exists. Raises BrokerUnavailable when not connected, or when the answer is lost: they may
        be gone all the same.
        """


BrokerFactory = Callable[[str], Broker]
"""Makes a broker for the running loop; the argument names its connections (shown in RabbitMQ's own pages)."""

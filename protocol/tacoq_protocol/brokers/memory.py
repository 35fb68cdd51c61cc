"""The broker port within one process: `MemoryHub` is the server, `MemoryBroker` its client on one loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from tacoq_protocol.broker import Consumer, Consuming, Declared, LinkState, Outgoing, QueueCounts
from tacoq_protocol.brokers.hub import MemoryHub
from tacoq_protocol.brokers.queues import News, Peer, Stored, Tap
from tacoq_protocol.brokers.wanted import Wanted
from tacoq_protocol.errors import BrokerUnavailable, ConfigurationError, PublishUnconfirmed, Unroutable
from tacoq_protocol.topology import Queue

__all__ = ["MemoryBroker", "MemoryHub"]

log = logging.getLogger("tacoq.broker")

CALLBACKS_PER_TURN = 200  # then other callbacks of the loop get their turn
RETRY_SECONDS = 0.2


class MemoryDelivery:
    """A delivery of the in-process broker."""

    __slots__ = ("_hub", "_stored", "_tag", "_tap", "redelivered")

    def __init__(self, hub: MemoryHub, tap: Tap, tag: int, stored: Stored) -> None:
        self._hub, self._tap, self._tag, self._stored = hub, tap, tag, stored
        self.redelivered = stored.redelivered  # as it was when given: the stored message may move on

    @property
    def format(self) -> str:
        return self._stored.message.format

    @property
    def body(self) -> bytes:
        return self._stored.message.body

    def ack(self, *, multiple: bool = False) -> None:
        self._hub.settle(self._tap, self._tag, multiple=multiple)

    def reject(self) -> None:
        self._hub.reject(self._tap, self._tag)


class MemoryBroker:
    """Client of a hub, for the loop it is started on. `name` is what `MemoryHub.disconnect` takes."""

    def __init__(self, hub: MemoryHub, name: str = "") -> None:
        self.hub = hub
        self.name = name
        self.peer = Peer(name, self._news)
        self._state = LinkState.CLOSED
        self._fault = "it was not started"
        self._state_changed = asyncio.Event()
        self._callbacks: list[Callable[[LinkState], None]] = []
        self._wanted = Wanted()
        self._unconfirmed: set[asyncio.Future[bool]] = set()
        self._consuming: list[_MemoryConsuming] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._retry: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._connect()

    async def wait_open(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while self._state is not LinkState.OPEN:
                    self._state_changed.clear()
                    await self._state_changed.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"broker not open after {seconds:g} s: {self._fault}") from None

    async def stop(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._loop = None
        self.hub.leave(self.peer)
        for consuming in self._consuming:
            consuming.tap = None
        self._consuming.clear()
        self._fault = "it was stopped"
        self._set_state(LinkState.CLOSED)

    @property
    def state(self) -> LinkState:
        return self._state

    def on_state(self, callback: Callable[[LinkState], None]) -> None:
        self._callbacks.append(callback)

    async def declare(self, things: Declared) -> None:
        self._wanted.add(things)
        if self.peer.connected:
            try:
                self.hub.declare(things, self._wanted.established)
            except ConfigurationError as error:
                self._fail(error)
                raise

    async def consume(self, consumer: Consumer) -> Consuming:
        consuming = _MemoryConsuming(self, consumer)
        self._consuming.append(consuming)
        if self.peer.connected:
            consuming.open()
        return consuming

    async def publish(self, messages: Sequence[Outgoing], *, seconds: float) -> None:
        confirmed = asyncio.get_running_loop().create_future()
        routed = self.hub.publish(self.peer, messages, lambda routed: self._confirm(confirmed, routed))
        if routed is None:
            self._unconfirmed.add(confirmed)
            try:
                async with asyncio.timeout(seconds):
                    routed = await confirmed
            except TimeoutError:
                raise PublishUnconfirmed(f"{len(messages)} messages were not confirmed in {seconds:g} s") from None
            finally:
                self._unconfirmed.discard(confirmed)
        else:
            await asyncio.sleep(0)  # as over a network, others run before the confirm is here
        if not routed:
            raise Unroutable("no queue took a mandatory message: declare and bind its queue first")

    async def message_count(self, queue: str) -> int | None:
        counts = await self.counts(queue)
        return None if counts is None else counts.ready

    async def counts(self, queue: str) -> QueueCounts | None:
        if not self.peer.connected:
            raise BrokerUnavailable(f"broker is not connected: {self._fault}")
        return self.hub.counts(queue)

    async def purge(self, queue: str) -> int:
        if not self.peer.connected:
            raise BrokerUnavailable(f"broker is not connected: {self._fault}")
        return self.hub.purge(queue)

    def call(self, callback: Callable[[], None]) -> None:
        """Run `callback` on this broker's loop soon, from any thread; not at all when the loop is gone."""
        loop = self._loop
        if loop is None:
            return
        if threading.get_ident() == self._thread:
            loop.call_soon(callback)
        else:
            with suppress(RuntimeError):  # the loop was closed under us: nobody is left to tell
                loop.call_soon_threadsafe(callback)

    @property
    def established(self) -> set[str]:
        return self._wanted.established

    def around(self, queue: Queue) -> Declared:
        """What was declared of a queue."""
        return self._wanted.around(queue)

    def redeclare(self) -> None:
        """Make all that was declared exist."""
        self.hub.declare(self._wanted.all(), self._wanted.established)

    def forget(self, consuming: _MemoryConsuming) -> None:
        """Do not open this consumer again."""
        if consuming in self._consuming:
            self._consuming.remove(consuming)

    def _confirm(self, confirmed: asyncio.Future[bool], routed: bool) -> None:
        self.call(lambda: None if confirmed.done() else confirmed.set_result(routed))

    def _news(self, news: News) -> None:
        self.call(lambda: self._hear(news))

    def _hear(self, news: News) -> None:
        match news:
            case News.LOST:
                self._lose("the connection was lost")
                self._connect()
            case News.UP:
                self._connect()
            case News.BLOCKED:
                self._set_state(LinkState.BLOCKED)
            case News.UNBLOCKED:
                self._set_state(LinkState.OPEN)

    def _connect(self) -> None:
        """Connect, declare and consume; when the hub is down it will tell when it is up."""
        if self.peer.connected or self._loop is None:
            return
        try:
            blocked = self.hub.connect(self.peer)
            self.redeclare()
            for consuming in list(self._consuming):
                consuming.open()
        except BrokerUnavailable as error:
            self._fault = str(error)
        except ConfigurationError as error:
            self._fail(error)
        else:
            self._set_state(LinkState.BLOCKED if blocked else LinkState.OPEN)

    def _fail(self, error: ConfigurationError) -> None:
        """What must exist cannot: stay closed, and try again later."""
        log.error("broker topology refused", extra={"connection": self.name, "reason": str(error)})
        self.hub.leave(self.peer)
        self._lose(str(error))
        if self._loop is not None:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._connect)

    def _lose(self, fault: str) -> None:
        self._fault = fault
        self._set_state(LinkState.CLOSED)
        for confirmed in self._unconfirmed:
            if not confirmed.done():
                confirmed.set_exception(PublishUnconfirmed(f"messages were not confirmed: {fault}"))
        for consuming in list(self._consuming):
            consuming.lose()

    def _set_state(self, state: LinkState) -> None:
        if state is self._state:
            return
        self._state = state
        self._state_changed.set()
        for callback in self._callbacks:
            try:
                callback(state)
            except Exception:
                log.exception("state callback failed", extra={"link": self.name, "state": state})


class _MemoryConsuming:
    """A consumer of the in-process broker; `tap` is None while it is not connected."""

    def __init__(self, broker: MemoryBroker, consumer: Consumer) -> None:
        self._broker = broker
        self._consumer = consumer
        self._prefetch = consumer.prefetch
        self._scheduled = False
        self._stopped = False
        self._since = 0.0
        self.tap: Tap | None = None

    @property
    def active(self) -> bool:
        return self.tap is not None and not self._stopped and self._broker.peer.connected

    def open(self) -> None:
        wanted = self._consumer
        if not self._stopped and self.tap is None:
            self._since = time.monotonic()
            self.tap = self._broker.hub.open_tap(
                self._broker.peer,
                wanted.queue,
                wanted.bindings if wanted.queue.exclusive else self._broker.around(wanted.queue).bindings,
                self._prefetch,
                established=self._broker.established,
                wake=self._wake,
                lost=lambda: self._broker.call(self._queue_deleted),
            )

    async def consume_again(self, prefetch: int) -> None:
        self._prefetch = prefetch
        if self.tap is not None and not self._stopped:
            self._broker.hub.open_again(self.tap, 0)
            while self._deliver():
                pass  # what was on its way still arrives, and counts as at hand
            self._broker.hub.open_again(self.tap, prefetch)
        await asyncio.sleep(0)  # as over a network, others run before the answer is here

    async def arrived(self) -> float | None:
        while self._deliver():
            pass
        await asyncio.sleep(0)  # as over a network, others run before the answer is here
        return self._since if self.active else None

    async def stop(self) -> None:
        if self._stopped:
            return
        if self.tap is not None:
            self._broker.hub.stop_tap(self.tap)
            while self._deliver():
                pass  # what was on its way still arrives, before this returns
        self._stopped = True

    async def close(self) -> None:
        self._stopped = True
        self._broker.forget(self)
        tap, self.tap = self.tap, None
        if tap is not None:
            self._broker.hub.close_tap(tap)

    def lose(self) -> None:
        if self._stopped:
            self._broker.forget(self)
        if self.tap is None:
            return
        self.tap = None
        if self._consumer.on_lost is not None:
            try:
                self._consumer.on_lost()
            except Exception:
                log.exception("loss callback failed", extra={"queue": self._consumer.queue.name})

    def _queue_deleted(self) -> None:
        log.warning("consumer cancelled by the broker", extra={"queue": self._consumer.queue.name})
        self.lose()
        if self._broker.peer.connected:
            self._broker.redeclare()
            self.open()

    def _wake(self) -> None:
        # Under the hub's lock, from any thread.
        if not self._scheduled:
            self._scheduled = True
            self._broker.call(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._deliver():
            self._wake()

    def _deliver(self) -> bool:
        """Call back for what has arrived; True when there is more."""
        tap = self.tap
        if tap is None or self._stopped:
            return False
        hub, callback = self._broker.hub, self._consumer.on_delivery
        for tag, stored in hub.take(tap, CALLBACKS_PER_TURN):
            try:
                callback(MemoryDelivery(hub, tap, tag, stored))
            except Exception:
                # A promise of the port's user is broken. The message stays unacked; the others must not suffer.
                log.exception("delivery callback failed")
        return bool(tap.inbox)

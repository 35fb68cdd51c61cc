"""Keeps one connection alive: a way to prepare it in, a task that owns it and dials, watches and dials again out.

A link is ready while it is connected and prepared. What can break by itself, a channel or a consumer, pokes the
link: its owner then prepares again, which puts back what is missing. Nobody else connects; only `stop` ends it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

import aio_pika
from aiormq.abc import AbstractConnection
from yarl import URL

from tacoq_protocol.brokers.faults import LinkLost, Refused, call
from tacoq_protocol.brokers.wire import Wire, WireFactory
from tacoq_protocol.errors import ConfigurationError

log = logging.getLogger("tacoq.broker")

# aiormq takes a peer for dead after three heartbeats and three seconds without a byte: 15 s.
HEARTBEAT_SECONDS: Final = 4
DIAL_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 3.0
FIRST_BACKOFF: Final = 0.05
MAX_BACKOFF: Final = 2.0
BLOCKED_POLL_SECONDS: Final = 0.1


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, the upper half of it at random."""
    whole = min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(failures, 10))
    return random.uniform(whole / 2, whole)


class Link:
    """One supervised connection. `prepare` makes what must exist on it; it is called again after every poke.

    `prepare` returns False when something is still missing that another try may mend. When it raises, the
    connection is of no use: it is closed and dialled anew. `on_change` follows every change of what one sees here.
    """

    def __init__(
        self,
        url: str,
        name: str,
        prepare: Callable[[AbstractConnection], Awaitable[bool]],
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.fault = "it was not started"
        self.connection: AbstractConnection | None = None
        self.wire: Wire | None = None  # under the connection
        self.ready = False
        self.blocked = False
        self._url = checked(url)
        self._prepare = prepare
        self._on_change = on_change
        self._poked = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._failures = 0
        self._told = ""
        self._refused: LinkLost | ConfigurationError | None = None

    def start(self) -> None:
        if self._owner is None:
            self.fault = "it has not connected yet"
            self._owner = asyncio.create_task(self._own(), name=f"broker link {self.name}")

    async def stop(self) -> None:
        """End the owner and the connection. Idempotent."""
        owner, self._owner = self._owner, None
        while owner is not None and not owner.done():
            owner.cancel()  # again and again: aiormq may put an error of its own in the place of a cancellation
            await asyncio.wait([owner], timeout=CLOSE_SECONDS + 1)
        self.fault = "it was stopped"
        self._down()

    def poke(self) -> None:
        """Have the owner prepare again soon."""
        self._poked.set()

    def refuse(self, reason: LinkLost | ConfigurationError) -> None:
        """Declare the connection of no use: it is dialled anew."""
        self._refused = reason
        self.poke()

    async def _own(self) -> None:
        while self._owner is asyncio.current_task():
            try:
                await self._live()
            except (LinkLost, Refused, ConfigurationError) as error:
                self._complain(error)
            except Exception as error:
                # Not one of the faults we know. To go deaf for good would be worse than to try again.
                log.exception("broker link failed", extra={"link": self.name})
                self._complain(error)
            await asyncio.sleep(backoff(self._failures))
            self._failures += 1

    async def _live(self) -> None:
        """One connection, from dial to loss. Always raises."""
        outer, wire = await self._dial()
        watcher: asyncio.Task[None] | None = None
        try:
            assert outer.transport is not None
            connection = outer.transport.connection
            connection.closing.add_done_callback(lambda _: self.poke())
            self.connection, self.wire, self._refused = connection, wire, None
            watcher = asyncio.create_task(self._watch(connection), name=f"broker alarm watch {self.name}")
            while not connection.is_closed and not self._refused:
                self._poked.clear()
                complete = await self._prepare(connection)
                self._up()
                await self._wait(None if complete else backoff(self._failures))
                self._failures = 0 if complete else self._failures + 1
            raise self._end_of(connection)
        except Exception as error:
            self.fault = str(error)
            raise
        finally:
            if watcher is not None:
                watcher.cancel()
            self._down()
            await _close(outer)

    def _end_of(self, connection: AbstractConnection) -> LinkLost | ConfigurationError:
        return self._refused or LinkLost(why_closed(connection))

    async def _dial(self) -> tuple[aio_pika.Connection, Wire]:
        connection = aio_pika.Connection(self._url, client_properties={"connection_name": self.name})
        factory = connection.kwargs["transport_factory"] = WireFactory()
        try:
            await call(connection.connect(), seconds=DIAL_SECONDS)
        except (LinkLost, Refused) as error:
            await _close(connection)
            raise LinkLost(f"cannot connect to {shown(self._url)}: {error}") from error
        except BaseException:
            await _close(connection)
            raise
        assert factory.wire is not None, "it is connected"
        return connection, factory.wire

    async def _wait(self, seconds: float | None) -> None:
        """Return when poked (the end of the connection pokes), or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._poked.wait()
        except TimeoutError:
            pass  # time to try again

    async def _watch(self, connection: AbstractConnection) -> None:
        """Keep `blocked` true to the broker's alarms: aiormq has no callback for them."""
        while True:
            if is_blocked(connection):
                self._set_blocked(True)
                await connection.ready()
                self._set_blocked(False)
            await asyncio.sleep(BLOCKED_POLL_SECONDS)

    def _set_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        log.warning("broker blocks publishing" if blocked else "broker takes messages again", extra={"link": self.name})
        self._on_change()

    def _up(self) -> None:
        if not self.ready:
            self.ready = True
            level = logging.INFO if self._told else logging.DEBUG  # what was complained of is told to be over
            self._told = ""
            log.log(level, "broker link open", extra={"link": self.name})
        self._on_change()

    def _down(self) -> None:
        self.connection = self.wire = None
        self.ready = self.blocked = False
        self._on_change()

    def _complain(self, error: Exception) -> None:
        """Log a fault once, not at each of the attempts that end in it."""
        self.fault = str(error) or type(error).__name__
        if self.fault != self._told:
            self._told = self.fault
            level = logging.ERROR if isinstance(error, ConfigurationError) else logging.WARNING
            log.log(level, "broker link down", extra={"link": self.name, "reason": self.fault})


def checked(url: str) -> URL:
    """The broker URL, with our heartbeat unless it has its own. An error does not repeat it: it holds a password."""
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in ("amqp", "amqps") or not parsed.host:
        raise ConfigurationError("the broker URL must look like amqp://user:password@host:5672/vhost")
    return parsed if "heartbeat" in parsed.query else parsed.update_query(heartbeat=HEARTBEAT_SECONDS)


def is_blocked(connection: AbstractConnection) -> bool:
    """True while the broker has told this connection that it takes no messages.

    `ready()` returns at once when it is not so; one step of it, then, tells.
    """
    ready = connection.ready()
    try:
        ready.send(None)
    except StopIteration:
        return False
    finally:
        ready.close()
    return True


def why_closed(connection: AbstractConnection) -> str:
    """What aiormq knows of the end of a connection."""
    closing = connection.closing
    if not closing.done() or closing.cancelled():
        return "the connection was closed"
    error = closing.exception()
    if error is None or isinstance(error, asyncio.CancelledError):
        return "the connection was closed, or silent for too long"
    return f"{type(error).__name__}: {error}"


def shown(url: URL) -> str:
    """A broker URL without what must not be seen."""
    return str(url.with_user(None).with_query(None))


async def _close(connection: aio_pika.Connection) -> None:
    """Close within a few seconds; on a silent link aiormq itself gives up later."""
    try:
        await call(connection.close(), seconds=CLOSE_SECONDS)
    except (LinkLost, Refused) as error:
        log.info("broker connection not closed properly", extra={"reason": str(error)})

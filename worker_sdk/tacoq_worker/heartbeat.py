"""Heartbeat: presence of one session, from a thread, loop and connection of its own.

So a handler that holds the event loop is reported as that, and not taken for dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import psutil

from tacoq_protocol.broker import Broker, BrokerFactory, Declared, Outgoing
from tacoq_protocol.codec import PRESENCE, encode
from tacoq_protocol.errors import BrokerError
from tacoq_protocol.messages import Fence, Heartbeat, Leave, Presence, Register
from tacoq_protocol.topology import Topology
from tacoq_worker.held import Held
from tacoq_worker.settings import Pace
from tacoq_worker.silence import Silence
from tacoq_worker.worker import Worker

log = logging.getLogger("tacoq.worker")

UNREGISTERED_SECONDS = 0.05  # between looks whether the session listens


@dataclass(slots=True)
class Vitals:
    """What heartbeats tell of the session. Written on its loop, read from the heartbeat's thread.

    `listening` says whether the session hears managers: before it does, they shall not know of it. `taken` counts the
    messages that its consumer was ever given.
    """

    held: dict[Fence, Held]
    listening: Callable[[], bool]
    taken: Callable[[], int]
    draining: bool = False


class HeartbeatThread:
    """Registers, beats, and leaves."""

    def __init__(
        self,
        worker: Worker,
        make_broker: BrokerFactory,
        topology: Topology,
        vitals: Vitals,
        *,
        session: UUID,
        version: str,
        labels: Mapping[str, str],
        registered: Callable[[], None],
        silence: Silence,
        pace: Pace,
    ) -> None:
        """`registered` is called on the running loop whenever a registration is confirmed: every manager gets it."""
        self._worker = worker
        self._make_broker = make_broker
        self._topology = topology
        self._vitals = vitals
        self._session = session
        self._version = version
        self._labels = dict(labels)
        self._confirmed = registered
        self._silence = silence
        self._pace = pace
        self._started_at = datetime.now(UTC)
        self._process = psutil.Process()
        self._main = asyncio.get_running_loop()
        self._main_answered = threading.Event()
        self._main_answered.set()
        self._main_asked = 0.0
        self._was_blocked = False
        self._registered = False
        self._leave = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopped = False
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="tacoq-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def introduce(self) -> None:
        """Register again, at once. From any thread."""
        self._registered = False
        self._wake_up()

    def tell(self) -> None:
        """Beat at once: what the beats tell has changed. From any thread."""
        self._wake_up()

    async def stop(self, *, leave: bool) -> None:
        """End the beats; with `leave` the managers are told that nothing is left here."""
        self._leave = leave
        self._stopped = True
        self._wake_up()
        if self._thread.ident is not None:  # it was started
            await self._ended.wait()  # no join in a thread: handlers may have taken all that the loop has

    def _wake_up(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed: the thread has ended
                self._loop.call_soon_threadsafe(self._wake.set)

    def _run(self) -> None:
        try:
            asyncio.run(self._beat_until_stopped())
        except Exception:
            log.exception("heartbeats ended: managers will take this session for lost")
        finally:
            self._tell_main(self._ended.set)

    def _tell_main(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the main loop is closed: nobody waits
            self._main.call_soon_threadsafe(callback)

    async def _beat_until_stopped(self) -> None:
        self._loop = asyncio.get_running_loop()
        broker = self._make_broker(f"tacoq heartbeat {self._session}")
        broker.on_state(lambda _: self._wake.set())  # an open link should not wait for the next beat
        await broker.start()
        await broker.declare(Declared(exchanges=[self._topology.presence]))
        try:
            while not self._stopped:
                try:
                    await self.step(broker)
                except Exception:  # one beat less is no loss; none at all would make a lost session of a live one
                    log.exception("heartbeat failed")
                await self._pause()
            if self._leave:
                await self._send(broker, Leave(self._session, self._worker.queue))
        finally:
            await broker.stop()

    async def step(self, broker: Broker) -> int:
        """Send one beat, before it a registration when one is due; return how many were sent."""
        sent = 0
        if not self._registered and self._vitals.listening():
            self._registered = True  # before it is sent: another introduction may be asked for meanwhile
            confirmed = await self._send(broker, self._registration())
            self._registered = self._registered and confirmed
            sent += confirmed
            if confirmed:
                self._tell_main(self._confirmed)
        if self._registered:
            sent += await self._send(broker, self._beat())
        return sent

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._pace.beat if self._registered else UNREGISTERED_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _send(self, broker: Broker, message: Presence) -> bool:
        body = encode(message)
        outgoing = Outgoing(self._topology.presence.name, "", PRESENCE.name, body, mandatory=False)
        sent = time.monotonic()
        try:
            await broker.publish([outgoing], seconds=self._pace.beat)
        except BrokerError as error:
            log.debug("presence not sent", extra={"reason": str(error)})
            return False
        self._silence.broken(sent, time.monotonic())
        return True

    def _registration(self) -> Register:
        registry = self._worker.registry
        return Register(
            session=self._session,
            queue=self._worker.queue,
            slots=self._worker.concurrency,
            kinds=registry.specs(),
            kinds_hash=registry.hash(),
            host=socket.gethostname(),
            pid=os.getpid(),
            version=self._version,
            started_at=self._started_at,
            labels=self._labels,
        )

    def _beat(self) -> Heartbeat:
        now = time.monotonic()
        answered = self._main_answered.is_set()
        blocked = not answered and now - self._main_asked > self._pace.beat / 2  # two beats may come close together
        if blocked and not self._was_blocked:
            log.warning(
                "the event loop does not answer: an async handler blocks it, make it a def or await what it waits for",
                extra={"session": str(self._session), "seconds": self._pace.beat},
            )
        self._was_blocked = blocked
        if answered:
            self._main_answered.clear()
            self._main_asked = now
            self._tell_main(self._main_answered.set)
        held = list(self._vitals.held.values())
        long_ago = now - self._pace.listed_after
        return Heartbeat(
            session=self._session,
            queue=self._worker.queue,
            slots=self._worker.concurrency,
            held=len(held),
            # Also what ended and is not confirmed: to the manager it still runs.
            running=[h.fence for h in held if h.run is not None and 0 < h.run.began < long_ago],
            kinds_hash=self._worker.registry.hash(),
            version=self._version,
            draining=self._vitals.draining,
            loop_blocked=blocked,
            rss_bytes=self._process.memory_info().rss,
            taken=self._vitals.taken(),
        )

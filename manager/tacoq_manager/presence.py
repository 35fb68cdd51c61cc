"""Presence: beats and registrations from the broker in; sessions known and asked, changes and losses told on, out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, assert_never
from uuid import UUID, uuid4

from tacoq_manager.registrar import Registrar
from tacoq_manager.sessions import BEAT_SECONDS, LEASE_SECONDS, Heard, Sessions
from tacoq_manager.store import registry
from tacoq_manager.store.engine import Database
from tacoq_manager.upkeep.loops import run_every
from tacoq_protocol import codec
from tacoq_protocol.broker import Broker, Consumer, Consuming, Declared, Delivery, LinkState, Outgoing
from tacoq_protocol.errors import BrokerError, DecodeError
from tacoq_protocol.messages import (
    AskHeld,
    AskSettled,
    Control,
    Fence,
    HasSettled,
    Heartbeat,
    Introduce,
    Inventory,
    Leave,
    Lost,
    ManagerBeat,
    Register,
)
from tacoq_protocol.messages import Presence as PresenceMessage
from tacoq_protocol.topology import Binding, Queue, Topology

log = logging.getLogger("tacoq.presence")

TICK_SECONDS: Final = 1.0
EAGER_BEAT_SECONDS: Final = 0.25  # until the first own beat is heard
PUBLISH_SECONDS: Final = 2.0


@dataclass(eq=False, slots=True)
class _Question:
    """An `AskHeld` that waits for answers."""

    queue: str
    answers: dict[UUID, frozenset[Fence]] = field(default_factory=dict)
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Presence:
    """One manager's ear and voice among sessions and managers."""

    def __init__(
        self,
        broker: Broker,
        topology: Topology,
        database: Database,
        sessions: Sessions,
        *,
        manager: UUID,
        on_change: Callable[[str], None],
        on_lost: Callable[[UUID, str, str], None],
        on_manager: Callable[[AskSettled | HasSettled], None],
    ) -> None:
        """`on_change(queue)`: its slots or kinds changed. `on_lost(session, queue, detail)`: what it held is free.
        `on_manager`: a manager asked the others something, or answered.
        """
        self._broker = broker
        self._topology = topology
        self._database = database
        self._sessions = sessions
        self._manager = manager
        self.registrar = Registrar(database)
        self._on_change = on_change
        self._on_lost = on_lost
        self._on_manager = on_manager
        self._consuming: Consuming | None = None
        self._questions: dict[UUID, _Question] = {}
        self._strangers: set[str] = set()  # control keys to send `Introduce` to
        self._asking = asyncio.Event()
        self._asked_all = False
        self._swept = False
        self._link_opened = asyncio.Event()
        self._heard_session = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take over what the registry knows, listen, beat. Raises DatabaseUnavailable."""
        self._sessions.seed(await registry.load_specs(self._database))
        exchanges = [self._topology.presence, self._topology.control]
        await self._broker.declare(Declared(exchanges=exchanges))
        self._broker.on_state(self._link_changed)
        self._consuming = await self._broker.consume(
            Consumer(
                Queue(exclusive=True),
                self._hear,
                bindings=[Binding(self._topology.presence.name, "")],
                on_lost=self._sessions.interrupt,
            )
        )
        loops: dict[str, Coroutine[Any, Any, None]] = {
            "beat": self._beat_forever(),
            "leases": run_every(TICK_SECONDS, "leases", self._tick),
            "introduce": self._ask_forever(),
            "registry": self.registrar.run(),
        }
        self._tasks = [asyncio.create_task(loop, name=f"tacoq {name}") for name, loop in loops.items()]

    @property
    def loops(self) -> Sequence[asyncio.Task[None]]:
        """What runs from `start` to `stop`, for ever."""
        return self._tasks

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._consuming is not None:
            await self._consuming.close()

    async def send(self, key: str, message: Control) -> bool:
        """Send to sessions by routing key ("session.<id>", "queue.<name>", "all").

        False when the broker did not confirm it; True does not mean that a session was there.
        """
        return await self._publish([self._control(key, message)])

    async def inventory(self, queue: str, seconds: float) -> dict[UUID, frozenset[Fence]] | None:
        """Ask the queue's sessions what they hold; None unless every one that is live by then answers in time.

        The manager answers, too: who registered before the question is heard before that, and has to answer. Sessions
        register before they consume, so that a message which was gone by then is held by one of these or by nobody.
        Without live sessions the answer is empty.
        """
        question = _Question(queue)
        key = uuid4()
        self._questions[key] = question
        answer = self._to_managers(Inventory(self._manager, queue, key, []))
        try:
            if not await self._publish([self._control(f"queue.{queue}", AskHeld(key)), answer]):
                return None
            async with asyncio.timeout(seconds):
                while not self._answered_by_all(question):
                    question.answered.clear()
                    await question.answered.wait()
            return {session: held for session, held in question.answers.items() if session != self._manager}
        except TimeoutError:
            return None
        finally:
            del self._questions[key]

    async def joined(self, sessions: Iterable[UUID]) -> None:
        """Return when all of these have introduced themselves."""
        wanted = frozenset(sessions)
        await self.until(lambda: wanted <= {state.session for state in self._sessions.live() if state.introduced})

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; looked at whenever a session is heard, or ends."""
        while not condition():
            self._heard_session.clear()
            await self._heard_session.wait()

    async def beat(self) -> bool:
        """Publish one beat of this manager; whether the broker took it."""
        return await self.tell(ManagerBeat(self._manager))

    async def tell(self, message: PresenceMessage) -> bool:
        """Tell every manager, this one included; whether the broker took it."""
        return await self._publish([self._to_managers(message)])

    def tick(self) -> int:
        """Find sessions whose lease ran out; return how many."""
        lost = self._sessions.tick(time.monotonic())
        for state in lost:
            self._lost(state.session, state.queue, f"no heartbeat for {LEASE_SECONDS:g} s")
        since = self._sessions.steady_since
        if not self._swept and since is not None and time.monotonic() - since > LEASE_SECONDS:
            self._swept = True  # by now everybody who lives has been heard
            self.registrar.only_live([state.session for state in self._sessions.live()])
        return len(lost)

    # Deliveries.

    def _hear(self, delivery: Delivery) -> None:
        try:
            message = codec.decode_presence(delivery.format, delivery.body)
        except DecodeError as error:
            log.warning("presence not understood", extra={"reason": str(error)})
            delivery.reject()
            return
        delivery.ack()
        try:
            self._take(message)
        except Exception:  # of one message: the next ones must be heard
            log.exception("presence not taken", extra={"kind": type(message).__name__})

    def _take(self, message: PresenceMessage) -> None:
        now = time.monotonic()
        match message:
            case Heartbeat():
                self._heard(self._sessions.heartbeat(message, now), message.session, message.queue)
            case ManagerBeat():
                self._hear_manager(message.manager, now)
            case Register():
                heard = self._sessions.register(message, now)
                if heard.changed:
                    self.registrar.registered(message)
                self._heard(heard, message.session, message.queue)
            case Inventory():
                question = self._questions.get(message.question)
                if question is not None:
                    question.answers[message.session] = frozenset(message.held)
                    question.answered.set()
            case AskSettled() | HasSettled():
                self._on_manager(message)
            case Leave():
                self._sessions.leave(message.session)
                log.info("session left", extra={"session": message.session, "queue": message.queue})
                self._ended(message.session, message.queue, "left", None)
            case Lost():  # also of one that was never heard: its runs are in the database
                self._sessions.lost(message.session)
                self._lost(message.session, message.queue, message.detail)
            case _:
                assert_never(message)

    def _heard(self, heard: Heard, session: UUID, queue: str) -> None:
        self._heard_session.set()
        if heard.joined:
            log.info("session joined", extra={"session": session, "queue": queue})
        if heard.introduce:
            self._introduce(f"session.{session}")
        if heard.changed:
            self._on_change(queue)

    def _hear_manager(self, manager: UUID, now: float) -> None:
        if manager != self._manager:
            self._sessions.manager_beat(manager, now)
            return
        self._sessions.own_beat(now)
        if not self._asked_all:  # we hear: now whoever is there may answer
            self._asked_all = True
            self._introduce("all")

    def _lost(self, session: UUID, queue: str, detail: str) -> None:
        log.warning("session lost", extra={"session": session, "queue": queue, "detail": detail})
        self._ended(session, queue, "lost", detail)
        self._on_lost(session, queue, detail)

    def _ended(self, session: UUID, queue: str, state: str, detail: str | None) -> None:
        self.registrar.ended(session, state, detail)
        self._heard_session.set()
        for question in self._questions.values():
            question.answered.set()  # one less to wait for
        self._on_change(queue)

    def _answered_by_all(self, question: _Question) -> bool:
        asked = {self._manager, *(state.session for state in self._sessions.live(question.queue))}
        return asked <= question.answers.keys()

    def _introduce(self, key: str) -> None:
        self._strangers.add(key)
        self._asking.set()

    # Loops.

    async def _beat_forever(self) -> None:
        while True:
            await self.beat()
            steady = self._sessions.steady_since is not None
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS if steady else EAGER_BEAT_SECONDS):
                    await self._link_opened.wait()
            self._link_opened.clear()

    async def _tick(self) -> int:
        return self.tick()

    async def _ask_forever(self) -> None:
        while True:
            await self._asking.wait()
            self._asking.clear()
            keys, self._strangers = self._strangers, set()
            # When it fails, their next beat makes us ask again.
            await self._publish([self._control(key, Introduce()) for key in sorted(keys)])

    # The way out.

    def _control(self, key: str, message: Control) -> Outgoing:
        name = self._topology.control.name
        return Outgoing(name, key, codec.CONTROL.name, codec.encode(message), mandatory=False)

    def _to_managers(self, message: PresenceMessage) -> Outgoing:
        name = self._topology.presence.name
        return Outgoing(name, "", codec.PRESENCE.name, codec.encode(message), mandatory=False)

    async def _publish(self, messages: list[Outgoing]) -> bool:
        try:
            await self._broker.publish(messages, seconds=PUBLISH_SECONDS)
        except BrokerError as error:
            log.debug("presence not sent", extra={"reason": str(error)})
            return False
        except Exception:  # a bug must not end the beats
            log.exception("presence not sent")
            return False
        return True

    def _link_changed(self, state: LinkState) -> None:
        if state is LinkState.OPEN:
            self._link_opened.set()
        else:
            self._sessions.interrupt()  # an alarm makes the workers as silent as us

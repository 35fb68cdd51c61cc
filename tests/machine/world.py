"""The world: managers whose stages run when they are told to, the broker, and the sessions that take from it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from math import inf
from uuid import UUID

import asyncpg

from tacoq_manager.manager import Manager
from tacoq_manager.runtimes import MIN_RUNS
from tacoq_manager.settings import Settings
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_protocol import codec
from tacoq_protocol.broker import Outgoing
from tacoq_protocol.errors import BrokerUnavailable, PublishUnconfirmed
from tacoq_protocol.http import Accepted, NewTask
from tacoq_protocol.messages import (
    AskHeld,
    Cancelled,
    CancelRuns,
    Failed,
    Heartbeat,
    Inventory,
    Lost,
    Presence,
    Register,
    Report,
    Reports,
    Returned,
    ReturnReason,
    Snoozed,
    Started,
)
from tacoq_protocol.states import TaskState
from tests.machine.played import QUEUE, QUICK_SECONDS, SPECS, Broker, Consumed, Fate, Held, Killed, Letter, Session


class World:
    """One queue: a leading manager, those before it, sessions, and the broker between them."""

    def __init__(self, settings: Settings, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.settings = settings
        self.connection = connection
        self.broker = Broker(settings.topology)
        self.broker.on_control = self._control
        self.broker.on_presence = lambda message: self.hear(codec.decode_presence(message.format, message.body))
        self.sessions: list[Session] = []
        self.managers: list[Manager] = []
        self.runs: Counter[UUID] = Counter()  # that no failure and no snooze explains
        self.doubtful: set[UUID] = set()  # tasks that a session held, and had not begun, when it fell silent

    @property
    def manager(self) -> Manager:
        """The leading one."""
        return self.managers[-1]

    # Managers.

    async def take_over(self) -> None:
        """A new manager leads. The one before does not know, and has as long as it likes to find out."""
        manager = Manager(self.settings, self.broker)
        self.managers.append(manager)
        for session in self.sessions:
            if not session.silent:
                self.join(session)
        manager.outstanding.consuming = Consumed()
        for _ in range(MIN_RUNS):
            manager.runtimes.add(QUEUE, "quick", QUICK_SECONDS)
        manager.sessions.own_beat(time.monotonic())
        manager.sessions._steady_since = time.monotonic() - 1_000
        await self.connection.execute("UPDATE leader SET holder = NULL")
        assert await manager.leader.step()
        await self.connection.execute("UPDATE leader SET expires_at = now() + interval '1 day'")
        manager.leader._until = inf

    async def dispatch(self, fate: Fate) -> None:
        """One round of dispatch. A fate that it does not come to is none."""
        try:
            with self._fated(fate, self.manager.database.claim):
                await self.manager.dispatcher.step()
        except (BrokerUnavailable, PublishUnconfirmed, DatabaseUnavailable):
            pass
        except Killed:
            await self.take_over()

    async def accept(self, tasks: list[NewTask], fate: Fate, *, directly: bool) -> list[Accepted]:
        """Accept, sent again when the answer is lost. Not `directly`: as by a manager that does not lead."""
        try:
            with self._fated(fate, self.manager.database.accept):
                answers = await self._accept(tasks, directly=directly)
                await self.manager.direct.finish()
        except DatabaseUnavailable:
            answers = await self._accept(tasks, directly=False)
        if fate is Fate.KILLED and any(answer.state is TaskState.QUEUED for answer in answers):
            await self.take_over()
        return answers

    async def _accept(self, tasks: list[NewTask], *, directly: bool) -> list[Accepted]:
        accepter = self.manager.accepter
        reserving = accepter._reserving
        accepter._reserving = reserving if directly else lambda _: nullcontext()
        accepting = asyncio.ensure_future(accepter.accept(tasks))
        await asyncio.sleep(0)
        await accepter.step()
        accepter._reserving = reserving
        return await accepting

    @contextmanager
    def _fated(self, fate: Fate, statement: HotConnection) -> Iterator[None]:
        self.broker.fate = fate
        try:
            with _unanswered(statement) if fate is Fate.UNANSWERED else nullcontext():
                yield
        finally:
            self.broker.fate = Fate.CONFIRMED

    async def settle(self, messages: Sequence[Reports], *, acked: bool) -> None:
        """Have the manager settle these. Not acked they come again: it was killed just after the commit, say."""
        letters = [Letter(codec.encode(message)) for message in messages]
        for letter in letters:
            self.manager.settler.on_delivery(letter)
        await self.manager.settler.step()
        assert letters[-1].acked
        if acked:
            for message in messages:
                self.broker.reports.remove(message)
        await self.errands()

    async def errands(self) -> None:
        while errands := [errand for manager in self.managers for errand in manager.running.errands]:
            await asyncio.gather(*errands)

    async def rescue(self) -> None:
        """A lease has passed since the latest release; every session that lives has beaten meanwhile."""
        await self.connection.execute("UPDATE tasks SET queued_at = queued_at - interval '1 minute'")
        absent = self.manager.rescuer._absent
        absent.update({session: since - 60.0 for session, since in absent.items()})
        self.beat()
        await self.manager.rescuer.step()

    # Sessions.

    def hear(self, message: Presence) -> None:
        self.manager.presence._take(message)

    def join(self, session: Session) -> None:
        specs = [SPECS[kind] for kind in sorted(session.kinds)]
        self.hear(Register(session.id, QUEUE, session.slots, specs, "", "host", 1, "0", datetime.now(UTC)))

    def beat(self) -> None:
        """Every session that is not silent beats, and the manager hears itself."""
        for session in self.sessions:
            if not session.silent:
                running = [held.release.fence for held in session.running()]
                self.hear(Heartbeat(session.id, QUEUE, session.slots, len(session.held), running, "", "0"))
        self.manager.sessions._own = time.monotonic()

    async def silence(self, session: Session) -> None:
        """Its process stands still, and its lease runs out."""
        session.silent = True
        self.doubtful.update(held.release.task_id for held in session.waiting())
        self.beat()
        for state in self.manager.sessions.live():
            if state.session == session.id:
                state.last_seen -= 1_000
        assert self.manager.presence.tick() == 1
        await self.errands()

    async def kill(self, session: Session, *, told: bool) -> None:
        """Its process dies: the broker gives its messages to others. `told`: its supervisor lives to tell."""
        self.sessions.remove(session)
        self.reset(session)
        if told:
            self.hear(Lost(session.id, QUEUE, "killed"))
        elif not session.silent:
            for state in self.manager.sessions.live():
                if state.session == session.id:
                    state.last_seen -= 1_000
            self.beat()
            self.manager.presence.tick()
        await self.errands()

    def deliver(self, session: Session) -> None:
        """The broker gives the session its first message. What the session holds already it goes on with."""
        message = self.broker.tasks.pop(0)
        session.messages.append(message)
        fresh = [release for release in message.releases if release.fence not in session.held]
        for release in message.releases:
            session.held.setdefault(release.fence, Held(release, message)).message = message
        for release in fresh:
            if message.redelivered:
                self.end(session, session.held[release.fence], Returned(*release.fence, ReturnReason.REDELIVERED))
            elif release.task_id in session.cancels:
                self.end(session, session.held[release.fence], Cancelled(*release.fence, None, 0.0, "asked"))
            elif release.kind not in session.kinds:
                self.end(session, session.held[release.fence], Returned(*release.fence, ReturnReason.UNKNOWN_KIND))

    def reset(self, session: Session) -> None:
        """Its connection is lost: the broker gives again what it has not acked, and the session goes on."""
        for message in session.messages:
            message.redelivered = True
        self.broker.tasks[:0] = session.messages
        session.messages = []

    def start(self, session: Session, held: Held, *, told: bool) -> None:
        """A run begins. What is announced is told before."""
        held.runs = True
        self.runs[held.release.task_id] += 1
        if told or held.release.announced:
            self.report(session, Started(*held.release.fence, datetime.now(UTC)))

    def end(self, session: Session, held: Held, report: Report) -> None:
        """A release ends in the session's hands; its message is acked with the last of its releases."""
        del session.held[held.release.fence]
        self.report(session, report)
        self.runs[held.release.task_id] -= isinstance(report, (Failed, Snoozed))
        message = held.message
        if message in session.messages and all(release.fence not in session.held for release in message.releases):
            session.messages.remove(message)

    def report(self, session: Session, report: Report) -> None:
        self.broker.reports.append(Reports(session.id, QUEUE, [report]))

    def _control(self, message: Outgoing) -> None:
        control = codec.decode_control(message.format, message.body)
        for session in [session for session in self.sessions if not session.silent]:
            match control:
                case AskHeld():
                    self.hear(Inventory(session.id, QUEUE, control.question, list(session.held)))
                case CancelRuns():
                    self._stop(session, set(control.task_ids))

    def _stop(self, session: Session, task_ids: set[UUID]) -> None:
        for held in list(session.held.values()):
            if held.release.task_id in task_ids:
                task_ids.discard(held.release.task_id)
                held.stopping = True
                if not held.runs:
                    self.end(session, held, Cancelled(*held.release.fence, None, 0.0, "asked"))
        session.cancels |= task_ids

    # What Postgres has.

    def all_know(self, kind: str) -> bool:
        """True when there are sessions, and every one of them knows the kind."""
        live = [session for session in self.sessions if not session.silent]
        return bool(live) and all(kind in session.kinds for session in live)

    async def rows(self) -> dict[UUID, asyncpg.Record]:
        columns = "id, kind, fairness_key, priority, state, release, attempt, crashes, cancel_requested, run_at, seq"
        found = await self.connection.fetch(
            f"SELECT {columns}, expires_at, NULL::bytea AS result FROM tasks "
            f"UNION ALL SELECT {columns}, expires_at, result FROM task_history"
        )
        rows = {row["id"]: row for row in found}
        assert len(rows) == len(found), "a task is stored twice"
        return rows


@contextmanager
def _unanswered(connection: HotConnection) -> Iterator[None]:
    """What is asked of Postgres is committed, and the answer is lost."""
    fetch = connection.fetch

    async def deaf(statement: str, *arguments: object) -> list[asyncpg.Record]:
        await fetch(statement, *arguments)
        raise DatabaseUnavailable("the answer is lost")

    connection.fetch = deaf  # type: ignore[method-assign]
    try:
        yield
    finally:
        connection.fetch = fetch  # type: ignore[method-assign]

"""Why: a task id in, the one reason for where the task is out, asked of what decides: Postgres, sessions and credit.

Every manager can answer: it has presence, and counts what is released as the leader does. Two things the leader alone
knows: that it looks for lost releases of a queue first, and whose turn it is among keys and kinds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final, NamedTuple, assert_never
from uuid import UUID

from tacoq_manager.buckets import Of
from tacoq_manager.credit import Credit
from tacoq_manager.dispatch import Dispatcher
from tacoq_manager.inflight import InFlight
from tacoq_manager.limits import Brake, Limit, Limits
from tacoq_manager.runtimes import RunTimes
from tacoq_manager.sentences import Found, sentence
from tacoq_manager.sessions import LEASE_SECONDS, Sessions, SessionState
from tacoq_manager.store import claim, registry
from tacoq_manager.store import limits as limits_store
from tacoq_manager.store import why as store
from tacoq_manager.store.claim import Flow, Line
from tacoq_manager.store.engine import Database
from tacoq_manager.store.why import Facts
from tacoq_manager.upkeep.leader import Leader
from tacoq_protocol.broker import Broker, LinkState
from tacoq_protocol.errors import TaskNotFound
from tacoq_protocol.http import ErrorInfo, TaskView
from tacoq_protocol.states import TaskState
from tacoq_protocol.why import MOST_AHEAD, Reason, Why

_FINAL: Final = {
    TaskState.COMPLETED: Reason.COMPLETED,
    TaskState.FAILED: Reason.FAILED,
    TaskState.CANCELLED: Reason.CANCELLED,
    TaskState.EXPIRED: Reason.EXPIRED,
}


class _Deciding(NamedTuple):
    """Counts of what is released, and what they allow."""

    credit: Credit
    limits: Limits


class Explainer:
    """Says why."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        *,
        leader: Leader,
        sessions: Sessions,
        credit: Credit,
        limits: Limits,
        runtimes: RunTimes,
        dispatcher: Dispatcher,
    ) -> None:
        self._database = database
        self._broker = broker
        self._leader = leader
        self._sessions = sessions
        self._credit = credit
        self._limits = limits
        self._runtimes = runtimes
        self._dispatcher = dispatcher

    async def why(self, task_id: UUID) -> Why:
        """Return why a task is where it is. Raises TaskNotFound, DatabaseUnavailable."""
        facts = await store.facts(self._database.read, task_id)
        if facts is None:
            raise TaskNotFound(task_id)
        task = facts.task
        match task.state:
            case TaskState.SCHEDULED:
                found = self._scheduled(facts)
            case TaskState.PENDING:
                found = await self._pending(facts)
            case TaskState.QUEUED | TaskState.RUNNING:
                found = await self._released(facts)
            case TaskState.COMPLETED | TaskState.FAILED | TaskState.CANCELLED | TaskState.EXPIRED:
                found = _ended(task)
            case _:
                assert_never(task.state)
        return _answer(facts, replace(found, max_attempts=self._limit(task)))

    def _scheduled(self, facts: Facts) -> Found:
        task, last = facts.task, facts.last_run
        if facts.leader is None and task.run_at <= facts.now:
            return Found(reason=Reason.NO_LEADER)
        if last is None:
            return Found(reason=Reason.NOT_DUE, until=task.run_at)
        if last.outcome == "snoozed":
            return Found(reason=Reason.SNOOZED, since=last.ended_at, until=task.run_at)
        return Found(reason=Reason.RETRY_WAIT, since=last.ended_at, until=task.run_at, error=_first_line(last.error))

    async def _pending(self, facts: Facts) -> Found:
        queue, kind = facts.task.queue, facts.task.kind
        if facts.leader is None:
            return Found(reason=Reason.NO_LEADER)
        if self._broker.state is not LinkState.OPEN or self._dispatcher.refused(queue):
            leads = self._leader.epoch is not None
            return Found(reason=Reason.BROKER_AWAY, link=self._broker.state, leads=leads)
        deciding = await self._deciding()
        brake = deciding.limits.tightest(_line(facts.task))
        if brake is not None and brake.limit is Limit.PAUSED:
            return _braked(facts, brake)
        if not (live := self._sessions.live(queue)):
            elsewhere = self._served_elsewhere(queue, kind)
            return Found(reason=Reason.NO_WORKERS, elsewhere=elsewhere, just_listens=self._just_listens())
        if not any(not state.draining for state in live):
            return Found(reason=Reason.DRAINING, sessions=[state.session for state in live])
        if lacking := self._sessions.lacking(queue, kind):
            elsewhere = self._served_elsewhere(queue, kind)
            return Found(
                reason=Reason.UNKNOWN_KIND,
                sessions=lacking,
                live=sum(not state.draining for state in live),
                known=sorted(self._sessions.kinds_of(queue)),
                elsewhere=elsewhere,
            )
        if brake is not None and brake.limit is Limit.HELD_BACK:
            return _braked(facts, brake)
        if facts.crashes >= claim.LAST_CHANCE:
            other = await store.last_chance_out(self._database.read, queue)
            if other is not None:
                return Found(reason=Reason.LAST_CHANCE, other=other)
        if self._dispatcher.holds(queue):
            return Found(reason=Reason.RECOVERING)
        return await self._in_line(facts, deciding, brake)

    async def _in_line(self, facts: Facts, deciding: _Deciding, brake: Brake | None) -> Found:
        """It may run: how many go before it, and is there a slot for it, and room in its limits?"""
        task, credit = facts.task, deciding.credit
        lines = await store.lines(self._database.read, task.queue, self._kinds_in_turn(task, deciding.limits))
        if brake is not None and not brake.room:
            in_turn = [line for line in lines if brake.of in (Of(line.queue), Of(*line[:2]), Of(*line))]
        else:
            in_turn = [line for line in lines if line == _line(task) or deciding.limits.key_room(line)]
        weight = partial(deciding.limits.weight, task.queue)
        ahead = await store.ahead(self._database.read, task, facts.seq, in_turn, weight)
        place = Found(
            reason=Reason.RELEASING,
            position=ahead.tasks if ahead.more else ahead.tasks + 1,
            more=ahead.more or len(lines) > MOST_AHEAD,
            own_key=ahead.own_key,
        )
        free = self._sessions.capacity(task.queue) - credit.used(task.queue)
        slots = max(0, int(free / credit.weight(task.queue, task.kind)))
        if brake is not None and brake.room <= min(slots, ahead.tasks):
            return _braked(facts, brake, place)
        if not ahead.more and ahead.tasks < slots:
            return Found(reason=Reason.RELEASING)
        return replace(
            place,
            reason=Reason.BEHIND_KEY if ahead.own_key and ahead.other_keys else Reason.NO_SLOT,
            slots=self._sessions.slots(task.queue),
            released=credit.in_flight.queue(task.queue),
        )

    def _kinds_in_turn(self, task: TaskView, limits: Limits) -> set[str]:
        """The kind of the task, and those of its queue that may run now."""
        known = {k for k in self._sessions.kinds_of(task.queue) if not self._sessions.lacking(task.queue, k)}
        return {task.kind, *(kind for kind in known if limits.room(Flow(task.queue, kind)))}

    async def _deciding(self) -> _Deciding:
        """What decides: as the leader has it, else as this manager would learn it, if it took the lead."""
        if self._leader.epoch is not None:
            return _Deciding(self._credit, self._limits)
        connection = self._database.read
        in_flight = InFlight()
        in_flight.watch()
        in_flight.recount(*await claim.in_flight(connection))
        limits = Limits(in_flight, self._sessions.spec, time.monotonic)
        limits.load(await limits_store.load(connection))
        limits.buckets.load(await limits_store.load_buckets(connection))
        return _Deciding(Credit(self._runtimes, in_flight), limits)

    async def _released(self, facts: Facts) -> Found:
        task = facts.task
        if task.state is TaskState.RUNNING and task.session is not None:
            found = replace(await self._holder(task.session), since=task.started_at)
        else:
            old = task.queued_at is not None and (facts.now - task.queued_at).total_seconds() > LEASE_SECONDS
            live = len(self._sessions.live(task.queue))
            found = Found(reason=Reason.QUEUED, since=task.queued_at, live=live, old=old)
        return replace(found, reason=Reason.CANCEL_REQUESTED) if task.cancel_requested else found

    async def _holder(self, session: UUID) -> Found:
        """Where a run is, and whether its session lives as far as this manager knows."""
        live = next((state for state in self._sessions.live() if state.session == session), None)
        known: SessionState | registry.WorkerRow | None = live or await registry.get_worker(self._database, session)
        host, pid = (None, None) if known is None else (known.host, known.pid)
        lost = self._sessions.is_gone(session)
        return Found(reason=Reason.RUNNING, sessions=[session], host=host, pid=pid, lost=lost)

    def _limit(self, task: TaskView) -> int | None:
        spec = self._sessions.spec(task.queue, task.kind)
        return task.max_attempts or (None if spec is None else spec.max_attempts)

    def _served_elsewhere(self, queue: str, kind: str) -> Sequence[str]:
        return sorted({s.queue for s in self._sessions.live() if kind in s.kinds and s.queue != queue})

    def _just_listens(self) -> bool:
        """True until every live session must have been heard."""
        since = self._sessions.steady_since
        return since is None or time.monotonic() - since < LEASE_SECONDS


def _line(task: TaskView) -> Line:
    return Line(task.queue, task.kind, task.fairness_key)


_BRAKED: Final = {
    Limit.PAUSED: Reason.PAUSED,
    Limit.HELD_BACK: Reason.HELD_BACK,
    Limit.CONCURRENCY: Reason.AT_LIMIT,
    Limit.RATE: Reason.AT_RATE,
}


def _braked(facts: Facts, brake: Brake, place: Found | None = None) -> Found:
    """What the limit that shuts says."""
    until = None if brake.opens_in is None else facts.now + timedelta(seconds=brake.opens_in)
    return replace(place or Found(reason=Reason.AT_LIMIT), reason=_BRAKED[brake.limit], brake=brake, until=until)


def _ended(task: TaskView) -> Found:
    return Found(
        reason=_FINAL[task.state],
        since=task.finished_at,
        sessions=[] if task.session is None else [task.session],
        error=_first_line(task.error),
    )


def _answer(facts: Facts, found: Found) -> Why:
    task = facts.task
    return Why(
        id=task.id,
        kind=task.kind,
        queue=task.queue,
        state=task.state,
        reason=found.reason,
        sentence=sentence(task, found, facts.now),
        since=found.since,
        until=found.until,
        attempt=task.attempt,
        max_attempts=found.max_attempts,
        error=found.error,
        sessions=list(found.sessions) or None,
        host=found.host,
        pid=found.pid,
        slots=found.slots,
        released=found.released,
        limit=found.limit,
        limit_of=found.limit_of,
        most=found.most,
        used=None if found.brake is None else found.brake.at,
        position=found.position,
        more=found.more or None,
    )


def _first_line(error: ErrorInfo | None) -> str | None:
    if error is None:
        return None
    return f"{error.type}: {error.message}".splitlines()[0]

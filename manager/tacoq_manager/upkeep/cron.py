"""The cron step: schedules that are due in, a task for each fire time out. Leader only.

A fire time has one task id, whoever derives it. So a step that died before the schedule moved on is done again without
harm, and so is one that two managers do.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from time import monotonic
from typing import Final, assert_never
from uuid import UUID

import msgspec

from tacoq_manager.accept import Accepter
from tacoq_manager.sessions import Sessions
from tacoq_manager.store import schedules as store
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.upkeep.leader import Leader
from tacoq_protocol.cron import Cron, MissedPolicy, cron_problem, fire_times, timezone_problem
from tacoq_protocol.errors import InvalidTask, TaskConflict
from tacoq_protocol.http import NewTask
from tacoq_protocol.ids import task_id_from

log = logging.getLogger("tacoq.cron")

MOST: Final = 200  # schedules in one step
ON_TIME: Final = timedelta(minutes=1)  # a takeover or a restart is no reason to miss anything
MOST_MISSED: Final = 100  # fire times that `run_all` makes up for
_FIRST_LOOK: Final = timedelta(minutes=1)


class CronStep:
    """Publishes what is due by a schedule."""

    def __init__(self, connection: HotConnection, leader: Leader, accepter: Accepter, sessions: Sessions) -> None:
        self._connection = connection
        self._leader = leader
        self._accepter = accepter
        self._sessions = sessions

    async def step(self) -> int:
        """Fire what is due; return how many schedules that were."""
        epoch = self._leader.epoch
        if epoch is None:
            return 0
        due = await store.due(self._connection, MOST)
        if not due:
            return 0
        firings = [self._look_at(one) for one in due]
        if self._leader.epoch != epoch:  # it took long, or this process was frozen: another fires
            return 0
        await asyncio.gather(*(self._publish(one.name, task) for one, tasks in firings for task in tasks))
        await store.move_on(self._connection, [one for one, _ in firings])
        return len(due)

    async def _publish(self, schedule: str, task: NewTask) -> None:
        """Accept a task: it is durable when this returns. Raises DatabaseUnavailable."""
        about = {"schedule": schedule, "fire_at": task.run_at, "task_id": task.id}
        try:
            await self._accepter.accept_unfit([task])
        except TaskConflict:  # published before, by a step that died; then the schedule was changed
            log.info("fire time has its task already", extra=about)
        except InvalidTask as error:
            log.error("task of a schedule is refused", extra=about | {"error": str(error)})
        else:
            log.debug("schedule fired", extra=about)  # a task was accepted: no more of a transition than any

    def _look_at(self, due: store.Due) -> tuple[store.Moved, list[NewTask]]:
        about = {"schedule": due.name}
        if due.source == "code" and due.queue and self._sessions.disown(due.queue, due.name, monotonic()):
            log.warning("schedule retired: its workers do not declare it any more", extra=about)
            return store.Moved(due.name, due.due_at, retired=True), []
        if problem := cron_problem(due.cron.text, due.now) or timezone_problem(due.cron.timezone):
            # Written by a manager of another version, or with other time zones: it waits until it is changed.
            log.error("schedule cannot fire", extra=about | {"problem": problem})
            return store.Moved(due.name, due.due_at), []
        return fire(due)


def fire(due: store.Due) -> tuple[store.Moved, list[NewTask]]:
    """Return what a schedule goes on with, and the tasks that it makes now."""
    tasks = [_task(due, at) for at in _to_fire(due)]
    later = next(fire_times(due.cron.text, due.cron.timezone, after=due.now), None)
    if not tasks:
        return store.Moved(due.name, due.due_at, later), tasks
    return store.Moved(due.name, due.due_at, later, tasks[-1].run_at, tasks[-1].id), tasks


def _to_fire(due: store.Due) -> list[datetime]:
    """Return the fire times that get a task. What it has waited for is one, whatever the expression says today."""
    since = [due.due_at, *_latest(due.cron, after=due.due_at, until=due.now)][-MOST_MISSED:]
    on_time = [at for at in since if due.now - at <= ON_TIME]
    if len(on_time) < len(since):
        log.warning(
            "schedule missed fire times",
            extra={"schedule": due.name, "since": due.due_at, "missed": due.cron.missed.value},
        )
    match due.cron.missed:
        case MissedPolicy.SKIP:
            return on_time
        case MissedPolicy.RUN_ONCE:
            return on_time or since[-1:]  # what is on time stands for what was missed, too
        case MissedPolicy.RUN_ALL:
            return since
        case never:
            assert_never(never)


def _latest(cron: Cron, *, after: datetime, until: datetime) -> list[datetime]:
    """Return the last MOST_MISSED fire times between, looking back further and further: there may be millions."""
    span = _FIRST_LOOK
    while True:
        begin = max(after, until - span)
        times = takewhile(lambda at: at <= until, fire_times(cron.text, cron.timezone, after=begin))
        latest = deque(times, maxlen=MOST_MISSED)
        if begin == after or len(latest) == MOST_MISSED:
            return list(latest)
        span *= 2


def _task(due: store.Due, at: datetime) -> NewTask:
    return NewTask(
        id=task_id_of(due.name, at),
        kind=due.kind,
        payload=msgspec.Raw(due.payload),
        queue=due.queue,
        priority=due.priority,
        run_at=at,
        expires_in=due.expires_in,
    )


def task_id_of(schedule: str, at: datetime) -> UUID:
    """Return the id of the schedule's task of that fire time: always the same, dated by the fire time."""
    fire = hashlib.blake2b(f"{schedule}\0{at.astimezone(UTC).isoformat()}".encode(), digest_size=10)
    return task_id_from(at, fire.digest())

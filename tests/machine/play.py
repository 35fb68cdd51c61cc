"""The play: what may happen, done to the managers and to the model alike; what holds after it, and the end."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from tacoq_manager.cancel import AlreadyFinal
from tacoq_manager.manager import Manager
from tacoq_manager.settings import Settings
from tacoq_manager.store.claim import Lane
from tacoq_protocol.errors import TaskConflict
from tacoq_protocol.http import NewTask
from tacoq_protocol.messages import Fence, Returned
from tacoq_protocol.states import TaskState
from tests.machine import checks
from tests.machine.model import Task
from tests.machine.played import QUEUE, SPECS, Fate, Session, ends, report_of
from tests.machine.world import World

MOST = 30  # tasks
ENOUGH = 3 * MOST  # rounds in which everything must have ended

_EMPTY = "DELETE FROM tasks; DELETE FROM task_history; DELETE FROM attempts; DELETE FROM queues"


class Play:
    """A world, and beside it the model of each of its tasks.

    `unanswered` were queued by a claim whose answer was lost. While it is `muddled` the leader's count may be wrong for
    such a reason, until it counts anew.
    """

    def __init__(self, settings: Settings, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.world = World(settings, connection)
        self.tasks: dict[UUID, Task] = {}
        self.asked: dict[UUID, NewTask] = {}
        self.unanswered: set[UUID] = set()
        self.muddled = False
        self.paused = False

    async def begin(self) -> None:
        await self.world.connection.execute(_EMPTY)
        await self.world.take_over()
        await self.join(2, all_kinds=True)

    async def publish(self, tasks: list[NewTask], fate: Fate, *, directly: bool) -> None:
        """Accept; what may run at once is perhaps released with it."""
        before = self._pending()
        published = len(self.world.broker.tasks)
        accepted = await self.world.accept(tasks, fate, directly=directly)
        rows = await self.world.rows()
        released = {}
        for asked, answer in zip(tasks, accepted, strict=True):
            spec = SPECS[asked.kind]
            state = TaskState.SCHEDULED if asked.delay else TaskState.PENDING
            task = Task(asked.id, spec, asked.max_attempts or spec.max_attempts, state)
            self.asked[asked.id], self.tasks[asked.id] = asked, task
            assert answer.duplicate is (fate is Fate.UNANSWERED)
            if answer.state is TaskState.QUEUED:
                released[task.id] = task
            else:
                assert answer.state is state
        self._released(released, fate, rows, before | self._pending(), published)

    async def publish_again(self, task_id: UUID, *, same: bool) -> None:
        task = self.asked[task_id]
        if same:
            (answer,) = await self.world.accept([task], Fate.CONFIRMED, directly=True)
            assert (answer.state, answer.duplicate) == (self.tasks[task_id].state, True)
        else:
            other = msgspec.structs.replace(task, payload=msgspec.Raw(b"2"))
            with pytest.raises(TaskConflict):
                await self.world.accept([other], Fate.CONFIRMED, directly=True)

    async def cancel(self, task: Task) -> None:
        if task.final:
            with pytest.raises(AlreadyFinal):
                await self.world.manager.canceller.cancel(task.id)
            return
        answer = await self.world.manager.canceller.cancel(task.id)
        task.cancel()
        assert (answer.state, answer.cancel_requested) == (task.state, not task.final)

    async def dispatch_all(self) -> None:
        while await self.dispatch(Fate.CONFIRMED):
            pass
        if not self.muddled and not self.paused:
            checks.assert_nothing_stands_still(await self.world.rows(), self.tasks.values(), self.world)

    async def dispatch(self, fate: Fate) -> int:
        if self.muddled and fate is Fate.UNANSWERED:
            fate = Fate.CONFIRMED  # else the first question, what was taken, is not answered, and nothing happens
        for task_id in self.unanswered:  # what a claim took whose answer was lost is given back first
            if self.tasks[task_id].state is TaskState.QUEUED:
                self.tasks[task_id].given_back()
        self.unanswered.clear()
        self.muddled = False
        before = self._pending()
        fair = self._leader_knows_no_empty_lane()
        published = len(self.world.broker.tasks)
        await self.world.dispatch(fate)
        rows = await self.world.rows()
        claimed = {task.id: task for task in self.tasks.values() if rows[task.id]["release"] > task.release}
        if fair:
            checks.assert_turns(rows, before, claimed, self.world)
        self._released(claimed, fate, rows, before, published)
        return len(claimed)

    def _released(
        self, tasks: Mapping[UUID, Task], fate: Fate, rows: checks.Rows, before: set[UUID], published: int
    ) -> None:
        """Of those that waited `before` these were released."""
        self.muddled = self.muddled or fate is Fate.UNANSWERED
        checks.assert_order(rows, before, tasks, self.world)
        assert not (tasks and self.paused), "a queue that is paused releases nothing"
        for task in tasks.values():
            task.claimed()
            self._published(task, fate, given_back=rows[task.id]["state"] != TaskState.QUEUED)
        if tasks and fate is Fate.CONFIRMED:
            self._check_messages(published, rows, tasks)
        elif tasks and fate is Fate.KILLED:
            self.unanswered.clear()
            self.muddled = False  # another leads, and has counted

    def _published(self, task: Task, fate: Fate, *, given_back: bool) -> None:
        match fate:
            case Fate.NOT_SENT:
                assert given_back
            case Fate.NOT_STORED | Fate.STORED:
                assert given_back is not task.runs_once, "only what may run twice is given back then"
            case _:
                assert not given_back
        if given_back:
            task.given_back()
        elif fate is Fate.UNANSWERED:
            self.unanswered.add(task.id)

    def _check_messages(self, published: int, rows: checks.Rows, claimed: Mapping[UUID, Task]) -> None:
        messages = self.world.broker.tasks[published:]
        sent = [release.fence for message in messages for release in message.releases]
        assert sorted(sent) == sorted(Fence(task.id, task.release) for task in claimed.values())
        checks.assert_sent_in_order([rows[fence.task_id] for fence in sent])
        if not self.muddled:
            checks.assert_within_limits(rows, self.tasks.values(), self.world)

    async def time_passes(self, *, far: bool) -> None:
        """What is scheduled comes due, and, when it is far, deadlines pass."""
        await self.world.connection.execute(
            "UPDATE tasks SET run_at = run_at - interval '20 minutes', "
            "expires_at = expires_at - make_interval(hours => $1) WHERE state = 'scheduled' OR $1 > 0",
            2 * far,
        )
        rows = await self.world.rows()
        now = datetime.now(UTC)
        await self.world.manager.expiry._step()
        await self.world.manager.schedule._step()
        for task in self.tasks.values():
            expires_at = rows[task.id]["expires_at"]
            if task.waits and expires_at is not None and expires_at < now:
                task.state = TaskState.EXPIRED
            elif task.state is TaskState.SCHEDULED and rows[task.id]["run_at"] < now:
                task.state = TaskState.PENDING

    async def recount(self) -> None:
        await self.world.manager.recount.step()

    async def pause(self, by: Manager) -> None:
        """It holds when it is answered, whoever was asked."""
        await by.limiting.pause(QUEUE)
        self.paused = True

    async def resume(self, by: Manager) -> None:
        """The leader hears of it, from others by its next tick."""
        await by.limiting.resume(QUEUE)
        await self.world.manager.limiting.heard()
        self.paused = False

    async def take_over(self) -> None:
        await self.world.take_over()
        self.unanswered.clear()
        self.muddled = False

    async def former_leader_goes_on(self, former: Manager) -> None:
        """It was frozen, and does not know yet that another leads."""
        await former.recount.step()
        await former.dispatcher.step()

    async def join(self, slots: int, *, all_kinds: bool) -> None:
        session = Session(slots, frozenset(SPECS if all_kinds else SPECS.keys() - {"new"}))
        self.world.sessions.append(session)
        self.world.join(session)

    async def wake(self, session: Session) -> None:
        session.silent = False
        self.world.join(session)
        self.world.beat()

    async def hire(self) -> None:
        if not self.live():
            await self.join(3, all_kinds=True)

    async def deliver(self, session: Session) -> None:
        if len(session.messages) < session.slots:
            self.world.deliver(session)

    async def deliver_all(self) -> None:
        for session in self.live():
            while self.world.broker.tasks and len(session.messages) < session.slots:
                self.world.deliver(session)

    async def work(self, steps: list[tuple[int, bool, str | None]]) -> None:
        for which, told, outcome in steps:
            everything = [(session, held) for session in self.world.sessions for held in session.held.values()]
            if not everything:
                return
            session, held = everything[which % len(everything)]
            begins = not held.runs and not session.silent and len(session.running()) < session.slots
            if begins and outcome not in {"returned", "expired"}:
                self.world.start(session, held, told=told)
            report = None if outcome is None else report_of(held, outcome)
            if report is not None:
                self.world.end(session, held, report)

    async def settle_all(self, acked: list[bool]) -> None:
        """So many times, what there is."""
        for once in acked:
            if self.world.broker.reports:
                await self.settle([0] * len(self.world.broker.reports), acked=once)

    async def settle(self, which: Iterable[int], *, acked: bool) -> None:
        left = list(self.world.broker.reports)
        messages = [left.pop(number % len(left)) for number in which if left]
        await self.world.settle(messages, acked=acked)
        reports = [report for message in messages for report in message.reports]
        ended = {Fence(report.task_id, report.release) for report in reports if ends(report)}
        seen: set[Fence] = set()
        for report in reports:
            fence = Fence(report.task_id, report.release)
            if ends(report) and fence not in seen:  # of two outcomes the first, of a start and an outcome the outcome
                seen.add(fence)
                self.tasks[report.task_id].report(report)
            elif not isinstance(report, Returned) and fence not in ended:
                self.tasks[report.task_id].report(report)

    async def watched(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what may free releases, and see that what was freed was nobody's."""
        reports = {Fence(report.task_id, report.release) for m in self.world.broker.reports for report in m.reports}
        await work
        rows = await self.world.rows()
        for task in self.tasks.values():
            row = rows[task.id]
            if task.state in checks.RELEASED and row["state"] not in checks.RELEASED:
                checks.assert_nobodys(task, self.world, reports)
                task.lost(crash=row["crashes"] > task.crashes)

    async def check(self) -> None:
        checks.assert_as_the_model_has_it(await self.world.rows(), self.tasks, self.world)
        await checks.assert_verified(self.world)
        if not self.muddled:
            checks.assert_counted(self.tasks.values(), self.world)

    def _pending(self) -> set[UUID]:
        return {id for id, task in self.tasks.items() if task.state is TaskState.PENDING}

    def _leader_knows_no_empty_lane(self) -> bool:
        """Such a lane would waste its turn."""
        waiting = {_lane_of(self.asked[id]) for id in self._pending()}
        lanes = self.world.manager.dispatcher._lanes
        return all(lane in waiting or not lanes.mark(lane) for lane in map(_lane_of, self.asked.values()))

    async def drain(self) -> None:
        """Whatever happened: with workers that live, and time that passes, every task ends."""
        await self.resume(self.world.manager)
        for session in self.world.sessions:
            await self.wake(session)
        await self.join(3, all_kinds=True)
        for session in [session for session in self.world.sessions if "new" not in session.kinds]:
            await self.watched(self.world.kill(session, told=True))
        await self.dispatch_all()
        for _ in range(ENOUGH):
            if all(task.final for task in self.tasks.values()):
                break
            await self._one_round()
        unfinished = [task for task in self.tasks.values() if not task.final]
        assert not unfinished, f"stuck: {unfinished}"
        await self.check()
        assert not self.world.manager.in_flight.total(), "nothing is released"

    async def _one_round(self) -> None:
        await self.world.manager.canceller.remind()
        for session in self.world.sessions:
            await self.deliver_all()
            for held in list(session.held.values()):
                if not held.runs:
                    self.world.start(session, held, told=False)
                report = report_of(held, "completed")
                assert report is not None
                self.world.end(session, held, report)
        await self.settle_all([True])
        await self.check()
        await self.time_passes(far=False)
        await self.dispatch_all()
        await self.check()
        if not self.world.broker.tasks:
            await self.watched(self.world.rescue())
            await self.recount()
            await self.check()

    def live(self) -> list[Session]:
        return [session for session in self.world.sessions if not session.silent]


def _lane_of(task: NewTask) -> Lane:
    return Lane(QUEUE, task.kind, task.fairness_key, task.priority)

"""Accept: tasks as applications ask for them in, committed rows and an answer for each out.

Requests that arrive while a commit is in flight share the next one. A request is accepted as a whole or not at all, and
one that is refused does not disturb those it shared the commit with. Requests that have keys in them are committed
apart: the others pay nothing for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import asyncpg
from msgspec import UNSET

from tacoq_manager.direct import Reservation
from tacoq_manager.keys import KeyProblem, has_keys, keys_of
from tacoq_manager.metrics import Metrics
from tacoq_manager.payloads import PayloadCheck
from tacoq_manager.sessions import Sessions
from tacoq_manager.store import accept as store
from tacoq_manager.store import keyed
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.validate import fingerprint, task_problem
from tacoq_protocol.errors import InvalidTask, TacoqError, TaskConflict, TaskExists
from tacoq_protocol.http import Accepted, NewTask
from tacoq_protocol.states import TaskState

log = logging.getLogger("tacoq.accept")

DEFAULT_QUEUE = "default"
GROUP_TASKS = 2_000  # in one commit; the next ones form the next

Reserving = Callable[[Sequence[store.Row]], AbstractContextManager[Reservation | None]]


@dataclass(slots=True)
class _Request:
    rows: list[store.Row]
    ids: set[UUID]
    keys: Mapping[UUID, keyed.Keys]  # of those that have some, by id
    answer: asyncio.Future[list[Accepted]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Accepter:
    """Validates, commits in groups, and tells the other stages what there is to do.

    `on_lanes`: these lanes got work. `on_due`, `on_deadline`: in so many seconds a task comes due, or expires.
    `on_strays`: workers brought these kinds, to another queue, while tasks of them were under way to the table.
    `on_live`: these are stored, for the first time. `before_keys`: awaited before a key is looked for.
    `reserving`: around the statement, what of these rows it may release.
    """

    def __init__(
        self,
        connection: HotConnection,
        sessions: Sessions,
        metrics: Metrics,
        *,
        retention: timedelta,
        on_lanes: Callable[[set[Lane]], None],
        on_due: Callable[[float], None],
        on_deadline: Callable[[float], None],
        on_strays: Callable[[set[str]], None],
        on_live: Callable[[Iterable[UUID]], None],
        before_keys: Callable[[], Awaitable[None]],
        reserving: Reserving,
    ) -> None:
        self._connection = connection
        self._sessions = sessions
        self._payloads = PayloadCheck(sessions)
        self._metrics = metrics
        self._retention = retention
        self._on_lanes = on_lanes
        self._on_due = on_due
        self._on_deadline = on_deadline
        self._on_strays = on_strays
        self._on_live = on_live
        self._before_keys = before_keys
        self._reserving = reserving
        self._waiting: deque[_Request] = deque()
        self._arrived = asyncio.Event()

    async def accept(self, tasks: Sequence[NewTask]) -> list[Accepted]:
        """Store all of `tasks` or none; durable when it returns. Idempotent by id, also after a task has ended.

        An answer has the id of another task where a key of the publish says so.

        Raises InvalidTask, TaskConflict or TaskExists naming the task by its index, and DatabaseUnavailable (the caller
        may send the same again). A caller that is cancelled does not take the tasks back.
        """
        rows = self._rows(tasks)
        keys = self._keys(tasks)
        await self._refuse_misfits(rows)
        return await self.commit(rows, keys)

    async def accept_unfit(self, tasks: Sequence[NewTask]) -> list[Accepted]:
        """Accept tasks whatever their payload is: where nobody waits for a refusal, a task that fails is seen.

        Raises as `accept`.
        """
        return await self.commit(self._rows(tasks))

    def _rows(self, tasks: Sequence[NewTask]) -> list[store.Row]:
        now = datetime.now(UTC)
        rows = [self._row(task, index, now) for index, task in enumerate(tasks)]
        _refuse_repeated(rows)
        return rows

    def _keys(self, tasks: Sequence[NewTask]) -> dict[UUID, keyed.Keys]:
        keys: dict[UUID, keyed.Keys] = {}
        for index, task in enumerate(tasks):
            if has_keys(task):
                try:
                    keys[task.id] = keys_of(task, bytes(task.payload), retention=self._retention)
                except KeyProblem as problem:
                    raise InvalidTask(f"task {task.id}: {problem}", index=index) from None
        return keys

    async def _refuse_misfits(self, rows: Sequence[store.Row]) -> None:
        """Raise InvalidTask for a payload that its kind does not take.

        What is stored already is a resend: workers may have brought another schema since.
        """
        misfits = {
            index: problem
            for index, row in enumerate(rows)
            if (problem := self._payloads.problem(row.queue, row.kind, row.payload)) is not None
        }
        if misfits:
            known = await store.known(self._connection, [rows[index].id for index in misfits])
            for index, problem in misfits.items():
                row = rows[index]
                if row.id not in known:
                    text = f"the payload of task {row.id} does not fit kind {row.kind!r}: {problem}"
                    raise InvalidTask(text, index=index)

    async def commit(self, rows: list[store.Row], keys: Mapping[UUID, keyed.Keys] | None = None) -> list[Accepted]:
        """Store validated rows, with the keys that some have (by id), as one request of the next group."""
        if keys:
            await self._before_keys()
        request = _Request(rows, {row.id for row in rows}, keys or {})
        self._waiting.append(request)
        self._arrived.set()
        return await request.answer

    def _row(self, task: NewTask, index: int, now: datetime) -> store.Row:
        payload = bytes(task.payload)
        problem = task_problem(task, payload, now)
        if problem is not None:
            raise InvalidTask(problem, index=index)
        return store.Row(
            task.id,
            task.kind,
            task.queue or self._sessions.queue_of_kind(task.kind) or DEFAULT_QUEUE,
            task.priority,
            task.fairness_key,
            payload,
            fingerprint(task, payload),
            task.delay,
            task.run_at,
            task.expires_in,
            task.expires_at,
            task.max_attempts,
            task.timeout,
            None,
            task.traceparent,
            task.tracestate,
            task.queue is not None,
        )

    async def run(self) -> None:
        """Commit group after group, for ever."""
        while True:
            await self._arrived.wait()
            await self.step()

    async def step(self) -> int:
        """Commit one group; return how many requests it answered."""
        group = self._next_group()
        try:
            await self._commit([request for request in group if not request.keys])
            await self._commit([request for request in group if request.keys])
        except BaseException as error:
            told = error
            if isinstance(error, asyncio.CancelledError):
                told = DatabaseUnavailable("the manager is stopping: send the same again")
            for request in group:
                _fail(request, told)
            if not isinstance(error, (TacoqError, asyncpg.PostgresError)):
                raise
        return len(group)

    def _next_group(self) -> list[_Request]:
        """Take what waits, up to a size; an id that comes twice waits for the next group, to be compared with
        the first.
        """
        group: list[_Request] = []
        ids: set[UUID] = set()
        tasks = 0
        while self._waiting and tasks < GROUP_TASKS:
            request = self._waiting[0]
            if not ids.isdisjoint(request.ids):
                break
            self._waiting.popleft()
            group.append(request)
            ids |= request.ids
            tasks += len(request.rows)
        if not self._waiting:
            self._arrived.clear()
        return group

    async def _commit(self, group: list[_Request]) -> None:
        rows = sorted((row for request in group for row in request.rows), key=lambda row: row.id.int)
        if not rows:
            return
        began = time.perf_counter()
        try:
            keys = {id: keys for request in group for id, keys in request.keys.items()}
            stored, answered = await self._store(rows, keys)
        except store.ContentConflict as conflict:
            await self._without(group, conflict.ids, _conflict)
            return
        except keyed.KeysTaken as taken:
            if _depends_on_rejected(group, taken.holders):
                await self._one_by_one(group)
            else:
                await self._without(group, taken.holders.keys(), partial(_exists, taken.holders))
            return
        except asyncpg.PostgresError as error:
            if len(group) == 1:
                _fail(group[0], _refused(group[0], error))
                return
            log.warning(
                "a request is refused by Postgres; its group is committed one by one", extra={"error": str(error)}
            )
            await self._one_by_one(group)
            return
        self._metrics.accepted(len(rows), time.perf_counter() - began)
        if answered:
            self._metrics.absorbed(sum(answer.id != id for id, answer in answered.items()))
        else:
            self._on_live(id for id, found in stored.items() if not found.duplicate)
        for request in group:
            if not request.answer.done():
                request.answer.set_result([_accepted(row.id, stored, answered) for row in request.rows])
        if left := {answer.left for answer in answered.values() if answer.left is not None}:
            self._on_lanes(left)  # a claim that waited for what was replaced there found less than there is
        self._tell([row for row in rows if _is_news(row.id, stored, answered)] if answered else rows, stored)

    async def _store(
        self, rows: Sequence[store.Row], keys: Mapping[UUID, keyed.Keys]
    ) -> tuple[Mapping[UUID, store.Stored], Mapping[UUID, keyed.Answered]]:
        """Return what is stored for each row, and, of rows with keys, the task that answers each."""
        answered: Mapping[UUID, keyed.Answered] = {}
        with self._reserving(rows) as reserved:
            lead = None if reserved is None else reserved.lead
            if keys:
                answered = await keyed.accept(self._connection, rows, keys, lead)
                stored = {id: answer.stored for id, answer in answered.items()}
            else:
                stored = await store.accept(self._connection, rows, lead)
            if reserved is not None:
                reserved.stored = stored
        return stored, answered

    async def _without(
        self, group: list[_Request], refused: Collection[UUID], error: Callable[[_Request, int], TacoqError]
    ) -> None:
        """Refuse the requests that have one of these tasks, and commit the others."""
        rest = []
        for request in group:
            index = next((i for i, row in enumerate(request.rows) if row.id in refused), None)
            if index is None:
                rest.append(request)
            else:
                _fail(request, error(request, index))
        await self._commit(rest)

    async def _one_by_one(self, group: list[_Request]) -> None:
        for request in group:
            await self._commit([request])

    def _tell(self, rows: Sequence[store.Row], stored: Mapping[UUID, store.Stored]) -> None:
        lanes: set[Lane] = set()
        strays: set[str] = set()
        for row in rows:
            state = stored[row.id].state
            if state is TaskState.PENDING:
                lanes.add(Lane(row.queue, row.kind, row.fairness_key, row.priority))
            elif state is TaskState.SCHEDULED:
                self._on_due(_seconds_until(row.run_at, row.delay))
            if row.expires_in is not None or row.expires_at is not None:
                self._on_deadline(_seconds_until(row.expires_at, row.expires_in))
            if not row.queue_given and self._sessions.queue_of_kind(row.kind) not in (None, row.queue):
                strays.add(row.kind)
        if strays:
            self._on_strays(strays)
        if lanes:
            self._on_lanes(lanes)


def _fail(request: _Request, error: BaseException) -> None:
    if not request.answer.done():  # its caller may be gone
        request.answer.set_exception(error)


def _accepted(id: UUID, stored: Mapping[UUID, store.Stored], answered: Mapping[UUID, keyed.Answered]) -> Accepted:
    found, answer = stored[id], answered.get(id)
    if answer is None:
        return Accepted(id, found.state, found.duplicate)
    return Accepted(answer.id, found.state, found.duplicate, answer.differs or UNSET)


def _is_news(id: UUID, stored: Mapping[UUID, store.Stored], answered: Mapping[UUID, keyed.Answered]) -> bool:
    """False: it was answered with another task, which stands as and where it stood."""
    return answered[id].replaced or not stored[id].duplicate


def _seconds_until(at: datetime | None, delay: float | None) -> float:
    return (at - datetime.now(UTC)).total_seconds() if at is not None else delay or 0.0


def _refuse_repeated(rows: Sequence[store.Row]) -> None:
    if len({row.id for row in rows}) == len(rows):
        return
    seen: set[UUID] = set()
    for index, row in enumerate(rows):
        if row.id in seen:
            raise InvalidTask(f"task id {row.id} stands twice in one batch: make an id for each task", index=index)
        seen.add(row.id)


def _conflict(request: _Request, index: int) -> TaskConflict:
    row = request.rows[index]
    return TaskConflict(
        f"task id {row.id} was accepted before with other content: make a new id for a new task",
        task_id=row.id,
        index=index,
    )


def _exists(holders: Mapping[UUID, UUID], request: _Request, index: int) -> TaskExists:
    id = request.rows[index].id
    holder = holders[id]
    where = "stands beside it" if any(row.id == holder for row in request.rows) else "is live"
    return TaskExists(
        f"task {id} is rejected, as on_conflict has it: task {holder}, which has the same unique key, {where}",
        task_id=holder,
        index=index,
    )


def _depends_on_rejected(group: Sequence[_Request], holders: Mapping[UUID, UUID]) -> bool:
    """True when a key is held by a task of another request that is itself rejected: without it the key may be free."""
    place = {row.id: place for place, request in enumerate(group) for row in request.rows}
    rejected = {place[id] for id in holders}
    return any(place.get(holder) in rejected - {place[id]} for id, holder in holders.items())


def _refused(request: _Request, error: asyncpg.PostgresError) -> InvalidTask:
    what = f"task {request.rows[0].id}" if len(request.rows) == 1 else f"a batch of {len(request.rows)} tasks"
    refused = InvalidTask(f"Postgres refuses {what}: {error}")
    refused.__cause__ = error
    return refused

"""The manager's API: typed arguments in, protocol models out; a refusal becomes the error it means.

One method per endpoint, nothing else. Bodies of publishes and lines of the wait stream are read by msgspec:
they come by the thousand. All may raise ManagerUnavailable, and ManagerError for an answer that makes no
sense.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote
from uuid import UUID

import msgspec

from tacoq_protocol.errors import (
    FilterRefused,
    InvalidSchedule,
    InvalidTask,
    ScheduleConflict,
    ScheduleNotFound,
    TacoqError,
    TaskConflict,
    TaskExists,
    TaskNotFound,
    TooManyMeant,
    WorkerNotFound,
)
from tacoq_protocol.http import (
    TASK_EXISTS,
    Accepted,
    AcceptedBatch,
    BulkCount,
    BulkDone,
    BulkRequest,
    Cancelled,
    DrainWorkers,
    TaskFilter,
    TaskPage,
    TaskView,
    Timeline,
    UnknownTask,
    WaitRequest,
    WhichWorkers,
    WorkerDetail,
    Workers,
)
from tacoq_protocol.schedules import NewSchedule, Schedules, ScheduleView
from tacoq_protocol.why import Why
from tacoq_publisher.errors import describe, read_problem
from tacoq_publisher.limiting import Limiting
from tacoq_publisher.listening import Listening
from tacoq_publisher.transport import Answer

_encoder: Final = msgspec.json.Encoder()
_batch: Final = msgspec.json.Decoder(AcceptedBatch)
_one: Final = msgspec.json.Decoder(Accepted)
_view: Final = msgspec.json.Decoder(TaskView)
_page: Final = msgspec.json.Decoder(TaskPage)
_bulk_count: Final = msgspec.json.Decoder(BulkCount)
_bulk_done: Final = msgspec.json.Decoder(BulkDone)
_unknown: Final = msgspec.json.Decoder(UnknownTask, strict=True)

_schedule: Final = msgspec.json.Decoder(ScheduleView)
_schedules: Final = msgspec.json.Decoder(Schedules)

WaitLine = TaskView | UnknownTask
BulkAction = Literal["cancel", "retry"]

_BULK_SECONDS: Final = 20.0  # a count may take 10, and a page 5 after it


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing of a batch was accepted. `index`: the task that is to blame; None: the request as a whole."""

    index: int | None
    error: TacoqError


class Manager(Limiting, Listening):
    """The endpoints, over one transport."""

    async def accept(self, tasks: Collection[bytes]) -> list[Accepted] | Refusal:
        """Publish these `NewTask` bodies, all or none.

        What is returned as accepted is durable, in the order given.

        Sent again with the same ids after a fault: a task is never accepted twice.
        """
        action = f"publish {len(tasks)} task{'s' if len(tasks) != 1 else ''}"
        body = b'{"tasks":[' + b",".join(tasks) + b"]}"
        answer = await self._transport.request("POST", "/tasks/batch", action=action, body=body)
        match answer.status:
            case 200 | 201:
                accepted = self._read(_batch.decode, answer, action).tasks
                if len(accepted) != len(tasks):
                    raise self._malformed(answer, action, f"{len(accepted)} tasks in it")
                return accepted
            case 400 | 409 | 413 | 422:
                return self._refusal(answer, action, len(tasks))
            case _:
                raise self._unexpected(answer, action)

    async def view(self, task_id: UUID, *, wait: float | None = None, payload: bool = False) -> TaskView:
        """Return the task as it is now, or, with `wait` (≤ 60 s), as soon as it is final, at the latest then.

        Raises TaskNotFound.
        """
        query = ({"wait": f"{wait:g}"} if wait else {}) | ({"payload": "true"} if payload else {})
        action = f"look up task {task_id}"
        answer = await self._transport.request(
            "GET", f"/tasks/{task_id}", action=action, query=query, longer=wait or 0.0
        )
        return self._read(_view.decode, self._of_task(answer, task_id, action), action)

    @asynccontextmanager
    async def wait(
        self, task_ids: Collection[UUID], *, seconds: float
    ) -> AsyncIterator[AsyncIterator[Sequence[WaitLine]]]:
        """Open the stream that tells of these tasks as they become final.

        It ends after `seconds`, or when all are told.

        Raises `transport.Fault` when it cannot be opened, or breaks.
        """
        body = _encoder.encode(WaitRequest(ids=list(task_ids), timeout=seconds))
        async with self._transport.stream("/tasks/wait", body, silence=seconds + 10.0) as stream:
            if isinstance(stream, Answer):
                raise self._unexpected(stream, "wait for tasks")
            yield self._wait_lines(stream)

    async def cancel(self, task_id: UUID) -> Cancelled | None:
        """Ask for a cancel; None when the task is final already (also by an earlier cancel). Raises TaskNotFound."""
        action = f"cancel task {task_id}"
        answer = await self._transport.request("POST", f"/tasks/{task_id}/cancel", action=action)
        if answer.status == 409:
            return None
        return self._model(Cancelled, self._of_task(answer, task_id, action), action)

    async def retry(self, task_id: UUID) -> Accepted:
        """Publish the task once more, as a new one. Raises TaskNotFound; TaskConflict while it is not final.

        The manager makes the new id, so after a fault in which it may have seen the request this gives up:
        ManagerUnavailable.
        """
        action = f"retry task {task_id}"
        answer = await self._transport.request("POST", f"/tasks/{task_id}/retry", action=action, resend=False)
        if answer.status in (409, 422) and (problem := read_problem(answer.body)):
            raise TaskConflict(describe(problem), task_id=task_id)
        return self._read(_one.decode, self._of_task(answer, task_id, action), action)

    async def tasks(self, filter: TaskFilter, *, cursor: UUID | None = None, limit: int | None = None) -> TaskPage:
        """Return a page of tasks, newest first."""
        query: dict[str, str | list[str]] = msgspec.to_builtins(filter)
        page = {"cursor": cursor, "limit": limit}
        query |= {name: str(value) for name, value in page.items() if value is not None}
        answer = await self._transport.request("GET", "/tasks", action="list tasks", query=query)
        return self._read(_page.decode, self._ok(answer, "list tasks"), "list tasks")

    async def count_many(self, action: BulkAction, filter: TaskFilter) -> BulkCount:
        """Return how many tasks the filter means. Raises FilterRefused."""
        answer = await self._bulk(action, BulkRequest(filter=filter))
        return self._read(_bulk_count.decode, answer, f"{action} many tasks")

    async def do_many(self, action: BulkAction, request: BulkRequest) -> BulkDone:
        """Do a page. Raises FilterRefused; TooManyMeant, and nothing was done.

        Sent again after a fault: what was done is not done again, nor is it in the answer.
        """
        answer = await self._bulk(action, request)
        return self._read(_bulk_done.decode, answer, f"{action} many tasks")

    async def _bulk(self, action: BulkAction, request: BulkRequest) -> Answer:
        what = f"{action} many tasks"
        body = _encoder.encode(request)
        answer = await self._transport.request("POST", f"/tasks/{action}", action=what, body=body, longer=_BULK_SECONDS)
        if answer.status == 409 and request.most is not None:
            raise TooManyMeant(request.most)
        if answer.status == 422 and (problem := read_problem(answer.body)):
            raise FilterRefused(describe(problem))
        return self._ok(answer, what)

    async def timeline(self, task_id: UUID) -> Timeline:
        """Return what happened to a task, oldest first. Raises TaskNotFound."""
        action = f"read the timeline of task {task_id}"
        answer = await self._transport.request("GET", f"/tasks/{task_id}/timeline", action=action)
        return self._model(Timeline, self._of_task(answer, task_id, action), action)

    async def why(self, task_id: UUID) -> Why:
        """Return why a task is where it is. Raises TaskNotFound."""
        action = f"ask why task {task_id} is where it is"
        answer = await self._transport.request("GET", f"/tasks/{task_id}/why", action=action)
        return self._model(Why, self._of_task(answer, task_id, action), action)

    async def schedules(self) -> Schedules:
        """Return all schedules, by name, without their payloads."""
        answer = await self._transport.request("GET", "/schedules", action="list schedules")
        return self._read(_schedules.decode, self._ok(answer, "list schedules"), "list schedules")

    async def put_schedule(self, name: str, new: NewSchedule) -> ScheduleView:
        """Make a schedule, or replace it. Raises InvalidSchedule, ScheduleConflict."""
        return await self._schedule("PUT", name, f"make schedule {name!r}", body=_encoder.encode(new))

    async def pause_schedule(self, name: str) -> ScheduleView:
        """Let a schedule fire no more. Raises ScheduleNotFound."""
        return await self._schedule("POST", name, f"pause schedule {name!r}", then="/pause")

    async def resume_schedule(self, name: str) -> ScheduleView:
        """Let a schedule fire again. Raises ScheduleNotFound."""
        return await self._schedule("POST", name, f"resume schedule {name!r}", then="/resume")

    async def run_schedule(self, name: str) -> Accepted:
        """Make a task of a schedule now; after a fault in which the manager may have done so this gives up.

        Raises ScheduleNotFound, InvalidSchedule when its kind does not take its payload any more.
        """
        action = f"run schedule {name!r}"
        answer = await self._transport.request("POST", f"{_path_of(name)}/run", action=action, resend=False)
        return self._read(_one.decode, self._of_schedule(answer, name, action), action)

    async def remove_schedule(self, name: str) -> None:
        """Delete a schedule. Raises ScheduleNotFound, ScheduleConflict."""
        action = f"remove schedule {name!r}"
        answer = await self._transport.request("DELETE", _path_of(name), action=action)
        self._of_schedule(answer, name, action)

    async def workers(self, *, ended: bool = False, labels: Sequence[str] = ()) -> Workers:
        """Return the live worker sessions with these labels ("region=eu"); with `ended` also those that ended last."""
        query: dict[str, str | list[str]] = {"ended": "true"} if ended else {}
        query |= {"label": list(labels)} if labels else {}
        answer = await self._transport.request("GET", "/workers", action="list workers", query=query)
        return self._model(Workers, self._ok(answer, "list workers"), "list workers")

    async def worker(self, session: UUID) -> WorkerDetail:
        """Return a worker session and what runs there. Raises WorkerNotFound."""
        action = f"look up worker {session}"
        answer = await self._transport.request("GET", f"/workers/{session}", action=action)
        return self._model(WorkerDetail, self._of_worker(answer, session, action), action)

    async def drain_worker(self, session: UUID, *, leave: bool) -> Workers:
        """Have a session take no more work. Raises WorkerNotFound."""
        return await self._steer(f"/workers/{session}/drain", _encoder.encode({"leave": leave}), session)

    async def resume_worker(self, session: UUID) -> Workers:
        """Have a drained session take work again. Raises WorkerNotFound."""
        return await self._steer(f"/workers/{session}/resume", None, session)

    async def drain_workers(self, which: DrainWorkers) -> Workers:
        """Have the sessions of a queue or host take no more work."""
        return await self._steer("/workers/drain", which.model_dump_json().encode(), None)

    async def resume_workers(self, which: WhichWorkers) -> Workers:
        """Have the drained sessions of a queue or host take work again."""
        return await self._steer("/workers/resume", which.model_dump_json().encode(), None)

    async def _steer(self, path: str, body: bytes | None, session: UUID | None) -> Workers:
        action = path.rpartition("/")[2] + " workers"
        answer = await self._transport.request("POST", path, action=action, body=body)
        answer = self._ok(answer, action) if session is None else self._of_worker(answer, session, action)
        return self._model(Workers, answer, action)

    def _of_worker(self, answer: Answer, session: UUID, action: str) -> Answer:
        if answer.status == 404 and read_problem(answer.body):
            raise WorkerNotFound(session)
        return self._ok(answer, action)

    async def _schedule(
        self, method: str, name: str, action: str, *, then: str = "", body: bytes | None = None
    ) -> ScheduleView:
        answer = await self._transport.request(method, _path_of(name) + then, action=action, body=body)
        return self._read(_schedule.decode, self._of_schedule(answer, name, action), action)

    async def _wait_lines(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Sequence[WaitLine]]:
        async for lines in chunks:
            try:
                yield _view.decode_lines(lines)
            except msgspec.DecodeError:  # one of them is not a view
                yield [self._wait_line(line) for line in lines.split(b"\n") if line.strip()]

    def _wait_line(self, line: bytes) -> WaitLine:
        try:
            return _view.decode(line)
        except msgspec.DecodeError as view_error:
            try:
                return _unknown.decode(line)
            except msgspec.DecodeError:
                raise self._malformed(Answer(200, line), "wait for tasks", view_error) from view_error

    def _refusal(self, answer: Answer, action: str, count: int) -> Refusal:
        problem = read_problem(answer.body)
        if problem is None and answer.status != 413:
            raise self._unexpected(answer, action)
        text = describe(problem) if problem else "the request is too large for a proxy before the manager (413)"
        index = problem.index if problem else None
        if index is None and count == 1:
            index = 0
        if index is not None and not 0 <= index < count:
            raise self._malformed(answer, action, f"index {index} of {count} tasks")
        if answer.status == 409 and problem is not None and problem.type == TASK_EXISTS:
            return Refusal(index, TaskExists(text, task_id=problem.task_id))
        if answer.status == 409:
            return Refusal(index, TaskConflict(text, task_id=problem.task_id if problem else None))
        return Refusal(index, InvalidTask(text))

    def _of_task(self, answer: Answer, task_id: UUID, action: str) -> Answer:
        if answer.status == 404 and (problem := read_problem(answer.body)) and problem.task_id == task_id:
            raise TaskNotFound(task_id)
        return self._ok(answer, action)

    def _of_schedule(self, answer: Answer, name: str, action: str) -> Answer:
        problem = read_problem(answer.body) if answer.status in (404, 409, 422) else None
        match answer.status:
            case 404 if problem and problem.schedule == name:
                raise ScheduleNotFound(name)
            case 409 if problem:
                raise ScheduleConflict(describe(problem), schedule=name)
            case 422 if problem:
                raise InvalidSchedule(describe(problem), field=(problem.pointer or "").removeprefix("/") or None)
            case _:
                return self._ok(answer, action)


def _path_of(schedule: str) -> str:
    return f"/schedules/{quote(schedule, safe='')}"

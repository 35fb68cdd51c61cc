"""/v1/tasks: publish, look up, wait, list, cancel, retry."""

from __future__ import annotations

from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Final
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tacoq_manager.api.bodies import json_response, read, task_id_of
from tacoq_manager.api.docs import answer
from tacoq_manager.api.names import FairnessKey, Kind, QueueName
from tacoq_manager.api.problems import BadRequest
from tacoq_manager.api.stream import WaitStream
from tacoq_manager.api.within import manager_of, while_connected
from tacoq_manager.manager import Manager
from tacoq_manager.notify import Told
from tacoq_manager.resubmit import resubmit
from tacoq_manager.store import tasks as store
from tacoq_manager.store import timeline as timelines
from tacoq_protocol.errors import InvalidTask, TaskConflict, TaskExists, TaskNotFound
from tacoq_protocol.http import (
    MAX_PAYLOAD_BYTES,
    MAX_WAIT_SECONDS,
    Accepted,
    AcceptedBatch,
    Cancelled,
    NewTask,
    NewTaskBatch,
    TaskFilter,
    TaskPage,
    TaskView,
    Timeline,
    WaitRequest,
)
from tacoq_protocol.states import TaskState
from tacoq_protocol.why import Why

_new_task: Final = msgspec.json.Decoder(NewTask)
_new_batch: Final = msgspec.json.Decoder(NewTaskBatch)
_wait_request: Final = msgspec.json.Decoder(WaitRequest)


async def publish(request: Request) -> Response:
    """Accept one task: 201, or 200 when it was accepted before, or a key that it gives has a task."""
    task = await read(request, _new_task)
    _check_size(task)
    try:
        (accepted,) = await manager_of(request).accepter.accept([task])
    except (InvalidTask, TaskConflict, TaskExists) as error:
        error.index = None  # there is no batch for the caller
        raise
    return _answer(accepted)


async def publish_batch(request: Request) -> Response:
    """Accept up to 1,000 tasks, all or none."""
    batch = await read(request, _new_batch)
    for index, task in enumerate(batch.tasks):
        _check_size(task, index)
    accepted = await manager_of(request).accepter.accept(batch.tasks)
    return json_response(AcceptedBatch(accepted), HTTPStatus.CREATED)


async def get(request: Request) -> Response:
    """One task, at once or when it is final; after `wait` seconds as it is then."""
    task_id = task_id_of(request)
    wait, payload = _how_to_get(request)
    manager = manager_of(request)
    if wait:
        ended = await while_connected(request, _ended(manager, task_id, wait))
        if isinstance(ended, TaskView) and not payload:
            return json_response(ended)
    views = await store.views(manager.database, [task_id], payload=payload)
    if not views:
        raise TaskNotFound(task_id)
    await manager.results.fill(views)
    return json_response(views[0])


async def wait(request: Request) -> Response:
    """A line of JSON for each task as it becomes final."""
    wanted = await read(request, _wait_request)
    return WaitStream(manager_of(request).waiters.wait(wanted.ids, wanted.timeout))


# Plain routes: FastAPI's own reading of bodies and answers would cost more than all the rest of the request.
hot_routes: Final = [
    Route("/v1/tasks", publish, methods=["POST"]),
    Route("/v1/tasks/batch", publish_batch, methods=["POST"]),
    Route("/v1/tasks/wait", wait, methods=["POST"]),
]
routes: Final = [Route("/v1/tasks/{task_id}", get, methods=["GET"])]
router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


class Filters(BaseModel):
    """What `GET /v1/tasks` takes."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind | None = None
    queue: QueueName | None = None
    fairness_key: FairnessKey | None = None
    state: Annotated[list[TaskState], Field(description="may be given several times")] = []
    created_after: Annotated[AwareDatetime | None, Field(description="or then, by the moment in the id")] = None
    created_before: AwareDatetime | None = None
    error: Annotated[
        str | None,
        Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$", description="text in the error, in whatever case"),
    ] = None
    cursor: Annotated[UUID | None, Field(description="`next` of the page before")] = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100


@router.get("", response_class=Response, responses=answer(TaskPage))
async def list_tasks(request: Request, filters: Annotated[Filters, Query()]) -> Response:
    """List tasks, the newest first, without payload and result."""
    meant = TaskFilter(
        kind=filters.kind,
        queue=filters.queue,
        fairness_key=filters.fairness_key,
        state=tuple(filters.state),
        created_after=filters.created_after,
        created_before=filters.created_before,
        error=filters.error,
    )
    found = store.find(manager_of(request).database, meant, cursor=filters.cursor, limit=filters.limit)
    page = await while_connected(request, found)  # a search goes on for nobody else
    return Response() if page is None else json_response(page)


@router.post("/{task_id}/cancel", responses={202: {"model": Cancelled, "description": "A worker was asked to stop it"}})
async def cancel(request: Request, task_id: UUID) -> Response:
    """Cancel a task: 200 when that was final at once, 202 when a worker has to stop it, 409 when it has ended."""
    cancelled = await manager_of(request).canceller.cancel(task_id)
    status = HTTPStatus.ACCEPTED if cancelled.cancel_requested else HTTPStatus.OK
    return JSONResponse(cancelled.model_dump(mode="json"), status)


@router.post("/{task_id}/retry", status_code=201, response_class=Response, responses=answer(Accepted, 201))
async def retry(request: Request, task_id: UUID) -> Response:
    """Publish a task that failed, was cancelled or expired once more, as a new one with `retry_of`.

    200 when a live task has its unique key: it is the answer.
    """
    manager = manager_of(request)
    return _answer(await resubmit(manager.accepter, manager.database.read, task_id))


@router.get("/{task_id}/timeline")
async def timeline(request: Request, task_id: UUID) -> Timeline:
    """What happened to a task, oldest first."""
    return await timelines.read(manager_of(request).database, task_id)


@router.get("/{task_id}/why", response_model_exclude_none=True)
async def why(request: Request, task_id: UUID) -> Why:
    """Why a task is where it is: one reason, and a sentence that says it."""
    return await manager_of(request).explainer.why(task_id)


def _answer(accepted: Accepted) -> Response:
    return json_response(accepted, HTTPStatus.OK if accepted.duplicate else HTTPStatus.CREATED)


async def _ended(manager: Manager, task_id: UUID, seconds: float) -> Told | None:
    async with aclosing(manager.waiters.wait([task_id], seconds)) as told:
        async for batch in told:
            if batch:
                return batch[0]
    return None


def _check_size(task: NewTask, index: int | None = None) -> None:
    size = memoryview(task.payload).nbytes
    if size > MAX_PAYLOAD_BYTES:
        raise BadRequest(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"payload: task {task.id} has one of {size:,} bytes, the limit is {MAX_PAYLOAD_BYTES:,}: "
            "store the data elsewhere and send a reference",
            index=index,
            pointer="/payload",
        )


def _how_to_get(request: Request) -> tuple[float, bool]:
    wait, payload = 0.0, False
    for name, value in request.query_params.multi_items():
        match name:
            case "wait":
                wait = _seconds(value)
            case "payload":
                if value not in ("true", "false"):
                    raise _bad_query(f"query parameter 'payload': {value!r} is neither true nor false")
                payload = value == "true"
            case _:
                raise _bad_query(f"unknown query parameter {name!r}: there are wait and payload")
    return wait, payload


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise _bad_query(f"query parameter 'wait': {value!r} is not a number of seconds from 0 to {MAX_WAIT_SECONDS:g}")
    return seconds


def _bad_query(message: str) -> BadRequest:
    return BadRequest(HTTPStatus.UNPROCESSABLE_ENTITY, message)

"""Problems: an error in, RFC 9457 problem details out, for everything that is not a success."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, cast
from uuid import UUID

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tacoq_manager.cancel import AlreadyFinal
from tacoq_manager.resubmit import NotRetryable
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.store.results import ResultsUnavailable
from tacoq_protocol.errors import (
    BrokerUnavailable,
    FilterRefused,
    InvalidSchedule,
    InvalidTask,
    KindNotFound,
    ScheduleConflict,
    ScheduleNotFound,
    TacoqError,
    TaskConflict,
    TaskExists,
    TaskNotFound,
    TooManyMeant,
    WorkerNotFound,
)
from tacoq_protocol.http import TASK_EXISTS, Problem

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = {"Retry-After": "1"}

_REJECTED = "; nothing of the batch was accepted"


class BadRequest(TacoqError):
    """The request itself is wrong: not JSON, not the fields that are expected, too large."""

    def __init__(
        self, status: HTTPStatus, message: str, *, index: int | None = None, pointer: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.index = index
        self.pointer = pointer


def respond(
    status: HTTPStatus | int,
    detail: str,
    *,
    type: str = "about:blank",
    index: int | None = None,
    pointer: str | None = None,
    task_id: UUID | None = None,
    schedule: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as an answer; its title is the status' phrase, its type for programs where they need one."""
    status = HTTPStatus(status)
    if index is not None:
        detail = f"task {index} of the batch: {detail}{_REJECTED}"
    problem = Problem(
        type=type,
        title=status.phrase,
        status=status,
        detail=detail,
        index=index,
        pointer=pointer,
        task_id=task_id,
        schedule=schedule,
    )
    return Response(problem.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)


# By type, what errors of ours are answered with.
_ANSWERS: Final[Mapping[type[Exception], Callable[[Any], Response]]] = {
    BadRequest: lambda e: respond(e.status, str(e), index=e.index, pointer=e.pointer),
    InvalidTask: lambda e: respond(422, str(e), index=e.index),
    TaskConflict: lambda e: respond(409, str(e), index=e.index, task_id=e.task_id),
    TaskExists: lambda e: respond(409, str(e), type=TASK_EXISTS, index=e.index, task_id=e.task_id),
    TaskNotFound: lambda e: respond(404, str(e), task_id=e.task_id),
    InvalidSchedule: lambda e: respond(422, str(e), pointer=None if e.field is None else f"/{e.field}"),
    ScheduleConflict: lambda e: respond(409, str(e), schedule=e.schedule),
    ScheduleNotFound: lambda e: respond(404, str(e), schedule=e.schedule),
    AlreadyFinal: lambda e: respond(409, str(e), task_id=e.task_id),
    KindNotFound: lambda e: respond(404, str(e)),
    WorkerNotFound: lambda e: respond(404, str(e)),
    BrokerUnavailable: lambda e: respond(503, f"{e}: try again", headers=RETRY_AFTER),
    TooManyMeant: lambda e: respond(409, str(e)),
    FilterRefused: lambda e: respond(422, str(e)),
    NotRetryable: lambda e: respond(409, str(e)),
    DatabaseUnavailable: lambda e: respond(503, f"{e}: try again", headers=RETRY_AFTER),
    ResultsUnavailable: lambda e: respond(503, f"{e}: try again", headers=RETRY_AFTER),
}
OWN_ERROR: Final = "an error of the manager's own: see its log"


def answer_to(error: Exception) -> Response | None:
    """Return what this error of ours is answered with; None for those that nobody foresaw."""
    for type in error.__class__.__mro__:
        if (answer := _ANSWERS.get(type)) is not None:
            return answer(error)
    return None


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""

    def on(error: type[Exception], answer: Callable[[Any], Response]) -> None:
        async def handler(request: Request, error: Exception) -> Response:
            return answer(error)

        app.add_exception_handler(error, handler)

    for error, answer in _ANSWERS.items():
        on(error, answer)
    on(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    # Starlette raises it again after the answer, so that the server logs the traceback.
    on(Exception, lambda e: respond(500, OWN_ERROR))


async def _http(request: Request, error: Exception) -> Response:
    found = cast("HTTPException", error)
    match found.status_code:
        case 404:
            detail = f"there is no {request.url.path} here: see /docs"
        case 405:
            allowed = (found.headers or {}).get("Allow", "")
            detail = f"{request.method} is not for {request.url.path}: use {allowed or 'what /docs says'}"
        case _:
            detail = str(found.detail)
    return respond(found.status_code, detail, headers=found.headers)


def _invalid(error: RequestValidationError) -> Response:
    """What FastAPI could not read: query and path parameters."""
    return respond(422, "; ".join(_told(found) for found in error.errors()))


def _told(found: Mapping[str, Any]) -> str:
    where, *names = (str(part) for part in found["loc"])
    name = ".".join(names[:1])
    if found["type"] == "extra_forbidden":
        return f"unknown {where} parameter {name!r}: see /docs for those there are"
    return f"{where} parameter {name!r}: {found['msg'].removeprefix('Value error, ')}"

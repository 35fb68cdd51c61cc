"""OpenAPI: what FastAPI knows of its routes, and msgspec of the models on the plain ones, in one document."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response

from tacoq_protocol.events import EndsLost, Ready, TaskEnd
from tacoq_protocol.http import (
    Accepted,
    AcceptedBatch,
    BulkCount,
    BulkDone,
    BulkRequest,
    NewTask,
    NewTaskBatch,
    Problem,
    TaskPage,
    TaskView,
    UnknownTask,
    WaitRequest,
)
from tacoq_protocol.schedules import NewSchedule, Schedules, ScheduleView

_CLAUSE_ENDS: Final = re.compile(r"[.;] ")
_REFERENCE: Final = "#/components/schemas/{name}"
_MODELS: Final = (
    Accepted, AcceptedBatch, BulkCount, BulkDone, BulkRequest, EndsLost, NewSchedule, NewTask, NewTaskBatch, Ready,
    Schedules, ScheduleView, TaskEnd, TaskPage, TaskView, UnknownTask, WaitRequest,
)  # fmt: skip


def reference(model: type) -> dict[str, Any]:
    """Return a schema that refers to the component of `model`."""
    return {"$ref": _REFERENCE.format(name=model.__name__)}


def answer(model: type, status: int = 200, *, media: str = "application/json") -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that answers with `model`."""
    return {status: {"description": _first_line(model), "content": {media: {"schema": reference(model)}}}}


def body_of(model: type) -> dict[str, Any]:
    """Return the part of an operation that says its body is a `model`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference(model)}}}}


PROBLEM: Final[dict[int | str, dict[str, Any]]] = {
    code: {"description": text, "content": {"application/problem+json": {"schema": reference(Problem)}}}
    for code, text in (("default", "Anything else"), (422, "What was sent does not fit"))
}


def install(app: FastAPI) -> None:
    """Serve the description at /openapi.json, made once, when somebody asks, and a page of it at /docs."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    async def page(request: Request) -> Response:
        url = f"{request.scope.get('root_path', '')}{app.openapi_url}"
        shown = get_swagger_ui_html(openapi_url=url, title=app.title)
        shown.headers["Content-Security-Policy"] = "frame-ancestors 'none'"  # it has buttons: no page is laid over it
        return shown

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_route("/docs", page, include_in_schema=False)


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, components = msgspec.json.schema_components(_MODELS, ref_template=_REFERENCE)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(components)
    for schema in components.values():
        _describe_fields(schema)
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    for path, operations in _plain_routes().items():
        document["paths"].setdefault(path, {}).update(operations)
    return document


def _describe_fields(schema: dict[str, Any]) -> None:
    """Give each field the clauses of its model's docstring that name it."""
    # msgspec leaves docstrings indented, which Markdown takes for code.
    text = schema["description"] = inspect.cleandoc(schema.get("description", ""))
    clauses = _CLAUSE_ENDS.split(" ".join(text.split()).removesuffix("."))
    for name, field in schema.get("properties", {}).items():
        if about := [clause for clause in clauses if f"`{name}`" in clause]:
            field["description"] = "; ".join(about)


def _plain_routes() -> dict[str, dict[str, Any]]:
    task_id = {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    wait = {
        "name": "wait",
        "in": "query",
        "description": "answer when the task is final, or after so many seconds",
        "schema": {"type": "number", "minimum": 0, "maximum": 60, "default": 0},
    }
    payload = {"name": "payload", "in": "query", "schema": {"type": "boolean", "default": False}}
    lines = {"anyOf": [reference(TaskView), reference(UnknownTask)]}
    counted = {"anyOf": [reference(BulkCount), reference(BulkDone)]}
    bulk = {200: {"description": "Counted, or with `most` done", "content": {"application/json": {"schema": counted}}}}
    stream = {
        200: {"description": "A line for each task as it ends", "content": {"application/x-ndjson": {"schema": lines}}}
    }
    return {
        "/v1/tasks": {
            "post": _operation(
                "Publish a task; the same again is answered with 200 and changes nothing",
                answer(Accepted, 201) | answer(Accepted, 200),
                body=NewTask,
            )
        },
        "/v1/tasks/batch": {
            "post": _operation("Publish up to 1,000 tasks, all or none", answer(AcceptedBatch, 201), body=NewTaskBatch)
        },
        "/v1/tasks/cancel": {"post": _operation("Cancel many tasks, counted first", bulk, body=BulkRequest)},
        "/v1/tasks/retry": {"post": _operation("Retry many tasks, counted first", bulk, body=BulkRequest)},
        "/v1/tasks/wait": {"post": _operation("Wait for many tasks", stream, body=WaitRequest)},
        "/v1/tasks/{task_id}": {
            "get": _operation("Look up a task", answer(TaskView), parameters=[task_id, wait, payload])
        },
    }


def _operation(
    summary: str,
    responses: Mapping[Any, dict[str, Any]],
    *,
    body: type | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": ["tasks"],
        "summary": summary,
        "responses": {str(code): told for told_by in (responses, PROBLEM) for code, told in told_by.items()},
    }
    if body is not None:
        operation |= body_of(body)
    if parameters:
        operation["parameters"] = parameters
    return operation


def _first_line(model: type) -> str:
    return (model.__doc__ or model.__name__).strip().splitlines()[0]

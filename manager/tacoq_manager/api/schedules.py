"""/v1/schedules: what is published by the clock: list, make, replace, delete, pause, resume, run now."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Path, Request
from pydantic import AfterValidator
from starlette.responses import Response

from tacoq_manager import schedules
from tacoq_manager.api.bodies import json_response, read
from tacoq_manager.api.docs import answer, body_of
from tacoq_manager.api.within import manager_of
from tacoq_manager.store import schedules as store
from tacoq_protocol.http import Accepted
from tacoq_protocol.schedules import SCHEDULE_PATTERN, NewSchedule, Schedules, ScheduleView

_new_schedule: Final = msgspec.json.Decoder(NewSchedule)

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])


def _is_a_name(name: str) -> str:
    if re.match(SCHEDULE_PATTERN, name) is None:
        raise ValueError(f"{name!r} is not a schedule's name: up to 200 letters, digits, and _ . : -")
    return name


Name = Annotated[str, Path(), AfterValidator(_is_a_name)]


@router.get("", response_class=Response, responses=answer(Schedules))
async def list_schedules(request: Request) -> Response:
    """List schedules by name, without their payloads."""
    return json_response(Schedules(await store.list_all(manager_of(request).database)))


@router.get("/{name}", response_class=Response, responses=answer(ScheduleView))
async def get(request: Request, name: Name) -> Response:
    """One schedule, with its payload."""
    return json_response(await schedules.get(manager_of(request).database, name))


@router.put(
    "/{name}",
    response_class=Response,
    responses=answer(ScheduleView, 201) | answer(ScheduleView),
    openapi_extra=body_of(NewSchedule),
)
async def put(request: Request, name: Name) -> Response:
    """Make a schedule (201) or replace it (200); one that is paused stays paused."""
    manager = manager_of(request)
    new = await read(request, _new_schedule)
    view, created = await schedules.put(manager.database, manager.sessions, name, new)
    return json_response(view, HTTPStatus.CREATED if created else HTTPStatus.OK)


@router.delete("/{name}", status_code=HTTPStatus.NO_CONTENT)
async def delete(request: Request, name: Name) -> None:
    """Delete a schedule; its tasks stay."""
    manager = manager_of(request)
    await schedules.remove(manager.database, manager.sessions, name)


@router.post("/{name}/pause", response_class=Response, responses=answer(ScheduleView))
async def pause(request: Request, name: Name) -> Response:
    """Let a schedule fire no more, until it is resumed."""
    return json_response(await schedules.pause(manager_of(request).database, name))


@router.post("/{name}/resume", response_class=Response, responses=answer(ScheduleView))
async def resume(request: Request, name: Name) -> Response:
    """Let a schedule fire again, from its next fire time on."""
    return json_response(await schedules.resume(manager_of(request).database, name))


@router.post("/{name}/run", status_code=HTTPStatus.CREATED, response_class=Response, responses=answer(Accepted, 201))
async def run(request: Request, name: Name) -> Response:
    """Make a task of a schedule now, paused or not; its fire times stay."""
    manager = manager_of(request)
    return json_response(await schedules.run(manager.database, manager.accepter, name), HTTPStatus.CREATED)

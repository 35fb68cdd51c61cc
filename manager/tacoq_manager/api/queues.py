"""/v1/queues: what each queue has, and who serves it; paused, resumed and limited."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, ValidationError

from tacoq_manager.api.within import manager_of
from tacoq_manager.manager import Manager
from tacoq_manager.store import limits
from tacoq_manager.store import tasks as lookup
from tacoq_protocol.http import QUEUE_PATTERN, Queues, QueueView
from tacoq_protocol.limits import SetQueueLimits
from tacoq_protocol.states import TaskState

router = APIRouter(prefix="/v1/queues", tags=["queues"])


def _is_a_name(name: str) -> str:
    if re.match(QUEUE_PATTERN, name) is None:
        raise ValueError(f"{name!r} is not a queue's name: up to 100 letters, digits, and _ . -")
    return name


Name = Annotated[str, Path(), AfterValidator(_is_a_name)]


@router.get("")
async def list_queues(request: Request) -> Queues:
    """List queues with their tasks by state, their workers, the credit that is left, and what is set for them.

    A queue that has none of these is not listed, whatever it had.
    """
    return Queues(queues=await _views(manager_of(request)))


@router.post("/{name}/pause")
async def pause(request: Request, name: Name) -> QueueView:
    """Release nothing more of a queue, until it is resumed. What was released before runs."""
    manager = manager_of(request)
    await manager.limiting.pause(name)
    return await _view(manager, name)


@router.post("/{name}/resume")
async def resume(request: Request, name: Name) -> QueueView:
    """Release tasks of a queue again."""
    manager = manager_of(request)
    await manager.limiting.resume(name)
    return await _view(manager, name)


@router.put("/{name}/limits")
async def put_limits(request: Request, name: Name, new: SetQueueLimits) -> QueueView:
    """Set all limits of a queue, and the weights of its fairness keys, be there workers of it or not."""
    manager = manager_of(request)
    await manager.limiting.set_queue(name, new)
    return await _view(manager, name)


@router.patch("/{name}/limits")
async def patch_limits(request: Request, name: Name, change: SetQueueLimits) -> QueueView:
    """Change limits of a queue, and leave those that are not given."""
    manager = manager_of(request)
    try:
        await manager.limiting.change_queue(name, change)
    except ValidationError as error:
        told = [{**found, "loc": ("body", *found["loc"])} for found in error.errors()]
        raise RequestValidationError(told) from None
    return await _view(manager, name)


async def _view(manager: Manager, name: str) -> QueueView:
    (view,) = [view for view in await _views(manager, name) if view.name == name]
    return view


async def _views(manager: Manager, *names: str) -> list[QueueView]:
    """These, and every queue that has tasks or workers, or is limited or paused."""
    counts = await lookup.queue_counts(manager.database)
    set_for = await limits.queue_rows(manager.database)
    credit = manager.credit_left()
    return [
        _queue(manager, name, counts.get(name, {}), set_for.get(name, limits.QueueRow()), credit.get(name))
        for name in sorted({*names, *counts, *manager.sessions.queues(), *_set(set_for)})
    ]


def _set(rows: Mapping[str, limits.QueueRow]) -> list[str]:
    return [name for name, row in rows.items() if row != limits.QueueRow()]


def _queue(
    manager: Manager, name: str, counts: Mapping[TaskState, int], row: limits.QueueRow, credit: int | None
) -> QueueView:
    slots = manager.sessions.slots(name)
    queued, running = counts.get(TaskState.QUEUED, 0), counts.get(TaskState.RUNNING, 0)
    return QueueView(
        name=name,
        scheduled=counts.get(TaskState.SCHEDULED, 0),
        pending=counts.get(TaskState.PENDING, 0),
        queued=queued,
        running=running,
        workers=len(manager.sessions.live(name)),
        slots=slots,
        credit=max(0, slots - queued - running) if credit is None else credit,
        paused=row.paused,
        limits=row.limits,
    )

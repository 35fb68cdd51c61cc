"""/v1/workers: sessions that live, from memory, and those that ended, from the registry; drain and resume."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request, Response

from tacoq_manager.api.problems import BadRequest
from tacoq_manager.api.within import manager_of
from tacoq_manager.manager import Manager
from tacoq_manager.sessions import SessionState
from tacoq_manager.store import registry
from tacoq_manager.store import tasks as lookup
from tacoq_manager.store.registry import WorkerRow
from tacoq_protocol.errors import ConfigurationError, WorkerNotFound
from tacoq_protocol.http import DrainWorkers, RunView, WhichWorkers, WorkerDetail, Workers, WorkerView
from tacoq_protocol.labels import parse_labels

router = APIRouter(prefix="/v1/workers", tags=["workers"])

_ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": Workers, "description": "They were told, and not all have said so yet"}
}


@router.get("")
async def list_workers(
    request: Request,
    ended: Annotated[bool, Query(description="also those that ended last")] = False,
    label: Annotated[list[str], Query(description="NAME=VALUE: only those with it; may be given several times")] = [],  # noqa: B006
) -> Workers:
    """List live worker sessions."""
    wanted = _labels(label).items()
    manager = manager_of(request)
    rows = await registry.list_workers(manager.database)
    live = {state.session: _live(state) for state in manager.sessions.live()}
    # One that stands there as live may be so, and not heard by this manager yet.
    written = [_written(row) for row in rows if row.session not in live and (ended or row.ended_at is None)]
    found = [view for view in (*live.values(), *written) if wanted <= view.labels.items()]
    return Workers(workers=sorted(found, key=_live_first))


@router.get("/{session}")
async def get_worker(request: Request, session: UUID) -> WorkerDetail:
    """Show a worker session and what runs there."""
    manager = manager_of(request)
    state = next((state for state in manager.sessions.live() if state.session == session), None)
    if state is None:
        row = await registry.get_worker(manager.database, session)
        if row is None:
            raise WorkerNotFound(session)
        view, listed = _written(row), []
    else:
        view, listed = _live(state), [fence.task_id for fence in state.running]
    tasks = await lookup.running(manager.database, view.queue, session, listed)
    runs = [RunView.model_validate(task, from_attributes=True) for task in tasks]
    return WorkerDetail(**dict(view), running=runs)


@router.post("/drain", responses=_ACCEPTED)
async def drain_workers(request: Request, response: Response, which: DrainWorkers) -> Workers:
    """Have the live sessions of a queue, or on a host, take no more work."""
    manager = manager_of(request)
    return await _drain(manager, response, _meant(manager, which), leave=which.leave)


@router.post("/resume", responses=_ACCEPTED)
async def resume_workers(request: Request, response: Response, which: WhichWorkers) -> Workers:
    """Have the drained sessions of a queue, or on a host, take work again."""
    manager = manager_of(request)
    return await _resume(manager, response, _meant(manager, which))


@router.post("/{session}/drain", responses=_ACCEPTED)
async def drain_worker(
    request: Request, response: Response, session: UUID, leave: Annotated[bool, Body(embed=True)] = False
) -> Workers:
    """Have a session take no more work, and hand back what has not started; with `leave` it ends after its runs."""
    manager = manager_of(request)
    return await _drain(manager, response, [manager.drainer.get(session)], leave=leave)


@router.post("/{session}/resume", responses=_ACCEPTED)
async def resume_worker(request: Request, response: Response, session: UUID) -> Workers:
    """Have a drained session take work again."""
    manager = manager_of(request)
    return await _resume(manager, response, [manager.drainer.get(session)])


def _labels(written: Sequence[str]) -> dict[str, str]:
    try:
        return parse_labels(written)
    except ConfigurationError as error:
        raise BadRequest(HTTPStatus.UNPROCESSABLE_ENTITY, f"query parameter 'label': {error}") from None


def _meant(manager: Manager, which: WhichWorkers) -> list[SessionState]:
    if which.queue is None and which.host is None:
        raise BadRequest(HTTPStatus.UNPROCESSABLE_ENTITY, "which workers is not said: give a queue, a host, or both")
    return manager.drainer.find(queue=which.queue, host=which.host)


async def _drain(manager: Manager, response: Response, meant: Sequence[SessionState], *, leave: bool) -> Workers:
    return _told(manager, response, meant, await manager.drainer.drain(meant, leave=leave))


async def _resume(manager: Manager, response: Response, meant: Sequence[SessionState]) -> Workers:
    return _told(manager, response, meant, await manager.drainer.resume(meant))


def _told(manager: Manager, response: Response, meant: Sequence[SessionState], done: set[UUID]) -> Workers:
    """As they are now; 202 when some have not said yet that they do what they were told."""
    if len(done) < len(meant):
        response.status_code = HTTPStatus.ACCEPTED
    live = {state.session: state for state in manager.sessions.live()}
    views = [_live(live.get(state.session, state)) for state in meant]
    gone = [view.model_copy(update={"state": "left"}) if view.session not in live else view for view in views]
    return Workers(workers=sorted(gone, key=_live_first))


def _live(state: SessionState) -> WorkerView:
    seen_at = datetime.now(UTC) - timedelta(seconds=time.monotonic() - state.last_seen)
    return WorkerView(
        session=state.session,
        queue=state.queue,
        state="draining" if state.draining else "live",
        host=state.host,
        pid=state.pid,
        slots=state.slots,
        held=state.held,
        kinds=sorted(state.kinds),
        labels=state.labels,
        version=state.version,
        started_at=state.started_at or seen_at,
        seen_at=seen_at,
        rss_bytes=state.rss_bytes,
        loop_blocked=state.loop_blocked,
    )


def _written(row: WorkerRow) -> WorkerView:
    return WorkerView(
        session=row.session,
        queue=row.queue,
        state=row.state,
        host=row.host,
        pid=row.pid,
        slots=row.slots,
        kinds=row.kinds,
        labels=row.labels,
        version=row.version,
        started_at=row.started_at,
        seen_at=row.ended_at or row.started_at,
        detail=row.detail,
    )


def _live_first(view: WorkerView) -> tuple[bool, float]:
    return view.state not in ("live", "draining"), -view.started_at.timestamp()

"""/v1/workers: sessions that live, from memory, and those that ended last, from the registry."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request

from tacoq_manager.api.within import manager_of
from tacoq_manager.sessions import SessionState
from tacoq_manager.store import registry
from tacoq_manager.store.registry import WorkerRow
from tacoq_protocol.http import Workers, WorkerView

router = APIRouter(prefix="/v1/workers", tags=["workers"])


@router.get("")
async def list_workers(request: Request) -> Workers:
    """List live worker sessions, then those that ended last."""
    manager = manager_of(request)
    rows = await registry.list_workers(manager.database)
    live = {state.session: _live(state) for state in manager.sessions.live()}
    written = [_written(row) for row in rows if row.session not in live]
    return Workers(workers=sorted([*live.values(), *written], key=_live_first))


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
        version=row.version,
        started_at=row.started_at,
        seen_at=row.ended_at or row.started_at,
    )


def _live_first(view: WorkerView) -> tuple[bool, float]:
    return view.state not in ("live", "draining"), -view.started_at.timestamp()

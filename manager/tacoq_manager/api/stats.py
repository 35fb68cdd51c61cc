"""/v1/stats: what ended lately."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from tacoq_manager.api.names import Kind, QueueName
from tacoq_manager.api.within import manager_of
from tacoq_manager.store import stats as store
from tacoq_protocol.stats import Stats

router = APIRouter(prefix="/v1/stats", tags=["stats"])


@router.get("")
async def stats(
    request: Request,
    minutes: Annotated[int, Query(ge=1, le=1440, description="how many, this one included")] = 60,
    queue: QueueName | None = None,
    kind: Kind | None = None,
) -> Stats:
    """Count the tasks that ended in the last minutes, and their runs, by the minute and by kind.

    What ended in the last seconds may be missing. A day is kept.
    """
    return await store.read(manager_of(request).database, minutes=minutes, queue=queue, kind=kind)

"""/v1/queues: what each queue has, and who serves it."""

from __future__ import annotations

from fastapi import APIRouter, Request

from tacoq_manager.api.within import manager_of
from tacoq_protocol.http import Queues

router = APIRouter(prefix="/v1/queues", tags=["queues"])


@router.get("")
async def list_queues(request: Request) -> Queues:
    """List queues with their tasks by state, their workers and the credit that is left."""
    return Queues(queues=await manager_of(request).queue_states())

"""/v1/kinds: every kind that a worker ever registered, with its policy and schemas."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request

from tacoq_manager.api.within import manager_of
from tacoq_manager.store import registry
from tacoq_manager.store.registry import KindRow
from tacoq_protocol.http import Kinds, KindView

router = APIRouter(prefix="/v1/kinds", tags=["kinds"])


@router.get("")
async def list_kinds(request: Request) -> Kinds:
    """List kinds by queue and name."""
    rows = await registry.list_kinds(manager_of(request).database)
    return Kinds(kinds=[_view(row) for row in rows])


def _view(row: KindRow) -> KindView:
    return KindView(
        name=row.spec.name,
        queue=row.queue,
        max_attempts=row.spec.max_attempts,
        timeout=row.spec.timeout,
        on_lost=row.spec.on_lost,
        payload_schema=_schema(row.spec.payload_schema),
        result_schema=_schema(row.spec.result_schema),
        seen_at=row.seen_at,
    )


def _schema(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:  # a worker in another language may send what it likes
        return {}

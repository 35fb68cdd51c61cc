"""/v1/kinds: the kinds that workers registered, with its policy, schemas and limits; limited, and let go."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Request

from tacoq_manager.api.within import manager_of
from tacoq_manager.limits import caps
from tacoq_manager.manager import Manager
from tacoq_manager.store import limits as store
from tacoq_manager.store import registry
from tacoq_manager.store.claim import Flow
from tacoq_manager.store.limits import HoldRow
from tacoq_manager.store.registry import KindRow
from tacoq_protocol.errors import KindNotFound
from tacoq_protocol.http import HeldKey, Kinds, KindView
from tacoq_protocol.limits import KindLimits, SetKindLimits

router = APIRouter(prefix="/v1/kinds", tags=["kinds"])

HELD_KEYS_SHOWN = 100


@router.get("")
async def list_kinds(request: Request) -> Kinds:
    """List kinds by queue and name."""
    return Kinds(kinds=await _views(manager_of(request)))


@router.put("/{name}/limits")
async def put_limits(request: Request, name: str, limits: SetKindLimits) -> KindView:
    """Set what goes before the limits of a kind's code, through deploys and restarts, until it is set to null."""
    manager = manager_of(request)
    flow = await _flow(manager, name, limits.queue)
    await manager.limiting.set_kind(flow, KindLimits(**limits.model_dump(exclude={"queue"})))
    return await _view(manager, flow)


@router.patch("/{name}/limits")
async def patch_limits(request: Request, name: str, change: SetKindLimits) -> KindView:
    """Change what goes before the limits of a kind's code, and leave what is not given."""
    manager = manager_of(request)
    flow = await _flow(manager, name, change.queue)
    await manager.limiting.change_kind(flow, change)
    return await _view(manager, flow)


@router.post("/{name}/resume")
async def resume(request: Request, name: str, queue: Annotated[str | None, Body(embed=True)] = None) -> KindView:
    """Release a kind, and all its fairness keys, that handlers hold back by `RateLimited`."""
    manager = manager_of(request)
    flow = await _flow(manager, name, queue)
    await manager.limiting.let_go(flow)
    return await _view(manager, flow)


async def _flow(manager: Manager, kind: str, queue: str | None) -> Flow:
    """Which is meant. Raises KindNotFound."""
    queues = [row.queue for row in await registry.list_kinds(manager.database) if row.spec.name == kind]
    meant = [each for each in queues if queue in (None, each)]
    if len(meant) == 1:
        return Flow(meant[0], kind)
    if queues:
        where = f"kind {kind!r} is known in {', '.join(map(repr, queues))}"
        raise KindNotFound(kind, f"{where}: say which `queue` is meant" if queue is None else f"{where}, not {queue!r}")
    raise KindNotFound(
        kind, f"no worker has registered kind {kind!r}: start one first; `tacoq kinds` (GET /v1/kinds) has those known"
    )


async def _view(manager: Manager, flow: Flow) -> KindView:
    (view,) = [view for view in await _views(manager) if (view.queue, view.name) == flow]
    return view


async def _views(manager: Manager) -> list[KindView]:
    rows = await registry.list_kinds(manager.database)
    holds = await store.list_holds(manager.database)
    return [
        _kind(row, [hold for hold in holds if (hold.queue, hold.kind) == (row.queue, row.spec.name)]) for row in rows
    ]


def _kind(row: KindRow, holds: list[HoldRow]) -> KindView:
    held = caps(row.spec, row.limits)
    return KindView(
        name=row.spec.name,
        queue=row.queue,
        max_attempts=row.spec.max_attempts,
        timeout=row.spec.timeout,
        on_lost=row.spec.on_lost,
        payload_schema=_schema(row.spec.payload_schema),
        result_schema=_schema(row.spec.result_schema),
        seen_at=row.seen_at,
        limits=held.view(),
        override=row.limits or KindLimits(),
        held_until=next((hold.until for hold in holds if hold.fairness_key is None), None),
        held_keys=[
            HeldKey(fairness_key=hold.fairness_key, until=hold.until) for hold in holds if hold.fairness_key is not None
        ][:HELD_KEYS_SHOWN],
    )


def _schema(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:  # a worker in another language may send what it likes
        return {}

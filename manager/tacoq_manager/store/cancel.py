"""What cancels look at: tasks that are asked to stop, by queue, and which ids are live, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from tacoq_manager.store.engine import HotConnection

_REQUESTED: Final = "SELECT queue, id FROM tasks WHERE state IN ('queued', 'running') AND cancel_requested"
_LIVE: Final = "SELECT id FROM tasks WHERE id = ANY ($1::uuid[])"


async def requested(connection: HotConnection) -> dict[str, list[UUID]]:
    """Return the released tasks of each queue whose cancel was asked for and has not shown yet."""
    tasks: dict[str, list[UUID]] = {}
    for row in await connection.fetch(_REQUESTED):
        tasks.setdefault(row["queue"], []).append(row["id"])
    return tasks


async def live(connection: HotConnection, ids: Sequence[UUID]) -> list[UUID]:
    """Return those of `ids` whose tasks have not ended."""
    return [row["id"] for row in await connection.fetch(_LIVE, ids)] if ids else []

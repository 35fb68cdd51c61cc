"""Requested cancels: the released tasks that are asked to stop, by queue, out."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from tacoq_manager.store.engine import HotConnection

_REQUESTED: Final = "SELECT queue, id FROM tasks WHERE state IN ('queued', 'running') AND cancel_requested"


async def requested(connection: HotConnection) -> dict[str, list[UUID]]:
    """Return the released tasks of each queue whose cancel was asked for and has not shown yet."""
    tasks: dict[str, list[UUID]] = {}
    for row in await connection.fetch(_REQUESTED):
        tasks.setdefault(row["queue"], []).append(row["id"])
    return tasks

"""Ledger: what publishers asked for in, what the manager answered out: accepted, or not known. Kept by the test.

It is written before a request leaves and after its answer came, so that no fault of the system can touch it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tacoq_publisher import (
    ManagerError,
    ManagerUnavailable,
    Publisher,
    TaskCall,
    TaskHandle,
    TaskState,
    new_task_id,
)

COMPLETED = frozenset({TaskState.COMPLETED})
PATIENCE = "180s"  # of publishers: longer than any fault


@dataclass(slots=True)
class Entry:
    """One task. `ends` are the states it may end in, `result` what it returns when it completes.

    `cancelled_at`: a cancel was answered as final then; nothing of it may start later.
    """

    task_id: UUID
    kind: str
    result: object
    ends: frozenset[TaskState] = COMPLETED
    accepted: bool = False
    told: TaskState | None = None  # the end that a waiter was told
    cancelled_at: datetime | None = None


@dataclass(slots=True)
class Ledger:
    """Every task of one test."""

    entries: dict[UUID, Entry] = field(default_factory=dict)

    @property
    def accepted(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.accepted]

    def ask(self, call: TaskCall[Any], result: object, *, ends: frozenset[TaskState] = COMPLETED) -> Entry:
        """Write down a task that is about to be published."""
        entry = Entry(new_task_id(), call.kind, result, ends)
        self.entries[entry.task_id] = entry
        return entry

    async def publish(
        self,
        tacoq: Publisher,
        call: TaskCall[Any],
        result: object,
        *,
        ends: frozenset[TaskState] = COMPLETED,
        **options: Any,  # TaskOptions, as `publish` takes them
    ) -> TaskHandle[Any]:
        """Publish one task through the SDK. Raises ManagerUnavailable: then it stays unknown."""
        entry = self.ask(call, result, ends=ends)
        handle = await tacoq.publish(call, task_id=entry.task_id, **options)
        entry.accepted = True
        return handle

    async def publish_all(self, tacoq: Publisher, calls: list[tuple[TaskCall[Any], object]]) -> list[TaskHandle[Any]]:
        """Publish (call, result) pairs at the same time: they share requests. Those that fail stay unknown."""
        published = await asyncio.gather(
            *(self.publish(tacoq, call, result) for call, result in calls), return_exceptions=True
        )
        for answer in published:
            if isinstance(answer, BaseException) and not isinstance(answer, ManagerUnavailable):
                raise answer
        return [handle for handle in published if isinstance(handle, TaskHandle)]

    async def wait(self, handle: TaskHandle[Any], timeout: float | None = None) -> TaskState:
        """Wait for the end as a caller does, and write down what was told."""
        view = await handle.wait(timeout)
        self.entries[handle.id].told = view.state
        return view.state

    async def cancel(self, handle: TaskHandle[Any]) -> TaskState | None:
        """Ask for a cancel; None when no answer came. From now on the task may end either way."""
        entry = self.entries[handle.id]
        entry.ends = entry.ends | {TaskState.CANCELLED}
        try:
            state = await handle.cancel()
        except ManagerError:
            return None
        if state is TaskState.CANCELLED:
            entry.cancelled_at = datetime.now(UTC)
        return state

"""Cancel: a task id in; `cancelled` at once when the task waits, else a request to the sessions that may hold it."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from tacoq_manager.presence import Presence
from tacoq_manager.settle import Settler
from tacoq_manager.store import cancel as store
from tacoq_manager.store import tasks as lookup
from tacoq_manager.store.engine import Database
from tacoq_manager.transitions import cancel
from tacoq_protocol.errors import TacoqError, TaskNotFound
from tacoq_protocol.http import Cancelled
from tacoq_protocol.messages import CancelRuns
from tacoq_protocol.states import TaskState

REMIND_SECONDS: Final = 5.0
_TRIES: Final = 5


class AlreadyFinal(TacoqError):
    """The task has ended: there is nothing to cancel."""

    def __init__(self, task_id: UUID, state: TaskState) -> None:
        super().__init__(f"task {task_id} is {state}: there is nothing to cancel")
        self.task_id = task_id
        self.state = state


class Canceller:
    """Cancels by id."""

    def __init__(self, database: Database, settler: Settler, presence: Presence) -> None:
        self._database = database
        self._settler = settler
        self._presence = presence

    async def cancel(self, task_id: UUID) -> Cancelled:
        """Cancel the task, or record the request and send it to the workers; durable when it returns.

        State `cancelled`: it is final, and no run of it will start. Otherwise the final state comes with the report; a
        completion that was first wins. Raises TaskNotFound, AlreadyFinal, DatabaseUnavailable.

        A waiting task that was given back, or lost, may have an older release with the broker: it counts as released.
        """
        for _ in range(_TRIES):  # it may be claimed or end between the statement and the look
            applied = await self._settler.apply(cancel(task_id))
            if applied:
                (move,) = applied
                requested = not move.state.final
                if requested:
                    await self._presence.send(f"queue.{move.queue}", CancelRuns([task_id]))
                return Cancelled(id=task_id, state=move.state, cancel_requested=requested)
            views = await lookup.views(self._database, [task_id])
            if not views:
                raise TaskNotFound(task_id)
            if views[0].state.final:
                raise AlreadyFinal(task_id, views[0].state)
        raise AssertionError(f"task {task_id} changed at every look")

    async def remind(self) -> int:
        """Ask again for all that was asked and has not shown; return how many tasks that are. Leader only.

        The broker may have been away, and a session that joined later may get the release.
        """
        requested = await store.requested(self._database.upkeep)
        for queue, ids in requested.items():
            await self._presence.send(f"queue.{queue}", CancelRuns(ids))
        return sum(map(len, requested.values()))

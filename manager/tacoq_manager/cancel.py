"""Cancel: a task id in; `cancelled` at once when the task waits, else a request to the sessions that may hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from tacoq_manager.presence import Presence
from tacoq_manager.settle import Settler
from tacoq_manager.store import cancel as store
from tacoq_manager.store import tasks as lookup
from tacoq_manager.store.engine import Database
from tacoq_manager.store.settle import Applied
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
    """Cancels by ids."""

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
            applied = await self._apply([task_id])
            if applied:
                (move,) = applied
                return Cancelled(id=task_id, state=move.state, cancel_requested=not move.state.final)
            views = await lookup.views(self._database, [task_id])
            if not views:
                raise TaskNotFound(task_id)
            if views[0].state.final:
                raise AlreadyFinal(task_id, views[0].state)
        raise AssertionError(f"task {task_id} changed at every look")

    async def cancel_all(self, task_ids: Sequence[UUID]) -> list[Applied]:
        """Cancel each as `cancel` does; return the moves. Those that are not among them had ended.

        Raises DatabaseUnavailable: perhaps some are cancelled; the same again is safe.
        """
        moves: list[Applied] = []
        left = task_ids
        for _ in range(_TRIES):
            applied = await self._apply(left)
            moves += applied
            moved = {move.transition.task_id for move in applied}
            left = await store.live(self._database.read, [id for id in left if id not in moved])
            if not left:
                return moves
        raise AssertionError(f"{len(left)} tasks changed at every look")

    async def _apply(self, task_ids: Sequence[UUID]) -> list[Applied]:
        applied = await self._settler.apply([move for task_id in task_ids for move in cancel(task_id)])
        heard: dict[str, list[UUID]] = {}
        for move in applied:
            if not move.state.final:
                heard.setdefault(move.queue, []).append(move.transition.task_id)
        for queue, ids in heard.items():
            await self._presence.send(f"queue.{queue}", CancelRuns(ids))
        return applied

    async def remind(self) -> int:
        """Ask again for all that was asked and has not shown; return how many tasks that are. Leader only.

        The broker may have been away, and a session that joined later may get the release.
        """
        requested = await store.requested(self._database.upkeep)
        for queue, ids in requested.items():
            await self._presence.send(f"queue.{queue}", CancelRuns(ids))
        return sum(map(len, requested.values()))

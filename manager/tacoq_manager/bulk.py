"""Bulk: a filter in, first how many tasks it means, then, on the caller's word, these cancelled or retried, out.

The word is the most tasks that the caller expects; when more are meant nothing is done. A request does a page, in
batches in the order of ids, and says where the next page begins. All of it may be repeated: what is cancelled, asked to
stop or retried is not meant any more.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from tacoq_manager.accept import Accepter
from tacoq_manager.cancel import Canceller
from tacoq_manager.resubmit import RETRYABLE, copy, retry_id, unique_keys
from tacoq_manager.store import bulk as store
from tacoq_manager.store import tasks as lookup
from tacoq_manager.store.bulk import Action, Meant
from tacoq_manager.store.engine import Database
from tacoq_protocol.errors import FilterRefused, TooManyMeant
from tacoq_protocol.http import MAX_BULK_TASKS, BulkCount, BulkDone, BulkRequest, TaskFilter
from tacoq_protocol.states import LIVE, TaskState

BATCH_TASKS: Final = 500
BATCH_BYTES: Final = 4 * 1024 * 1024  # of payloads that are read to be published again
PAGE_TASKS: Final = 5_000
PAGE_SECONDS: Final = 5.0
SAMPLE_TASKS: Final = 10
OLDEST_COUNT: Final = timedelta(days=1)  # ids of retries are dated by it

# What one batch did: tasks done, workers asked, and the last id of it; None when nothing was left.
Step = tuple[int, int, UUID | None]


class Bulk:
    """Cancels and retries by filter."""

    def __init__(self, database: Database, canceller: Canceller, accepter: Accepter) -> None:
        self._database = database
        self._canceller = canceller
        self._accepter = accepter

    async def cancel(self, request: BulkRequest) -> BulkCount | BulkDone:
        """Cancel the live tasks that fit: each at once when nobody can have it, else its workers are asked to stop it.

        Those that were asked before are not counted. Raises FilterRefused, TooManyMeant, DatabaseUnavailable.
        """
        states = _states(request.filter, allowed=LIVE, otherwise=LIVE, verb="cancelled")
        return await self._answer(Action.CANCEL, request, states, self._cancel)

    async def retry(self, request: BulkRequest) -> BulkCount | BulkDone:
        """Publish the ended tasks that fit once more, those that failed unless the filter names other states.

        A task that has a retry is left out, so that each is retried once; a retry that failed is itself retried. Raises
        FilterRefused, TooManyMeant, DatabaseUnavailable.
        """
        states = _states(request.filter, allowed=RETRYABLE, otherwise={TaskState.FAILED}, verb="retried")
        return await self._answer(Action.RETRY, request, states, self._retry)

    async def _answer(
        self,
        action: Action,
        request: BulkRequest,
        states: tuple[TaskState, ...],
        step: Callable[[Meant], Awaitable[Step]],
    ) -> BulkCount | BulkDone:
        if request.filter == TaskFilter():
            raise FilterRefused("the filter is empty, and would mean every task: give a kind, a queue, a state, a time")
        now = await store.now(self._database)
        as_of = now if request.as_of is None else request.as_of
        if not now - OLDEST_COUNT <= as_of <= now:
            raise FilterRefused(f"as_of: {as_of} is not within the last day: count again, and take that of the count")
        meant = Meant(action, msgspec.structs.replace(request.filter, state=states), as_of)
        if request.after is not None:
            meant = meant.beyond(request.after)
        if request.most is None:
            return await self._count(meant)
        counted = await store.count(self._database, meant, most=request.most + 1)
        if counted > request.most:
            raise TooManyMeant(request.most)
        return await self._page(meant, step)

    async def _count(self, meant: Meant) -> BulkCount:
        counted = await store.count(self._database, meant, most=MAX_BULK_TASKS + 1)
        ids = await store.first(self._database, meant, most=SAMPLE_TASKS)
        sample = sorted(await lookup.views(self._database, ids), key=lambda view: view.id)
        most = min(counted, MAX_BULK_TASKS)
        return BulkCount(most, meant.as_of, sample, more=counted > most)

    async def _page(self, meant: Meant, step: Callable[[Meant], Awaitable[Step]]) -> BulkDone:
        page = BulkDone(0, meant.as_of)
        ends = time.monotonic() + PAGE_SECONDS
        while page.done + page.requested < PAGE_TASKS and time.monotonic() < ends:
            done, requested, last = await step(meant)
            if last is None:
                return page
            page.done += done
            page.requested += requested
            meant = meant.beyond(last)
        page.next = meant.after
        return page

    async def _cancel(self, meant: Meant) -> Step:
        ids = await store.first(self._database, meant, most=BATCH_TASKS)
        if not ids:
            return 0, 0, None
        moves = await self._canceller.cancel_all(ids)
        requested = sum(not move.state.final for move in moves)
        return len(moves) - requested, requested, ids[-1]

    async def _retry(self, meant: Meant) -> Step:
        async with store.contents(self._database, meant, most=BATCH_TASKS, most_bytes=BATCH_BYTES) as ended:
            rows = [copy(old["id"], old, id=retry_id(old["id"], meant.as_of)) for old in ended]
            if not rows:
                return 0, 0, None
            accepted = await self._accepter.commit(rows, unique_keys(rows, ended))
        return sum(not answer.duplicate for answer in accepted), 0, ended[-1]["id"]


def _states(
    filter: TaskFilter, *, allowed: frozenset[TaskState], otherwise: frozenset[TaskState] | set[TaskState], verb: str
) -> tuple[TaskState, ...]:
    """Return the states to look for. Raises FilterRefused for one in which nothing can be done."""
    for state in filter.state:
        if state not in allowed:
            raise FilterRefused(f"state: a {state} task cannot be {verb}; one that is {', '.join(sorted(allowed))} can")
    return filter.state or tuple(otherwise)

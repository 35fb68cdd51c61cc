"""Results: where those of completed tasks are. In Postgres with all else, or, where a URL says so, in Redis for a time.

A task that is completed and has no result in Postgres has, or had, it in Redis. docs/decisions/0024 says why so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from msgspec import UNSET

from tacoq_manager.transitions import Transition
from tacoq_protocol.errors import ConfigurationError, TacoqError
from tacoq_protocol.http import TaskView
from tacoq_protocol.states import TaskState

STEP_SECONDS: Final = 1.0


class ResultsUnavailable(TacoqError):
    """The results are in Redis, which cannot be asked now: whether they have expired is not known."""


class Results:
    """Those of this system, in Postgres. What is elsewhere, by an earlier setting, nobody can get at any more."""

    state: str | None = None  # of the link to another store: open or away

    async def open(self) -> None:
        """Raises ConfigurationError when results cannot be kept there."""

    async def close(self) -> None: ...

    async def look(self) -> Mapping[str, Any]:
        """Return what the store tells of itself; nothing is kept for it. Raises ResultsUnavailable."""
        return {}

    async def put(self, transitions: Sequence[Transition]) -> bool:
        """Keep the results of moves that are about to be committed; False: they have to be committed with them."""
        return False

    async def fill(self, views: Sequence[TaskView]) -> None:
        """Give those of completed tasks that lack it their result, or say that it has expired.

        Raises ResultsUnavailable, with all as they were.
        """
        for view in views:
            if lacks_result(view):
                view.result_expired = True

    async def step(self) -> int:
        """Look whether the store is there; return 1 when it has come back."""
        return 0


def lacks_result(view: TaskView) -> bool:
    """Whether Postgres has none, though there is, or was, one."""
    return view.result is UNSET and view.state is TaskState.COMPLETED


def results_of(url: str | None, *, ttl: timedelta, namespace: str) -> Results:
    """Return the store that the settings mean. Raises ConfigurationError."""
    if url is None:
        return Results()
    try:
        from tacoq_manager.store.redis_results import RedisResults
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "TACOQ_RESULTS_URL is set, and the package redis is not installed: pip install 'tacoq-manager[redis]'"
        ) from error
    return RedisResults(url, ttl=ttl, namespace=namespace)

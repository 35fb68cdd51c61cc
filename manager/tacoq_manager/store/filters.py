"""Filters: which tasks are meant, in; conditions on `tasks` or `task_history`, and time-bounded transactions, out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from tacoq_manager.store.engine import Database
from tacoq_manager.store.faults import database_faults, driver_error
from tacoq_protocol.errors import FilterRefused
from tacoq_protocol.http import TaskFilter
from tacoq_protocol.ids import first_id_of
from tacoq_protocol.states import TaskState

TaskTable = Literal["tasks", "task_history"]

SEARCH_SECONDS: Final = 10.0  # for one statement: a filter that fits little may read all of the history
# Pages are read along the ids until they are full. With statistics that do not know today's rows yet the planner would
# rather read all that fit, and sort them, for every page.
_SETTINGS: Final = text("""
SELECT set_config('statement_timeout', :timeout, true), set_config('enable_sort', 'off', true),
    set_config('enable_bitmapscan', 'off', true)
""")
_CONDITIONS: Final = {
    "kind": "kind = :kind",
    "queue": "queue = :queue",
    "fairness_key": "fairness_key = :fairness_key",
    "state": "state = ANY (:state)",
    "created_after": "id >= :created_after",
    "created_before": "id < :created_before",
}
# `->>` fails where there is a \u0000: they are taken out first (not a \\u0000, whose backslash is itself escaped).
_READABLE: Final = r"""CASE WHEN strpos(error::text, '\u0000') = 0 THEN error
    ELSE regexp_replace(error::text, '(?<!\\)((?:\\\\)*)\\u0000', '\1', 'g')::json END"""
_CONTAINS: Final = f"""EXISTS (
    SELECT FROM (SELECT {_READABLE} AS readable) AS e
    WHERE strpos(lower((readable ->> 'type') || ': ' || (readable ->> 'message')), lower(:error)) > 0
)"""
_LAST_RUN: Final = (
    "(SELECT error FROM attempts WHERE task_id = tasks.id AND outcome <> 'returned' ORDER BY release DESC LIMIT 1)"
)
_ERROR: Final[dict[TaskTable, str]] = {
    "tasks": f"EXISTS (SELECT FROM {_LAST_RUN} AS last WHERE {_CONTAINS})",
    "task_history": _CONTAINS,
}


def conditions(filter: TaskFilter, table: TaskTable) -> list[str]:
    """Return what a row of `table` has to satisfy; `parameters` has the values."""
    given = parameters(filter)
    found = [condition for name, condition in _CONDITIONS.items() if name in given]
    if table == "task_history" and filter.state and TaskState.COMPLETED not in filter.state:
        found.append("state <> 'completed'")  # for the planner, which knows no parameter: task_history_undone has them
    return found if filter.error is None else [*found, _ERROR[table]]


def parameters(filter: TaskFilter) -> dict[str, object]:
    """Return the values for `conditions`, by name."""
    values = {
        "kind": filter.kind,
        "queue": filter.queue,
        "fairness_key": filter.fairness_key,
        "state": list(filter.state) or None,
        "created_after": _bound(filter.created_after),
        "created_before": _bound(filter.created_before),
        "error": filter.error,
    }
    return {name: value for name, value in values.items() if value is not None}


@asynccontextmanager
async def searching(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction whose statements may take SEARCH_SECONDS each; committed at the end.

    Not on a hot connection: lookups would wait for it. Two at a time: who asks whether the manager is ready takes his
    connection where they take theirs. Raises FilterRefused when a statement takes longer.
    """
    with database_faults():
        try:
            async with database.searches, database.engine.begin() as connection:
                await connection.execute(_SETTINGS, {"timeout": f"{SEARCH_SECONDS * 1000:.0f}"})
                yield connection
        except DBAPIError as error:
            if not isinstance(driver_error(error), asyncpg.QueryCanceledError):
                raise
            raise FilterRefused(
                f"what the filter means was not found within {SEARCH_SECONDS:g} s: "
                "narrow it, by created_after and created_before say"
            ) from error


def _bound(moment: datetime | None) -> UUID | None:
    if moment is None:
        return None
    return first_id_of(moment) if moment.timestamp() > 0 else UUID(int=0)

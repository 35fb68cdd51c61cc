"""Bulk: a filter and what is to be done in; how many tasks are meant, their ids and their rows out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from itertools import accumulate
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy import RowMapping, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from tacoq_manager.store.engine import Database, DatabaseUnavailable
from tacoq_manager.store.faults import driver_error
from tacoq_manager.store.filters import TaskTable, conditions, parameters, searching
from tacoq_manager.store.tasks import CONTENT
from tacoq_protocol.http import TaskFilter

_FIRST_ID: Final = UUID(int=0)
_LOCK_KEY: Final = 0x7AC0_0003
_TURN_SECONDS: Final = 5  # a page of another one takes less
_CONTENTS: Final = text(f"SELECT id, {CONTENT} FROM task_history WHERE id = ANY (:ids) ORDER BY id")


class Action(Enum):
    """What is done to many tasks: the table they are in, and what else must hold for them."""

    CANCEL = ("tasks", "created_at <= :as_of AND NOT cancel_requested")
    # What was retried is left to the fate of its retry: when that failed, it is the one to be retried.
    RETRY = (
        "task_history",
        """finished_at <= :as_of
        AND NOT EXISTS (SELECT FROM tasks AS r WHERE r.retry_of = task_history.id)
        AND NOT EXISTS (SELECT FROM task_history AS r WHERE r.retry_of = task_history.id)""",
    )

    def __init__(self, table: TaskTable, condition: str) -> None:
        self.table: TaskTable = table
        self.condition = condition


@dataclass(frozen=True, slots=True)
class Meant:
    """The tasks that `action` is for: those that fit, as of a moment, with ids after one."""

    action: Action
    filter: TaskFilter
    as_of: datetime
    after: UUID = _FIRST_ID

    def beyond(self, id: UUID) -> Meant:
        """Return those of greater ids."""
        return replace(self, after=id)

    @property
    def rows(self) -> str:
        """FROM … WHERE …"""
        every = [*conditions(self.filter, self.action.table), self.action.condition, "id > :after"]
        return f"FROM {self.action.table} WHERE {' AND '.join(every)}"

    @property
    def values(self) -> dict[str, object]:
        return parameters(self.filter) | {"as_of": self.as_of, "after": self.after}


async def now(database: Database) -> datetime:
    """Return the time of the database, by which tasks are dated."""
    async with searching(database) as connection:
        moment: datetime = (await connection.execute(text("SELECT now()"))).scalar_one()
        return moment


async def count(database: Database, meant: Meant, *, most: int) -> int:
    """Return how many there are, counted up to `most`. Raises FilterRefused, DatabaseUnavailable."""
    statement = text(f"SELECT count(*) FROM (SELECT {meant.rows} LIMIT :most) AS counted")
    async with searching(database) as connection:
        counted: int = (await connection.execute(statement, meant.values | {"most": most})).scalar_one()
        return counted


async def first(database: Database, meant: Meant, *, most: int) -> list[UUID]:
    """Return the smallest ids. Raises FilterRefused, DatabaseUnavailable."""
    statement = text(f"SELECT id {meant.rows} ORDER BY id LIMIT :most")
    async with searching(database) as connection:
        return list((await connection.scalars(statement, meant.values | {"most": most})).all())


@asynccontextmanager
async def contents(
    database: Database, meant: Meant, *, most: int, most_bytes: int
) -> AsyncIterator[Sequence[RowMapping]]:
    """Give the content of the first tasks, by id, up to `most_bytes` of payload but one at least.

    Until it is left nobody else, on whatever manager, is given any: what is published meanwhile is published once.
    Raises FilterRefused, DatabaseUnavailable.
    """
    statement = text(f"SELECT id, octet_length(payload) {meant.rows} ORDER BY id LIMIT :most")
    async with searching(database) as connection:
        await _take_turn(connection)
        found = (await connection.execute(statement, meant.values | {"most": most})).all()
        sums = accumulate(size for _, size in found)
        within = sum(total <= most_bytes for total in sums)
        ids = [id for id, _ in found[: max(1, within)]]
        yield (await connection.execute(_CONTENTS, {"ids": ids})).mappings().all()


async def _take_turn(connection: AsyncConnection) -> None:
    await connection.execute(text(f"SET LOCAL lock_timeout = '{_TURN_SECONDS * 1000:.0f}ms'"))
    try:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    except DBAPIError as error:
        if not isinstance(driver_error(error), asyncpg.LockNotAvailableError):
            raise
        raise DatabaseUnavailable("another retry of many tasks goes on") from error

"""Plans inside the accept functions: made while nothing is live, and kept, they read no more when much is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tacoq_manager.store import accept as store
from tacoq_manager.store import keyed
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.draw import Rated
from tacoq_manager.store.engine import HOT_SETTINGS
from tacoq_manager.store.functions import ACCEPT_FUNCTION
from tacoq_manager.store.keyed_function import ACCEPT_KEYED_FUNCTION
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.states import TaskState

Connection = Any

PENDING = 20_000
LEADER = uuid4()


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(database, server_settings=HOT_SETTINGS)
    await opened.execute(f"{ACCEPT_FUNCTION};{ACCEPT_KEYED_FUNCTION}")
    await opened.execute("UPDATE leader SET holder = $1, expires_at = now() + interval '1 hour'", LEADER)
    await opened.execute("VACUUM (ANALYZE) tasks")
    yield opened
    await opened.close()


def row() -> store.Row:
    unset = [None] * 9  # times, limits, retry_of and trace
    return store.Row._make([new_task_id(), "k", "default", 0, "", b"1", b"f" * 16, *unset, True])


def lead() -> store.Lead:
    return store.Lead(0, LEADER, 0, [Lane("default", "k", "", 0)], [1], [Rated("default", "k", 100.0)])


async def accept_leading(connection: Connection, task: store.Row) -> TaskState:
    return (await store.accept(connection, [task], lead()))[task.id].state


async def accept_following(connection: Connection, task: store.Row) -> TaskState:
    return (await store.accept(connection, [task._replace(kind="other")]))[task.id].state


async def accept_keyed(connection: Connection, task: store.Row) -> TaskState:
    keys = keyed.Keys(idempotency=str(task.id), window=60.0, digest=b"d")
    return (await keyed.accept(connection, [task], {task.id: keys}, lead()))[task.id].stored.state


async def accept_unique(connection: Connection, task: store.Row) -> TaskState:
    keys = keyed.Keys(unique=b"u", on_conflict="replace")
    return (await keyed.accept(connection, [task._replace(kind="other")], {task.id: keys}))[task.id].stored.state


ACCEPTS = {
    accept_leading: TaskState.QUEUED,
    accept_following: TaskState.PENDING,
    accept_keyed: TaskState.QUEUED,
    accept_unique: TaskState.PENDING,
}


@pytest.mark.parametrize(("accept", "state"), ACCEPTS.items())
async def test_accept_reads_nothing_of_what_is_pending_elsewhere(
    connection: Connection, accept: Any, state: TaskState
) -> None:
    assert await accept(connection, row()) is state  # planned now
    await connection.execute(
        """
        INSERT INTO tasks (id, kind, queue, state, run_at, payload, fingerprint)
        SELECT gen_random_uuid(), 'blocked', 'default', 'pending', now(), '', '' FROM generate_series(1, $1)
        """,
        PENDING,
    )
    async with connection.transaction():
        assert await accept(connection, row()) is state
        read = await connection.fetchval(
            "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'tasks'"
        )
    assert 1 <= read < 20, "its own row, and the one that its key is of"

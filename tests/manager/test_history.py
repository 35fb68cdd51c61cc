"""Partitions on a real Postgres: made ahead, beside traffic and other managers; dropped, but for what ended lately."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from tacoq_manager.store import history, tasks
from tacoq_manager.store.engine import Database
from tacoq_manager.store.history import drop_partitions, ensure_partitions
from tacoq_manager.store.schema import PARTITIONED
from tacoq_manager.upkeep import retention
from tests.manager.rows import id_at, insert_final
from tests.support import eventually

NOW = datetime(2030, 5, 10, 12, tzinfo=UTC)
TODAY = NOW.date()
LONG_AGO = NOW - timedelta(days=40)


@pytest_asyncio.fixture
async def second(database: str) -> AsyncIterator[Database]:
    """Another manager's connections."""
    connections = Database(database)
    yield connections
    await connections.close()


async def tables(store: Database, attached: bool = True) -> set[str]:
    rows = await store.read.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relispartition = $1 AND relname ~ '_(default|[0-9]{8})$'",
        attached,
    )
    return {row["relname"] for row in rows}


async def table_of(store: Database, task_id: object, table: str = "task_history") -> str | None:
    column = PARTITIONED[table]
    rows = await store.read.fetch(f"SELECT tableoid::regclass::text AS name FROM {table} WHERE {column} = $1", task_id)
    return rows[0]["name"] if rows else None


async def insert_attempt(store: Database, task_id: object, ended_at: datetime) -> None:
    statement = "INSERT INTO attempts (task_id, release, attempt, outcome, ended_at) VALUES ($1, 1, 1, 'failed', $2)"
    await store.settle.fetch(statement, task_id, ended_at)


async def test_a_week_ahead_is_made_once(store: Database) -> None:
    assert await ensure_partitions(store, TODAY) == 8 * len(PARTITIONED)
    assert {"task_history_20300510", "task_history_20300517", "attempts_20300510"} <= await tables(store)
    assert await ensure_partitions(store, TODAY) == 0
    assert await ensure_partitions(store, TODAY + timedelta(days=1)) == len(PARTITIONED)


async def test_ids_go_to_the_partition_of_their_day_to_the_millisecond(store: Database) -> None:
    await ensure_partitions(store, TODAY)
    midnight = datetime(2030, 5, 11, tzinfo=UTC)
    before, after = id_at(midnight - timedelta(milliseconds=1)), id_at(midnight)
    await insert_final(store, [before, after], finished_at=NOW)
    assert await table_of(store, before) == "task_history_20300510"
    assert await table_of(store, after) == "task_history_20300511"


async def test_a_partition_has_the_keys_checks_and_defaults_of_its_parent(store: Database) -> None:
    await ensure_partitions(store, TODAY, days_ahead=0)
    await insert_final(store, [id_at(NOW)], finished_at=NOW)
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert_final(store, [id_at(NOW)], finished_at=NOW)
    with pytest.raises(asyncpg.CheckViolationError):
        await store.settle.fetch("UPDATE task_history SET state = 'pending'")


async def test_two_managers_may_do_it_at_the_same_time(store: Database, second: Database) -> None:
    made = await asyncio.gather(ensure_partitions(store, TODAY), ensure_partitions(second, TODAY))
    assert sum(made) == 8 * len(PARTITIONED)
    assert len(await tables(store)) == 9 * len(PARTITIONED)


async def test_strays_of_the_day_move_out_of_default(store: Database) -> None:
    inside, outside = id_at(NOW), id_at(NOW + timedelta(days=30))
    await insert_final(store, [inside, outside], finished_at=NOW)
    await insert_attempt(store, inside, NOW)
    assert await table_of(store, inside) == "task_history_default"
    await ensure_partitions(store, TODAY)
    assert await table_of(store, inside) == "task_history_20300510"
    assert await table_of(store, inside, "attempts") == "attempts_20300510"
    assert await table_of(store, outside) == "task_history_default"


async def test_a_day_with_too_many_strays_stays_in_default_and_is_told(
    store: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(history, "MOST_STRAYS", 2)
    await insert_final(store, [id_at(NOW, number) for number in range(3)], finished_at=NOW)
    with caplog.at_level(logging.WARNING, "tacoq.partitions"):
        assert await ensure_partitions(store, TODAY, days_ahead=1) == 3
    assert "task_history_20300510" not in await tables(store)
    assert "too many tasks" in caplog.text


async def test_a_lock_that_is_not_to_be_had_costs_a_try_and_no_more(
    store: Database, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(history, "LOCK_TIMEOUT", "50ms")
    reader = await asyncpg.connect(database)
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM task_history")
        with caplog.at_level(logging.WARNING, "tacoq.partitions"):
            assert await ensure_partitions(store, TODAY, days_ahead=0) == 1  # that of the attempts
        assert "busy" in caplog.text
    assert await ensure_partitions(store, TODAY, days_ahead=0) == 1
    await reader.close()


async def test_lookups_and_writes_go_on_while_partitions_come_and_go(store: Database, second: Database) -> None:
    """Plans of the hot statements must survive it, and nothing that is there may seem missing for a moment."""
    stop = asyncio.Event()
    rows = 0

    async def write() -> None:
        nonlocal rows
        while not stop.is_set():
            await insert_final(second, [id_at(NOW + timedelta(days=rows % 8), rows)], finished_at=NOW)
            rows += 1

    async def look() -> None:
        while not stop.is_set():
            ids = [id_at(NOW + timedelta(days=number % 8), number) for number in range(rows)][-200:]
            assert len(await tasks.views(second, [*ids, late])) == len(ids) + 1

    long_ago = LONG_AGO.date()
    await ensure_partitions(store, long_ago, days_ahead=0)
    late = id_at(LONG_AGO)
    await insert_final(store, [late], finished_at=NOW)
    async with asyncio.TaskGroup() as traffic:
        traffic.create_task(write())
        traffic.create_task(look())
        await eventually(lambda: rows > 20)
        for days in range(8):
            await ensure_partitions(store, TODAY, days_ahead=days)
            await ensure_partitions(store, long_ago + timedelta(days=days), days_ahead=0)
            await drop_partitions(store, NOW - timedelta(days=30))
        stop.set()
    assert await tables(store) >= {f"task_history_203005{day}" for day in range(10, 18)}
    assert f"task_history_{long_ago:%Y%m%d}" not in await tables(store)


async def test_days_older_than_the_retention_are_dropped(store: Database) -> None:
    await ensure_partitions(store, LONG_AGO.date(), days_ahead=2)
    await ensure_partitions(store, TODAY)
    old = id_at(LONG_AGO)
    await insert_final(store, [old], finished_at=LONG_AGO)
    await insert_attempt(store, old, LONG_AGO)
    assert await drop_partitions(store, NOW - timedelta(days=30)) == 3 * len(PARTITIONED)
    left = await tables(store) | await tables(store, attached=False)
    assert len(left) == 9 * len(PARTITIONED)
    assert await table_of(store, old) is None


async def test_the_day_of_the_retention_itself_stays(store: Database) -> None:
    await ensure_partitions(store, LONG_AGO.date(), days_ahead=0)
    assert await drop_partitions(store, LONG_AGO) == 0


async def test_what_was_made_long_ago_and_ended_lately_is_kept_for_the_retention(store: Database) -> None:
    await ensure_partitions(store, LONG_AGO.date(), days_ahead=0)
    late, old = id_at(LONG_AGO, 1), id_at(LONG_AGO, 2)
    ended = NOW - timedelta(days=1)
    await insert_final(store, [late], finished_at=ended)
    await insert_attempt(store, late, ended)
    await insert_final(store, [old], finished_at=LONG_AGO)
    assert await drop_partitions(store, NOW - timedelta(days=30)) == 2
    assert await table_of(store, late) == "task_history_default"
    assert await table_of(store, late, "attempts") == "attempts_default"
    await drop_partitions(store, ended + timedelta(seconds=1))
    assert await table_of(store, late) is None
    assert await table_of(store, late, "attempts") is None


async def test_a_partition_left_detached_by_a_crash_is_finished(store: Database) -> None:
    await ensure_partitions(store, LONG_AGO.date(), days_ahead=0)
    late = id_at(LONG_AGO, 1)
    await insert_final(store, [late], finished_at=NOW)
    await store.upkeep.fetch(f"ALTER TABLE task_history DETACH PARTITION task_history_{LONG_AGO:%Y%m%d}")
    assert await drop_partitions(store, NOW - timedelta(days=30)) == 2
    assert await tables(store, attached=False) == set()
    assert await table_of(store, late) == "task_history_default"


async def test_the_step_makes_and_drops(store: Database) -> None:
    await ensure_partitions(store, LONG_AGO.date(), days_ahead=0)
    assert await retention.step(store, retention=timedelta(days=30), now=NOW) == 9 * len(PARTITIONED)
    assert await retention.step(store, retention=timedelta(days=30), now=NOW) == 0

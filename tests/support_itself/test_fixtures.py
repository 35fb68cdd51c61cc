"""The suite's own fixtures and helpers do what they say."""

from __future__ import annotations

import signal
import sys

import asyncpg
import pytest

from scripts.private_servers import PrivatePostgres, PrivateRabbit
from scripts.probes import postgres_fault, rabbit_fault
from tests.support import eventually, spawn


async def _tables(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')")
        return {row["relname"] for row in rows}
    finally:
        await connection.close()


@pytest.mark.parametrize("_again", [1, 2])
async def test_database_is_migrated_and_empty(database: str, _again: int) -> None:
    assert {"tasks", "task_history"} <= await _tables(database)
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("SELECT to_regclass('left_by_another_test')") is None
        await connection.execute("CREATE TABLE left_by_another_test ()")
    finally:
        await connection.close()


async def test_eventually_returns_the_true_answer_and_reports_the_last_false_one() -> None:
    answers = iter([0, 0, 7])
    assert await eventually(lambda: next(answers)) == 7
    with pytest.raises(AssertionError, match=r"last: \[\]"):
        await eventually(list, timeout=0.05)


def test_spawned_process_ends_with_the_block() -> None:
    with spawn(sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)") as process:
        process.wait_for_log("ready")
        process.send(signal.SIGINT)
        assert process.wait() == -signal.SIGINT


def test_private_postgres_keeps_its_data_over_kill_and_restart(private_postgres: PrivatePostgres) -> None:
    private_postgres.kill()
    assert postgres_fault(private_postgres.database_url) is not None
    private_postgres.start()
    assert postgres_fault(private_postgres.database_url) is None


def test_private_rabbit_restarts_on_the_same_address(private_rabbit: PrivateRabbit, namespace: str) -> None:
    private_rabbit.kill()
    assert rabbit_fault(private_rabbit.broker_url) is not None
    private_rabbit.start()
    assert rabbit_fault(private_rabbit.broker_url) is None
    assert namespace.startswith("test-")

"""Connections: what is a trouble of the server, and what is left open when one cannot be used."""

from __future__ import annotations

import os

import asyncpg
import pytest

from tacoq_manager.store import registry
from tacoq_manager.store.engine import Database, DatabaseUnavailable, HotConnection
from tests.support.databases import Databases
from tests.support.eventually import eventually


async def test_database_that_is_dropped_under_a_manager_is_unavailable(database: str, databases: Databases) -> None:
    """And not a fault of what was asked: a stage waits for it, and goes on when it is back."""
    connections = Database(database)
    await connections.settle.fetch("SELECT 1")
    await databases.drop(database.rpartition("/")[2])
    for _ in range(2):  # the connection breaks, and there is no other to be had
        with pytest.raises(DatabaseUnavailable):
            await connections.settle.fetch("SELECT 1")
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        await registry.list_kinds(connections)
    await connections.close()


async def test_connection_that_cannot_be_set_up_is_closed(database: str) -> None:
    name = f"broken-{os.urandom(4).hex()}"
    connection = HotConnection(database, name, setup="SELECT 1 FROM nothing")
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.fetch("SELECT 1")
    other = await asyncpg.connect(database)

    async def gone() -> bool:
        left = await other.fetch("SELECT FROM pg_stat_activity WHERE application_name = $1", f"tacoq {name}")
        return not left

    await eventually(gone)
    await other.close()

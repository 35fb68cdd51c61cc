"""Migrations on a real Postgres: up, down, up; what they make is what schema.py says; other versions are refused."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import Connection, MetaData, text

from tacoq_manager.cli import manager, migrate
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.store.migrate import (
    Migrated,
    OldSchema,
    UnknownSchema,
    check,
    downgrade,
    engine_for,
    is_partition,
    upgrade,
    wanted_revision,
)
from tacoq_manager.store.schema import PARTITIONED, metadata
from tests.support.databases import Databases


@pytest_asyncio.fixture
async def missing(databases: Databases, database_url: str) -> AsyncIterator[str]:
    """The URL of a database that is not there."""
    name = f"tacoq_test_{int.from_bytes(os.urandom(4)):x}_missing"
    yield databases.url_of(name)
    await databases.drop(name)


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def relations(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    finally:
        await connection.close()
    return {row["relname"] for row in rows}


async def test_up_down_up_makes_the_missing_database_and_ends_with_the_same_relations(missing: str) -> None:
    assert await upgrade(missing) == Migrated(None, wanted_revision())
    first = await relations(missing)
    assert set(metadata.tables) <= first
    assert await downgrade(missing, "base") == Migrated(wanted_revision(), None)
    assert await relations(missing) == {"alembic_version", "alembic_version_pkc"}
    await upgrade(missing)
    assert await relations(missing) == first


async def test_migrations_that_run_at_the_same_time_do_it_once(missing: str) -> None:
    done = await asyncio.gather(*(upgrade(missing) for _ in range(3)))
    newest = wanted_revision()
    assert sorted(str(one.before) for one in done) == [newest, newest, "None"]
    await check(missing)


async def test_a_migration_waits_for_one_that_another_process_runs(missing: str) -> None:
    await upgrade(missing)
    other = await asyncpg.connect(missing)
    await other.execute("SELECT pg_advisory_lock(x'7AC00001'::int)")
    waiting = asyncio.create_task(upgrade(missing))
    assert not (await asyncio.wait([waiting], timeout=0.3))[0]
    await other.close()
    assert await waiting == Migrated(wanted_revision(), wanted_revision())


async def test_the_migrated_database_is_the_metadata(database: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        def include(name: str | None, type_: str, parents: object) -> bool:
            return type_ != "table" or name is None or not is_partition(name)

        options = {"compare_type": True, "compare_server_default": True, "include_name": include}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = engine_for(database)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_indexes_checks_defaults_and_partitioning_are_those_of_the_metadata(database: str) -> None:
    """What Alembic does not compare, compared as Postgres prints it: the metadata is created in a schema beside."""
    engine = engine_for(database)
    async with engine.begin() as connection:
        beside = MetaData(schema="beside")
        for table in metadata.sorted_tables:
            table.to_metadata(beside)
        await connection.execute(text("CREATE SCHEMA beside"))
        await connection.run_sync(beside.create_all)
        migrated, declared = await described(connection, "public"), await described(connection, "beside")
        for what in _DESCRIPTIONS:
            assert sorted(migrated[what] ^ declared[what]) == [], what
        await connection.rollback()


_DESCRIPTIONS = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity, identity_generation
        FROM information_schema.columns WHERE table_schema = :schema""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = :schema",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = CAST(:schema AS text)::regnamespace AND contype IN ('c', 'p', 'u', 'f')""",
    "partitioning": """
        SELECT relname, pg_get_partkeydef(oid) FROM pg_class
        WHERE relnamespace = CAST(:schema AS text)::regnamespace AND relkind IN ('r', 'p')""",
}


async def described(connection: Any, schema: str) -> dict[str, set[tuple[str, ...]]]:
    told = {}
    for what, statement in _DESCRIPTIONS.items():
        rows = await connection.execute(text(statement), {"schema": schema})
        plain = [tuple(_plain(str(value), schema) for value in row) for row in rows]
        told[what] = {row for row in plain if not is_partition(row[0]) and row[0] != "alembic_version"}
    return told


def _plain(value: str, schema: str) -> str:
    """Without the schema; a default of '0'::smallint is 0."""
    return re.sub(r"^'(\d+)'::\w+$", r"\1", value.replace(f"{schema}.", ""))


async def test_history_has_a_default_partition(database: str) -> None:
    found = await relations(database)
    assert {f"{table}_default" for table in PARTITIONED} <= found


async def test_an_old_schema_is_refused_with_the_command_to_run(missing: str) -> None:
    with pytest.raises(OldSchema, match="run: tacoq migrate") as refused:
        await check(missing)
    assert refused.value.found is None
    await upgrade(missing)
    await downgrade(missing, "base")
    with pytest.raises(OldSchema, match="run: tacoq migrate"):
        await check(missing)
    await upgrade(missing)
    await check(missing)


async def test_the_schema_of_a_newer_version_is_refused(database: str) -> None:
    await execute(database, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UnknownSchema, match="upgrade tacoq-manager"):
        await check(database)
    with pytest.raises(UnknownSchema):
        await upgrade(database)


async def test_without_postgres_it_says_so() -> None:
    for work in (check, upgrade):
        with pytest.raises(DatabaseUnavailable, match="not reachable"):
            await work("postgresql://postgres@127.0.0.1:1/none")


def test_the_command_migrates_and_says_from_where_to_where(missing: str) -> None:
    environment = {"TACOQ_DATABASE_URL": missing.replace("postgresql://", "postgres://")}
    done = CliRunner().invoke(migrate, env=environment)
    assert f"was at none, is now at {wanted_revision()}" in done.output, done.output
    again = CliRunner().invoke(migrate, env=environment)
    assert "nothing to do" in again.output


def test_the_manager_refuses_to_start_on_an_old_schema(missing: str) -> None:
    done = CliRunner().invoke(manager, ["--port", "0"], env={"TACOQ_DATABASE_URL": missing})
    assert isinstance(done.exception, OldSchema)
    assert "run: tacoq migrate" in str(done.exception)

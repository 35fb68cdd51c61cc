"""Alembic's entry: runs migrations on the connection `tacoq_manager.store.migrate` gives it.

Called by the `alembic` command itself (to write a new revision) it connects to TACOQ_DATABASE_URL.
"""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection

from tacoq_manager.settings import Settings
from tacoq_manager.store.migrate import engine_for, is_partition
from tacoq_manager.store.schema import metadata


def include_name(name: str | None, type_: str, parents: object) -> bool:
    return type_ != "table" or name is None or not is_partition(name)


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=include_name,
        transaction_per_migration=True,  # so that a step may leave its own, to build an index
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    async with engine_for(Settings().database_url).connect() as connection:
        await connection.run_sync(run)


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    asyncio.run(connect_and_run())

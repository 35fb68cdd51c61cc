"""Fixtures for the manager's own parts: connections to a fresh database, rows without the stages that make them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tacoq_manager.store.engine import Database
from tests.manager.serving import Served, serving


@pytest_asyncio.fixture
async def store(database: str) -> AsyncIterator[Database]:
    """Connections to a migrated, empty database."""
    connections = Database(database)
    yield connections
    await connections.close()


@pytest_asyncio.fixture
async def served(database: str) -> AsyncIterator[Served]:
    """A whole manager behind HTTP, over an in-process broker."""
    async with serving(database) as running:
        yield running

"""A server in; fresh migrated databases, copied from one template, out. Every name begins with the run's prefix."""

from __future__ import annotations

import os
import time
from urllib.parse import urlsplit

import asyncpg

PREFIX = "tacoq_test_"
STALE_SECONDS = 6 * 3600


class Databases:
    """The databases of one test run on one server."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._prefix = f"{PREFIX}{int(time.time()):x}_{os.urandom(3).hex()}_"
        self._made = 0

    def url_of(self, name: str) -> str:
        return urlsplit(self._server_url)._replace(path=f"/{name}").geturl()

    async def make_template(self) -> None:
        from tacoq_manager.store.migrate import upgrade

        await self._drop_stale()
        await self._execute(f"CREATE DATABASE {self._prefix}template")
        await upgrade(self.url_of(f"{self._prefix}template"))

    async def create(self) -> str:
        """Make a migrated, empty database; return its name."""
        self._made += 1
        name = f"{self._prefix}{self._made}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {self._prefix}template")
        return name

    async def drop(self, name: str) -> None:
        await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def drop_all(self) -> None:
        for name in await self._names():
            if name.startswith(self._prefix):
                await self.drop(name)

    async def _drop_stale(self) -> None:
        """Drop what earlier runs left that were killed; runs of now, by somebody else, are young."""
        for name in await self._names():
            made, _, _ = name.removeprefix(PREFIX).partition("_")
            if int(made, 16) < time.time() - STALE_SECONDS:
                await self.drop(name)

    async def _names(self) -> list[str]:
        connection = await asyncpg.connect(self._server_url)
        try:
            rows = await connection.fetch("SELECT datname FROM pg_database WHERE datname ~ $1", rf"^{PREFIX}[0-9a-f]+_")
        finally:
            await connection.close()
        return [row["datname"] for row in rows]

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._server_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

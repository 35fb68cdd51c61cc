"""Postgres, RabbitMQ and Redis in; a place of its own for each run on them, their processes and versions out."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import psutil

from benchmarks.place import Place, Results
from scripts.cleanup import delete_queues, drop_database
from scripts.probes import free_port
from scripts.services import services

_SETTINGS = ("fsync", "synchronous_commit", "shared_buffers", "max_wal_size")


@dataclass
class Servers:
    """Addresses that answer. What is made there begins with `name`."""

    database_url: str
    broker_url: str
    redis_url: str | None  # with a database number that was empty; None: nobody keeps results there
    name: str = field(default_factory=lambda: f"tacoq_bench_{secrets.token_hex(3)}")
    _made: int = 0

    @contextlib.contextmanager
    def place(self, results: Results, *, managers: int = 1, workers: int = 1) -> Iterator[Place]:
        """A database, a prefix for RabbitMQ and a Redis database, empty, and gone afterwards."""
        self._made += 1
        name = f"{self.name}_{self._made}"
        asyncio.run(_execute(self.database_url, f"CREATE DATABASE {name}"))
        try:
            url = urlsplit(self.database_url)._replace(path=f"/{name}").geturl()
            ports = [free_port() for _ in range(managers)]
            yield Place(name, url, self.broker_url, self.redis_url or "", results, ports, workers)
        finally:
            asyncio.run(drop_database(self.database_url, name))
            if self.redis_url is not None:
                redis(self.redis_url, "FLUSHDB")

    def sweep(self, queues: list[str], exchanges: list[str]) -> None:
        """Delete what a product left on RabbitMQ."""
        asyncio.run(delete_queues(self.broker_url, queues, exchanges=exchanges))

    def pids(self) -> dict[str, list[int]]:
        """The main process of each server that is on this machine and that we may look at."""
        found = {
            "postgres": asyncio.run(_postmaster(self.database_url)),
            "rabbitmq": _listener(self.broker_url, 5672),
            "redis": None if self.redis_url is None else _listener(self.redis_url, 6379),
        }
        return {role: [pid] for role, pid in found.items() if pid is not None}

    def versions(self) -> dict[str, str]:
        redis_version = {} if self.redis_url is None else _redis_version(self.redis_url)
        return asyncio.run(_versions(self.database_url, self.broker_url)) | redis_version


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """Those that are up, else private ones."""
    with services(redis=True) as up:
        assert up.redis_url is not None
        yield Servers(up.database_url, up.broker_url, _empty(up.redis_url))


def redis(url: str, command: str) -> str:
    """Send one inline command to the URL's database; return the raw answer. The library is in the other environment."""
    parts = urlsplit(url)
    words = [f"AUTH {parts.password}"] if parts.password else []
    words += [f"SELECT {parts.path.lstrip('/') or 0}", command]
    with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=10) as link:
        answer = ""
        for word in words:
            link.sendall(f"{word}\r\n".encode())
            answer = link.recv(65536).decode(errors="replace")
            if answer.startswith("-"):
                raise RuntimeError(f"Redis refuses {word.split()[0]}: {answer.strip()}")
        return answer


def _empty(url: str) -> str:
    """Return the URL with the number of a database that has nothing in it."""
    for number in range(15, 0, -1):
        candidate = urlsplit(url)._replace(path=f"/{number}").geturl()
        if redis(candidate, "DBSIZE").strip() == ":0":
            return candidate
    raise RuntimeError("no database of the Redis is empty: name another one in TACOQ_RESULTS_URL")


def _redis_version(url: str) -> dict[str, str]:
    lines = dict(line.split(":", 1) for line in redis(url, "INFO server").splitlines() if ":" in line)
    persistence = dict(line.split(":", 1) for line in redis(url, "INFO persistence").splitlines() if ":" in line)
    append_only = "on" if persistence["aof_enabled"] == "1" else "off"
    return {"Redis": f"{lines['redis_version']}, append-only file {append_only}"}


async def _versions(database_url: str, broker_url: str) -> dict[str, str]:
    postgres = await asyncpg.connect(database_url)
    try:
        version = (await postgres.fetchval("SHOW server_version")).split()[0]
        settings = [f"{name} {await postgres.fetchval(f'SHOW {name}')}" for name in _SETTINGS]
    finally:
        await postgres.close()
    rabbit = await aio_pika.connect(broker_url)
    async with rabbit:
        assert rabbit.transport is not None
        properties: Any = rabbit.transport.connection.server_properties
    return {"Postgres": f"{version}, {', '.join(settings)}", "RabbitMQ": str(properties["version"])}


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def _postmaster(url: str) -> int | None:
    connection = await asyncpg.connect(url)
    try:
        backend: int = await connection.fetchval("SELECT pg_backend_pid()")
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(backend)
            if process.name().startswith("postgres"):
                return process.ppid()
        return None  # on another machine, or in a container
    finally:
        await connection.close()


def _listener(url: str, default_port: int) -> int | None:
    port = urlsplit(url).port or default_port
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return connection.pid
    return None

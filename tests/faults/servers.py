"""Servers under fault: a private RabbitMQ and Postgres in; each way to break one, written down as a fault, out.

Nothing here blocks the test's loop, on which proxies and publishers run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import aio_pika
import asyncpg

from scripts.private_servers import PrivatePostgres, PrivateRabbit
from tests.faults.struck import Struck

AMPLE = "0.6"  # of the memory: the broker's own limit when no alarm is wanted


class _Server:
    """What can be done to both. `slots`: how many runs a fault of it can hit now."""

    def __init__(self, server: PrivateRabbit | PrivatePostgres, struck: Struck, slots: Callable[[], int]) -> None:
        self._server = server
        self._struck = struck
        self._slots = slots

    def _strike(self, what: str) -> None:
        self._struck.strike(f"{self._server.name} {what}", self._slots())

    @property
    def running(self) -> bool:
        return self._server.running

    async def stop(self) -> None:
        """In good order; `start` brings it back with its data."""
        self._strike("stopped")
        await asyncio.to_thread(self._server.stop)

    async def kill(self) -> None:
        self._strike("killed")
        await asyncio.to_thread(self._server.kill)

    async def start(self) -> None:
        """Return when it answers. No fault."""
        await asyncio.to_thread(self._server.start)

    async def restart(self, away: float = 0.0) -> None:
        await self.stop()
        await asyncio.sleep(away)
        await self.start()

    def freeze(self) -> None:
        """SIGSTOP: it falls silent with all its connections open."""
        self._strike("frozen")
        self._server.freeze()

    def thaw(self) -> None:
        self._server.thaw()


class RabbitUnderFault(_Server):
    def __init__(self, server: PrivateRabbit, struck: Struck, slots: Callable[[], int]) -> None:
        super().__init__(server, struck, slots)
        self._rabbit = server

    @property
    def url(self) -> str:
        return self._rabbit.broker_url

    async def raise_alarm(self) -> None:
        """Block whoever publishes, as a broker does that is out of memory."""
        self._strike("alarmed")
        await self._ctl("set_vm_memory_high_watermark", "0")

    async def clear_alarm(self) -> None:
        await self._ctl("set_vm_memory_high_watermark", AMPLE)

    async def close_all_connections(self) -> None:
        self._strike("closed all connections")
        await self._ctl("close_all_connections", "by a test")

    async def delete_queue(self, name: str) -> None:
        self._strike(f"lost {name}")
        await self._ctl("delete_queue", name)

    async def wipe(self) -> None:
        """Stop it, remove its data directory, start it."""
        self._strike("wiped")
        await asyncio.to_thread(self._rabbit.wipe)

    async def counts(self, queue: str) -> tuple[int, int]:
        """Return how many messages of a queue are ready, and how many given to consumers and not acked."""
        listed = await self._ctl("list_queues", "name", "messages_ready", "messages_unacknowledged")
        for line in listed.splitlines():
            name, ready, unacked = line.split("\t")
            if name == queue:
                return int(ready), int(unacked)
        raise AssertionError(f"no queue {queue}: {listed}")

    async def ready_and_consumers(self, queue: str) -> tuple[int, int]:
        """Return how many messages of a queue are ready, and how many consumers it has: much sooner than `counts`."""
        connection = await aio_pika.connect(self.url)
        async with connection, connection.channel() as channel:
            declared = (await channel.declare_queue(queue, passive=True)).declaration_result
            return declared.message_count or 0, declared.consumer_count or 0

    async def _ctl(self, *arguments: str) -> str:
        return await asyncio.to_thread(self._rabbit.ctl, *arguments)


class PostgresUnderFault(_Server):
    def __init__(self, server: PrivatePostgres, struck: Struck, slots: Callable[[], int], *, database: str) -> None:
        super().__init__(server, struck, slots)
        self._server_url = server.database_url
        self._database = urlsplit(database).path.lstrip("/")

    async def terminate_backends(self) -> int:
        """End every connection to the test's database; return how many."""
        self._strike("terminated its backends")
        statement = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"
        connection = await asyncpg.connect(self._server_url)
        try:
            return int(await connection.fetchval(statement, self._database))
        finally:
            await connection.close()

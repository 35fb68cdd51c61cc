"""What the doctor's tests share: a manager and rows to look at, things to break on RabbitMQ, findings to read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg

from tacoq_manager.api.app import create_app
from tacoq_manager.doctor.findings import Finding, Level
from tacoq_manager.manager import Manager
from tacoq_manager.serve import HttpServer
from tacoq_manager.settings import Settings
from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tests.support import eventually, spawn
from tests.support.spawn import TACOQ

WORKER = UUID(int=7)


def told(findings: Sequence[Finding], check: str) -> Finding:
    """Return the one finding of a check."""
    (finding,) = [finding for finding in findings if finding.check == check]
    return finding


def bad(findings: Sequence[Finding]) -> dict[str, Level]:
    return {finding.check: finding.level for finding in findings if finding.level is not Level.OK}


@asynccontextmanager
async def manager_at(settings: Settings) -> AsyncIterator[str]:
    """A manager on real servers; its URL."""
    manager = Manager(settings, RabbitBroker(settings.broker_url, "manager"))
    await manager.start()
    manager.presence._swept = True  # the workers here are rows alone: nobody is to find that they are silent
    server = HttpServer(create_app(manager), "127.0.0.1", 0)
    await server.start()
    try:
        await manager.broker.wait_open(20)
        await eventually(lambda: manager.leader.epoch is not None)
        yield server.url
    finally:
        await server.stop()
        await manager.stop()


async def add_worker(database: str, session: UUID = WORKER, *, queue: str = "mail", kinds: str = '["send"]') -> None:
    await execute(
        database,
        "INSERT INTO workers (session, queue, state, host, pid, slots, kinds, version, started_at)"
        " VALUES ($1, $2, 'live', 'h', 1, 1, $3, '1', now())",
        session,
        queue,
        kinds,
    )


async def add_task(database: str, *, state: str = "pending", queue: str = "mail", kind: str = "send") -> None:
    await execute(
        database,
        "INSERT INTO tasks (id, kind, queue, state, run_at, fingerprint, payload)"
        " VALUES (gen_random_uuid(), $3, $2, $1, now(), '', '')",
        state,
        queue,
        kind,
    )


async def execute(database: str, statement: str, *arguments: object) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def declare_queue(settings: Settings, queue: str, **arguments: Any) -> None:
    wanted = settings.topology.task_queue(queue)
    async with await aio_pika.connect(settings.broker_url) as link, link.channel() as channel:
        await channel.declare_queue(wanted.name, durable=True, arguments={**wanted.arguments, **arguments})


async def publish(settings: Settings, queue: str) -> None:
    async with await aio_pika.connect(settings.broker_url) as link, link.channel() as channel:
        await channel.default_exchange.publish(aio_pika.Message(b"x"), queue)


async def delete(settings: Settings, *, queue: str | None = None, exchange: str | None = None) -> None:
    async with await aio_pika.connect(settings.broker_url) as link, link.channel() as channel:
        if queue is not None:
            await channel.queue_delete(queue)
        if exchange is not None:
            await channel.exchange_delete(exchange)


async def command(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run it to its end; return its exit code and what it said."""
    with spawn(TACOQ, *arguments, env=env) as process:
        code = await asyncio.to_thread(process.wait, 50)
        return code, process.log()

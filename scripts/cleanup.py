"""What a test or a demo made on shared servers, gone: a namespace's exchanges and queues, a database."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterable

import aio_pika
import asyncpg

from tacoq_protocol.topology import Topology


async def delete_topology(broker_url: str, namespace: str, *, queues: Iterable[str] = ("default",)) -> None:
    """Delete what `namespace` is known to have: the fixed part, and the task queues of `queues`."""
    topology = Topology(namespace)
    names = [queue.name for queue in topology.fixed_queues] + [topology.task_queue_name(queue) for queue in queues]
    await delete_queues(broker_url, names, exchanges=[exchange.name for exchange in topology.exchanges])


async def delete_queues(broker_url: str, queues: Iterable[str], *, exchanges: Iterable[str] = ()) -> None:
    """Delete by name; what is not there is no error."""
    connection = await aio_pika.connect(broker_url)
    async with connection, connection.channel() as channel:
        for exchange in exchanges:
            await channel.exchange_delete(exchange)
        for queue in queues:
            await channel.queue_delete(queue)


def queues_beginning_with(prefix: str) -> list[str]:
    """Ask this machine's rabbitmqctl; without it, or without the right to use it, nothing is found."""
    if shutil.which("rabbitmqctl") is None:
        return []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["rabbitmqctl", "-q", "list_queues", "name"], capture_output=True, text=True, timeout=30, check=True
        )
        return [name for name in done.stdout.split() if name.startswith(prefix)]
    return []


async def drop_database(server_url: str, name: str) -> None:
    """Drop a database, whoever is still connected to it."""
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()

"""`tacoq manager` and `tacoq migrate`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import click

from tacoq_manager.settings import Settings, load_settings
from tacoq_protocol.logs import configure_logging

log = logging.getLogger("tacoq.manager")


@click.command()
@click.option("--host", help="Address to listen on.  [TACOQ_HOST; 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, 0 for a free one.  [TACOQ_PORT; 3000]")
def manager(host: str | None, port: int | None) -> None:
    """Run a manager: the HTTP API, Postgres and RabbitMQ behind it."""
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load_settings(**given)
    configure_logging(settings.log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each of its plugins
    if _run(_manage(settings)):
        sys.exit(1)


@click.command()
def migrate() -> None:
    """Bring the database to this version's schema; makes the database when it is missing."""
    from tacoq_manager.store.migrate import upgrade

    settings = load_settings()
    configure_logging("WARNING")
    done = asyncio.run(upgrade(settings.database_url))
    if done.before == done.after:
        click.echo(f"the schema is at {done.after}: nothing to do")
    else:
        click.echo(f"the schema was at {done.before or 'none'}, is now at {done.after}")


async def _manage(settings: Settings) -> bool:
    """Run until SIGTERM or SIGINT; whether it broke instead."""
    from tacoq_manager.manager import Manager
    from tacoq_manager.serve import listen, serve, url_of
    from tacoq_manager.store.migrate import check
    from tacoq_protocol.brokers.rabbitmq import RabbitBroker

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # on Windows Ctrl-C raises KeyboardInterrupt
            loop.add_signal_handler(number, stop.set)
    await check(settings.database_url)
    listening = listen(settings.host, settings.port)
    running = Manager(settings, RabbitBroker(settings.broker_url, "tacoq manager"))
    try:
        await running.start()
        log.info("manager started", extra={"url": url_of(listening), "manager": running.id})
        await serve(running, listening, stop)
    finally:
        listening.close()
        await running.stop()
    log.info("manager stopped", extra={"manager": running.id})
    return running.broken.is_set()


def _run(work: Coroutine[Any, Any, bool]) -> bool:
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)

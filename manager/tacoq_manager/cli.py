"""`tacoq manager`, and the commands that look after its database and all else: `migrate`, `doctor`, `verify`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

import click
import msgspec

from tacoq_manager.settings import Settings, load_look_settings, load_settings
from tacoq_protocol.broker import LinkState
from tacoq_protocol.collector import expect_batches
from tacoq_protocol.errors import ConfigurationError
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
    """Bring the database to this version's schema.

    Makes the database when it is missing.
    """
    from tacoq_manager.store.migrate import upgrade

    settings = load_settings()
    configure_logging("WARNING")
    with _naming(settings.database_url):
        done = asyncio.run(upgrade(settings.database_url))
    if done.before == done.after:
        click.echo(f"the schema is at {done.after}: nothing to do")
    else:
        click.echo(f"the schema was at {done.before or 'none'}, is now at {done.after}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def doctor(as_json: bool) -> None:
    """Look at all that a manager and its workers need.

    Says of each thing whether it is ok, a warning or a problem, and what to do. Changes nothing. Exit code 1 when
    there is a problem.
    """
    from tacoq_manager.doctor.examine import examine, healthy, settings_problem

    configure_logging("CRITICAL")  # findings say it
    try:
        findings = asyncio.run(examine(load_look_settings()))
    except ConfigurationError as error:
        findings = settings_problem(str(error).removeprefix("settings: "))
    good = healthy(findings)
    if as_json:
        click.echo(msgspec.json.encode({"healthy": good, "findings": findings}))
    else:
        for finding in findings:
            click.echo(f"{finding.level:8} {finding.check}: {finding.says}")
            if finding.do is not None:
                click.echo(f"{'':8} → {finding.do}")
    if not good:
        sys.exit(1)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
@click.option(
    "--days", type=click.IntRange(1, 3650), default=1, show_default=True, help="How many days of final tasks to read."
)
def verify(as_json: bool, days: int) -> None:
    """Look in the database for rows that break what TacoQ promises.

    Reads the live tasks whole, and the final ones of the last days. Changes nothing. Exit code 1 when something is
    broken, or could not be looked at in time.
    """
    from tacoq_manager.verify import lines
    from tacoq_manager.verify import verify as verified

    settings = load_settings()
    configure_logging("CRITICAL")
    with _naming(settings.database_url):
        verdicts = asyncio.run(verified(settings.database_url, retention=settings.retention, days=days))
    good = all(verdict.good for verdict in verdicts)
    if as_json:
        click.echo(msgspec.json.encode({"good": good, "invariants": verdicts}))
    else:
        for verdict in verdicts:
            click.echo("\n".join(lines(verdict)))
    if not good:
        sys.exit(1)


async def _manage(settings: Settings) -> bool:
    """Run until SIGTERM or SIGINT; whether it broke instead."""
    from tacoq_manager.api.app import create_app
    from tacoq_manager.manager import Manager
    from tacoq_manager.serve import HttpServer
    from tacoq_manager.store.migrate import check
    from tacoq_protocol.brokers.rabbitmq import RabbitBroker

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # on Windows Ctrl-C raises KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with _naming(settings.database_url):
        await check(settings.database_url)
    async with AsyncExitStack() as running:
        composed = Manager(settings, RabbitBroker(settings.broker_url, "tacoq manager"))
        composed.broker.on_state(_tell_connected)
        running.push_async_callback(composed.stop)
        await composed.start()
        server = HttpServer(create_app(composed), settings.host, settings.port)
        await server.start()
        running.push_async_callback(server.stop)
        expect_batches()
        log.info("manager started", extra={"url": server.url, "manager": composed.id})
        ends = [asyncio.create_task(event.wait()) for event in (stop, composed.broken)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    log.info("manager stopped", extra={"manager": composed.id})
    return composed.broken.is_set()


def _tell_connected(state: LinkState) -> None:
    if state is LinkState.OPEN:
        log.info("broker connected")


@contextmanager
def _naming(database_url: str) -> Iterator[None]:
    """Have DatabaseUnavailable say which database, without its password."""
    from sqlalchemy.engine import make_url

    from tacoq_manager.store.engine import DatabaseUnavailable

    try:
        yield
    except DatabaseUnavailable as error:
        shown = make_url(database_url).set(password=None, query={}).render_as_string()
        raise DatabaseUnavailable(f"{error}; TACOQ_DATABASE_URL says {shown}") from error


def _run(work: Coroutine[Any, Any, bool]) -> bool:
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)

"""`tacoq outbox`: what applications have committed is forwarded to the manager."""

from __future__ import annotations

import asyncio

import click

from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.logs import configure_logging
from tacoq_publisher.cli.asking import until_told
from tacoq_publisher.manager import Manager
from tacoq_publisher.settings import PublisherSettings, load_settings
from tacoq_publisher.transport import Transport

_RETRY_SECONDS = 10.0  # then it says so in its log, and goes on
_TRY_SECONDS = 15.0


@click.command()
@click.option("--database", metavar="URL", help="The application's, as SQLAlchemy has it.  [default: TACOQ_OUTBOX_URL]")
@click.option("--url", help="Address of the manager.  [default: TACOQ_MANAGER_URL, or http://127.0.0.1:3000]")
def outbox(database: str | None, url: str | None) -> None:
    """Forward what applications publish in their own transactions.

    Runs until SIGTERM or Ctrl-C. What waits then is forwarded by the next one.
    """
    configure_logging()
    settings = load_settings(url)
    if database is None and settings.outbox_url is not None:
        database = settings.outbox_url.get_secret_value()
    if database is None:
        raise ConfigurationError(
            "whose outbox is to be forwarded? Give the URL of the application's database, in TACOQ_OUTBOX_URL or as "
            "--database, as in postgresql://user:password@host/name"
        )
    asyncio.run(_forward(database, settings))


async def _forward(database: str, settings: PublisherSettings) -> None:
    try:
        from tacoq_publisher.forwarder import Forwarder
        from tacoq_publisher.outbox_rows import Rows
    except ModuleNotFoundError as missing:
        raise ConfigurationError(f"the outbox needs {missing.name}: pip install 'tacoq-publisher[outbox]'") from missing

    rows = Rows(database)
    async with Transport(settings, retry_for=_RETRY_SECONDS, try_seconds=_TRY_SECONDS) as transport:
        try:
            await until_told(Forwarder(rows, Manager(transport)).run())
        finally:
            await rows.close()

"""`tacoq worker`: the command line in, a supervisor and its session processes running."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import click

from tacoq_protocol.labels import parse_labels
from tacoq_worker.settings import load_settings


@click.command()
@click.argument("targets", metavar="MODULE:OBJECT...", nargs=-1, required=True)
@click.option("--processes", type=click.IntRange(1, 1000), default=1, show_default=True, help="For each worker.")
@click.option("--label", "labels", metavar="NAME=VALUE", multiple=True, help="Shown where workers are listed.")
@click.option("--reload", is_flag=True, help="Replace them when a .py file under this folder changes.")
def worker(targets: tuple[str, ...], processes: int, labels: tuple[str, ...], reload: bool) -> None:
    """Run Workers, as hello:worker, each in processes of its own.

    SIGTERM or Ctrl-C drains: nothing more is taken, and what runs may end within TACOQ_SHUTDOWN_GRACE (30 s).
    A second one kills. TACOQ_BROKER_URL and TACOQ_NAMESPACE say where the work comes from.
    """
    sys.exit(asyncio.run(_supervise(targets, processes=processes, labels=labels, reload=reload)))


async def _supervise(targets: Sequence[str], *, processes: int, labels: Sequence[str], reload: bool) -> int:
    from tacoq_protocol.brokers.rabbitmq import RabbitBroker
    from tacoq_protocol.logs import configure_logging
    from tacoq_worker.supervise import Supervisor

    settings = load_settings()
    configure_logging(settings.log_level)
    supervisor = Supervisor(
        targets,
        processes=processes,
        broker=RabbitBroker(settings.broker_url, "tacoq supervisor"),
        topology=settings.topology,
        labels=parse_labels(labels),
        grace=settings.shutdown_grace.total_seconds(),
    )
    return await supervisor.run(reload=reload)

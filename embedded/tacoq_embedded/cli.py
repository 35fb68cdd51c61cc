"""`tacoq dev`: the command line in, the whole of TacoQ in one process."""

from __future__ import annotations

import asyncio

import click
import uvloop

from tacoq_protocol.logs import configure_logging


@click.command()
@click.argument("targets", metavar="MODULE:OBJECT...", nargs=-1, required=True)
@click.option("--reload", is_flag=True, help="Start anew with the new code when a .py file below this folder changes.")
@click.option("--host", help="Where to serve HTTP (TACOQ_HOST; 127.0.0.1).")
@click.option("--port", type=int, help="Where to serve HTTP (TACOQ_PORT; 3000); 0 takes a free one.")
def dev(targets: tuple[str, ...], *, reload: bool, host: str | None, port: int | None) -> None:
    """Run manager, workers and Postgres in one process.

    For development, tests and demos: nothing to install, data in .tacoq/. Ctrl-C ends it: what runs may end first,
    what waits is there at the next start. A second Ctrl-C does not wait.
    """
    from tacoq_embedded import dev as running
    from tacoq_embedded.lines import show_runs
    from tacoq_manager.settings import load_settings
    from tacoq_worker.process import end_soon
    from tacoq_worker.settings import load_settings as load_worker_settings

    given = {"host": host, "port": port}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    configure_logging(settings.log_level)
    if settings.log_level in ("DEBUG", "INFO"):
        show_runs()
    worker_settings = load_worker_settings()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        handover = runner.run(running.run(targets, settings, worker_settings, reload=reload))
        if handover is not None:
            running.execute_anew(handover)
        end_soon()

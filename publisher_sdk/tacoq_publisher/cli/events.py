"""`tacoq events`: a line for each task as it ends, until Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import click

from tacoq_protocol.events import EndsLost, TaskEnd
from tacoq_protocol.states import FINAL
from tacoq_publisher.cli import asking
from tacoq_publisher.cli.asking import manager_options, print_json, text, until_told
from tacoq_publisher.publisher import Publisher

_STATES: Final = click.Choice(sorted(state.value for state in FINAL))


@click.command()
@click.option("--kind", "kinds", multiple=True, help="Only of this kind; may be given several times, as all of these.")
@click.option("--queue", "queues", multiple=True, help="Only of this queue.")
@click.option("--fairness-key", "fairness_keys", multiple=True, help="Only of this one's.")
@click.option("--state", "states", type=_STATES, multiple=True, help="Only those that end in this state.")
@click.option("--retry-for", type=asking.duration, default="30s", show_default=True, help="When the manager is away.")
@manager_options
def events(
    kinds: Sequence[str],
    queues: Sequence[str],
    fairness_keys: Sequence[str],
    states: Sequence[str],
    retry_for: timedelta,
    url: str | None,
    as_json: bool,
) -> None:
    """Show tasks as they end.

    Runs until SIGTERM or Ctrl-C. What was not told, and how much, is said on stderr.
    """

    async def show() -> None:
        async with (
            Publisher(url, retry_for=retry_for) as publisher,
            publisher.events(kinds=kinds, queues=queues, fairness_keys=fairness_keys, states=states) as found,
        ):
            async for event in found:
                _print(event, as_json=as_json)

    asyncio.run(until_told(show()))


def _print(event: TaskEnd | EndsLost, *, as_json: bool) -> None:
    match event:
        case EndsLost():
            count = "some" if event.count is None else f"up to {event.count}"
            click.echo(f"{count} were not told", err=True)
        case TaskEnd() if as_json:
            print_json(event)
        case TaskEnd():
            at = "-" if event.finished_at is None else f"{event.finished_at:%Y-%m-%d %H:%M:%S}"
            click.echo(f"{at}  {event.state:9}  {event.id}  {event.kind}  {text(event.error_type or '')}".rstrip())

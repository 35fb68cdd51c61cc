"""`tacoq ps`, `show`, `why`, `queues` and `kinds`: the commands that only look."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Unpack
from uuid import UUID

import click
import msgspec

from tacoq_protocol.durations import in_words
from tacoq_protocol.http import TaskView, Timeline
from tacoq_publisher.cli import asking
from tacoq_publisher.cli.asking import (
    FilterOptions,
    age,
    ask,
    filter_of,
    filter_options,
    manager_options,
    print_json,
    print_table,
    text,
)
from tacoq_publisher.manager import Manager

_PRECISE_SECONDS = 600.0


@click.command()
@filter_options
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="At most so many.")
@click.option("--cursor", metavar="ID", type=asking.task_id, help="Go on where a page ended.")
@manager_options
def ps(limit: int, cursor: UUID | None, url: str | None, as_json: bool, **filter: Unpack[FilterOptions]) -> None:
    """List tasks, newest first."""
    page = ask(url, lambda manager: manager.tasks(filter_of(filter), cursor=cursor, limit=limit))
    if as_json:
        print_json(page)
        return
    print_table(
        ["ID", "KIND", "QUEUE", "STATE", "PRIORITY", "ATTEMPT", "CREATED", "ERROR"],
        [
            (t.id, t.kind, t.queue, t.state, t.priority, t.attempt, t.created_at, asking.brief(t.error))
            for t in page.tasks
        ],
        none="no tasks",
    )
    if page.next:
        click.echo(f"there are more: add --cursor {page.next}", err=True)


@click.command()
@click.argument("task_id", metavar="ID", type=asking.task_id)
@manager_options
def show(task_id: UUID, url: str | None, as_json: bool) -> None:
    """Show all of a task, and what happened to it."""

    async def both(manager: Manager) -> tuple[TaskView, Timeline]:
        return await manager.view(task_id, payload=True), await manager.timeline(task_id)

    view, timeline = ask(url, both)
    if as_json:
        fields = msgspec.to_builtins(view, builtin_types=(datetime, UUID, msgspec.Raw))
        print_json(fields | {"events": timeline.model_dump(mode="json", exclude_none=True)["events"]})
        return
    for name in view.__struct_fields__:
        value = getattr(view, name)
        if value is None or value is msgspec.UNSET or name in ("error", "result_expired"):
            continue
        if isinstance(value, datetime):
            value = f"{value.isoformat()} ({age(value)})"
        elif isinstance(value, msgspec.Raw):
            value = bytes(value).decode(errors="replace")
        click.echo(f"{name.replace('_', ' '):17} {text(value)}")
    if view.result_expired:
        click.echo(f"{'result':17} expired: it was kept for a time, and is gone")
    if view.error:
        click.echo(f"{'error':17} {view.error.type}: {text(view.error.message)}")
        if view.error.traceback:
            click.echo(view.error.traceback.rstrip())
    click.echo()
    print_table(
        ["AT", "AFTER", "EVENT", "RELEASE", "SESSION", "DETAIL"],
        [
            (f"{e.at:%Y-%m-%d %H:%M:%S}", _after(e.at - view.created_at), e.event, e.release, e.session, e.detail)
            for e in timeline.events
        ],
        none="nothing has happened to it yet",
    )


def _after(time: timedelta) -> str:
    seconds = time.total_seconds()
    return f"{seconds:+.3f} s" if abs(seconds) < _PRECISE_SECONDS else in_words(seconds)


@click.command()
@click.argument("task_id", metavar="ID", type=asking.task_id)
@manager_options
def why(task_id: UUID, url: str | None, as_json: bool) -> None:
    """Say why a task is where it is, and what to do about it."""
    found = ask(url, lambda manager: manager.why(task_id))
    if as_json:
        click.echo(found.model_dump_json(exclude_none=True))
        return
    # How a task ended is its state and its reason.
    click.echo(f"{', '.join(dict.fromkeys((found.state, found.reason)))}: {text(found.sentence)}")

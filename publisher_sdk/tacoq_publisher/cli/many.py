"""Many tasks at once: a filter in; the count and a sample shown first, then, when that is wanted, all of it done."""

from __future__ import annotations

from typing import assert_never

import click

from tacoq_protocol.errors import FilterRefused
from tacoq_protocol.http import BulkCount, BulkRequest, TaskFilter
from tacoq_publisher.cli.asking import ask, brief, on_terminal, print_json, print_table
from tacoq_publisher.manager import BulkAction, Manager


def do_many(action: BulkAction, filter: TaskFilter, *, yes: bool, url: str | None, as_json: bool) -> None:
    """Show what is meant, ask on a terminal unless `yes`, and do it. With `as_json` and without `yes`: only count."""
    counted = ask(url, lambda manager: manager.count_many(action, filter))
    if as_json and not yes:
        print_json(counted)
        return
    if not as_json:
        _show(action, counted)
    if counted.more:
        raise FilterRefused(f"more than {counted.count:,} tasks are meant: narrow the filter, nothing was done")
    if counted.count and not yes:
        if not on_terminal():
            raise click.UsageError("nothing was done: add --yes to do it")
        click.confirm("Go on?", abort=True)
    sums = ask(url, lambda manager: _all_pages(manager, action, filter, counted))
    if as_json:
        print_json(sums)
    elif counted.count:
        _tell(action, **sums)


async def _all_pages(manager: Manager, action: BulkAction, filter: TaskFilter, counted: BulkCount) -> dict[str, int]:
    request = BulkRequest(filter=filter, most=max(1, counted.count), as_of=counted.as_of)
    done = requested = 0
    while True:
        page = await manager.do_many(action, request)
        done += page.done
        requested += page.requested
        if page.next is None:
            return {"done": done, "requested": requested}
        request = BulkRequest(filter=filter, most=request.most, as_of=page.as_of, after=page.next)


def _show(action: BulkAction, counted: BulkCount) -> None:
    several = f"{counted.count:,} tasks" if counted.count != 1 else "1 task"
    match action:
        case "cancel":
            click.echo(f"to be cancelled: {several}")
        case "retry":
            click.echo(f"to be retried: {several}")
        case _:
            assert_never(action)
    if counted.count:
        print_table(
            ["ID", "KIND", "QUEUE", "STATE", "CREATED", "ERROR"],
            [(t.id, t.kind, t.queue, t.state, t.created_at, brief(t.error)) for t in counted.sample],
            none="",
        )
        if counted.count > len(counted.sample):
            click.echo("…")


def _tell(action: BulkAction, *, done: int, requested: int) -> None:
    match action:
        case "cancel":
            asked = f"; the workers of {requested:,} more are asked to stop them" if requested else ""
            click.echo(f"cancelled: {done:,}{asked}")
        case "retry":
            click.echo(f"retried: {done:,}")
        case _:
            assert_never(action)

"""`tacoq schedules`: what is published by the clock, and the commands that change it."""

from __future__ import annotations

from datetime import timedelta

import click
import msgspec

from tacoq_protocol.cron import MissedPolicy
from tacoq_protocol.schedules import NewSchedule, ScheduleView
from tacoq_publisher.cli import asking
from tacoq_publisher.cli.asking import age, ask, manager_options, print_json, print_table
from tacoq_publisher.manager import Manager
from tacoq_publisher.newtask import untyped_call


@click.group(invoke_without_command=True)
@manager_options
@click.pass_context
def schedules(context: click.Context, url: str | None, as_json: bool) -> None:
    """List schedules, or, with a command, make or change one."""
    if context.invoked_subcommand is not None:
        if url is not None or as_json:
            raise click.UsageError(f"put --url and --json after {context.invoked_subcommand}")
        return
    found = ask(url, Manager.schedules)
    if as_json:
        print_json(found)
        return
    print_table(
        ["NAME", "KIND", "QUEUE", "CRON", "ZONE", "MISSED", "STATE", "NEXT", "LAST", "FROM"],
        [
            (s.name, s.kind, s.queue, s.cron, s.timezone, s.missed, _state(s), s.next_fire_at, s.last_fire_at, s.source)
            for s in found.schedules
        ],
        none="no schedules: make one with tacoq schedules add, or in code with @worker.cron",
    )


@schedules.command()
@click.argument("name", type=asking.schedule_name)
@click.argument("kind")
@click.argument("cron")
@click.argument("payload", metavar="[JSON]", default="null")
@click.option("--timezone", default="UTC", show_default=True, help="As in Europe/Lisbon.")
@click.option(
    "--missed",
    type=click.Choice([policy.value for policy in MissedPolicy]),
    default=MissedPolicy.RUN_ONCE.value,
    show_default=True,
    help="Tasks for fire times at which no manager was there: none, one for all, or one for each of the last 100.",
)
@click.option("--queue", help="Whose workers run its tasks.  [default: the kind's queue]")
@click.option("--priority", type=click.IntRange(0, 9), default=0, show_default=True, help="0 to 9; 9 goes first.")
@click.option("--expires", type=asking.duration, help="Drop a task that has not started after that long.")
@manager_options
def add(
    name: str,
    kind: str,
    cron: str,
    payload: str,
    timezone: str,
    missed: str,
    queue: str | None,
    priority: int,
    expires: timedelta | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Make a schedule, or replace it.

    NAME publishes a task of KIND at the times of CRON, as "0 3 * * *". JSON is its payload (left out: null;
    -: from the standard input).
    """
    new = NewSchedule(
        kind=kind,
        cron=cron,
        timezone=timezone,
        missed=MissedPolicy(missed),
        payload=msgspec.Raw(untyped_call(kind, asking.json_value(payload)).payload),
        queue=queue,
        priority=priority,
        expires_in=None if expires is None else expires.total_seconds(),
    )
    _show(ask(url, lambda manager: manager.put_schedule(name, new)), as_json)


@schedules.command()
@click.argument("name", type=asking.schedule_name)
@manager_options
def pause(name: str, url: str | None, as_json: bool) -> None:
    """Let a schedule fire no more, until it is resumed.

    Also one that is in code.
    """
    _show(ask(url, lambda manager: manager.pause_schedule(name)), as_json)


@schedules.command()
@click.argument("name", type=asking.schedule_name)
@manager_options
def resume(name: str, url: str | None, as_json: bool) -> None:
    """Let a schedule fire again, from its next fire time on."""
    _show(ask(url, lambda manager: manager.resume_schedule(name)), as_json)


@schedules.command()
@click.argument("name", type=asking.schedule_name)
@manager_options
def run(name: str, url: str | None, as_json: bool) -> None:
    """Make a task of a schedule now, paused or not; prints its id."""
    accepted = ask(url, lambda manager: manager.run_schedule(name))
    if as_json:
        print_json(accepted)
    else:
        click.echo(str(accepted.id))


@schedules.command()
@click.argument("name", type=asking.schedule_name)
@manager_options
def rm(name: str, url: str | None, as_json: bool) -> None:
    """Remove a schedule; its tasks stay."""
    ask(url, lambda manager: manager.remove_schedule(name))
    if as_json:
        print_json({"removed": name})
    else:
        click.echo(f"{name} is removed")


def _show(view: ScheduleView, as_json: bool) -> None:
    if as_json:
        print_json(view)
    elif view.next_fire_at is None:
        click.echo(f"{view.name} is {_state(view)}")
    else:
        click.echo(f"{view.name} fires next at {view.next_fire_at.isoformat()} ({age(view.next_fire_at)})")


def _state(view: ScheduleView) -> str:
    if view.retired_at is not None:
        return "retired"
    return "paused" if view.paused else "active"

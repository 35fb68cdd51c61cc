"""`tacoq publish`, `cancel` and `retry`: the commands that change something."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Unpack, get_args
from uuid import UUID

import click

from tacoq_protocol.errors import ConfigurationError, InvalidTask, TaskConflict
from tacoq_protocol.http import Cancelled, OnConflict, TaskFilter
from tacoq_protocol.states import TaskState
from tacoq_publisher.cli import asking
from tacoq_publisher.cli.asking import FilterOptions, ask, filter_of, filter_options, manager_options, print_json
from tacoq_publisher.cli.many import do_many
from tacoq_publisher.manager import Manager
from tacoq_publisher.newtask import TaskOptions, prepare, publish_options, untyped_call
from tacoq_publisher.publisher import Publisher


@click.command()
@click.argument("kind")
@click.argument("payload", metavar="[JSON]", default="null")
@click.option("--wait", is_flag=True, help="Wait for the end of the task and print its result.")
@click.option("--wait-timeout", type=asking.duration, help="Wait, but not longer; the task goes on.")
@click.option("--queue", help="Whose workers run it.  [default: the kind's queue]")
@click.option("--priority", type=int, default=0, show_default=True, help="0 to 9; 9 goes first.")
@click.option("--fairness-key", default="", help="Whose it is: keys take turns.")
@click.option("--delay", type=asking.duration, help="Run it that much later.")
@click.option("--run-at", type=asking.moment, help="Run it at that time.")
@click.option("--expires", type=asking.duration_or_moment, help="Drop it when it has not started by then.")
@click.option("--max-attempts", type=int, help="Runs at most.  [default: the kind's]")
@click.option("--timeout", type=asking.duration, help="Longest time of one run.  [default: the kind's]")
@click.option("--idempotency-key", help="Publish it once: the next one with this key gets the first one's task.")
@click.option("--idempotency-window", type=asking.duration, help="How long the key is known.  [default: 24h]")
@click.option("--unique", "unique_fields", metavar="FIELD", multiple=True, help="One live task of this in the payload.")
@click.option("--unique-payload", is_flag=True, help="One live task of this payload.")
@click.option(
    "--on-conflict",
    type=click.Choice(get_args(OnConflict)),
    default="return",
    help="When there is one.  [default: return]",
)
@click.option("--id", "task_id", type=asking.task_id, help="A UUIDv7 of your own, to publish it again without harm.")
@click.option("--retry-for", type=asking.duration, default="30s", show_default=True, help="When the manager is away.")
@manager_options
def publish(
    kind: str,
    payload: str,
    wait: bool,
    wait_timeout: timedelta | None,
    task_id: UUID | None,
    retry_for: timedelta,
    unique_fields: tuple[str, ...],
    unique_payload: bool,
    url: str | None,
    as_json: bool,
    **options: Unpack[TaskOptions],
) -> None:
    """Publish a task of KIND with the payload JSON.

    JSON left out is null, and - is the standard input. Prints the task's id, or with --wait its result; where a key
    has a task already, those of that one. Durations are seconds, or like 90s, 10m, 1h30m.
    """
    value = asking.json_value(payload)
    if unique_fields and unique_payload:
        raise click.UsageError("say what is unique with --unique or with --unique-payload, not both")
    options["unique"] = unique_payload or unique_fields or False
    try:  # what is wrong needs no manager to say so
        prepare(untyped_call(kind, value), publish_options(**options), task_id=task_id)
    except (ConfigurationError, InvalidTask) as error:
        raise click.UsageError(str(error)) from None

    async def published() -> None:
        async with Publisher(url, retry_for=retry_for) as publisher:
            handle = await publisher.publish(kind, value, task_id=task_id, **options)
            if not wait and wait_timeout is None:
                if as_json:
                    print_json({"id": handle.id, "kind": kind, "duplicate": handle.duplicate})
                else:
                    click.echo(str(handle.id))
                return
            view = await handle.wait(wait_timeout)
            if as_json:
                print_json(view)
            result = await handle.result()  # of a task without one it raises the error
            if not as_json:
                print_json(result)

    asyncio.run(published())


@click.command()
@click.argument("task_id", metavar="[ID]", type=asking.task_id, required=False)
@filter_options
@click.option("--yes", is_flag=True, help="Of many: do not ask.")
@manager_options
def cancel(task_id: UUID | None, yes: bool, url: str | None, as_json: bool, **filter: Unpack[FilterOptions]) -> None:
    """Cancel a task, or all that fit the filter.

    One that runs is asked to stop. Of many the count and a sample come first. With --json they are all: add --yes to
    do it.
    """
    if task_id is None:
        do_many("cancel", _wanted(filter), yes=yes, url=url, as_json=as_json)
    else:
        _refuse_filter(filter)
        _cancel_one(task_id, url=url, as_json=as_json)


def _cancel_one(task_id: UUID, *, url: str | None, as_json: bool) -> None:
    async def cancelled(manager: Manager) -> Cancelled:
        if (answer := await manager.cancel(task_id)) is not None:
            return answer
        state = (await manager.view(task_id)).state
        if state is TaskState.CANCELLED:
            return Cancelled(id=task_id, state=state, cancel_requested=False)
        raise TaskConflict(f"task {task_id} is {state} already: nothing is left to cancel", task_id=task_id)

    answer = ask(url, cancelled)
    if as_json:
        print_json(answer)
    elif answer.state is TaskState.CANCELLED:
        click.echo(f"{task_id} is cancelled")
    else:
        click.echo(f"{task_id} is {answer.state}: its workers are asked to stop it")


@click.command()
@click.argument("task_id", metavar="[ID]", type=asking.task_id, required=False)
@filter_options
@click.option("--yes", is_flag=True, help="Of many: do not ask.")
@manager_options
def retry(task_id: UUID | None, yes: bool, url: str | None, as_json: bool, **filter: Unpack[FilterOptions]) -> None:
    """Publish an ended task, or all that fit the filter, once more.

    As a new task, whose id is printed. Of many those are meant that failed, unless --state says otherwise, and have
    not been retried. The count and a sample come first. With --json they are all: add --yes to do it.
    """
    if task_id is None:
        do_many("retry", _wanted(filter), yes=yes, url=url, as_json=as_json)
        return
    _refuse_filter(filter)
    accepted = ask(url, lambda manager: manager.retry(task_id))
    if as_json:
        print_json(accepted)
    else:
        click.echo(str(accepted.id))


def _wanted(given: FilterOptions) -> TaskFilter:
    filter = filter_of(given)
    if filter == TaskFilter():
        raise click.UsageError("give the ID of a task, or say which tasks: --kind, --queue, --state, …")
    return filter


def _refuse_filter(given: FilterOptions) -> None:
    if filter_of(given) != TaskFilter():
        raise click.UsageError("give the ID of a task or a filter, not both")

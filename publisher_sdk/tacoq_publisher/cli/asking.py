"""What the commands share: options in, a manager to ask; values in, lines of text or JSON out."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypedDict, TypeVar
from uuid import UUID

import click
import msgspec

from tacoq_protocol.durations import in_words, read_duration
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.http import ErrorInfo, TaskFilter, View
from tacoq_protocol.schedules import SCHEDULE_PATTERN
from tacoq_protocol.states import TaskState
from tacoq_publisher.manager import Manager
from tacoq_publisher.settings import load_settings
from tacoq_publisher.transport import Transport

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_TRY_SECONDS = 15.0
_BRIEF = 60  # letters of an error's message in a table
_STATES = click.Choice([state.value for state in TaskState])


def manager_options(command: Command) -> Command:
    """Add the options that every command has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one line of JSON."),
        click.option("--url", help="Address of the manager.  [default: TACOQ_MANAGER_URL, or http://127.0.0.1:3000]"),
    ):
        command = option(command)
    return command


def filter_options(command: Command) -> Command:
    """Add the options that say which tasks are meant; `filter_of` reads them."""
    for option in (
        click.option("--error", help="Only with this text in their error, in whatever case."),
        click.option("--created-before", type=past, help="Only those made before that time, or longer ago than 10m."),
        click.option("--created-after", type=past, help="Only those made since that time, or within the last 10m."),
        click.option("--state", type=_STATES, multiple=True, help="Only in this state; may be given several times."),
        click.option("--fairness-key", help="Only of this one's."),
        click.option("--queue", help="Only of this queue."),
        click.option("--kind", help="Only of this kind."),
    ):
        command = option(command)
    return command


class FilterOptions(TypedDict):
    """What `filter_options` gives a command."""

    kind: str | None
    queue: str | None
    fairness_key: str | None
    state: tuple[str, ...]
    created_after: datetime | None
    created_before: datetime | None
    error: str | None


def filter_of(given: FilterOptions) -> TaskFilter:
    """Return the filter that the options mean."""
    states = tuple(TaskState(state) for state in given["state"])
    return TaskFilter(
        kind=given["kind"],
        queue=given["queue"],
        fairness_key=given["fairness_key"],
        state=states,
        created_after=given["created_after"],
        created_before=given["created_before"],
        error=given["error"],
    )


def ask(url: str | None, question: Callable[[Manager], Awaitable[T]]) -> T:
    """Ask the manager once; somebody is watching, so nothing is tried for long. Raises what the question raises."""

    async def asked() -> T:
        async with Transport(load_settings(url), retry_for=0.0, try_seconds=_TRY_SECONDS) as transport:
            return await question(Manager(transport))

    return asyncio.run(asked())


async def until_told(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` until it ends, or SIGTERM or Ctrl-C does it."""
    working = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # on Windows Ctrl-C raises KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    with suppress(asyncio.CancelledError):
        await working


def on_terminal() -> bool:
    """Whether somebody is there who can be asked."""
    return sys.stdin.isatty()


def duration(value: str) -> timedelta:
    """Read seconds, or text like 10m. Raises click.BadParameter, as its neighbours do."""
    try:
        return read_duration(value)
    except ConfigurationError:
        raise click.BadParameter(f"{value!r} is not a duration: give seconds, or text like 10m (ms s m h d)") from None


def moment(value: str) -> datetime:
    """Read an ISO 8601 time with an offset."""
    try:
        read = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a time: give one like 2030-01-31T12:00:00Z") from None
    if read.utcoffset() is None:
        raise click.BadParameter(f"{value!r} has no offset: end it with Z for UTC, or with one like +02:00")
    return read


def past(value: str) -> datetime:
    """Read a time, or how long ago it was."""
    return moment(value) if "-" in value else datetime.now(UTC) - duration(value)


def duration_or_moment(value: str) -> timedelta | datetime:
    """Read either."""
    return moment(value) if "-" in value else duration(value)


def task_id(value: str) -> UUID:
    """Read a task id."""
    try:
        return UUID(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a task id: they are UUIDs, as tacoq publish and ps print") from None


def schedule_name(value: str) -> str:
    """Read the name of a schedule."""
    if not re.fullmatch(SCHEDULE_PATTERN, value):
        raise click.BadParameter(f"{value!r} is not a schedule's name: up to 200 letters, digits, and _ . : -")
    return value


def json_value(text: str) -> Any:
    """Read a payload; "-" stands for the standard input."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is none of its numbers")

    try:
        return json.loads(sys.stdin.read() if text == "-" else text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        instead = "quote it for the shell, as in '{\"x\": 2}'"
        raise click.BadParameter(f"the payload is not JSON: {error}: {instead}") from None


def session(value: str) -> UUID:
    """Read the id of a worker session."""
    try:
        return UUID(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a session: they are UUIDs, as tacoq workers prints") from None


def print_json(value: object) -> None:
    """Print a model, or plain values, as one line."""
    click.echo(value.model_dump_json() if isinstance(value, View) else msgspec.json.encode(value).decode())


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, none: str) -> None:
    """Print aligned columns, numbers to the right; `none` where there are no rows."""
    if not rows:
        click.echo(none)
        return
    cells = [headings, *([text(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    right = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(headings))]
    for row in cells:
        columns = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        click.echo("  ".join(columns).rstrip())


def text(value: object) -> str:
    """Return how a table shows a value: times by their age, nothing as a dash, no control characters."""
    match value:
        case None:
            return "-"
        case datetime():
            return age(value)
        case float():
            return f"{value:g}"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(text, value)) or "-"
        case _:
            return "".join(c if c.isprintable() else "�" for c in str(value))


def brief(error: ErrorInfo | None) -> str:
    """Return an error's type and how its message begins."""
    if error is None:
        return ""
    message = " ".join(error.message.split())
    return f"{error.type}: {message[:_BRIEF]}{'…' if len(message) > _BRIEF else ''}"


def age(moment: datetime) -> str:
    """Say how long ago `moment` was, or how soon it will be, in its largest unit."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    amount = in_words(abs(seconds))
    return f"{amount} ago" if seconds >= 0 else f"in {amount}"

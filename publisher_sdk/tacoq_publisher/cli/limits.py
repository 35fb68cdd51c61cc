"""`tacoq queues` and `tacoq kinds`: what there is, and what limits it; pause, resume and limit."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError

from tacoq_protocol.http import Kinds, KindView, Queues, QueueView
from tacoq_protocol.limits import SetKindLimits, SetQueueLimits
from tacoq_publisher.cli.asking import ask, manager_options, print_json, print_table
from tacoq_publisher.manager import Manager

B = TypeVar("B", bound=BaseModel)

_CONCURRENCY = click.option("--concurrency", metavar="N", help="So many tasks released at once; none: no such limit.")
_RATE = click.option("--rate", metavar="RATE", help='So many releases, as in "100/s" or "10/h"; none: no such limit.')


@click.group(invoke_without_command=True)
@manager_options
@click.pass_context
def queues(context: click.Context, url: str | None, as_json: bool) -> None:
    """List queues, or, with a command, pause or limit one."""
    if context.invoked_subcommand is not None:
        _refuse_before(context, url, as_json)
        return
    found = ask(url, Manager.queues)
    if as_json:
        print_json(found)
    else:
        _print_queues(found.queues)


@queues.command("pause")
@click.argument("name")
@manager_options
def pause_queue(name: str, url: str | None, as_json: bool) -> None:
    """Release nothing more of a queue; what was released before runs."""
    _show_queue(ask(url, lambda manager: manager.pause_queue(name)), as_json=as_json)


@queues.command("resume")
@click.argument("name")
@manager_options
def resume_queue(name: str, url: str | None, as_json: bool) -> None:
    """Release tasks of a queue again."""
    _show_queue(ask(url, lambda manager: manager.resume_queue(name)), as_json=as_json)


@queues.command("limit")
@click.argument("name")
@_CONCURRENCY
@_RATE
@click.option(
    "--weight",
    "weights",
    metavar="KEY=N",
    multiple=True,
    help="Serve N tasks of a fairness key at a time; 1: as of any other.",
)
@manager_options
def limit_queue(
    name: str, concurrency: str | None, rate: str | None, weights: tuple[str, ...], url: str | None, as_json: bool
) -> None:
    """Limit a queue over all its workers, at once. What is not given stays."""
    given = _given(concurrency=concurrency, rate=rate, weights=dict(map(_weight, weights)) or None)
    limits = _limits(SetQueueLimits, given)
    _show_queue(ask(url, lambda manager: manager.limit_queue(name, limits)), as_json=as_json)


@click.group(invoke_without_command=True)
@manager_options
@click.pass_context
def kinds(context: click.Context, url: str | None, as_json: bool) -> None:
    """List the kinds of workers, or, with a command, limit one.

    --json has their schemas.
    """
    if context.invoked_subcommand is not None:
        _refuse_before(context, url, as_json)
        return
    found = ask(url, Manager.kinds)
    if as_json:
        print_json(found)
    else:
        _print_kinds(found.kinds)


@kinds.command("limit")
@click.argument("name")
@click.option("--queue", help="Of this queue, when several know the kind.")
@_CONCURRENCY
@_RATE
@click.option("--max-per-key", metavar="N", help="So many tasks of one fairness key released at once.")
@click.option("--rate-per-key", metavar="RATE", help="So many releases of one fairness key.")
@manager_options
def limit_kind(
    name: str,
    queue: str | None,
    concurrency: str | None,
    rate: str | None,
    max_per_key: str | None,
    rate_per_key: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Limit a kind over all workers, at once.

    What is given goes before what its code says; none: as the code says.
    """
    given = _given(concurrency=concurrency, rate=rate, max_per_key=max_per_key, rate_per_key=rate_per_key)
    limits = _limits(SetKindLimits, given, of={"queue": queue})
    _show_kind(ask(url, lambda manager: manager.limit_kind(name, limits)), as_json=as_json)


@kinds.command("resume")
@click.argument("name")
@click.option("--queue", help="Of this queue, when several know the kind.")
@manager_options
def resume_kind(name: str, queue: str | None, url: str | None, as_json: bool) -> None:
    """Release a kind again that handlers hold back by RateLimited."""
    _show_kind(ask(url, lambda manager: manager.resume_kind(name, queue)), as_json=as_json)


def _refuse_before(context: click.Context, url: str | None, as_json: bool) -> None:
    if url is not None or as_json:
        raise click.UsageError(f"put --url and --json after {context.invoked_subcommand}")


def _given(**options: str | dict[str, int] | None) -> dict[str, Any]:
    """Those that were given; `none` takes a limit away."""
    return {name: _value(name, given) for name, given in options.items() if given is not None}


def _value(name: str, given: str | dict[str, int]) -> object:
    if given == "none":
        return None
    return int(given) if isinstance(given, str) and given.isdecimal() and "rate" not in name else given


def _weight(text: str) -> tuple[str, int]:
    key, _, weight = text.rpartition("=")
    if "=" not in text or not weight.isdecimal():
        raise click.BadParameter(f"{text!r} is not a weight: give KEY=N, as in --weight big=3")
    return key, int(weight)


def _limits(model: type[B], given: Mapping[str, Any], *, of: Mapping[str, Any] = MappingProxyType({})) -> B:
    """Return what is to change; what is wrong needs no manager to say so. `of` says of what, besides the name."""
    if not given:
        options = ", ".join(_option(name) for name in model.model_fields if name not in of)
        raise click.UsageError(f"say what limits it: {options}")
    try:
        return model.model_validate({**given, **of})
    except ValidationError as error:
        first = error.errors()[0]
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] != "value_error":  # a message of ours says what it was given
            problem = f"{problem}, not {first['input']!r}"
        raise click.BadParameter(f"{_option(str(first['loc'][0]))}: {problem}") from None


def _option(field: str) -> str:
    return f"--{field.replace('_', '-').replace('weights', 'weight')}"


def _show_queue(view: QueueView, *, as_json: bool) -> None:
    if as_json:
        print_json(Queues(queues=[view]))
    else:
        _print_queues([view])
        if not (view.workers or view.scheduled or view.pending or view.queued or view.running):
            click.echo(f"no worker serves queue {view.name!r}, and no task is in it: is the name right?", err=True)


def _show_kind(view: KindView, *, as_json: bool) -> None:
    if as_json:
        print_json(Kinds(kinds=[view]))
    else:
        _print_kinds([view])


def _print_queues(queues: list[QueueView]) -> None:
    print_table(
        ["QUEUE", "SCHEDULED", "PENDING", "QUEUED", "RUNNING", "WORKERS", "SLOTS", "CREDIT", "LIMITS"],
        [
            (q.name, q.scheduled, q.pending, q.queued, q.running, q.workers, q.slots, q.credit, _of_queue(q))
            for q in queues
        ],
        none="no queues: the first worker or task of one makes it",
    )


def _print_kinds(kinds: list[KindView]) -> None:
    print_table(
        ["KIND", "QUEUE", "ATTEMPTS", "TIMEOUT", "ON LOST", "REGISTERED", "LIMITS"],
        [
            (k.name, k.queue, k.max_attempts, f"{k.timeout:g} s" if k.timeout else None, k.on_lost, k.seen_at, _of(k))
            for k in kinds
        ],
        none="no kinds: a worker registers its kinds when it starts",
    )


def _of_queue(view: QueueView) -> list[str]:
    limits = view.limits
    return [
        *(["paused"] if view.paused else []),
        *([f"{limits.concurrency} at once"] if limits.concurrency else []),
        *([limits.rate] if limits.rate else []),
        *(f"{key or 'no key'} × {weight}" for key, weight in limits.weights.items()),
    ]


def _of(view: KindView) -> list[str]:
    limits = view.limits
    return [
        *([f"held back until {view.held_until:%H:%M:%S}"] if view.held_until else []),
        *([f"{len(view.held_keys)} keys held back"] if view.held_keys else []),
        *([f"{limits.concurrency} at once"] if limits.concurrency else []),
        *([limits.rate] if limits.rate else []),
        *([f"{limits.max_per_key} at once per key"] if limits.max_per_key else []),
        *([f"{limits.rate_per_key} per key"] if limits.rate_per_key else []),
    ]

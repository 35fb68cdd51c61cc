"""`tacoq workers`: list and show worker sessions; drain and resume them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeGuard
from uuid import UUID

import click

from tacoq_protocol.http import DrainWorkers, WhichWorkers, Workers, WorkerView
from tacoq_protocol.labels import parse_labels
from tacoq_publisher.cli import asking
from tacoq_publisher.cli.asking import ask, manager_options, print_json, print_table, text

KINDS_SHOWN: Final = 3


@click.group(invoke_without_command=True)
@click.option("--all", "ended", is_flag=True, help="Also those that ended last.")
@click.option("--label", "labels", metavar="NAME=VALUE", multiple=True, help="Only those with it.")
@manager_options
@click.pass_context
def workers(context: click.Context, ended: bool, labels: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """List live worker sessions, or do something with them."""
    if context.invoked_subcommand is None:
        written = [f"{name}={value}" for name, value in parse_labels(labels).items()]
        found = ask(url, lambda manager: manager.workers(ended=ended, labels=written))
        _print(found, as_json=as_json, none="no workers: start one with tacoq worker MODULE:OBJECT")


@workers.command()
@click.argument("session", type=asking.session)
@manager_options
def show(session: UUID, url: str | None, as_json: bool) -> None:
    """Show a worker session and what runs there."""
    found = ask(url, lambda manager: manager.worker(session))
    if as_json:
        print_json(found)
        return
    for name, value in found:
        if value is not None and name != "running":
            shown = {"rss_bytes": _mebibytes(found.rss_bytes), "labels": _labels(found.labels)}.get(name, value)
            click.echo(f"{name.replace('_', ' '):17} {text(shown)}")
    click.echo()
    print_table(
        ["ID", "KIND", "STATE", "RELEASE", "ATTEMPT", "STARTED"],
        [(run.id, run.kind, run.state, run.release, run.attempt, run.started_at) for run in found.running],
        none="nothing is known to run there",
    )


@workers.command()
@click.argument("session", metavar="[SESSION]", type=asking.session, required=False)
@click.option("--queue", help="All of this queue.")
@click.option("--host", help="All on this host.")
@click.option("--leave", is_flag=True, help="Have them end once what runs has ended.")
@manager_options
def drain(
    session: UUID | None, queue: str | None, host: str | None, leave: bool, url: str | None, as_json: bool
) -> None:
    """Have workers take no more tasks.

    What has not started goes to others, what runs goes on.
    """
    if _is_one(session, queue, host):
        told = ask(url, lambda manager: manager.drain_worker(session, leave=leave))
    else:
        told = ask(url, lambda manager: manager.drain_workers(DrainWorkers(queue=queue, host=host, leave=leave)))
    _print(told, as_json=as_json, none="no live workers there")


@workers.command()
@click.argument("session", metavar="[SESSION]", type=asking.session, required=False)
@click.option("--queue", help="All of this queue.")
@click.option("--host", help="All on this host.")
@manager_options
def resume(session: UUID | None, queue: str | None, host: str | None, url: str | None, as_json: bool) -> None:
    """Have drained workers take tasks again."""
    if _is_one(session, queue, host):
        told = ask(url, lambda manager: manager.resume_worker(session))
    else:
        told = ask(url, lambda manager: manager.resume_workers(WhichWorkers(queue=queue, host=host)))
    _print(told, as_json=as_json, none="no live workers there")


def _is_one(session: UUID | None, queue: str | None, host: str | None) -> TypeGuard[UUID]:
    """True when a session is given, False when a queue or host is."""
    if (session is None) == (queue is None and host is None):
        raise click.UsageError("give a SESSION, or --queue or --host")
    return session is not None


def _print(found: Workers, *, as_json: bool, none: str) -> None:
    if as_json:
        print_json(found)
        return
    print_table(
        ["SESSION", "QUEUE", "STATE", "HOST", "PID", "HELD", "SLOTS", "MEMORY", "SEEN", "VERSION", "LABELS", "KINDS"],
        [
            (
                w.session,
                w.queue,
                _state(w),
                w.host,
                w.pid,
                w.held,
                w.slots,
                _mebibytes(w.rss_bytes),
                w.seen_at,
                w.version,
                _labels(w.labels),
                _brief(w.kinds),
            )
            for w in found.workers
        ],
        none=none,
    )


def _brief(kinds: Sequence[str]) -> str:
    """A few of them and how many more: show and --json have all."""
    shown = kinds if len(kinds) <= KINDS_SHOWN else [*kinds[: KINDS_SHOWN - 1], f"{len(kinds) - KINDS_SHOWN + 1} more"]
    return text(shown)


def _state(worker: WorkerView) -> str:
    return f"{worker.state}, loop blocked" if worker.loop_blocked else worker.state


def _labels(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(labels.items())]


def _mebibytes(count: int | None) -> str | None:
    return None if count is None else f"{count / 2**20:.0f} MiB"

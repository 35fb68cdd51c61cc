"""Dev: workers' names in; the whole of TacoQ runs in this process until told to end, or to load new code.

On `--reload` the new code is first imported in a child: when that fails the old one goes on. Then this process drains
and executes itself anew, while its Postgres stays up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tacoq_embedded.postgres import EmbeddedPostgres
from tacoq_embedded.stack import Stack
from tacoq_manager.settings import Settings
from tacoq_protocol.errors import ConfigurationError
from tacoq_worker.loading import load_worker
from tacoq_worker.settings import WorkerSettings
from tacoq_worker.watching import react_to_changes

log = logging.getLogger("tacoq.dev")

DIRECTORY = Path(".tacoq")
EXIT_KILLED = 130
_IMPORT = """
import sys
from tacoq_protocol.errors import ConfigurationError
from tacoq_worker.loading import load_worker
try:
    for name in sys.argv[1:]:
        load_worker(name)
except ConfigurationError as error:
    sys.exit(str(error))
"""


async def run(
    targets: Sequence[str], settings: Settings, worker_settings: WorkerSettings, *, reload: bool
) -> dict[str, str] | None:
    """Run until SIGINT, SIGTERM or a reload; in the last case return what the environment of the new start needs.

    Raises ConfigurationError when a target, the port or the directory cannot be used; with `reload` a target that
    cannot be loaded is waited for.
    """
    end = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked_to_end() -> None:
        if end.is_set():  # twice: what runs is taken back by the next start, and Postgres ends by itself
            os._exit(EXIT_KILLED)
        end.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_end)
    try:
        workers = [load_worker(target) for target in targets]
    except ConfigurationError as error:
        if not reload:
            raise
        log.error("the code cannot be loaded; waiting for a change", extra={"error": str(error)})
        return {} if await _ended([end], targets) else None
    postgres = EmbeddedPostgres(DIRECTORY)
    await asyncio.to_thread(postgres.start)
    handover: dict[str, str] | None = None
    try:
        async with Stack(
            workers,
            settings.model_copy(update={"database_url": postgres.url}),
            grace=worker_settings.shutdown_grace.total_seconds(),
            labels=worker_settings.labels,
        ) as stack:
            click.echo(f"TacoQ runs {' '.join(targets)}; its dashboard is at {stack.url}. Ctrl-C ends it.", err=True)
            if await _ended([end, stack.manager.broken], targets if reload else ()):
                handover = postgres.keep_over_exec()
    finally:
        if handover is None:
            await asyncio.to_thread(postgres.stop)
    return handover


async def _ended(ends: Sequence[asyncio.Event], watched: Sequence[str]) -> bool:
    """Wait for an end or for new code; return True for new code."""
    changed = asyncio.create_task(_new_code(watched)) if watched else None
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(end.wait()) for end in ends]
    if changed is not None:
        waits.append(changed)
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return changed in done and not any(end.is_set() for end in ends)


async def _new_code(targets: Sequence[str]) -> None:
    """Return when a file below this folder changed and all targets can be imported anew."""

    async def loads(files: Sequence[str]) -> bool:
        problem = await _import_problem(targets)
        if problem is None:
            log.info("new code: starting anew", extra={"files": files})
            return True
        log.error("the new code cannot be loaded; the old one goes on", extra={"files": files, "error": problem})
        return False

    await react_to_changes(loads)


async def _import_problem(targets: Sequence[str]) -> str | None:
    """Say why the targets cannot be imported in a fresh process, or None when they can."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _IMPORT, *targets, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    return None if process.returncode == 0 else said.decode(errors="replace").strip()


def execute_anew(handover: dict[str, str]) -> None:
    """Replace this process by a fresh start of the same command."""
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | handover)

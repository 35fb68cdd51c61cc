"""A worker whose handlers another process can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tacoq_protocol.trace import current_trace
from tacoq_worker import Context, Fail, Snooze, Worker

in_processes = Worker("crunch", concurrency=2, executor="process")


@in_processes.task
def add(x: int, y: int) -> int:
    return x + y


@in_processes.task
def pid() -> int:
    return os.getpid()


@in_processes.task
def crash(how: str) -> None:
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGSEGV)


@in_processes.task(on_lost="fail")
def crash_for_good() -> None:
    os._exit(1)


@in_processes.task
def wait_for(path: str) -> int:
    """Say that it runs, and go on until told to end."""
    Path(path).with_suffix(".running").touch()
    while not Path(path).exists():
        time.sleep(0.01)
    return os.getpid()


@in_processes.task(timeout="200ms")
def too_long() -> None:
    time.sleep(60)


@in_processes.task
def tell(ctx: Context, how: str) -> str:
    if how == "snooze":
        raise Snooze("5m")
    if how == "fail":
        raise Fail("no use")
    return f"{ctx.queue} {ctx.release} {ctx.attempt}"


@in_processes.task
def traced() -> str | None:
    return current_trace()[0]

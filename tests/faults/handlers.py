"""Handlers of the fault tests: each run leaves its marks. Tries are many: the faults are to be the only limit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from tacoq_worker import Backoff, Context, Worker
from tests.faults.effects import async_run_of, run_of

SLOTS = 20
TRIES = 100

worker = Worker(queue="default", concurrency=SLOTS)
older = Worker(queue="default", concurrency=SLOTS)  # before a deploy: of the same queue, and knows less
narrow = Worker(queue="narrow", concurrency=2)
processes = Worker(queue="processes", concurrency=2, executor="process")

_BACKOFF = Backoff("10ms", factor=1, max="20ms")


@worker.task(max_attempts=TRIES)
async def add(context: Context, x: int, y: int) -> int:
    async with async_run_of(context):
        return x + y


older.task("add", max_attempts=TRIES)(add.function)


@worker.task(max_attempts=TRIES)
async def nap(context: Context, seconds: float) -> float:
    async with async_run_of(context):
        await asyncio.sleep(seconds)
    return seconds


@worker.task(max_attempts=TRIES)
async def wait_for_file(context: Context, path: str) -> str:
    """Run until the test lets it go."""
    async with async_run_of(context):
        while not Path(path).exists():  # noqa: ASYNC110 (told from another process)
            await asyncio.sleep(0.05)
    return path


nap_in_narrow = narrow.task("nap_in_narrow", max_attempts=TRIES)(nap.function)


@worker.task(max_attempts=TRIES)
def nap_in_thread(context: Context, seconds: float) -> float:
    with run_of(context):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not context.cancelled:
            time.sleep(0.01)
    return seconds


@worker.task(max_attempts=TRIES)
def sleeps_in_thread(context: Context, seconds: float) -> float:
    """As `nap_in_thread`, but deaf to whoever asks it to stop."""
    with run_of(context):
        time.sleep(seconds)
    return seconds


@processes.task(max_attempts=TRIES, backoff=_BACKOFF)
def nap_in_process(context: Context, seconds: float) -> float:
    with run_of(context):
        time.sleep(seconds)
    return seconds


@worker.task(max_attempts=TRIES, backoff=_BACKOFF)
async def fails_once(context: Context) -> int:
    """Ask for one more run, and complete in it."""
    async with async_run_of(context):
        if context.attempt == 0:
            raise ValueError("not yet")
    return 1


@worker.task(max_attempts=TRIES)
def kills_its_session(context: Context) -> None:
    """End the session process without a word, every time."""
    with run_of(context):
        os.kill(os.getpid(), signal.SIGKILL)


@worker.task(max_attempts=1, on_lost="fail")
async def once(context: Context, seconds: float) -> float:
    """Run at most once, whatever happens."""
    async with async_run_of(context):
        await asyncio.sleep(seconds)
    return seconds


@worker.task(max_attempts=TRIES, on_lost="fail")
async def never_after_a_loss(context: Context, seconds: float) -> float:
    async with async_run_of(context):
        await asyncio.sleep(seconds)
    return seconds


@worker.task(max_attempts=1)
async def tried_once(context: Context, seconds: float) -> float:
    """Run once; again only when its worker dies before the start is known."""
    async with async_run_of(context):
        await asyncio.sleep(seconds)
    return seconds

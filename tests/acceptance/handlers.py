"""Handlers of the acceptance tests, one worker per way of running them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel

from tacoq_worker import Backoff, Cancel, Context, Fail, RateLimited, Retry, Snooze, Worker

worker = Worker(queue="default", concurrency=20, labels={"region": "nowhere", "team": "tacos"})
processes = Worker(queue="processes", concurrency=2, executor="process")


class Order(BaseModel):
    item: str
    count: int


class Bill(BaseModel):
    text: str
    total: int


@worker.task
async def add(x: int, y: int) -> int:
    return x + y


@worker.task
def add_in_thread(x: int, y: int) -> int:
    return x + y


@processes.task
def add_in_process(x: int, y: int) -> tuple[int, int]:
    return x + y, os.getpid()


@processes.task
def nap_in_process(seconds: float) -> None:
    time.sleep(seconds)


@worker.cron("0 3 29 2 *", timezone="Europe/Lisbon")  # rarely: tests that count tasks are not to meet it
@worker.task("reports.nightly", timeout="10s")
async def nightly(day: str = "yesterday") -> str:
    return f"report of {day}"


@worker.task
async def tick() -> None: ...


@worker.task("orders.bill")
async def bill(order: Order) -> Bill:
    return Bill(text=f"{order.count} × {order.item}", total=order.count * 3)


@worker.task
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@worker.task
def nap_in_thread(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@worker.task(timeout="200ms", max_attempts=1)
async def too_slow() -> None:
    await asyncio.sleep(60)


@worker.task(max_attempts=3, backoff=Backoff("10ms", factor=1, max="20ms"))
async def fails_until(ctx: Context, attempt: int) -> int:
    if ctx.attempt < attempt:
        raise ValueError(f"not yet, attempt {ctx.attempt}")
    return ctx.attempt


@worker.task(max_attempts=2, backoff=Backoff("1h"))
async def fails(reason: str) -> None:
    raise ValueError(reason)


@worker.task
async def is_limited() -> None:
    raise RateLimited("1h")


@worker.task
async def asks(ctx: Context, outcome: str) -> str:
    """Raise one of the outcomes on the first run."""
    if ctx.release == 1:
        match outcome:
            case "retry":
                raise Retry("10ms")
            case "snooze":
                raise Snooze("10ms")
            case "cancel":
                raise Cancel("not needed")
            case "fail":
                raise Fail("cannot be done")
    return f"release {ctx.release}, attempt {ctx.attempt}"


@worker.task
async def unserialisable() -> int:
    return object()  # type: ignore[return-value]


@worker.task
async def huge() -> str:
    return "x" * 2 * 1024 * 1024


@worker.task
async def nul() -> str:
    return "a\0b"


@worker.task
async def traced() -> str | None:
    from tacoq_protocol.trace import current_trace

    return current_trace()[0]


@worker.task(max_attempts=1, on_lost="fail")
def dies(ledger: str) -> None:
    """End its process without a word, a moment after it began; each run leaves a line."""
    with Path(ledger).open("a") as lines:
        lines.write("ran\n")
    os.kill(os.getpid(), signal.SIGKILL)

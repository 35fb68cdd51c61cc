"""Handlers that say when they ran, for a queue of two workers whose limits are to hold over both."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from pydantic import BaseModel

from tacoq_worker import RateLimited, Worker

QUEUE = "limited"
worker = Worker(queue=QUEUE, concurrency=20)


class Ran(BaseModel):
    """One run, in seconds of the machine's monotonic clock."""

    kind: str
    key: str
    began: float
    ended: float


def _mark(marks: str, kind: str, key: str, began: float) -> None:
    with Path(marks).open("a") as lines:  # one write of a line: whole, whoever else writes
        lines.write(Ran(kind=kind, key=key, began=began, ended=time.monotonic()).model_dump_json() + "\n")


async def _run(marks: str, kind: str, key: str, seconds: float) -> None:
    began = time.monotonic()
    await asyncio.sleep(seconds)
    _mark(marks, kind, key, began)


@worker.task
async def free(marks: str, key: str = "", seconds: float = 0.05) -> None:
    await _run(marks, "free", key, seconds)


@worker.task(concurrency=3)
async def few(marks: str, key: str = "", seconds: float = 0.05) -> None:
    await _run(marks, "few", key, seconds)


@worker.task(max_per_key=2)
async def few_of_each(marks: str, key: str = "", seconds: float = 0.05) -> None:
    await _run(marks, "few_of_each", key, seconds)


@worker.task(rate="20/s", rate_per_key="15/s")
async def slowly(marks: str, key: str = "", seconds: float = 0.0) -> None:
    await _run(marks, "slowly", key, seconds)


@worker.task
async def asks_a_busy_service(marks: str, busy: str, key: str = "", alone: bool = False) -> None:
    """For as long as a file is there, the service says to come back later. It marks whether it was told so."""
    began = time.monotonic()
    refused = await asyncio.to_thread(Path(busy).exists)
    _mark(marks, "refused" if refused else "served", key, began)
    if refused:
        raise RateLimited("2s", key=alone)

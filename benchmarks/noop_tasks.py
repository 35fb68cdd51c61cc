"""The worker of the no-op benchmark."""

from __future__ import annotations

from tacoq_worker import Worker

worker = Worker(queue="default", concurrency=100)


@worker.task
async def add(x: int, y: int) -> int:
    return x + y

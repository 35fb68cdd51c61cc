"""The worker: one task a file. Parsing is work for the processor, so the handlers run in processes."""

from __future__ import annotations

from examples.stdlib_census import census
from tacoq_worker import Worker

worker = Worker(queue="census", executor="process")


@worker.task("census.count")
def count(module: str) -> census.Counts:
    """Count what is written in one file of the standard library."""
    return census.count(module)

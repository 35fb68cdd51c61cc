"""A worker whose module cannot be imported by another process: it hangs there."""

from __future__ import annotations

import multiprocessing
import time

from tacoq_worker import Worker

hanging = Worker("hanging", concurrency=1, executor="process")


@hanging.task
def never() -> None: ...


if multiprocessing.parent_process() is not None:
    time.sleep(3600)

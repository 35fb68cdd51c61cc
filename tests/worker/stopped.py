"""A worker whose handlers wait to be stopped, for tests of timeouts, cancels and drains."""

from __future__ import annotations

import asyncio
import threading
import time

from tacoq_worker import Context, Worker


class Stopped:
    """A worker whose handlers wait to be stopped, and what they saw of it."""

    def __init__(self) -> None:
        self.worker = Worker("stop", concurrency=2)
        self.running = threading.Event()
        self.release = threading.Event()
        self.seen: list[str] = []
        seen = self.seen

        @self.worker.task(timeout="50ms")
        async def short_async() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        @self.worker.task(timeout="50ms")
        async def stubborn() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
            return "late"

        @self.worker.task(timeout="50ms")
        def short_sync(ctx: Context) -> str:
            while not ctx.cancelled:
                time.sleep(0.005)
            seen.append("asked")
            return "late"

        @self.worker.task
        async def long_async() -> None:
            self.running.set()
            await asyncio.sleep(60)

        @self.worker.task
        async def completes_on_cancel() -> str:
            self.running.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "finished anyway"
            return ""

        @self.worker.task
        def long_sync(ctx: Context) -> None:
            self.running.set()
            while not ctx.cancelled:
                time.sleep(0.005)
            raise RuntimeError("stopped in the middle")

        @self.worker.task
        async def in_a_thread() -> None:
            self.running.set()
            await asyncio.to_thread(self.release.wait, 30)

        @self.worker.task
        def deaf() -> None:
            self.running.set()
            self.release.wait(30)

        @self.worker.task
        async def noop() -> None: ...

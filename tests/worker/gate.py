"""A worker whose runs wait for the test, and what the in-process broker has of it."""

from __future__ import annotations

import asyncio

from tacoq_protocol.brokers.memory import MemoryHub
from tacoq_worker import Worker
from tacoq_worker.session import Session
from tests.worker.manager import FakeManager


class Gate:
    """A worker whose runs wait until the test lets them go on."""

    def __init__(self, concurrency: int = 2) -> None:
        self.worker = Worker("gate", concurrency=concurrency)
        self.entered = 0
        self.runs = 0
        self.open = asyncio.Event()

        @self.worker.task
        async def wait() -> None:
            self.entered += 1
            await self.open.wait()

        @self.worker.task
        async def noop() -> None:
            self.runs += 1


def disconnect(hub: MemoryHub, session: Session) -> None:
    hub.disconnect(f"tacoq worker {session.id}")


def broker_holds(hub: MemoryHub, manager: FakeManager) -> int:
    """Task messages in the broker, ready or given to the session and not acked."""
    queue = hub._queues[manager.topology.task_queue_name(manager.queue)]
    return len(queue.ready) + sum(len(tap.unacked) for tap in queue.taps)

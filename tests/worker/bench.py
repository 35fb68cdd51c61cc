"""A bench: a worker whose runs a test ends by name, with a session and its manager's side."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.messages import Release
from tacoq_protocol.topology import Topology
from tacoq_worker import Worker
from tacoq_worker.session import Session
from tacoq_worker.settings import Pace
from tests.support import eventually
from tests.worker.manager import QUICK, TOPOLOGY, FakeManager, make_release, playing


class Bench:
    """A worker whose runs go on until the test ends them by name, with a session and its manager's side."""

    def __init__(self, slots: int) -> None:
        self.worker = Worker("bench", concurrency=slots)
        self.go_on: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.begun: list[str] = []
        self.most_held = 0
        self.session: Session
        self.manager: FakeManager

        @self.worker.task
        async def wait(name: str) -> None:
            self.begun.append(name)
            self.most_held = max(self.most_held, len(self.session._intake.held))
            await self.go_on[name].wait()

        @self.worker.task
        async def nap() -> None:
            await asyncio.sleep(0.003)

    @asynccontextmanager
    async def at_work(
        self, make_broker: BrokerFactory, *, topology: Topology = TOPOLOGY, pace: Pace = QUICK
    ) -> AsyncIterator[None]:
        async with playing(self.worker, make_broker, topology=topology, pace=pace) as (self.session, self.manager):
            yield

    async def release(self, *names: str) -> list[Release]:
        """A message each, of a run with this name."""
        releases = [wait_release(name) for name in names]
        for release in releases:
            await self.manager.publish(release)
        return releases

    async def runs(self, *names: str) -> None:
        await self.manager.until(lambda: set(names) <= set(self.begun))

    async def naps(self, count: int) -> None:
        """Have so many short runs, as fast as the session takes them."""
        for release in (releases := [make_release("nap") for _ in range(count)]):
            await self.manager.publish(release)
        for release in releases:
            await self.manager.outcome(release)

    def grow_old(self, *releases: Release) -> None:
        for release in releases:
            run = self.session._intake.held[release.fence].run
            assert run is not None
            run.began -= 700.0

    def sweep(self) -> None:
        self.session._sweep.step(time.monotonic())

    async def ack_early(self, *releases: Release) -> None:
        """Have these runs pass the ack deadline, and wait until their messages are acked."""
        self.grow_old(*releases)
        self.sweep()
        await self.acked_early(*releases)

    async def acked_early(self, *releases: Release) -> None:
        await self.manager.until(lambda: not any(self.messages_of(release) for release in releases))

    def messages_of(self, release: Release) -> int:
        return len(self.session._intake.held[release.fence].messages)

    @property
    def held(self) -> int:
        return len(self.session._intake.held)

    @property
    def prefetch(self) -> int:
        return self.session._intake._early.prefetch

    async def waiting(self, count: int) -> None:
        """Wait until so many messages are ready in the broker."""

        async def so_many() -> bool:
            return await self.manager.ready_messages() == count

        await eventually(so_many, 20)


def wait_release(name: str) -> Release:
    return make_release("wait", f'{{"name": "{name}"}}'.encode())

"""Credit: what is released goes to whoever has a slot, whatever run times were, and whoever comes while others work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tacoq_embedded.stack import Stack
from tacoq_manager.settings import Settings
from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.brokers.memory import MemoryBroker
from tacoq_protocol.topology import Topology
from tacoq_publisher import Publisher, TaskHandle
from tacoq_worker import Worker
from tacoq_worker.session import Session
from tests.support.cluster import Cluster
from tests.support.eventually import eventually


class Hands:
    """A worker whose runs are short, or go on until the test ends them."""

    def __init__(self, slots: int, *, holds: bool = True) -> None:
        self.worker = Worker(queue="default", concurrency=slots)
        self.holds = holds
        self.ends: list[asyncio.Event] = []  # of the runs that go on
        self.most_running = self.most_held = 0
        self.session: Session

        @self.worker.task
        async def work() -> None:
            self.most_held = max(self.most_held, self.held)
            if not self.holds:
                return
            self.ends.append(end := asyncio.Event())
            self.most_running = max(self.most_running, self.running)
            await end.wait()
            self.ends.remove(end)

        self.task = work

    @property
    def running(self) -> int:
        return len(self.ends)

    @property
    def held(self) -> int:
        """Releases that the session has in its hands, begun or not."""
        return len(self.session._intake.held)

    def end_all(self) -> None:
        """What runs ends, and so does at once what begins from now on."""
        self.holds = False
        for end in self.ends:
            end.set()


@dataclass
class Crew:
    """A manager at `url`; `hire` starts a session."""

    url: str
    make_broker: BrokerFactory
    topology: Topology
    stack: AsyncExitStack

    async def hire(self, hands: Hands) -> Hands:
        hands.session = Session(hands.worker, self.make_broker, self.topology)
        self.stack.push_async_callback(hands.session.stop)
        await hands.session.start()
        return hands

    async def publish(self, hands: Hands, count: int) -> list[TaskHandle[None]]:
        async with Publisher(self.url) as tacoq:
            return await tacoq.publish_many(hands.task.task() for _ in range(count))

    async def all_end(self, handles: list[TaskHandle[None]]) -> None:
        async with Publisher(self.url) as tacoq:
            await asyncio.gather(*(tacoq.handle(handle.id).result(60) for handle in handles))


@pytest_asyncio.fixture
async def on_rabbitmq(cluster: Cluster) -> AsyncIterator[Crew]:
    await cluster.start_manager()
    async with AsyncExitStack() as stack:
        yield Crew(cluster.url, cluster.make_broker, Topology(cluster.namespace), stack)


@pytest_asyncio.fixture
async def embedded(embedded_database: str) -> AsyncIterator[Crew]:
    settings = Settings(database_url=embedded_database, port=0)
    async with Stack([], settings, grace=1.0) as all_of_it, AsyncExitStack() as stack:
        yield Crew(all_of_it.url, lambda name: MemoryBroker(all_of_it.hub, name), settings.topology, stack)


@pytest.fixture(params=["on_rabbitmq", "embedded"])
def crew(request: pytest.FixtureRequest) -> Crew:
    found: Crew = request.getfixturevalue(request.param)
    return found


async def test_waiting_tasks_start_at_once_on_workers_that_come(crew: Crew) -> None:
    """One worker is busy in all its slots: it keeps nothing for later."""
    busy = await crew.hire(Hands(4))
    await crew.publish(busy, 20)
    await eventually(lambda: busy.running == 4)
    more = [await crew.hire(Hands(4)) for _ in range(4)]
    await eventually(lambda: [hands.running for hands in (busy, *more)] == [4] * 5, 30)


async def test_kind_that_was_short_and_is_slow_now_waits_for_whoever_has_a_slot(crew: Crew) -> None:
    """What was released to the worker while its runs were short comes back from behind the slow ones."""
    busy = await crew.hire(Hands(4, holds=False))
    await crew.all_end(await crew.publish(busy, 100))
    busy.holds = True
    for _ in range(10):  # messages
        await crew.publish(busy, 4)
    await eventually(lambda: (busy.running, busy.held) == (4, 4), 30)
    more = await crew.hire(Hands(4))
    await eventually(lambda: (busy.held, more.running, more.held) == (4, 4, 4), 30)


async def test_short_kind_is_at_hand_before_a_slot_is_free(crew: Crew) -> None:
    """So that none has to wait for the way there and back."""
    hands = await crew.hire(Hands(2, holds=False))
    await crew.all_end(await crew.publish(hands, 1_000))
    assert hands.most_held > 2


async def test_uneven_workers_are_full_while_anything_waits(crew: Crew) -> None:
    """And never more than full: as many begin as end, where they end."""
    small, large = await crew.hire(Hands(1)), await crew.hire(Hands(7))
    handles = await crew.publish(small, 40)
    for ended in range(0, 32, 4):
        await eventually(lambda: (small.running, large.running) == (1, 7), 30, what=f"all run after {ended} ended")
        for hands in (small, large, large, large):
            hands.ends[0].set()
            hands.ends.append(hands.ends.pop(0))
    assert (small.most_running, large.most_running) == (1, 7)
    small.end_all()
    large.end_all()
    await crew.all_end(handles)

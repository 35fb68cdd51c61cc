"""News between managers over the in-process broker: told when there is somebody, gathered, never one's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tacoq_manager.news import IDS_IN_A_MESSAGE, News
from tacoq_manager.store.claim import Flow, Line
from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Declared, Delivery, Outgoing
from tacoq_protocol.brokers.memory import MemoryBroker, MemoryHub
from tacoq_protocol.messages import Fence
from tacoq_protocol.topology import Binding, Queue, Topology
from tests.support import eventually

TOPOLOGY = Topology("news")
LINE = Line("default", "k", "")


class Ear:
    """One manager's news, and what it heard."""

    def __init__(self, hub: MemoryHub, name: str) -> None:
        self.broker = MemoryBroker(hub, name)
        self.others_live = True
        self.final: list[UUID] = []
        self.ended: dict[int, dict[Line, int]] = {}
        self.redelivered: list[Fence] = []
        self.limits: list[bool] = []
        self.outlasted: list[tuple[Flow, float]] = []
        self.missed: list[bool] = []
        self.news = News(
            self.broker,
            TOPOLOGY,
            uuid4(),
            others_live=lambda: self.others_live,
            on_final=self._final,
            on_ended=self._ended,
            on_redelivered=self.redelivered.extend,
            on_limits=lambda: self.limits.append(True),
            on_outlasted=lambda flow, seconds: self.outlasted.append((flow, seconds)),
            on_missed=lambda: self.missed.append(True),
        )

    def _final(self, ids: Sequence[UUID]) -> None:
        self.final += ids

    def _ended(self, ended: Mapping[Line, int], transaction: int) -> None:
        self.ended[transaction] = {**ended}

    async def start(self) -> None:
        await self.broker.start()
        await self.news.start()
        await self.broker.wait_open(5)

    async def stop(self) -> None:
        await self.news.stop()
        await self.broker.stop()


@pytest_asyncio.fixture
async def hub() -> MemoryHub:
    return MemoryHub()


@pytest_asyncio.fixture
async def pair(hub: MemoryHub) -> AsyncIterator[tuple[Ear, Ear]]:
    one, other = Ear(hub, "one"), Ear(hub, "other")
    await one.start()
    await other.start()
    yield one, other
    await one.stop()
    await other.stop()


@pytest_asyncio.fixture
async def messages(hub: MemoryHub) -> AsyncIterator[list[Delivery]]:
    """All that passes."""
    broker = MemoryBroker(hub, "tap")
    passed: list[Delivery] = []
    await broker.start()
    await broker.declare(Declared(exchanges=[TOPOLOGY.settled]))
    await broker.consume(Consumer(Queue(exclusive=True), passed.append, bindings=[Binding(TOPOLOGY.settled.name, "")]))
    yield passed
    await broker.stop()


async def test_what_one_settles_the_other_hears_and_not_itself(pair: tuple[Ear, Ear]) -> None:
    one, other = pair
    ids = [uuid4(), uuid4()]
    one.news.tell(ids, {LINE: 2}, 7)
    await eventually(lambda: other.final == ids)
    assert other.ended == {7: {LINE: 2}}
    assert one.final == []
    assert not one.ended


async def test_what_came_back_is_told_to_the_one_who_may_lead(pair: tuple[Ear, Ear]) -> None:
    one, other = pair
    fence = Fence(uuid4(), 3)
    one.news.tell_redelivered(fence)
    await eventually(lambda: other.redelivered == [fence])
    assert one.redelivered == []


async def test_run_that_goes_on_is_told(pair: tuple[Ear, Ear]) -> None:
    one, other = pair
    one.news.tell_outlasted(Flow("default", "k"), 0.1)
    await eventually(lambda: other.outlasted == [(Flow("default", "k"), 0.1)])
    assert one.outlasted == []


async def test_change_of_limits_is_told_once(pair: tuple[Ear, Ear]) -> None:
    one, other = pair
    one.news.tell_limits()
    await eventually(lambda: other.limits == [True])
    last = uuid4()
    one.news.tell([last], {}, 9)
    await eventually(lambda: other.final == [last])
    assert other.limits == [True]


async def test_without_other_managers_nothing_is_sent(pair: tuple[Ear, Ear], messages: list[Delivery]) -> None:
    one, other = pair
    one.others_live = False
    one.news.tell([uuid4()], {LINE: 1}, 7)
    one.others_live = True
    last = uuid4()
    one.news.tell([last], {}, 9)
    await eventually(lambda: other.final == [last])
    assert len(messages) == 1


async def test_what_gathers_while_a_publish_is_in_flight_goes_together(
    hub: MemoryHub, pair: tuple[Ear, Ear], messages: list[Delivery]
) -> None:
    one, other = pair
    hub.freeze()
    ids = [uuid4() for _ in range(IDS_IN_A_MESSAGE + 50)]
    one.news.tell(ids[:1], {LINE: 1}, 0)
    await asyncio.sleep(0)  # its publish begins
    for transaction, id in enumerate(ids[1:], start=1):
        one.news.tell([id], {LINE: 1}, transaction)
    hub.thaw()
    await eventually(lambda: len(other.final) == len(ids))
    assert other.ended == {transaction: {LINE: 1} for transaction in range(len(ids))}
    assert len(messages) <= 3


async def test_news_that_cannot_be_sent_are_dropped_and_later_ones_go_out(
    hub: MemoryHub, pair: tuple[Ear, Ear]
) -> None:
    one, other = pair
    hub.block()
    one.news.tell([uuid4()], {LINE: 1}, 7)
    await eventually(lambda: not one.news._final)
    hub.unblock()
    last = uuid4()
    await eventually(lambda: one.broker.state == "open")
    one.news.tell([last], {}, 9)
    await eventually(lambda: other.final == [last])


async def test_bytes_that_are_no_news_do_not_deafen(hub: MemoryHub, pair: tuple[Ear, Ear]) -> None:
    one, other = pair
    for format, body in ((codec.SETTLED.name, b"\xc1"), ("settled/9", b"")):
        await one.broker.publish([Outgoing(TOPOLOGY.settled.name, "", format, body)], seconds=5)
    last = uuid4()
    one.news.tell([last], {}, 9)
    await eventually(lambda: other.final == [last])


@pytest.mark.parametrize("others_live", [True, False])
async def test_who_is_cut_off_knows_that_it_may_have_missed_some(
    hub: MemoryHub, pair: tuple[Ear, Ear], others_live: bool
) -> None:
    _, other = pair
    other.others_live = others_live
    seen: list[str] = []
    other.broker.on_state(seen.append)
    hub.disconnect("other")
    await eventually(lambda: seen[-1:] == ["open"])
    assert other.missed == [True] * others_live


async def test_a_connection_lost_and_found_hears_again(hub: MemoryHub, pair: tuple[Ear, Ear]) -> None:
    one, other = pair
    hub.disconnect("other")
    hub.disconnect("one")
    last = uuid4()

    async def told() -> bool:
        one.news.tell([last], {}, 9)
        await asyncio.sleep(0)
        return last in other.final

    await eventually(told)

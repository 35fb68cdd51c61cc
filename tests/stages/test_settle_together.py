"""Settle: successes that nobody waits for share a commit; whatever somebody waits for does not wait for others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import pytest_asyncio

from tacoq_manager.settle import GATHER_MESSAGES
from tacoq_manager.store import settle as store
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.transitions import Transition
from tacoq_protocol import codec
from tacoq_protocol.http import ErrorInfo, NewTask
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Completed, Failed, Fence, Outcome, Reports, Returned, ReturnReason
from tests.stages.floor import Floor
from tests.stages.test_settle import Reported
from tests.support.eventually import eventually, others_ran

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Settling:
    """A manager at work on reports, which has all the time in the world; `commits` is what it settled together."""

    def __init__(self, floor: Floor) -> None:
        self.floor = floor
        self.manager = floor.manager
        self.commits: list[set[UUID]] = []

    @property
    def ids(self) -> list[UUID]:
        """Tasks that are released."""
        return [release.task_id for release in self.floor.releases]

    def report(self, *outcomes: Outcome) -> None:
        self.manager.settler.on_delivery(Reported(codec.encode(Reports(self.floor.session, "default", list(outcomes)))))

    def completed(self, *ids: UUID) -> None:
        for id in ids:
            self.report(Completed(id, 1, NOW, 0.001, b"5"))


@pytest_asyncio.fixture
async def settling(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Settling]:
    settling = Settling(floor)
    apply = store.apply

    async def counted(
        connection: HotConnection,
        moves: Sequence[Transition],
        is_awaited: Callable[[UUID], bool],
        kept: bool,
    ) -> list[store.Applied]:
        applied = await apply(connection, moves, is_awaited, kept)
        settling.commits.append({move.task_id for move in moves})
        return applied

    floor.join("k")
    await floor.accept(4)
    await floor.dispatch()
    floor.manager.credit.sample(settling.ids[0], 1, 0.0, time.monotonic())  # it was the probe
    monkeypatch.setattr("tacoq_manager.settle.GATHER_SECONDS", 600.0)
    monkeypatch.setattr("tacoq_manager.settle.store.apply", counted)
    running = asyncio.create_task(floor.manager.settler.run())
    yield settling
    running.cancel()


async def test_successes_wait_for_each_other_and_are_one_commit(settling: Settling) -> None:
    settling.completed(*settling.ids[:3])
    await others_ran()
    assert settling.commits == []
    settling.manager.settler.hurry()
    await eventually(lambda: settling.commits == [set(settling.ids[:3])])
    assert await settling.floor.state(settling.ids[0]) == "completed"


async def test_they_do_not_wait_for_long(settling: Settling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacoq_manager.settle.GATHER_SECONDS", 0.01)
    settling.completed(settling.ids[0])
    await eventually(lambda: settling.commits == [{settling.ids[0]}])


async def test_nor_for_many(settling: Settling) -> None:
    for _ in range(GATHER_MESSAGES):
        settling.completed(settling.ids[0])
    await eventually(lambda: settling.commits == [{settling.ids[0]}])


@pytest.mark.parametrize(
    "outcome",
    [
        lambda id: Failed(id, 1, NOW, 0.1, 0, ErrorInfo(type="ValueError", message="no"), True, kind="k"),
        lambda id: Returned(id, 1, ReturnReason.SHUTDOWN),
    ],
    ids=["failed", "returned"],
)
async def test_what_is_to_run_again_is_settled_at_once_with_all_that_waits(
    settling: Settling, outcome: Callable[[UUID], Outcome]
) -> None:
    first, second, *_ = settling.ids
    settling.completed(first)
    settling.report(outcome(second))
    await eventually(lambda: settling.commits == [{first, second}])


async def test_what_somebody_waits_for_is_settled_at_once(settling: Settling) -> None:
    await settling.manager.waiters.start()
    first, second, *_ = settling.ids
    async with aclosing(settling.manager.waiters.wait([second], 30)) as told:
        assert await anext(told) == []
        settling.completed(first)
        await others_ran()
        assert settling.commits == []
        settling.completed(second)
        (view,) = await anext(told)
    assert (view.id, settling.commits) == (second, [{first, second}])


async def test_who_begins_to_wait_waits_for_nobody_else(settling: Settling) -> None:
    await settling.manager.waiters.start()
    first, second, *_ = settling.ids
    settling.completed(first, second)
    await others_ran()
    assert settling.commits == []
    async with aclosing(settling.manager.waiters.wait([second], 30)) as told:
        ended = [view.id async for batch in told for view in batch]
    assert (ended, settling.commits) == ([second], [{first, second}])


async def test_a_task_that_finds_no_slot_gets_the_one_that_is_free(settling: Settling) -> None:
    first, second, *_ = settling.ids
    settling.completed(first)
    await others_ran()
    assert settling.commits == []
    await settling.floor.accept()
    await eventually(lambda: settling.commits == [{first}])
    settling.completed(second)  # the other one is still pending: somebody waits for every slot now
    await eventually(lambda: settling.commits == [{first}, {second}])


async def test_who_publishes_by_a_key_does_not_find_what_has_ended(settling: Settling) -> None:
    (holder,) = await settling.floor.accept(unique=True)
    assert await settling.floor.dispatch() == 1
    settling.completed(holder)
    await others_ran()
    assert settling.commits == []
    accepting = asyncio.create_task(settling.manager.accepter.run())
    (answer,) = await settling.manager.accepter.accept(
        [NewTask(id=new_task_id(), kind="k", payload=msgspec.Raw(b"1"), queue="default", unique=True)]
    )
    accepting.cancel()
    assert (answer.id != holder, answer.duplicate, settling.commits) == (True, False, [{holder}])


async def test_a_publish_by_a_key_does_not_wait_for_ever(settling: Settling, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Postgres is away nothing is settled; the publish is to hear of that."""

    async def away(*_: object) -> list[store.Applied]:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr("tacoq_manager.settle.store.apply", away)
    monkeypatch.setattr("tacoq_manager.manager.SETTLE_SECONDS", 0.05)
    settling.completed(settling.ids[0])
    async with asyncio.timeout(5):
        await settling.manager._settle_what_came()
    assert await settling.floor.state(settling.ids[0]) == "queued"


async def test_what_comes_during_a_commit_waits_for_others_too(
    settling: Settling, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = settling.ids
    apply: Callable[..., Awaitable[list[store.Applied]]] = store.apply

    async def more_comes(*arguments: Any) -> list[store.Applied]:
        settling.completed(second)
        return await apply(*arguments)

    monkeypatch.setattr("tacoq_manager.settle.store.apply", more_comes)
    settling.completed(first)
    settling.manager.settler.hurry()
    await eventually(lambda: settling.commits)
    await others_ran()
    assert settling.commits == [{first}]


async def test_where_there_are_other_managers_nobody_knows_who_waits(settling: Settling) -> None:
    settling.manager.sessions.manager_beat(uuid4(), time.monotonic())
    settling.completed(settling.ids[0])
    await eventually(lambda: settling.commits == [{settling.ids[0]}])


async def test_whose_way_is_measured_is_settled_at_once(settling: Settling) -> None:
    settling.manager.credit.probe(Fence(settling.ids[1], 1), time.monotonic() + 1)
    settling.completed(settling.ids[1])
    await eventually(lambda: settling.commits == [{settling.ids[1]}])


async def test_who_has_to_catch_up_does_not_wait_for_more(settling: Settling) -> None:
    settling.completed(settling.ids[0])
    async with asyncio.timeout(5):
        await settling.manager.settler.caught_up()
    assert settling.commits == [{settling.ids[0]}]

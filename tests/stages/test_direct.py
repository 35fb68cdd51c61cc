"""Direct path: what accept releases by itself, what it leaves to the dispatcher, and what faults make of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tacoq_manager.buckets import Drawn
from tacoq_manager.store import accept as store
from tacoq_manager.store import claim, leader, limits
from tacoq_manager.store.claim import Flow, Lane
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.store.snapshot import Snapshot
from tacoq_protocol.errors import PublishUnconfirmed
from tacoq_protocol.http import Accepted
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.limits import KindLimits
from tacoq_protocol.messages import Completed
from tests.stages.floor import Floor
from tests.stages.limited import set_kind
from tests.support.eventually import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest_asyncio.fixture
async def direct(either_floor: Floor) -> AsyncIterator[Floor]:
    """A floor that took one task by a claim, so that its queue is declared, and is idle again."""
    floor = either_floor
    floor.join("k", slots=4)
    (first,) = await floor.accept()
    assert await floor.dispatch() == 1
    await floor.report(Completed(first, 1, NOW, 1.0, b"1"))
    floor.deliveries.clear()
    with floor.directly():
        yield floor


def row() -> store.Row:
    unset = [None] * 9  # times, limits, retry_of and trace
    return store.Row._make([new_task_id(), "k", "default", 0, "", b"1", b"f" * 16, *unset, True])


async def states(floor: Floor, ids: list[UUID]) -> list[str]:
    return [await floor.state(id) for id in ids]


async def came(floor: Floor, count: int) -> list[UUID]:
    """The tasks released so far, once there are `count`, without a dispatch."""
    await eventually(lambda: len(floor.releases) == count)
    return [release.task_id for release in floor.releases]


async def test_task_is_released_as_it_is_accepted(direct: Floor) -> None:
    (task_id,) = await direct.accept(timeout=7.0, expires_in=60.0, max_attempts=2)
    assert await came(direct, 1) == [task_id]
    (release,) = direct.releases
    row = await direct.row(task_id)
    assert (row["state"], row["release"], row["created_at"]) == ("queued", 1, row["queued_at"])
    assert (release.release, release.attempt, release.timeout, release.max_attempts) == (1, 0, 7.0, 2)
    assert (release.created_at, release.expires_at) == (row["created_at"], row["expires_at"])
    assert direct.manager.in_flight.queue("default") == 1
    await direct.report(Completed(task_id, 1, NOW, 0.1, b"3"))
    assert await direct.state(task_id) == "completed"
    assert direct.manager.in_flight.queue("default") == 0


async def test_no_more_than_there_is_room_for(direct: Floor) -> None:
    ids = await direct.accept(6)
    assert await came(direct, 4) == ids[:4]
    assert await states(direct, ids) == ["queued"] * 4 + ["pending"] * 2
    assert await direct.dispatch() == 0
    await direct.report(Completed(ids[0], 1, NOW, 1.0, b"1"))
    assert await direct.dispatch() == 1


async def test_nothing_overtakes_what_found_no_room(direct: Floor) -> None:
    low, high = await direct.accept(3), await direct.accept(3, priority=5)
    assert await came(direct, 4) == [*low, high[0]]
    await direct.report(Completed(low[0], 1, NOW, 1.0, b"1"))
    (later,) = await direct.accept(priority=9)
    assert await direct.state(later) == "pending"
    assert await direct.dispatch() == 1
    assert direct.releases[-1].task_id == later


async def test_what_may_run_and_waits_already_goes_first(direct: Floor) -> None:
    waiting = await direct.accept(5)
    await came(direct, 4)
    await direct.report(Completed(waiting[0], 1, NOW, 1.0, b"1"))
    (later,) = await direct.accept()
    assert await direct.state(later) == "pending"
    assert await direct.dispatch() == 1
    assert direct.releases[-1].task_id == waiting[4]


async def test_what_waits_and_may_not_run_holds_up_nothing(direct: Floor) -> None:
    await direct.accept(kind="nobody knows it")
    (task_id,) = await direct.accept()
    assert await came(direct, 1) == [task_id]


async def test_what_another_manager_accepted_before_in_the_lane_goes_first(direct: Floor) -> None:
    """This one has not heard of it: Postgres has."""
    other = row()
    await store.accept(direct.manager.database.accept, [other])
    (task_id,) = await direct.accept()
    (in_another_lane,) = await direct.accept(fairness_key="another")
    assert await states(direct, [other.id, task_id, in_another_lane]) == ["pending", "pending", "pending"]
    await direct.manager.recount.step()
    assert await direct.dispatch() == 3
    released = [release.task_id for release in direct.releases]
    assert released.index(other.id) < released.index(task_id)


async def test_token_that_is_drawn_while_buckets_are_read_again_is_gone(
    direct: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read anew after a lost statement, while others go on."""
    await set_kind(direct, KindLimits(rate="1/h"))
    read = limits.load_buckets

    async def read_before_the_draw(connection: HotConnection) -> list[Drawn]:
        found = await read(connection)
        await direct.accept()
        return found

    monkeypatch.setattr(limits, "load_buckets", read_before_the_draw)
    await direct.manager.limiting.load()
    (second,) = await direct.accept()
    assert await direct.state(second) == "pending"


async def test_delayed_and_unknown_ones_are_not_released(direct: Floor) -> None:
    (later,) = await direct.accept(delay=60.0)
    (unknown,) = await direct.accept(kind="unknown")
    assert await states(direct, [later, unknown]) == ["scheduled", "pending"]


async def test_task_with_an_idempotency_key_is_released_as_it_is_accepted_and_once(direct: Floor) -> None:
    (task_id,) = await direct.accept(idempotency_key="a", expires_in=60.0)
    assert await came(direct, 1) == [task_id]
    row = await direct.row(task_id)
    assert (row["state"], row["release"], row["created_at"]) == ("queued", 1, row["queued_at"])
    (release,) = direct.releases
    assert (release.created_at, release.expires_at) == (row["created_at"], row["expires_at"])
    assert await direct.accept(3, idempotency_key="a", expires_in=60.0) == [task_id] * 3
    assert direct.manager.in_flight.queue("default") == 1
    others = await direct.accept(3)
    assert await came(direct, 4) == [task_id, *others], "the room that was kept for the three is there again"


async def test_task_with_an_idempotency_key_draws_on_the_rate_once(direct: Floor) -> None:
    direct.join("k", slots=4, rate="1/h")
    (task_id,) = await direct.accept(idempotency_key="a")
    assert await direct.accept(idempotency_key="a") == [task_id]
    assert await came(direct, 1) == [task_id]
    (bucket,) = await direct.connection.fetch("SELECT tokens FROM buckets WHERE kind = 'k'")
    assert -0.5 < bucket["tokens"] < 0.5
    (later,) = await direct.accept()
    assert await direct.state(later) == "pending"


async def test_unique_task_is_left_to_the_dispatcher(direct: Floor) -> None:
    """A replace that comes with it can touch it, as long as it waits."""
    first, second = await direct.accept(2, unique=True, on_conflict="replace")
    assert first == second
    assert await direct.state(first) == "pending"
    assert await direct.dispatch() == 1


async def commit(floor: Floor, again: store.Row) -> Accepted:
    """Accept the row as it is; return the answer."""
    (answer,) = await floor.accepted(floor.manager.accepter.commit([again]))
    return answer


async def test_resend_is_not_released_again(direct: Floor) -> None:
    again = row()
    answers = [await commit(direct, again) for _ in range(2)]
    assert [(answer.state, answer.duplicate) for answer in answers] == [("queued", False), ("queued", True)]
    assert await came(direct, 1) == [again.id]
    assert direct.manager.in_flight.by_queue() == {"default": 1}


async def test_nothing_is_released_once_another_manager_leads(direct: Floor) -> None:
    await direct.connection.execute("UPDATE leader SET expires_at = now()")
    assert await leader.take(direct.manager.database.upkeep, uuid4())
    (task_id,) = await direct.accept()
    assert await direct.state(task_id) == "pending"
    assert direct.manager.credit.used("default") == 0


async def test_what_the_broker_does_not_confirm_is_given_back(direct: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unconfirmed(*_: object, **__: object) -> None:
        raise PublishUnconfirmed("not confirmed")

    with monkeypatch.context() as fault:
        fault.setattr(direct.manager.broker, "publish", unconfirmed)
        (task_id,) = await direct.accept()
        await direct.manager.direct.finish()
    assert await direct.state(task_id) == "pending"
    assert await direct.dispatch() == 1
    assert [(release.task_id, release.release) for release in direct.releases] == [(task_id, 2)]


def lose_answers(fault: pytest.MonkeyPatch) -> None:
    """Have accepts committed, and their answers lost."""
    accept = store.accept

    async def lost(*arguments: Any) -> dict[UUID, store.Stored]:
        await accept(*arguments)
        raise DatabaseUnavailable("the connection broke after the commit")

    fault.setattr(store, "accept", lost)


async def test_what_was_released_by_an_accept_whose_answer_was_lost_is_released_again(
    direct: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = await direct.accept()
    await came(direct, 1)
    with monkeypatch.context() as fault:
        lose_answers(fault)
        with pytest.raises(DatabaseUnavailable):
            await direct.accept(2)
    (meanwhile,) = await direct.accept()  # it is unknown how much room there is
    assert await direct.state(meanwhile) == "pending"
    assert await direct.dispatch() == 3
    assert {release.release for release in direct.releases[1:]} == {1, 2}
    assert (await direct.row(before))["release"] == 1
    assert direct.manager.in_flight.queue("default") == 4


async def test_resend_whose_answer_was_lost_does_not_give_back_what_is_published(
    direct: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = row()
    assert (await commit(direct, again)).state == "queued"
    await came(direct, 1)
    with monkeypatch.context() as fault:
        lose_answers(fault)
        with pytest.raises(DatabaseUnavailable):
            await commit(direct, again)
    assert await direct.dispatch() == 0
    assert (await direct.row(again.id))["release"] == 1


async def test_claim_that_was_answered_before_an_earlier_accept_is_not_taken_for_a_lost_one(
    direct: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, claims = store.accept, claim.claim
    answer = asyncio.Event()

    async def late(*arguments: Any) -> dict[UUID, store.Stored]:
        stored = await accept(*arguments)
        await answer.wait()
        return stored

    async def lost(*arguments: Any, **options: Any) -> claim.Batch:
        await claims(*arguments, **options)
        raise DatabaseUnavailable("the connection broke after the commit")

    (claimed,) = await direct.accept(kind="two")
    with monkeypatch.context() as fault:
        fault.setattr(store, "accept", late)
        accepting = asyncio.create_task(direct.accept())
        await eventually(lambda: direct.connection.fetchval("SELECT count(*) = 1 FROM tasks WHERE state = 'queued'"))
        direct.join("k", "two", slots=4)
        assert await direct.dispatch() == 1
        answer.set()
        await accepting
    await came(direct, 2)
    monkeypatch.setattr(direct.manager.accepter, "_reserving", lambda _: nullcontext())
    await direct.accept(kind="two")
    with monkeypatch.context() as fault:
        fault.setattr(claim, "claim", lost)
        with pytest.raises(DatabaseUnavailable):
            await direct.manager.dispatcher.step()
    assert await direct.dispatch() == 1
    assert (await direct.row(claimed))["release"] == 1


async def test_lost_claim_gives_back_nothing_that_accept_released_meanwhile(
    direct: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = claim.claim
    sent = asyncio.Event()

    async def lost(*arguments: Any, **options: Any) -> claim.Batch:
        await claims(*arguments, **options)
        await sent.wait()
        raise DatabaseUnavailable("the connection broke after the commit")

    (earlier,) = await direct.accept()
    await came(direct, 1)
    (claimed,) = await direct.accept(kind="two")
    direct.join("k", "two", slots=4, concurrency=2)  # a claim asks for all that there is room for
    with monkeypatch.context() as fault:
        fault.setattr(claim, "claim", lost)
        claiming = asyncio.create_task(direct.manager.dispatcher.step())
        await eventually(lambda: queued(direct, claimed))
        direct.manager.dispatcher._lanes.forget()  # as if the claim had been known to take all
        (beside,) = await direct.accept()
        await came(direct, 2)
        sent.set()
        with pytest.raises(DatabaseUnavailable):
            await claiming
    assert await direct.dispatch() == 1
    assert (direct.releases[-1].task_id, direct.releases[-1].release) == (claimed, 2)
    assert [(await direct.row(id))["release"] for id in (earlier, beside)] == [1, 1]


async def queued(floor: Floor, task_id: UUID) -> bool:
    return await floor.state(task_id) == "queued"


async def test_room_is_kept_while_the_statement_is_under_way(direct: Floor, lock: Any) -> None:
    await lock.execute("LOCK TABLE tasks IN SHARE MODE")
    accepting = asyncio.create_task(direct.accept(3))
    await eventually(lambda: direct.manager.credit.used("default") == 3)
    direct.manager.in_flight.watch()
    direct.manager.in_flight.recount({}, Snapshot("0:0:"))  # Postgres knows of none of them
    assert direct.manager.credit.used("default") == 3
    await lock.close()
    await accepting
    assert direct.manager.in_flight.flow(Flow("default", "k")) == 3


async def test_key_that_was_set_aside_for_room_which_accept_did_not_need_comes_back(
    direct: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another manager accepted in the lane before, and its prompt comes while the room is kept."""
    direct.join("k", slots=4, max_per_key=1)
    other = row()._replace(fairness_key="a")
    accept = store.accept
    await accept(direct.manager.database.accept, [other])

    async def prompted(*arguments: Any) -> dict[UUID, store.Stored]:
        direct.manager.dispatcher.note([Lane("default", "k", "a", 0)])
        assert await direct.manager.dispatcher.step() == 0
        return await accept(*arguments)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(store, "accept", prompted)
        (task_id,) = await direct.accept(fairness_key="a")
    assert await states(direct, [other.id, task_id]) == ["pending", "pending"]
    assert await direct.dispatch() == 1
    assert direct.releases[-1].task_id == other.id

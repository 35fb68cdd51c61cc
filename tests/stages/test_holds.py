"""What handlers that are rate limited hold back: the kind or the key, on every worker, by every leader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tacoq_manager.buckets import Of
from tacoq_manager.limits import Limit
from tacoq_manager.store import limits as store
from tacoq_manager.store.claim import Line
from tacoq_protocol.messages import Completed, Fence, Holds, Snoozed
from tests.stages.floor import Floor
from tests.stages.limited import FLOW, NOW, accept_keyed, complete, keys, later
from tests.support.eventually import eventually


async def test_handler_that_is_rate_limited_holds_its_kind_back(floor: Floor) -> None:
    floor.join("k", "other", slots=2)
    first, _second, _third = await floor.accept(3)
    assert await floor.dispatch() == 2
    await floor.report(Snoozed(first, 1, NOW, 0.1, 60.0, Holds.KIND))
    await floor.accept(kind="other")
    assert await floor.dispatch() == 1
    assert floor.releases[-1].kind == "other"
    await complete(floor, floor.releases[-1].task_id)
    row = await floor.row(first)
    assert (row["state"], row["attempt"]) == ("scheduled", 0)
    shut = floor.manager.limits.tightest(Line("default", "k", ""))
    assert shut is not None
    assert (shut.limit, shut.of) == (Limit.HELD_BACK, Of("default", "k"))
    await later(floor, 30.0)
    assert await floor.dispatch() == 0, "the next leader knows"
    await later(floor, 31.0)
    assert await floor.dispatch() == 1


async def test_it_may_hold_its_fairness_key_alone(floor: Floor) -> None:
    floor.join("k", slots=2)
    await accept_keyed(floor, 3, "a", "b")
    assert await floor.dispatch() == 2
    first = next(release.task_id for release in floor.releases if release.payload == b'"a"')
    await floor.report(Snoozed(first, 1, NOW, 0.1, 60.0, Holds.KEY))
    assert await floor.dispatch() == 1
    await complete(floor, *[release.task_id for release in floor.releases if release.payload == b'"b"'])
    assert await floor.dispatch() == 1
    assert keys(floor) == {"a": 1, "b": 3}
    await floor.manager.limiting.let_go(FLOW)
    assert await floor.dispatch() == 1
    assert keys(floor) == {"a": 2, "b": 3}


async def test_longest_of_several_holds_counts(floor: Floor) -> None:
    floor.join("k", slots=3)
    first, second, third = await floor.accept(3)
    await floor.dispatch()
    await floor.report(
        Snoozed(first, 1, NOW, 0.1, 60.0, Holds.KIND),
        Snoozed(second, 1, NOW, 0.1, 90.0, Holds.KIND),
    )
    await floor.report(Snoozed(third, 1, NOW, 0.1, 10.0, Holds.KIND))
    seconds = await floor.connection.fetchval("SELECT extract(epoch FROM until - now())::float8 FROM holds")
    assert seconds == pytest.approx(90, abs=30)


async def test_report_of_a_closed_release_holds_nothing(floor: Floor) -> None:
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.dispatch()
    await complete(floor, task_id)
    await floor.report(Snoozed(task_id, 1, NOW, 0.1, 60.0, Holds.KIND))
    assert await floor.connection.fetch("SELECT FROM holds") == []


async def test_holds_of_two_managers_wait_for_each_other_in_one_order(floor: Floor, lock: Any) -> None:
    """First all rows, then the leader's: who has a row waits for nobody who waits for it."""
    floor.join("k", slots=2)
    ids = [*await floor.accept(fairness_key="a"), *await floor.accept(fairness_key="b")]
    await floor.dispatch()
    await lock.execute("INSERT INTO holds VALUES ('default', 'k', 'b', now() + interval '1 minute')")
    asked = [store.Hold(Fence(task_id, 1), 90.0, True) for task_id in ids]
    holding = asyncio.create_task(store.hold(floor.manager.database.settle, asked))
    await eventually(lambda: _somebody_waits(floor))
    await lock.execute("SET LOCAL lock_timeout = '500ms'")
    await lock.execute("UPDATE leader SET limits = limits + 1")
    await lock.execute("COMMIT")
    held, version = await holding
    assert (len(held), version) == (2, 2)


async def test_holds_are_let_go_in_the_order_in_which_they_are_made(floor: Floor, lock: Any) -> None:
    """Not in that of the heap: a hold that has the first and waits for the second would wait in a circle."""
    for key in "ba":
        await floor.connection.execute("INSERT INTO holds VALUES ('default', 'k', $1, now() + interval '1 h')", key)
    await floor.connection.execute("ANALYZE holds")  # a scan of the heap is planned for so few
    await lock.execute("SELECT FROM holds WHERE fairness_key = 'a' FOR UPDATE")
    letting_go = asyncio.create_task(floor.manager.limiting.let_go(FLOW))
    await eventually(lambda: _somebody_waits(floor))
    await lock.execute("SELECT FROM holds WHERE fairness_key = 'b' FOR UPDATE NOWAIT")
    await lock.execute("COMMIT")
    await letting_go
    assert await floor.connection.fetch("SELECT FROM holds") == []


async def test_hold_that_is_over_is_forgotten(floor: Floor) -> None:
    floor.join("k", slots=3)
    ids = [task_id for key in "abc" for task_id in await floor.accept(fairness_key=key)]
    await floor.dispatch()
    await floor.report(*[Snoozed(task_id, 1, NOW, 0.1, 0.001, Holds.KEY) for task_id in ids])
    limits = floor.manager.limits
    assert len(limits._holds) == 3

    async def forgotten() -> bool:
        await floor.manager.limiting.prune()
        return not limits._holds and not limits._held_keys

    await eventually(forgotten)


async def test_hold_that_another_manager_stored_stops_the_next_claim(floor: Floor) -> None:
    floor.join("k", slots=1)
    first, _second = await floor.accept(2)
    await floor.dispatch()
    held, _version = await store.hold(floor.manager.database.upkeep, [store.Hold(Fence(first, 1), 60.0, False)])
    assert [each.of for each in held] == [Of("default", "k")]
    await complete(floor, first)
    assert await floor.dispatch() == 0


@pytest.mark.parametrize("seconds", [float("nan"), 1e300])
async def test_hold_for_no_time_that_there_is_stops_nobody(floor: Floor, seconds: float) -> None:
    floor.join("k")
    first, second = await floor.accept(2)
    await floor.dispatch()
    await floor.report(Snoozed(first, 1, NOW, 0.1, seconds, Holds.KIND), Completed(second, 1, NOW, 0.1, b"1"))
    assert await floor.state(second) == "completed"
    await floor.accept()
    assert await floor.dispatch() == 1


@pytest.mark.parametrize("seconds", [float("nan"), 1e300])
async def test_hold_for_no_time_that_there_is_takes_no_other_with_it(floor: Floor, seconds: float) -> None:
    floor.join("k", slots=3)
    first, second, third = [id for key in "abc" for id in await floor.accept(fairness_key=key)]
    assert await floor.dispatch() == 3
    await floor.report(
        Snoozed(first, 1, NOW, 0.1, 60.0, Holds.KEY),
        Snoozed(second, 1, NOW, 0.1, seconds, Holds.KEY),
        Snoozed(third, 1, NOW, 0.1, 60.0, Holds.KEY),
    )
    assert [await floor.state(task_id) for task_id in (first, second, third)] == ["scheduled", "failed", "scheduled"]
    await accept_keyed(floor, 1, "a", "b", "c")
    assert await floor.dispatch() == 1
    assert floor.releases[-1].payload == b'"b"'


async def _somebody_waits(floor: Floor) -> bool:
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await floor.connection.fetch(waiting))

"""Rates in dispatch: how many are released in a time, by whichever leader and path."""

from __future__ import annotations

import asyncio

import pytest

from tacoq_manager.buckets import Of
from tacoq_manager.limits import Limit
from tacoq_manager.store.claim import Line
from tacoq_protocol.limits import KindLimits, QueueLimits
from tacoq_protocol.messages import Holds, Snoozed
from tacoq_protocol.rates import parse_rate
from tests.stages.floor import Floor
from tests.stages.limited import NOW, accept_keyed, later, set_kind, take_over, tokens
from tests.support.eventually import eventually


async def test_rate_lets_a_second_go_at_once_and_then_as_tokens_come(floor: Floor) -> None:
    floor.join("k", slots=100, rate="20/m")
    await floor.accept(10)
    assert await floor.dispatch() == 1
    await later(floor, 3.1)
    assert await floor.dispatch() == 1
    await later(floor, 60.0)
    assert await floor.dispatch() == 1, "what was not released in time is not made up for"


async def test_rates_of_queue_kind_and_key_are_drawn_on_together(floor: Floor) -> None:
    floor.join("k", slots=100, rate="500/s", rate_per_key="3/s")
    await floor.manager.limiting.set_queue("default", QueueLimits(rate="1000/s"))
    await accept_keyed(floor, 5, "a", "b")
    assert await floor.dispatch() == 6
    left = await tokens(floor)
    assert {of: count for of, count in left.items() if of[1:] != ("k", None)} == {
        ("default", None, None): 994,
        ("default", "k", "a"): 0,
        ("default", "k", "b"): 0,
    }
    assert 494 <= left["default", "k", None] < 500


async def test_tokens_are_those_that_the_last_leader_left(floor: Floor) -> None:
    floor.join("k", slots=100, rate="5/h", rate_per_key="5/h")
    await accept_keyed(floor, 2, "a")
    assert await floor.dispatch() == 1
    await take_over(floor)
    assert await floor.dispatch() == 0
    shut = floor.manager.limits.tightest(Line("default", "k", "a"))
    assert shut is not None
    assert (shut.limit, shut.of.fairness_key) == (Limit.RATE, None)
    assert shut.opens_in == pytest.approx(720, abs=30)


async def test_claim_draws_what_it_took_and_no_more(floor: Floor) -> None:
    floor.join("k", slots=100, rate="50/s")
    await floor.accept(3)
    assert await floor.dispatch() == 3
    assert await tokens(floor) == {("default", "k", None): 47}
    bucket = floor.manager.limits.buckets.whole(Of("default", "k"), parse_rate("50/s"))
    assert bucket >= 47


async def test_kind_without_a_rate_draws_on_nothing(floor: Floor) -> None:
    floor.join("k")
    await floor.accept(3)
    await floor.dispatch()
    assert await tokens(floor) == {}


async def test_changed_rate_goes_on_with_the_tokens_that_are_left(floor: Floor) -> None:
    floor.join("k", slots=100, rate="1/h")
    await floor.accept(200)
    assert await floor.dispatch() == 1
    await set_kind(floor, KindLimits(rate="100/s"))
    await later(floor, 0.5)
    assert 50 <= await floor.dispatch() <= 100, "half a second's, and what came since"


async def test_dispatch_wakes_when_the_next_token_is_due(floor: Floor) -> None:
    floor.join("k", slots=100, rate="20/s", rate_per_key="10/s")
    await accept_keyed(floor, 15, "a")  # which takes half a second: nobody renews the lead here, and it lasts for three
    dispatching = asyncio.create_task(floor.manager.dispatcher.run())
    await eventually(lambda: len(floor.releases) == 15)
    dispatching.cancel()
    queued = await floor.connection.fetch("SELECT queued_at FROM tasks ORDER BY queued_at")
    seconds = (queued[-1]["queued_at"] - queued[0]["queued_at"]).total_seconds()
    assert seconds >= (15 - 10) / 10 - 0.1


async def test_full_buckets_and_holds_that_are_over_are_pruned(floor: Floor) -> None:
    floor.join("k", slots=100, rate="10/h", rate_per_key="20/s")
    await accept_keyed(floor, 1, "a")
    await floor.dispatch()
    await floor.report(Snoozed(floor.releases[0].task_id, 1, NOW, 0.1, 5.0, Holds.KEY))
    await floor.connection.execute("UPDATE buckets SET as_of = as_of - interval '10 seconds'")
    await floor.connection.execute("UPDATE holds SET until = now()")
    assert await floor.manager.limiting.prune() == 2
    assert await tokens(floor) == {("default", "k", None): 0}
    assert await floor.connection.fetch("SELECT FROM holds") == []

"""Limits in dispatch: what is released when something limits it, when that changes, and by who leads next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tacoq_manager.limits import Limit
from tacoq_manager.store import claim as claims
from tacoq_manager.store import limits as store
from tacoq_manager.store.claim import Line
from tacoq_manager.store.settle import apply
from tacoq_manager.transitions import cancel, complete, give_back
from tacoq_protocol.errors import BrokerUnavailable
from tacoq_protocol.limits import KindLimits, QueueLimits
from tacoq_protocol.messages import Completed
from tests.stages import limited
from tests.stages.floor import Floor
from tests.stages.limited import FLOW, NOW, accept_keyed, keys, set_kind, take_over, tokens
from tests.support.eventually import eventually


async def test_no_more_of_a_kind_is_out_than_its_limit(floor: Floor) -> None:
    floor.join("k", "other", concurrency=3)
    floor.join("k", "other", slots=20, concurrency=3)
    ids = await floor.accept(10)
    await floor.accept(5, kind="other")
    assert await floor.dispatch() == 6
    await limited.complete(floor, ids[0])
    assert await floor.dispatch() == 1
    assert floor.releases[-1].kind == "k"


async def test_no_more_of_a_queue_is_out_than_its_limit(floor: Floor) -> None:
    floor.join("k", "other")
    await floor.manager.limiting.set_queue("default", QueueLimits(concurrency=4))
    ids = await floor.accept(10)
    await floor.accept(10, kind="other")
    assert await floor.dispatch() == 4
    await limited.complete(floor, ids[0])
    assert await floor.dispatch() == 1


async def test_no_more_of_a_key_is_out_than_its_limit(floor: Floor) -> None:
    floor.join("k", slots=50, max_per_key=2)
    await accept_keyed(floor, 5, "a", "b")
    await accept_keyed(floor, 5, "a", priority=7)
    assert await floor.dispatch() == 4
    assert keys(floor) == {"a": 2, "b": 2}
    first = next(release.task_id for release in floor.releases if release.payload == b'"a"')
    await limited.complete(floor, first)
    assert await floor.dispatch() == 1
    assert keys(floor) == {"a": 3, "b": 2}


async def test_limit_counts_what_was_out_before_a_takeover(floor: Floor) -> None:
    floor.join("k", concurrency=3, max_per_key=2)
    await accept_keyed(floor, 5, "a", "b")
    assert await floor.dispatch() == 3
    await take_over(floor)
    assert await floor.dispatch() == 0


async def test_limit_of_keys_set_while_tasks_are_out_counts_them(floor: Floor) -> None:
    floor.join("k")
    await accept_keyed(floor, 3, "a")
    assert await floor.dispatch() == 3
    await set_kind(floor, KindLimits(max_per_key=4))
    await accept_keyed(floor, 3, "a")
    assert await floor.dispatch() == 1


async def test_task_that_a_cancel_queues_again_counts_as_out(floor: Floor) -> None:
    """It was given back, and its message may be about: until that is known its release is open."""
    floor.join("k", concurrency=1)
    first, _second = await floor.accept(2)
    await floor.dispatch()
    await floor.manager.settler.apply([give_back(floor.releases[0].fence)])
    await floor.manager.canceller.cancel(first)
    assert await floor.state(first) == "queued"
    assert await floor.dispatch() == 0
    assert floor.manager.in_flight.flow(FLOW) == 1


async def test_so_does_one_that_another_manager_cancels(floor: Floor) -> None:
    floor.join("k", concurrency=1)
    first, _second = await floor.accept(2)
    await floor.dispatch()
    await floor.manager.settler.apply([give_back(floor.releases[0].fence)])
    (moved,) = await apply(floor.manager.database.upkeep, cancel(first))
    assert moved.takes_slot
    floor.manager.teller.ended({moved.line: -1}, moved.transaction)  # as news tell
    assert await floor.dispatch() == 0


async def test_key_whose_ends_nobody_told_of_is_found_by_the_recount(floor: Floor) -> None:
    floor.join("k", max_per_key=1)
    await accept_keyed(floor, 2, "a")
    assert await floor.dispatch() == 1
    await floor.connection.execute("DELETE FROM tasks WHERE state = 'queued'")
    assert await floor.dispatch() == 0
    await floor.manager.recount.step()
    assert await floor.dispatch() == 1


async def test_end_that_is_told_after_the_recount_found_it_lets_nothing_pass_the_limit(floor: Floor) -> None:
    """Another manager settled it, and its news come late."""
    floor.join("k", concurrency=1)
    await floor.accept(3)
    assert await floor.dispatch() == 1
    (release,) = floor.releases
    report = Completed(release.task_id, 1, NOW, 0.1, b"1")
    (moved,) = await apply(floor.manager.database.upkeep, [complete(report, uuid4())])
    await floor.manager.recount.step()
    assert await floor.dispatch() == 1
    floor.manager.teller.ended({moved.line: 1}, moved.transaction)
    assert await floor.dispatch() == 0
    assert floor.manager.in_flight.flow(FLOW) == 1


async def test_queue_that_cannot_be_declared_leaves_nothing_counted(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.join("k", concurrency=1, max_per_key=1)
    await floor.accept(2)

    async def refuse(*_: object) -> None:
        raise BrokerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(floor.manager.publisher, "declare", refuse)
        with pytest.raises(BrokerUnavailable):
            await floor.manager.dispatcher.step()
    assert floor.manager.in_flight.total() == 0
    assert await floor.dispatch() == 1


async def test_key_that_was_set_aside_for_a_claim_that_was_not_sent_comes_back(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.join("k", max_per_key=1)
    (higher,) = await floor.accept(priority=5, fairness_key="a")
    await floor.accept(fairness_key="a")

    async def refuse(*_: object) -> None:
        raise BrokerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(floor.manager.publisher, "declare", refuse)
        with pytest.raises(BrokerUnavailable):
            await floor.manager.dispatcher.step()
    await floor.manager.canceller.cancel(higher)
    assert await floor.dispatch() == 1


async def test_deploy_that_raises_a_limit_lets_keys_go_that_it_shut(floor: Floor) -> None:
    floor.join("k", max_per_key=1)
    await accept_keyed(floor, 3, "a")
    assert await floor.dispatch() == 1
    floor.join("k", max_per_key=2)
    assert await floor.dispatch() == 1


# What is set at run time.


async def test_paused_queue_releases_nothing_and_goes_on_when_it_is_resumed(floor: Floor) -> None:
    floor.join("k")
    await floor.manager.limiting.pause("default")
    await floor.accept(3)
    assert await floor.dispatch() == 0
    floor.manager.dispatcher._changed.clear()
    await floor.manager.limiting.resume("default")
    assert floor.manager.dispatcher._changed.is_set()
    assert await floor.dispatch() == 3


async def test_claim_by_limits_that_others_have_changed_takes_nothing(floor: Floor) -> None:
    """Another manager answered the request, and its news were lost."""
    floor.join("k")
    await floor.accept(3)
    await store.pause(floor.manager.database, "default", True)
    assert await floor.dispatch() == 0
    await store.pause(floor.manager.database, "default", False)
    assert await floor.dispatch() == 0, "it knows that the queue is paused, and of nothing else"
    await floor.manager.leader.step()
    await eventually(lambda: floor.manager.limits.version == 2)
    assert await floor.dispatch() == 3, "and its tick told it"


async def test_change_waits_for_the_claims_that_are_under_way(floor: Floor, lock: Any) -> None:
    """Nothing of a queue is released after its pause was answered."""
    await lock.execute("SELECT epoch FROM leader FOR KEY SHARE")
    pausing = asyncio.create_task(floor.manager.limiting.pause("default"))

    async def it_waits() -> bool:
        found = await floor.connection.fetch("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(found)

    await eventually(it_waits)
    assert not pausing.done()
    await lock.execute("COMMIT")
    await pausing


async def test_change_that_is_learnt_while_a_claim_is_under_way_forgets_no_lane(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim takes nothing, and not because nothing is there."""
    floor.join("k")
    await floor.accept(3)
    claim = claims.claim

    async def overtaken(*arguments: Any, **options: Any) -> claims.Batch:
        monkeypatch.setattr(claims, "claim", claim)
        await floor.manager.limiting.set_queue("default", QueueLimits(concurrency=5))
        return await claim(*arguments, **options)

    monkeypatch.setattr(claims, "claim", overtaken)
    assert await floor.dispatch() == 3


async def test_pause_holds_for_a_claim_that_had_to_declare_its_queue_first(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.join("k")
    await floor.accept(3)
    declare = floor.manager.publisher.declare

    async def late(queue: str) -> None:
        await floor.manager.limiting.pause(queue)
        await declare(queue)

    monkeypatch.setattr(floor.manager.publisher, "declare", late)
    assert await floor.manager.dispatcher.step() == 0


async def test_what_was_set_goes_before_the_code_and_stays_over_a_takeover(floor: Floor) -> None:
    floor.join("k", concurrency=2)
    await floor.accept(20)
    assert await floor.dispatch() == 2
    await set_kind(floor, KindLimits(concurrency=5))
    assert await floor.dispatch() == 3
    await take_over(floor)
    assert floor.manager.limits.caps(FLOW).concurrency == 5
    await set_kind(floor, KindLimits())
    assert floor.manager.limits.caps(FLOW).concurrency == 2
    assert await floor.dispatch() == 0


async def test_weights_are_those_of_the_queue(floor: Floor) -> None:
    floor.join("k", slots=8)
    await floor.manager.limiting.set_queue("default", QueueLimits(weights={"a": 3}))
    await accept_keyed(floor, 20, "a", "b")
    await floor.dispatch()
    assert keys(floor) == {"a": 6, "b": 2}


async def test_what_shuts_a_task_is_named(floor: Floor) -> None:
    floor.join("k", concurrency=1)
    await floor.accept(2)
    await floor.dispatch()
    shut = floor.manager.limits.tightest(Line("default", "k", ""))
    assert shut is not None
    assert (shut.limit, shut.of.kind, shut.most, shut.at) == (Limit.CONCURRENCY, "k", 1, 1)
    await floor.manager.limiting.pause("default")
    shut = floor.manager.limits.tightest(Line("default", "k", ""))
    assert shut is not None
    assert (shut.limit, shut.of.queue, shut.of.kind) == (Limit.PAUSED, "default", None)


# The direct path.


@pytest.fixture
async def direct(floor: Floor) -> AsyncIterator[Floor]:
    """What is accepted is released by the same statement, where that may be."""
    floor.join("k", slots=20)
    await floor.manager.publisher.declare("default")
    with floor.directly():
        yield floor


async def released_directly(floor: Floor, count: int) -> None:
    await eventually(lambda: len(floor.releases) == count)
    assert await floor.dispatch() == 0


async def test_what_is_accepted_is_released_within_the_limits_only(direct: Floor) -> None:
    direct.join("k", slots=20, concurrency=3, max_per_key=2)
    await accept_keyed(direct, 3, "a")
    await released_directly(direct, 2)
    await accept_keyed(direct, 3, "b")  # beside what waits of the other key
    await released_directly(direct, 3)
    assert keys(direct) == {"a": 2, "b": 1}


async def test_what_is_accepted_draws_on_the_same_tokens(direct: Floor) -> None:
    direct.join("k", slots=20, rate="3/d", rate_per_key="2/d")
    await accept_keyed(direct, 1, "a", "b")
    await released_directly(direct, 1)
    assert await tokens(direct) == {("default", "k", None): 0, ("default", "k", "a"): 0}


async def test_what_is_accepted_into_a_paused_queue_waits(direct: Floor) -> None:
    await direct.manager.limiting.pause("default")
    await direct.accept(2)
    await released_directly(direct, 0)


async def test_accept_by_limits_that_others_have_changed_releases_nothing(direct: Floor) -> None:
    await store.pause(direct.manager.database, "default", True)
    (task_id,) = await direct.accept()
    assert await direct.state(task_id) == "pending"
    await released_directly(direct, 0)
    assert direct.manager.in_flight.total() == 0

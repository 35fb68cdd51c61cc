"""Credit: what may be released, and how many go in one message."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacoq_manager.credit import FIRST_LATENCY, MOST_PER_MESSAGE, MOST_PER_SLOT, MOST_PER_UNKNOWN, Credit, FreeSlots
from tacoq_manager.runtimes import MIN_RUNS, RunTimes
from tacoq_manager.store.claim import Flow
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Fence

FLOW = Flow("q", "k")


def credit_for(seconds: float | None) -> Credit:
    runtimes = RunTimes()
    for _ in range(MIN_RUNS if seconds is not None else 0):
        runtimes.add("q", "k", seconds or 0.0)
    return Credit(runtimes)


def room(credit: Credit, slots: int, kind: str = "k") -> int | None:
    return FreeSlots(credit, "q", slots, lambda _: True).room(kind)


def test_kind_of_unknown_run_time_gets_free_slots_only() -> None:
    credit = credit_for(None)
    assert room(credit, 4) == 4
    credit.release(FLOW, 3)
    assert room(credit, 4) == 1


def test_long_kind_gets_free_slots_only() -> None:
    assert room(credit_for(10.0), 4) == 4


def test_short_kind_gets_as_much_work_beyond_as_the_way_takes() -> None:
    credit = credit_for(0.001)
    assert room(credit, 10) == 10 + 10 * FIRST_LATENCY / 0.001
    credit.release(FLOW, 100)
    assert room(credit, 10) == 10


def test_shortest_kind_gets_no_more_than_the_bound_per_slot() -> None:
    assert room(credit_for(0.0), 10) == MOST_PER_SLOT * 10


def test_short_releases_leave_long_ones_the_slots_that_they_do_not_need() -> None:
    credit = credit_for(0.001)
    credit.release(FLOW, 55)  # half of what ten slots do in that time
    assert (room(credit, 10, "long"), room(credit, 10)) == (5, 55)


@pytest.mark.parametrize("seconds", [nan, inf, -inf, -1.0])
def test_run_time_that_is_none_changes_nothing(seconds: float) -> None:
    assert room(credit_for(seconds), 4) == 4


def test_what_is_taken_in_a_round_is_not_there_twice() -> None:
    purse = FreeSlots(credit_for(0.001), "q", 10, lambda _: True)
    purse.spend("long", 4)
    assert (purse.room("long"), purse.room("k")) == (6, 66)
    purse.spend("k", 66)
    assert (purse.room("long"), purse.room("k")) == (0, 0)


def test_kind_that_may_not_run_has_no_room_at_all() -> None:
    assert FreeSlots(credit_for(None), "q", 10, lambda _: False).room("k") is None


@given(slots=st.integers(0, 1000), released=st.integers(0, 100_000), seconds=st.none() | st.floats(0, 100))
def test_room_is_never_negative(slots: int, released: int, seconds: float | None) -> None:
    credit = credit_for(seconds)
    credit.release(FLOW, released)
    assert (room(credit, slots) or 0) >= 0


def test_credit_that_ended_twice_does_not_grow_beyond_the_slots() -> None:
    credit = credit_for(None)
    credit.release(FLOW, 1)
    credit.ended(FLOW, 5)
    assert room(credit, 4) == 4


def test_recount_keeps_what_changed_while_postgres_was_asked() -> None:
    credit = credit_for(None)
    credit.release(FLOW, 2)
    before = credit.counted()
    credit.release(FLOW, 1)  # after the statement's snapshot
    credit.recount({FLOW: 2}, before)
    assert credit.released("q") == 3


def test_recount_does_not_count_twice_what_postgres_had_seen() -> None:
    """A claim between the count and the statement's snapshot: the queue would have stood still until the next."""
    credit = credit_for(None)
    before = credit.counted()
    credit.release(FLOW, 4)
    credit.recount({FLOW: 4}, before)
    assert credit.released("q") == 4
    before = credit.counted()
    credit.ended(FLOW, 3)
    credit.recount({FLOW: 1}, before)
    assert credit.released("q") == 1


def test_recount_finds_what_was_missed_beside_what_changes() -> None:
    credit = credit_for(None)
    credit.release(FLOW, 10)  # the news of their ends were lost
    before = credit.counted()
    credit.release(FLOW, 1)
    credit.recount({FLOW: 0}, before)
    assert credit.released("q") == 1


def test_recount_forgets_what_ended_without_having_been_counted() -> None:
    """Reports settled before this manager leads are of releases that another one counted."""
    credit = credit_for(None)
    credit.ended(FLOW, 100)
    credit.recount({FLOW: 3}, credit.counted())
    assert (credit.released("q"), credit.total()) == (3, 3)


def test_run_and_way_that_no_clock_saw_pass_take_what_the_shortest_take() -> None:
    credit = credit_for(0.0)
    fence = Fence(new_task_id(), 1)
    credit.probe(fence, now=10.0)
    credit.sample(fence.task_id, fence.release, seconds=0.5, now=10.5)
    assert (credit.base_latency(), credit.weight("q", "k")) == (0.0, 1 / MOST_PER_SLOT)


def test_base_latency_is_the_rest_of_the_probes_round_trip() -> None:
    credit = credit_for(None)
    fence = Fence(new_task_id(), 1)
    credit.probe(fence, now=10.0)
    credit.sample(new_task_id(), 1, seconds=0.5, now=10.1)  # not the probe
    assert credit.base_latency() == FIRST_LATENCY
    credit.sample(fence.task_id, fence.release, seconds=0.5, now=10.504)
    assert round(credit.base_latency(), 6) == 0.004


def test_base_latency_is_the_shortest_of_the_window() -> None:
    credit = credit_for(None)
    for at, latency in ((100.0, 0.004), (110.0, 0.002), (120.0, 0.003), (139.9, 0.005)):
        fence = Fence(new_task_id(), 1)
        credit.probe(fence, now=at - latency)
        credit.sample(fence.task_id, fence.release, seconds=0.0, now=at)
        assert round(credit.base_latency(), 6) == min(latency, 0.002 if at >= 110 else 0.004)
    fence = Fence(new_task_id(), 1)
    credit.probe(fence, now=140.0)
    credit.sample(fence.task_id, fence.release, seconds=0.0, now=140.006)  # the shortest is too old by now
    assert round(credit.base_latency(), 6) == 0.003


def test_releases_in_a_message() -> None:
    assert credit_for(None).per_message("q", "k", backlog=False) == 1
    assert credit_for(None).per_message("q", "k", backlog=True) == MOST_PER_UNKNOWN
    assert credit_for(10.0).per_message("q", "k", backlog=True) == 1
    assert credit_for(0.001).per_message("q", "k", backlog=True) == 5
    assert credit_for(0.0).per_message("q", "k", backlog=True) == MOST_PER_MESSAGE

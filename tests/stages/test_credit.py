"""Credit: what may be released, and how many go in one message."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacoq_manager.credit import (
    FIRST_LATENCY,
    LATENCY_WINDOW,
    MOST_PER_MESSAGE,
    MOST_PER_SLOT,
    MOST_PER_UNKNOWN,
    PROBE_SECONDS,
    Credit,
)
from tacoq_manager.inflight import InFlight
from tacoq_manager.limits import Limits
from tacoq_manager.purse import Purse
from tacoq_manager.runtimes import MIN_RUNS, RunTimes
from tacoq_manager.store.claim import Line
from tacoq_manager.store.snapshot import Snapshot
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Fence

LINE = Line("q", "k", "")


def credit_for(seconds: float | None) -> Credit:
    runtimes = RunTimes()
    for _ in range(MIN_RUNS if seconds is not None else 0):
        runtimes.add("q", "k", seconds or 0.0)
    return Credit(runtimes, InFlight())


def purse(credit: Credit, slots: int, *, known: bool = True) -> Purse:
    limits = Limits(credit.in_flight, lambda *_: None, lambda: 0.0)
    return Purse(credit, limits, "q", slots=slots, may_run=lambda _: known)


def release(credit: Credit, count: int) -> None:
    credit.in_flight.reserve(LINE, count)


def room(credit: Credit, slots: int, kind: str = "k") -> int | None:
    return purse(credit, slots).room(kind)


def test_kind_of_unknown_run_time_gets_free_slots_only() -> None:
    credit = credit_for(None)
    assert room(credit, 4) == 4
    release(credit, 3)
    assert room(credit, 4) == 1


def test_long_kind_gets_free_slots_only() -> None:
    assert room(credit_for(10.0), 4) == 4


def test_short_kind_gets_as_much_work_beyond_as_the_way_takes() -> None:
    credit = credit_for(0.001)
    assert room(credit, 10) == 10 + 10 * FIRST_LATENCY / 0.001
    release(credit, 100)
    assert room(credit, 10) == 10


def test_shortest_kind_gets_no_more_than_the_bound_per_slot() -> None:
    assert room(credit_for(0.0), 10) == MOST_PER_SLOT * 10


def test_short_releases_leave_long_ones_the_slots_that_they_do_not_need() -> None:
    credit = credit_for(0.001)
    release(credit, 55)  # half of what ten slots do in that time
    assert (room(credit, 10, "long"), room(credit, 10)) == (5, 55)


def test_kind_is_long_from_the_first_run_that_outlasts_the_others_until_many_were_short_again() -> None:
    credit = credit_for(0.001)
    credit._runtimes.outlasted("q", "k", 0.1)
    assert (room(credit, 10), credit.per_message("q", "k", backlog=True)) == (10, 1)
    for _ in range(10 * MIN_RUNS):
        credit._runtimes.add("q", "k", 0.001)
    assert (room(credit, 10) or 0) > 10


def test_run_that_goes_on_no_longer_than_the_others_changes_nothing() -> None:
    runtimes = RunTimes()
    for seconds in (0.1, 0.2, 60.0, 60.0, 60.0):
        for _ in range(MIN_RUNS):
            runtimes.add("q", "k", seconds)
    runtimes.outlasted("q", "k", 0.1)
    assert runtimes.p90("q", "k") == 60.0


@pytest.mark.parametrize("seconds", [nan, inf, -inf, -1.0])
def test_run_time_that_is_none_changes_nothing(seconds: float) -> None:
    assert room(credit_for(seconds), 4) == 4


def test_what_is_taken_in_a_round_is_not_there_twice() -> None:
    taking = purse(credit_for(0.001), 10)
    taking.spend("long", "", 4)
    assert (taking.room("long"), taking.room("k")) == (6, 66)
    taking.spend("k", "", 66)
    assert (taking.room("long"), taking.room("k")) == (0, 0)


def test_claim_of_an_earlier_lead_was_seen_by_the_recount_of_this_one() -> None:
    credit = credit_for(None)
    taking = purse(credit, 10)
    taking.spend("k", "", 5)
    credit.in_flight.forget()
    credit.in_flight.watch()
    credit.in_flight.recount({LINE: 5}, Snapshot("0:0:"))
    taking.settle({LINE: 5}, None)
    assert room(credit, 10) == 5


def test_kind_that_may_not_run_has_no_room_at_all() -> None:
    assert purse(credit_for(None), 10, known=False).room("k") is None


@given(slots=st.integers(0, 1000), released=st.integers(0, 100_000), seconds=st.none() | st.floats(0, 100))
def test_room_is_never_negative(slots: int, released: int, seconds: float | None) -> None:
    credit = credit_for(seconds)
    release(credit, released)
    assert (room(credit, slots) or 0) >= 0


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


def test_few_of_many_releases_are_measured() -> None:
    credit = credit_for(None)
    first, second, third = (Fence(new_task_id(), 1) for _ in range(3))
    credit.probe(first, now=10.0)
    assert credit.times(first.task_id)
    credit.sample(first.task_id, 1, seconds=0.0, now=10.001)
    credit.probe(second, now=10.002)
    assert not credit.times(second.task_id)
    credit.probe(third, now=10.001 + PROBE_SECONDS)
    assert credit.times(third.task_id)


def test_measure_of_a_release_whose_report_never_comes_is_given_up() -> None:
    credit = credit_for(None)
    lost, later = Fence(new_task_id(), 1), Fence(new_task_id(), 1)
    credit.probe(lost, now=10.0)
    credit.probe(later, now=11.0)
    assert credit.times(lost.task_id)
    credit.probe(later, now=10.0 + LATENCY_WINDOW)
    assert credit.times(later.task_id)


def test_base_latency_is_the_shortest_of_the_window() -> None:
    credit = credit_for(None)
    for at, latency in ((100.0, 0.004), (110.0, 0.002), (120.0, 0.003), (139.5, 0.005)):
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

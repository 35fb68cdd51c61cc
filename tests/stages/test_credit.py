"""Credit: what may be released, and how many go in one message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tacoq_manager.credit import FIRST_LATENCY, MOST_PER_MESSAGE, MOST_PER_SLOT, MOST_PER_UNKNOWN, Credit
from tacoq_manager.runtimes import MIN_RUNS, RunTimes
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.messages import Fence


def credit_for(seconds: float | None) -> Credit:
    runtimes = RunTimes()
    for _ in range(MIN_RUNS if seconds is not None else 0):
        runtimes.add("q", "k", seconds or 0.0)
    return Credit(runtimes)


def test_kind_of_unknown_run_time_gets_free_slots_only() -> None:
    credit = credit_for(None)
    assert credit.free("q", "k", 4) == 4
    credit.release("q", 3)
    assert credit.free("q", "k", 4) == 1


def test_long_kind_gets_free_slots_only() -> None:
    assert credit_for(10.0).free("q", "k", 4) == 4


def test_short_kind_gets_as_much_work_beyond_as_the_way_takes() -> None:
    credit = credit_for(0.001)
    assert credit.free("q", "k", 10) == 10 + 10 * FIRST_LATENCY / 0.001


def test_shortest_kind_gets_no_more_than_the_bound_per_slot() -> None:
    assert credit_for(0.0).free("q", "k", 10) == MOST_PER_SLOT * 10


@given(slots=st.integers(0, 1000), released=st.integers(0, 100_000), seconds=st.none() | st.floats(0, 100))
def test_credit_is_never_negative(slots: int, released: int, seconds: float | None) -> None:
    credit = credit_for(seconds)
    credit.release("q", released)
    assert credit.free("q", "k", slots) >= 0


def test_credit_that_ended_twice_does_not_grow_beyond_the_slots() -> None:
    credit = credit_for(None)
    credit.release("q", 1)
    credit.ended("q", 5)
    assert credit.free("q", "k", 4) == 4


def test_recount_keeps_what_changed_while_postgres_was_asked() -> None:
    credit = credit_for(None)
    credit.release("q", 2)
    before = credit.counted()
    credit.release("q", 1)  # after the statement's snapshot
    credit.recount({"q": 2}, before)
    assert credit.released("q") == 3


def test_recount_forgets_what_ended_without_having_been_counted() -> None:
    """Reports settled before this manager leads are of releases that another one counted."""
    credit = credit_for(None)
    credit.ended("q", 100)
    credit.recount({"q": 3}, credit.counted())
    assert (credit.released("q"), credit.total()) == (3, 3)


def test_base_latency_is_the_rest_of_the_probes_round_trip() -> None:
    credit = credit_for(None)
    fence = Fence(new_task_id(), 1)
    credit.probe(fence, now=10.0)
    credit.sample(new_task_id(), 1, seconds=0.5, now=10.1)  # not the probe
    assert credit.base_latency() == FIRST_LATENCY
    credit.sample(fence.task_id, fence.release, seconds=0.5, now=10.504)
    assert round(credit.base_latency(), 6) == 0.004


def test_releases_in_a_message() -> None:
    assert credit_for(None).per_message("q", "k", backlog=False) == 1
    assert credit_for(None).per_message("q", "k", backlog=True) == MOST_PER_UNKNOWN
    assert credit_for(10.0).per_message("q", "k", backlog=True) == 1
    assert credit_for(0.001).per_message("q", "k", backlog=True) == 5
    assert credit_for(0.0).per_message("q", "k", backlog=True) == MOST_PER_MESSAGE

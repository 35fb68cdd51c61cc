"""Token buckets: by the clock of the database no more goes than the rate allows, however slow its answers are."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacoq_manager.buckets import Buckets, Drawn, Of
from tacoq_protocol.rates import parse_rate
from tests.stages.test_lanes import Clock

OF = Of("q", "k")
SKEW = 1_000_000.0  # the database's clock is another one


def at(moment: float) -> datetime:
    return datetime.fromtimestamp(SKEW + moment, UTC)


def test_burst_goes_at_once_and_the_next_when_its_token_comes() -> None:
    clock, rate = Clock(), parse_rate("2/s")
    buckets = Buckets(clock)
    assert (buckets.whole(OF, rate), buckets.next_in(OF, rate)) == (2, 0.0)
    buckets.draw(OF, rate, 2, at(0.0))
    assert (buckets.whole(OF, rate), buckets.next_in(OF, rate)) == (0, 0.5)
    clock.now = 0.5
    assert buckets.whole(OF, rate) == 1
    clock.now = 100.0
    assert buckets.whole(OF, rate) == 2


def test_rate_of_less_than_one_a_second_holds_one() -> None:
    rate = parse_rate("10/h")
    buckets = Buckets(Clock())
    buckets.draw(OF, rate, 1, at(0.0))
    assert buckets.whole(OF, rate) == 0
    assert buckets.next_in(OF, rate) == pytest.approx(360.0)


def test_what_is_reserved_is_not_there_and_is_there_again_when_it_was_not_needed() -> None:
    rate = parse_rate("5/s")
    buckets = Buckets(Clock())
    buckets.reserve(OF, 4)
    assert buckets.whole(OF, rate) == 1
    buckets.reserve(OF, -4)
    buckets.draw(OF, rate, 1, at(0.0))
    assert buckets.whole(OF, rate) == 4


def test_next_leader_goes_on_with_what_was_left() -> None:
    clock, rate = Clock(), parse_rate("5/s")
    buckets = Buckets(clock)
    buckets.load([Drawn(OF, -1.0, at(0.0), 0.4, 5.0)])
    assert (buckets.whole(OF, rate), buckets.next_in(OF, rate)) == (1, 0.0)
    buckets.draw(OF, rate, 1, at(0.4))
    assert buckets.whole(OF, rate) == 0


def test_what_is_drawn_while_all_are_read_is_not_there_afterwards() -> None:
    rate = parse_rate("5/s")
    buckets = Buckets(Clock())
    buckets.watch()
    buckets.draw(OF, rate, 1, at(0.1))
    buckets.draw(OF, rate, 2, at(0.2))
    buckets.load([])
    assert buckets.whole(OF, rate) == 2


def test_draw_that_was_read_counts_once_whenever_its_answer_comes() -> None:
    rate = parse_rate("5/s")
    buckets = Buckets(Clock())
    buckets.reserve(OF, 2)
    buckets.watch()
    buckets.draw(OF, rate, 1, at(0.1))
    buckets.load([Drawn(OF, 4.0, at(0.1), 0.0, 5.0)])
    assert buckets.whole(OF, rate) == 2
    buckets.load([Drawn(OF, 2.0, at(0.2), 0.0, 5.0)])
    for _ in range(2):  # of one statement, for two keys
        buckets.reserve(OF, -1)
        buckets.draw(OF, rate, 1, at(0.2))
    assert buckets.whole(OF, rate) == 2


def test_full_ones_are_forgotten() -> None:
    clock, rate = Clock(), parse_rate("5/s")
    buckets = Buckets(clock)
    buckets.draw(OF, rate, 5, at(0.0))
    buckets.prune()
    assert buckets._buckets
    clock.now = 1.0
    buckets.prune()
    assert not buckets._buckets


@given(
    steps=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1), st.floats(0, 1), st.integers(1, 20)), max_size=20),
    rate=st.sampled_from(["7/s", "1/s", "0.5/s"]),
)
def test_no_more_is_released_in_any_time_than_the_rate_allows(
    steps: list[tuple[float, float, float, int]], rate: str
) -> None:
    """Of each claim: the pause before it, how long it takes to the database, and how long its answer takes."""
    clock, parsed = Clock(), parse_rate(rate)
    buckets = Buckets(clock)
    released: list[tuple[float, int]] = []
    for pause, there, back, wanted in steps:
        clock.now += pause
        count = min(wanted, buckets.whole(OF, parsed))
        if not count:
            continue
        buckets.reserve(OF, count)
        moment = clock.now + there
        clock.now = moment + back
        buckets.reserve(OF, -count)
        buckets.draw(OF, parsed, count, at(moment))
        released.append((moment, count))
    for first, last in combinations(range(len(released)), 2):
        seconds = released[last][0] - released[first][0]
        count = sum(count for _, count in released[first : last + 1])
        assert count <= parsed.burst + seconds * parsed.per_second + 0.01

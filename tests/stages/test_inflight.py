"""In flight: what the leader counts as released is never less than what Postgres has, however answers come."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tacoq_manager.inflight import InFlight
from tacoq_manager.store.claim import Flow, Line

LINE = Line("q", "k", "")


def counting(*, out: int = 0) -> InFlight:
    """What a leader knows after its takeover, when so many were out."""
    counted = InFlight()
    counted.watch()
    counted.recount({LINE: out})
    return counted


def claim(counted: InFlight, asked: int, taken: int | None = None) -> None:
    counted.reserve(LINE, asked)
    counted.answered({LINE: asked}, {LINE: asked if taken is None else taken})


def out(counted: InFlight) -> int:
    flow, queue = counted.flow(Flow("q", "k")), counted.queue("q")
    assert (counted.line(LINE), flow, queue, counted.total()) == (flow,) * 4
    return flow


def test_what_a_claim_asks_for_counts_until_it_says_what_it_took() -> None:
    counted = counting()
    counted.reserve(LINE, 5)
    assert out(counted) == 5
    counted.answered({LINE: 5}, {LINE: 2})
    assert out(counted) == 2


def test_credit_that_ended_twice_does_not_grow_beyond_the_slots() -> None:
    counted = counting(out=1)
    counted.moved({LINE: 5})
    assert out(counted) == 0


def test_cancel_that_queues_a_task_again_counts_it() -> None:
    counted = counting()
    counted.moved({LINE: -1})
    assert out(counted) == 1


def test_recount_keeps_what_changed_while_postgres_was_asked() -> None:
    counted = counting(out=2)
    counted.watch()
    claim(counted, 1)  # after the statement's snapshot
    counted.recount({LINE: 2})
    assert out(counted) == 3


def test_recount_does_not_count_twice_what_postgres_had_seen() -> None:
    """A claim between the count and the statement's snapshot: the queue would have stood still until the next."""
    counted = counting()
    counted.watch()
    claim(counted, 4)
    counted.recount({LINE: 4})
    assert out(counted) == 4
    counted.watch()
    counted.moved({LINE: 3})
    counted.recount({LINE: 1})
    assert out(counted) == 1


def test_recount_beside_a_claim_without_answer_counts_it_once() -> None:
    for seen in (0, 4):
        counted = counting()
        counted.reserve(LINE, 4)
        counted.watch()
        counted.recount({LINE: seen})
        assert out(counted) == 4
        counted.answered({LINE: 4}, {LINE: 4})
        assert out(counted) == 4


def test_recount_finds_what_was_missed_beside_what_changes() -> None:
    counted = counting(out=10)  # the news of their ends were lost
    counted.watch()
    claim(counted, 1)
    assert counted.recount({LINE: 0}) == [LINE]
    assert out(counted) == 1


def test_new_leader_takes_what_ended_meanwhile_for_released_until_it_counts_again() -> None:
    """Postgres may have seen the end, or not: a limit must not be passed."""
    counted = InFlight()
    counted.watch()
    counted.moved({LINE: 2})
    counted.recount({LINE: 3})
    assert out(counted) == 3
    counted.watch()
    counted.recount({LINE: 1})
    assert out(counted) == 1


@given(st.lists(st.tuples(st.sampled_from(["claim", "end", "watch", "recount", "answer"]), st.integers(1, 9))))
def test_count_is_never_less_than_what_postgres_has(steps: list[tuple[str, int]]) -> None:
    """Claims and ends around recounts, whose snapshot is anywhere between their two halves."""
    counted, true, seen = counting(), 0, 0
    asked: Counter[Line] = Counter()
    watching = False
    for step, number in steps:
        match step:
            case "claim" if not asked:
                counted.reserve(LINE, number)
                asked[LINE] = number
                true += number  # at once, or later: here at once
            case "answer" if asked:
                counted.answered(asked, asked)
                asked.clear()
            case "end" if true - asked[LINE] > 0:
                true -= 1
                counted.moved({LINE: 1})
            case "watch" if not watching:
                counted.watch()
                seen, watching = true, True
            case "recount" if watching:
                counted.recount({LINE: seen})
                watching = False
        assert out(counted) == true

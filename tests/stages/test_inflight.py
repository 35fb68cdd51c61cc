"""In flight: what the leader counts as released is what Postgres has, however answers and news come."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from tacoq_manager.inflight import InFlight
from tacoq_manager.store.claim import Flow, Line
from tacoq_manager.store.snapshot import Snapshot

LINE = Line("q", "k", "")
UNSEEN = 1_000  # a transaction that no snapshot here has seen


def seen(following: int = UNSEEN, *under_way: int) -> Snapshot:
    """All transactions before `following`, but for these."""
    return Snapshot(f"0:{following}:{','.join(map(str, under_way))}")


def counting(*, out: int = 0) -> InFlight:
    """What a leader knows after its takeover, when so many were out."""
    counted = InFlight()
    counted.watch()
    counted.recount({LINE: out}, seen(0))
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
    counted.moved({LINE: 5}, UNSEEN)
    assert out(counted) == 0


def test_cancel_that_queues_a_task_again_counts_it() -> None:
    counted = counting()
    counted.moved({LINE: -1}, UNSEEN)
    assert out(counted) == 1


def test_recount_keeps_what_changed_while_postgres_was_asked() -> None:
    counted = counting(out=2)
    counted.watch()
    claim(counted, 1)  # after the statement's snapshot
    counted.recount({LINE: 2}, seen())
    assert out(counted) == 3


def test_recount_does_not_count_twice_what_postgres_had_seen() -> None:
    """A claim between the count and the statement's snapshot: the queue would have stood still until the next."""
    counted = counting()
    counted.watch()
    claim(counted, 4)
    counted.recount({LINE: 4}, seen())
    assert out(counted) == 4
    counted.watch()
    counted.moved({LINE: 3}, 7)
    counted.recount({LINE: 1}, seen(8))
    assert out(counted) == 1


def test_recount_beside_a_claim_without_answer_counts_it_once() -> None:
    for found in (0, 4):
        counted = counting()
        counted.reserve(LINE, 4)
        counted.watch()
        counted.recount({LINE: found}, seen())
        assert out(counted) == 4
        counted.answered({LINE: 4}, {LINE: 4})
        assert out(counted) == 4


def test_recount_finds_what_was_missed_beside_what_changes() -> None:
    counted = counting(out=10)  # the news of their ends were lost
    counted.watch()
    claim(counted, 1)
    assert counted.recount({LINE: 0}, seen()) == [LINE]
    assert out(counted) == 1


def test_new_leader_counts_what_ended_meanwhile_once() -> None:
    for following, found in ((8, 1), (7, 3)):  # with the end, and before it
        counted = InFlight()
        counted.watch()
        counted.moved({LINE: 2}, 7)
        counted.recount({LINE: found}, seen(following))
        assert out(counted) == 1


def test_news_of_an_end_that_the_recount_found_before_change_nothing() -> None:
    """Another manager's take a while, and this one's own answers may be read after that of the recount."""
    counted = counting(out=3)
    counted.watch()
    counted.recount({LINE: 1}, seen(9, 7))
    counted.moved({LINE: 2}, 8)
    assert out(counted) == 1
    counted.moved({LINE: 1}, 7)  # which was under way
    assert out(counted) == 0


def test_recount_of_what_was_forgotten_meanwhile_counts_nothing() -> None:
    counted = counting(out=1)
    counted.watch()
    counted.forget()
    assert counted.recount({LINE: 5}, seen()) == []
    assert out(counted) == 0


STEPS = st.tuples(st.sampled_from(["claim", "end", "tell", "watch", "recount", "answer"]), st.integers(1, 9))


@given(st.lists(STEPS))
@example([("claim", 1), ("answer", 1), ("claim", 1), ("end", 1), ("watch", 1), ("recount", 1), ("answer", 1)])
def test_count_is_what_postgres_has_less_what_was_told(steps: list[tuple[str, int]]) -> None:
    """Claims, ends and news of them around recounts, whose snapshot is anywhere between their two halves.

    The count is never too low. It is too high by ends that nobody told, and by what claims asked for while the last
    recount was under way: what Postgres had may have been theirs.
    """
    counted, true, found, following = counting(), 0, 0, 1
    asked: Counter[Line] = Counter()
    untold: list[int] = []  # ends, each by a transaction of its own
    unseen: set[int] = set()  # of these, what no recount has found
    watching, beside, unsure = False, 0, 0  # what claims ask for beside this recount, and beside the last one
    for step, number in steps:
        match step:
            case "claim" if not asked:
                counted.reserve(LINE, number)
                asked[LINE] = number
                true += number  # at once, or later: here at once
                beside += number
            case "answer" if asked:
                counted.answered(asked, asked)
                asked.clear()
            case "end" if true - asked[LINE] > 0:
                true -= 1
                untold.append(following)
                unseen.add(following)
                following += 1
            case "tell" if untold:
                transaction = untold.pop(number % len(untold))
                unseen.discard(transaction)
                counted.moved({LINE: 1}, transaction)
            case "watch" if not watching:
                counted.watch()
                found, snapshot, watching, beside = true, following, True, asked[LINE]
            case "recount" if watching:
                counted.recount({LINE: found}, seen(snapshot))
                unseen = {transaction for transaction in unseen if transaction >= snapshot}
                watching, unsure = False, beside
        assert true <= out(counted) <= true + len(unseen) + unsure

"""Lanes: what the leader remembers of where tasks are pending, and who is served next."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tacoq_manager.lanes import Lanes
from tacoq_manager.store.claim import Lane, Take

LANE, OTHER = Lane("q", "a", "", 0), Lane("q", "b", "", 0)


class Purse:
    """Room for so many, whatever the kind; `blocked` kinds may not run, `large` ones have no room now."""

    def __init__(self, room: int, *, blocked: str = "", large: str = "") -> None:
        self.left = room
        self.blocked = blocked
        self.large = large

    def room(self, kind: str) -> int | None:
        return None if kind in self.blocked else 0 if kind in self.large else self.left

    def spend(self, kind: str, count: int) -> None:
        assert kind not in self.blocked
        self.left -= count


def keyed(key: str, *, kind: str = "a", priority: int = 0) -> Lane:
    return Lane("q", kind, key, priority)


def shares(takes: list[Take]) -> dict[str, int]:
    return {take.lane.fairness_key: take.most for take in takes}


def test_drained_lane_is_forgotten() -> None:
    lanes = Lanes()
    lanes.note([LANE, OTHER])
    lanes.drained(LANE, lanes.mark(LANE))
    assert (lanes.waits("q", "a"), lanes.waits("q", "b")) == (False, True)
    lanes.drained(OTHER, lanes.mark(OTHER))
    assert lanes.queues() == []


def test_lane_noted_while_a_claim_was_under_way_stays() -> None:
    """The claim's snapshot may be older than the commit that the note tells of."""
    lanes = Lanes()
    lanes.note([LANE])
    mark = lanes.mark(LANE)
    lanes.note([LANE])
    lanes.drained(LANE, mark)
    assert lanes.waits("q", "a")


def test_keys_share_what_there_is() -> None:
    lanes = Lanes()
    lanes.note([keyed("big"), keyed("small"), keyed("third")])
    assert shares(lanes.turn("q", Purse(10), 1000)) == {"big": 4, "small": 3, "third": 3}


def test_more_keys_than_room_are_served_in_turn() -> None:
    lanes = Lanes()
    lanes.note([keyed(key) for key in "abc"])
    served = [shares(lanes.turn("q", Purse(2), 1000)) for _ in range(3)]
    assert served == [{"a": 1, "b": 1}, {"c": 1, "a": 1}, {"b": 1, "c": 1}]


def test_kinds_are_served_in_turn() -> None:
    lanes = Lanes()
    lanes.note([LANE, OTHER])
    assert [lanes.turn("q", Purse(1), 1000)[0].lane.kind for _ in range(4)] == ["a", "b", "a", "b"]


def test_higher_priority_takes_all_it_can() -> None:
    lanes = Lanes()
    lanes.note([keyed("low"), keyed("high", priority=9), keyed("middle", priority=5)])
    assert shares(lanes.turn("q", Purse(7), 1000)) == {"high": 7}
    lanes.drained(keyed("high", priority=9), lanes.mark(keyed("high", priority=9)))
    assert shares(lanes.turn("q", Purse(7), 1000)) == {"middle": 7}


def test_kind_that_may_not_run_holds_up_nobody() -> None:
    lanes = Lanes()
    lanes.note([keyed("x", kind="a", priority=9), keyed("y", kind="b")])
    assert shares(lanes.turn("q", Purse(3, blocked="a"), 1000)) == {"y": 3}


def test_kind_that_has_no_room_now_is_waited_for_when_it_is_its_turn() -> None:
    """Short ones find room all the time: they would overtake a long one for ever."""
    lanes = Lanes()
    lanes.note([keyed("short", kind="s"), keyed("long", kind="l")])
    assert shares(lanes.turn("q", Purse(4, large="l"), 1000)) == {"short": 2}
    assert lanes.turn("q", Purse(4, large="l"), 1000) == []
    assert shares(lanes.turn("q", Purse(4), 1000)) == {"long": 2, "short": 2}


@given(
    keys=st.lists(st.tuples(st.sampled_from("ab"), st.text("xyz", max_size=2)), min_size=1, unique=True),
    room=st.integers(1, 50),
    most=st.integers(1, 50),
)
def test_every_round_is_shared_out_fairly_and_whole(keys: list[tuple[str, str]], room: int, most: int) -> None:
    """Over many rounds kinds get the same, and of what a kind gets its keys do."""
    lanes = Lanes()
    lanes.note([Lane("q", kind, key, 0) for kind, key in keys])
    got: Counter[Lane] = Counter()
    rounds = 12 * len(keys)
    for _ in range(rounds):
        takes = lanes.turn("q", Purse(room), most)
        assert sum(take.most for take in takes) == min(room, most)
        for take in takes:
            got[take.lane] += take.most
    kinds = Counter(kind for kind, _ in keys)
    for kind, key in keys:
        fair = rounds * min(room, most) / len(kinds) / kinds[kind]
        assert fair / 2 <= got[Lane("q", kind, key, 0)] <= fair * 2

"""Lanes: what the leader remembers of where tasks are pending, and who is served next."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacoq_manager.aside import Aside
from tacoq_manager.lanes import Lanes
from tacoq_manager.store.claim import Flow, Lane, Line, Take

LANE, OTHER = Lane("q", "a", "", 0), Lane("q", "b", "", 0)


class Purse:
    """Room for so many, whatever the kind; `blocked` kinds may not run, `large` ones have no room now.

    `limits` let so many of a kind go, and `keys` so many of a key.
    """

    def __init__(
        self,
        room: int,
        *,
        blocked: str = "",
        large: str = "",
        limits: dict[str, int] | None = None,
        keys: dict[str, int] | None = None,
        weights: dict[str, int] | None = None,
        opens_in: float | None = None,
    ) -> None:
        self.left = room
        self.blocked = blocked
        self.large = large
        self.limits = limits or {}
        self.keys = keys
        self.weights = weights or {}
        self.opens_in = opens_in
        self.looked_at = 0

    def room(self, kind: str) -> int | None:
        if kind in self.blocked or not self.most(kind):
            return None
        return 0 if kind in self.large else self.left

    def most(self, kind: str) -> int:
        return self.limits.get(kind, 1_000)

    def limits_keys(self, kind: str) -> bool:
        return self.keys is not None

    def key_room(self, kind: str, key: str) -> int:
        assert self.keys is not None
        self.looked_at += 1
        return self.keys[key]

    def key_opens_in(self, kind: str, key: str) -> float | None:
        return self.opens_in

    def weight(self, key: str) -> int:
        return self.weights.get(key, 1)

    def spend(self, kind: str, key: str, count: int) -> None:
        assert kind not in self.blocked
        self.left -= count
        if kind in self.limits:
            self.limits[kind] -= count
        if self.keys is not None:
            self.keys[key] -= count


class Parts(Purse):
    """Slots, of which a task of kind "large" takes one and any other a tenth of one."""

    def room(self, kind: str) -> int | None:
        return self.left // 10 if kind == "large" else self.left

    def spend(self, kind: str, key: str, count: int) -> None:
        self.left -= 10 * count if kind == "large" else count


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_lanes() -> Lanes:
    return Lanes(Aside(Clock()))


def keyed(key: str, *, kind: str = "a", priority: int = 0) -> Lane:
    return Lane("q", kind, key, priority)


def shares(takes: list[Take]) -> dict[str, int]:
    return {take.lane.fairness_key: take.most for take in takes}


def test_rest_of_a_slot_is_not_for_a_lower_priority_while_a_higher_one_has_no_room() -> None:
    """It could wait for that rest as well; nothing of a lower priority is released before it."""
    lanes = make_lanes()
    urgent, small = keyed("", kind="large", priority=9), keyed("", kind="small")
    lanes.note([urgent, small])
    assert lanes.turn("q", Parts(15), 100) == [Take(urgent, 1)]
    assert lanes.turn("q", Parts(9), 100) == []
    lanes.drained(urgent, lanes.mark(urgent))
    assert lanes.turn("q", Parts(9), 100) == [Take(small, 9)]


def test_what_a_key_at_its_limit_leaves_goes_to_others_of_its_priority() -> None:
    lanes = make_lanes()
    lanes.note([keyed("x", priority=9), keyed("y", kind="b", priority=9), keyed("z", kind="b")])
    takes = lanes.turn("q", Purse(4, keys={"x": 10, "y": 0, "z": 10}), 100)
    assert takes == [Take(keyed("x", priority=9), 4)]


def test_drained_lane_is_forgotten() -> None:
    lanes = make_lanes()
    lanes.note([LANE, OTHER])
    lanes.drained(LANE, lanes.mark(LANE))
    assert (lanes.waits("q", "a"), lanes.waits("q", "b")) == (False, True)
    lanes.drained(OTHER, lanes.mark(OTHER))
    assert lanes.queues() == []


def test_lane_noted_while_a_claim_was_under_way_stays() -> None:
    """The claim's snapshot may be older than the commit that the note tells of."""
    lanes = make_lanes()
    lanes.note([LANE])
    mark = lanes.mark(LANE)
    lanes.note([LANE])
    lanes.drained(LANE, mark)
    assert lanes.waits("q", "a")


def test_keys_share_what_there_is() -> None:
    lanes = make_lanes()
    lanes.note([keyed("big"), keyed("small"), keyed("third")])
    assert shares(lanes.turn("q", Purse(10), 1000)) == {"big": 4, "small": 3, "third": 3}


def test_more_keys_than_room_are_served_in_turn() -> None:
    lanes = make_lanes()
    lanes.note([keyed(key) for key in "abc"])
    served = [shares(lanes.turn("q", Purse(2), 1000)) for _ in range(3)]
    assert served == [{"a": 1, "b": 1}, {"c": 1, "a": 1}, {"b": 1, "c": 1}]


def test_kinds_are_served_in_turn() -> None:
    lanes = make_lanes()
    lanes.note([LANE, OTHER])
    assert [lanes.turn("q", Purse(1), 1000)[0].lane.kind for _ in range(4)] == ["a", "b", "a", "b"]


def test_higher_priority_takes_all_it_can() -> None:
    lanes = make_lanes()
    lanes.note([keyed("low"), keyed("high", priority=9), keyed("middle", priority=5)])
    assert shares(lanes.turn("q", Purse(7), 1000)) == {"high": 7}
    lanes.drained(keyed("high", priority=9), lanes.mark(keyed("high", priority=9)))
    assert shares(lanes.turn("q", Purse(7), 1000)) == {"middle": 7}


def test_kind_that_may_not_run_holds_up_nobody() -> None:
    lanes = make_lanes()
    lanes.note([keyed("x", kind="a", priority=9), keyed("y", kind="b")])
    assert shares(lanes.turn("q", Purse(3, blocked="a"), 1000)) == {"y": 3}


def test_kind_that_has_no_room_now_is_waited_for_when_it_is_its_turn() -> None:
    """Short ones find room all the time: they would overtake a long one for ever."""
    lanes = make_lanes()
    lanes.note([keyed("short", kind="s"), keyed("long", kind="l")])
    assert shares(lanes.turn("q", Purse(4, large="l"), 1000)) == {"short": 2}
    assert lanes.turn("q", Purse(4, large="l"), 1000) == []
    assert shares(lanes.turn("q", Purse(4), 1000)) == {"long": 2, "short": 2}


def test_kind_gets_no_more_than_its_limit_and_others_get_the_rest() -> None:
    lanes = make_lanes()
    lanes.note([keyed("x", kind="a"), keyed("y", kind="b")])
    assert shares(lanes.turn("q", Purse(10, limits={"a": 2}), 1000)) == {"x": 2, "y": 8}


def test_kind_at_its_limit_holds_up_nobody() -> None:
    lanes = make_lanes()
    lanes.note([keyed("x", kind="a", priority=9), keyed("y", kind="b")])
    assert shares(lanes.turn("q", Purse(10, limits={"a": 0}), 1000)) == {"y": 10}


def test_key_at_its_limit_stands_aside_and_costs_later_turns_nothing() -> None:
    lanes = make_lanes()
    lanes.note([keyed(f"full {number}") for number in range(1000)] + [keyed("free")])
    purse = Purse(10, keys={f"full {number}": 0 for number in range(1000)} | {"free": 4})
    assert shares(lanes.turn("q", purse, 1000)) == {"free": 4}
    lanes.note([keyed("full 7", priority=3)])  # more of a key that stands aside
    purse.looked_at = 0
    assert lanes.turn("q", purse, 1000) == []
    assert purse.looked_at == 0
    assert lanes.queues() == [], "nothing in it has a turn"


def test_kind_whose_keys_all_stand_aside_holds_up_no_lower_priority() -> None:
    lanes = make_lanes()
    lanes.note([keyed("full", kind="l", priority=5), keyed("y", kind="s")])
    purse = Purse(1, keys={"full": 0, "y": 1})
    assert shares(lanes.turn("q", purse, 1000)) == {"y": 1}


def test_key_that_stands_aside_comes_back_with_all_its_priorities_when_something_of_it_ends() -> None:
    lanes = make_lanes()
    lanes.note([keyed("x"), keyed("x", priority=5), keyed("y")])
    purse = Purse(10, keys={"x": 0, "y": 0})
    assert lanes.turn("q", purse, 1000) == []
    purse.keys = {"x": 1, "y": 1}
    lanes.open(Line("q", "a", "x"))
    assert [take.lane for take in lanes.turn("q", purse, 1000)] == [keyed("x", priority=5)]
    lanes.open_all(Flow("q", "a"))
    assert shares(lanes.turn("q", purse, 1000)) == {"y": 1}


def test_key_whose_moment_comes_takes_its_turn_again() -> None:
    clock = Clock()
    lanes = Lanes(Aside(clock))
    lanes.note([keyed("x")])
    purse = Purse(10, keys={"x": 0}, opens_in=3.0)
    assert lanes.turn("q", purse, 1000) == []
    assert lanes.opens_in() == 3.0
    lanes.open_due()
    assert lanes.queues() == []
    clock.now = 3.0
    lanes.open_due()
    assert (lanes.queues(), lanes.opens_in()) == (["q"], None)
    assert shares(lanes.turn("q", Purse(10, keys={"x": 2}), 1000)) == {"x": 2}


def test_lane_that_was_emptied_while_its_key_stood_aside_does_not_come_back() -> None:
    lanes = make_lanes()
    lanes.note([keyed("x")])
    mark = lanes.mark(keyed("x"))
    lanes.turn("q", Purse(10, keys={"x": 0}), 1000)
    assert lanes.mark(keyed("x")) == mark
    lanes.drained(keyed("x"), mark)
    lanes.open(Line("q", "a", "x"))
    assert lanes.queues() == []


@pytest.mark.parametrize("room", [1, 3, 7, 100])
def test_keys_are_served_by_their_weights(room: int) -> None:
    lanes = make_lanes()
    lanes.note([keyed(key) for key in ("heavy", "a", "b")])
    got: Counter[str] = Counter()
    for _ in range(60):
        got.update(shares(lanes.turn("q", Purse(room, weights={"heavy": 3}), 1000)))
    assert got.total() == 60 * room
    assert got["a"] == pytest.approx(got["b"], abs=1)
    assert got["heavy"] == pytest.approx(3 * got["a"], abs=3)


def test_key_is_served_by_its_weight_at_a_time() -> None:
    lanes = make_lanes()
    lanes.note([keyed(key) for key in ("heavy", "a")])
    served = [next(iter(shares(lanes.turn("q", Purse(1, weights={"heavy": 3}), 1000)))) for _ in range(8)]
    assert served == ["heavy", "heavy", "heavy", "a"] * 2


@given(
    keys=st.lists(st.tuples(st.sampled_from("ab"), st.text("xyz", max_size=2)), min_size=1, unique=True),
    room=st.integers(1, 50),
    most=st.integers(1, 50),
)
def test_every_round_is_shared_out_fairly_and_whole(keys: list[tuple[str, str]], room: int, most: int) -> None:
    """Over many rounds kinds get the same, and of what a kind gets its keys do."""
    lanes = make_lanes()
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

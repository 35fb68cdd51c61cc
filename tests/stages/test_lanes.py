"""Lanes: what the leader remembers of where tasks are pending."""

from __future__ import annotations

from tacoq_manager.lanes import Lanes
from tacoq_manager.store.claim import Lane

LANE, OTHER = Lane("q", "a", ""), Lane("q", "b", "")


def test_drained_lane_is_forgotten() -> None:
    lanes = Lanes()
    lanes.note([LANE, OTHER])
    lanes.drained(LANE, lanes.of("q")[LANE])
    assert set(lanes.of("q")) == {OTHER}
    lanes.drained(OTHER, lanes.of("q")[OTHER])
    assert lanes.queues() == []


def test_lane_noted_while_a_claim_was_under_way_stays() -> None:
    """The claim's snapshot may be older than the commit that the note tells of."""
    lanes = Lanes()
    lanes.note([LANE])
    mark = lanes.of("q")[LANE]
    lanes.note([LANE])
    lanes.drained(LANE, mark)
    assert LANE in lanes.of("q")

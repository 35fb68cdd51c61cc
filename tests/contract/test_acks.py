"""The fewest acks that settle: checked against what a broker does with each of them."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from tacoq_protocol.brokers.acks import Acks

TAGS = 12
verbs = st.sampled_from(["deliver", "ack", "multiple", "reject", "send"])
steps = st.lists(st.tuples(verbs, st.integers(1, TAGS)), max_size=60)


class Channel:
    """A broker's side: asked to settle what it does not hold, it closes the channel, and so fails the test."""

    def __init__(self) -> None:
        self.last = 0
        self.unacked: set[int] = set()
        self.acked: set[int] = set()
        self.rejected: set[int] = set()

    def deliver(self) -> int:
        self.last += 1
        self.unacked.add(self.last)
        return self.last

    def ack(self, tag: int, multiple: bool) -> None:
        assert tag in self.unacked
        settled = {t for t in self.unacked if t <= tag} if multiple else {tag}
        self.unacked -= settled
        self.acked |= settled

    def reject(self, tag: int) -> None:
        self.unacked.remove(tag)
        self.rejected.add(tag)


@given(steps)
def test_the_broker_settles_what_was_settled_and_nothing_else(steps: list[tuple[str, int]]) -> None:
    acks, channel = Acks(), Channel()
    acked: set[int] = set()
    rejected: set[int] = set()
    for step, tag in [*steps, ("send", 0)]:
        match step:
            case "deliver":
                acks.delivered(channel.deliver())
            case "ack" if acks.ack(tag):
                acked.add(tag)
            case "multiple":
                acks.ack(tag, multiple=True)
                acked |= set(range(1, min(tag, channel.last) + 1)) - rejected
            case "reject" if acks.reject(tag):
                rejected.add(tag)
                channel.reject(tag)
            case "send":
                for sent, multiple in acks.take():
                    channel.ack(sent, multiple)
    assert (channel.acked, channel.rejected) == (acked, rejected)


def test_acks_without_a_gap_are_one_frame() -> None:
    acks = Acks()
    for tag in range(1, 7):
        acks.delivered(tag)
    for tag in (3, 1, 2, 5):
        acks.ack(tag)
    assert acks.take() == [(3, True), (5, False)]
    acks.ack(4)
    assert acks.take() == [(4, False)]
    assert acks.take() == []


def test_what_is_settled_behind_an_old_delivery_is_forgotten() -> None:
    acks = Acks()
    acks.delivered(1)
    for tag in range(2, 50_000):
        acks.delivered(tag)
        acks.ack(tag)
        assert acks.take() == [(tag, False)]
    assert sum(sys.getsizeof(value) for value in vars(acks).values()) < 5_000
    acks.ack(1)
    assert acks.take() == [(1, False)]

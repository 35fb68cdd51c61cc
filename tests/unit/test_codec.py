"""The wire: what goes in comes out, and what is not known is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacoq_protocol import codec
from tacoq_protocol import messages as m
from tacoq_protocol.errors import DecodeError, UnknownFormat
from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.ids import new_task_id

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ID, SESSION = new_task_id(), uuid4()

REPORTS: list[m.Report] = [
    m.Started(ID, 1, NOW),
    m.Completed(ID, 1, NOW, 0.5, b'{"a":"\\u0000"}'),
    m.Failed(ID, 1, NOW, 0.5, 2, ErrorInfo("E", "m", "trace"), True, 3.0, "kind"),
    m.Cancelled(ID, 1, None, 0.0, "asked"),
    m.Snoozed(ID, 1, NOW, 0.5, 60.0),
    m.Snoozed(ID, 1, NOW, 0.5, 60.0, m.Holds.KEY),
    m.Expired(ID, 1),
    m.Returned(ID, 1, m.ReturnReason.SLOW),
]
PRESENCE: list[m.Presence] = [
    m.Register(SESSION, "q", 4, [m.KindSpec("k", backoff=m.Backoff(1, 2, 3))], "hash", "host", 1, "0.1", NOW),
    m.Heartbeat(SESSION, "q", 4, 2, [m.Fence(ID, 3)], "hash", "0.1", rss_bytes=7),
    m.Leave(SESSION, "q"),
    m.Lost(SESSION, "q", "signal 9"),
    m.Inventory(SESSION, "q", uuid4(), [m.Fence(ID, 3)]),
    m.ManagerBeat(SESSION),
]
CONTROL: list[m.Control] = [
    m.CancelRuns([ID]),
    m.Drain(leave=True),
    m.Resume(),
    m.Rebuild(),
    m.AskHeld(uuid4()),
    m.Introduce(),
]


def test_releases_pass_with_their_payload_untouched() -> None:
    release = m.Release(ID, 7, "k", 1, b"\xff\x00 not even JSON", NOW, 2.5, NOW, True, "tp", "ts", 3)
    message = m.Releases("q", [release, m.Release(ID, 8, "k", 0, b"", NOW)])
    assert codec.decode_releases("releases/1", codec.encode(message)) == message


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_reports_pass(report: m.Report) -> None:
    message = m.Reports(SESSION, "q", [report])
    assert codec.decode_reports("reports/1", codec.encode(message)) == message


@pytest.mark.parametrize("message", PRESENCE, ids=lambda message: type(message).__name__)
def test_presence_passes(message: m.Presence) -> None:
    assert codec.decode_presence("presence/1", codec.encode(message)) == message


@pytest.mark.parametrize("message", CONTROL, ids=lambda message: type(message).__name__)
def test_control_passes(message: m.Control) -> None:
    assert codec.decode_control("control/1", codec.encode(message)) == message


def test_settled_passes() -> None:
    message = m.Settled(SESSION, [ID], [(7, "q", "k", "key", 3)], [m.Fence(ID, 2)])
    assert codec.decode_settled("settled/1", codec.encode(message)) == message


def test_dead_letters_pass_with_what_they_hold_untouched() -> None:
    message = m.DeadLetter(m.DeadCause.UNREADABLE, "why", "reports", "reports/9", b"\xc1")
    assert codec.decode_dead("dead/1", codec.encode(message)) == message


def test_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(UnknownFormat, match=r"'releases/2'.*releases/1.*upgrade") as caught:
        codec.decode_releases("releases/2", b"")
    assert (caught.value.found, caught.value.known) == ("releases/2", ("releases/1",))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_a_decode_error(body: bytes) -> None:
    try:
        codec.decode_reports("reports/1", body)
    except DecodeError:
        pass
    else:
        raise AssertionError(f"{body!r} is a message?")


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 10), st.integers(1, 100))
def test_cut_keeps_order_and_bounds(weights: list[int], most: int, max_bytes: int) -> None:
    """No list is longer or heavier than allowed, but for a single item that is too heavy by itself."""
    chunks = list(codec.cut(weights, lambda weight: weight, most=most, max_bytes=max_bytes))
    assert [weight for chunk in chunks for weight in chunk] == weights
    for chunk in chunks:
        assert 1 <= len(chunk) <= most
        assert len(chunk) == 1 or sum(chunk) <= max_bytes


def test_fence_of_a_release() -> None:
    assert m.Release(UUID(int=1), 3, "k", 0, b"", NOW).fence == (UUID(int=1), 3)

"""Cron: what fields mean, ends of months, days on which clocks change, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacoq_protocol.cron import MAX_CRON_LENGTH, cron_problem, fire_times, timezone_problem

LISBON = "Europe/Lisbon"  # clocks go from 01:00 to 02:00 on 2026-03-29, and from 02:00 to 01:00 on 2026-10-25
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def fires(text: str, after: str, count: int, zone: str = LISBON) -> list[str]:
    """The next fire times after a local time, as local times with their offset."""
    begin = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    found = list(islice(fire_times(text, zone, after=begin), count))
    assert all(moment.tzinfo is UTC for moment in found)
    return [f"{moment.astimezone(ZoneInfo(zone)):%m-%d %H:%M:%S%z}" for moment in found]


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("0 3 * * *", "2026-01-31T03:00", ["02-01 03:00:00+0000", "02-02 03:00:00+0000"]),
        ("*/20 9-10 * * MON-FRI", "2026-01-02T10:20", ["01-02 10:40:00+0000", "01-05 09:00:00+0000"]),
        ("0 0 31 * *", "2026-01-31T00:00", ["03-31 00:00:00+0100", "05-31 00:00:00+0100"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["02-29 00:00:00+0000", "02-29 00:00:00+0000"]),
        ("0 0 L * *", "2026-01-31T00:00", ["02-28 00:00:00+0000", "03-31 00:00:00+0100"]),
        ("0 0 1 * MON", "2026-01-31T00:00", ["02-01 00:00:00+0000", "02-02 00:00:00+0000"]),  # either
        ("30 0 0 * * *", "2026-01-31T00:00", ["01-31 00:00:30+0000", "02-01 00:00:30+0000"]),
        ("* * * * * *", "2026-01-31T00:00", ["01-31 00:00:01+0000", "01-31 00:00:02+0000"]),
    ],
)
def test_fire_times(text: str, after: str, expected: list[str]) -> None:
    assert fires(text, after, 2) == expected


def test_what_fires_now_fires_next_the_time_after() -> None:
    at = datetime(2026, 1, 31, 3, tzinfo=UTC)
    assert next(fire_times("0 3 * * *", "UTC", after=at)) == at + timedelta(days=1)
    assert next(fire_times("0 3 * * *", "UTC", after=at - timedelta(microseconds=1))) == at


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A time that the clocks skip fires right after it, once, however many of them there are.
        ("30 1 * * *", ["03-28 01:30:00+0000", "03-29 02:00:00+0100", "03-30 01:30:00+0100"]),
        ("0,30 1 * * *", ["03-28 01:00:00+0000", "03-28 01:30:00+0000", "03-29 02:00:00+0100", "03-30 01:00:00+0100"]),
        ("0 3 * * *", ["03-28 03:00:00+0000", "03-29 03:00:00+0100", "03-30 03:00:00+0100"]),
        # With a star, or with seconds, only times that there are.
        ("*/30 1 * * *", ["03-28 01:00:00+0000", "03-28 01:30:00+0000", "03-30 01:00:00+0100"]),
        ("0 30 1 * * *", ["03-28 01:30:00+0000", "03-30 01:30:00+0100"]),
    ],
)
def test_day_on_which_an_hour_is_skipped(text: str, expected: list[str]) -> None:
    assert fires(text, "2026-03-28T00:00", len(expected)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A time that comes twice fires the first time it comes.
        ("30 1 * * *", ["10-25 01:30:00+0100", "10-26 01:30:00+0000"]),
        ("0 3 * * *", ["10-25 03:00:00+0000", "10-26 03:00:00+0000"]),
        # With a star, or with seconds, both times.
        ("*/30 1 * * *", [f"10-25 01:{at}" for at in ("00:00+0100", "30:00+0100", "00:00+0000", "30:00+0000")]),
        ("0 30 1 * * *", ["10-25 01:30:00+0100", "10-25 01:30:00+0000", "10-26 01:30:00+0000"]),
    ],
)
def test_day_on_which_an_hour_comes_twice(text: str, expected: list[str]) -> None:
    assert fires(text, "2026-10-25T00:00", len(expected)) == expected


def test_hourly_schedule_fires_every_hour_that_passes() -> None:
    for day in (datetime(2026, 3, 28, 20, tzinfo=UTC), datetime(2026, 10, 24, 20, tzinfo=UTC)):
        found = list(islice(fire_times("0 * * * *", LISBON, after=day), 10))
        assert found == [day + timedelta(hours=n) for n in range(1, 11)]


def test_begun_in_the_second_pass_of_an_hour_it_does_not_go_back_to_the_first() -> None:
    second_pass = datetime(2026, 10, 25, 1, 15, fold=1, tzinfo=ZoneInfo(LISBON))
    moment = next(fire_times("30 1 * * *", LISBON, after=second_pass))
    assert moment == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


_minutes = st.sampled_from(["0", "30", "0,30", "15,45", "*/20", "59"])
_hours = st.sampled_from(["*", "0", "1", "2", "1,2", "0-3", "*/2", "23"])
_days = st.sampled_from(["* * *", "25-29 * *", "* 3,10 *", "* * SUN", "L * *"])
_zones = st.sampled_from([LISBON, "Australia/Lord_Howe", "Africa/Cairo", "Asia/Beirut", "America/Havana", "UTC"])
_turns = st.sampled_from([datetime(2026, m, d, tzinfo=UTC) for m, d in ((3, 27), (4, 3), (4, 23), (10, 23))])


@given(_minutes, _hours, _days, _zones, _turns, st.integers(0, 72 * 60), st.integers(0, 72 * 60))
def test_fire_times_are_the_same_wherever_one_begins(
    minutes: str, hours: str, days: str, zone: str, turn: datetime, begin: int, later: int
) -> None:
    text = f"{minutes} {hours} {days}"
    early = turn + timedelta(minutes=begin)
    late = early + timedelta(minutes=later)
    until = late + timedelta(days=3)
    found = list(takewhile(lambda at: at <= until, fire_times(text, zone, after=early)))
    assert found == sorted(set(found))
    assert [at for at in found if at > late] == list(
        takewhile(lambda at: at <= until, fire_times(text, zone, after=late))
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "wrong number of fields"),
        ("@daily", "wrong number of fields"),
        ("61 * * * *", "bad minute"),
        ("* * * * MONDAY", "bad day-of-week"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("0 0 */20 * 1L", "does not fire in the next 50 years"),
        ("*" * (MAX_CRON_LENGTH + 1), "201 characters"),
    ],
)
def test_what_is_no_cron_expression(text: str, says: str) -> None:
    problem = cron_problem(text, NOW)
    assert problem is not None
    assert says in problem


@given(st.text(alphabet="0123456789*/-,L#W MONJ@\0²", max_size=40))
def test_any_text_is_taken_or_refused(text: str) -> None:
    cron_problem(text, NOW)


@pytest.mark.parametrize(
    "name", ["", "Europe/Lisboa", "Europe", "../../etc/passwd", "/etc/localtime", "+01:00", "a\0b"]
)
def test_what_is_no_time_zone(name: str) -> None:
    assert "time zone" in (timezone_problem(name) or "")
    assert timezone_problem(LISBON) is None

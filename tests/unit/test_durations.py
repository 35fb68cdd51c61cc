"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tacoq_protocol.durations import in_words, parse_duration, read_duration
from tacoq_protocol.errors import ConfigurationError


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(0, 0), (1.5, 1.5), ("500ms", 0.5), ("10m", 600), ("1h30m", 5400), ("2d", 172800), (timedelta(hours=1), 3600)],
)
def test_what_is_a_duration(written: timedelta | float | str, seconds: float) -> None:
    assert parse_duration(written).total_seconds() == seconds


@pytest.mark.parametrize("written", [-1, "", "10", "m", "1x", "1m 2", True, float("nan"), float("inf"), 1e300, None])
def test_what_is_none_names_the_option(written: object) -> None:
    with pytest.raises(ConfigurationError, match="delay = "):
        parse_duration(written, name="delay")  # type: ignore[arg-type]


@pytest.mark.parametrize(("typed", "seconds"), [("90", 90), ("2.5", 2.5), ("10m", 600), ("1h 30m", 5400)])
def test_what_is_typed_may_be_seconds(typed: str, seconds: float) -> None:
    assert read_duration(typed).total_seconds() == seconds


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.3, "0 s"), (59.9, "59 s"), (60, "1 m"), (7_199, "1 h"), (10 * 86_400, "10 d")]
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words

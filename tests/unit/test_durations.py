"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tacoq_protocol.durations import parse_duration
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

"""Rates as people write them."""

from __future__ import annotations

import pytest

from tacoq_protocol.rates import parse_rate


@pytest.mark.parametrize(
    ("written", "per_second", "burst"),
    [("100/s", 100, 100), ("30/m", 0.5, 1), ("90 / m", 1.5, 1.5), ("10/h", 10 / 3600, 1), ("0.5/d", 0.5 / 86400, 1)],
)
def test_what_is_a_rate_and_its_burst(written: str, per_second: float, burst: float) -> None:
    rate = parse_rate(written)
    assert rate.text == written
    assert [rate.per_second, rate.burst] == pytest.approx([per_second, burst])


@pytest.mark.parametrize(
    "written", ["", "100", "100/", "/s", "0/s", "-1/s", "1/w", "1e9/s", "9999999/s", "1/s\n", "१०/s"]
)
def test_what_is_none_says_what_one_is(written: str) -> None:
    with pytest.raises(ValueError, match='is not a rate: give one like "100/s"'):
        parse_rate(written)

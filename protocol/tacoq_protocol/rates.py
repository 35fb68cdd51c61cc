"""Rates as people write them in, releases per second out."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*/\s*([smhd])")
_LEAST, _MOST = 1 / (366 * 86400.0), 1_000_000.0


class Rate(NamedTuple):
    """So many a second. A bucket of them holds `burst` tokens: one second's worth, and at least one."""

    text: str
    per_second: float

    @property
    def burst(self) -> float:
        return max(1.0, self.per_second)


@lru_cache(maxsize=1_000)
def parse_rate(text: str) -> Rate:
    """Read "100/s", "5/m", "0.5/h" or "1/d". Raises ValueError, saying what it is not."""
    found = _RATE.fullmatch(text)
    per_second = float(found[1]) / _UNITS[found[2]] if found else 0.0
    if not _LEAST <= per_second <= _MOST:
        raise ValueError(f'{text!r} is not a rate: give one like "100/s", "30/m", "10/h" or "1/d"')
    return Rate(text, per_second)

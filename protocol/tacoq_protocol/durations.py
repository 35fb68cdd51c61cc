"""Durations as people write them in, `timedelta` out; seconds in, a few words for people out."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TypeAlias

from tacoq_protocol.errors import ConfigurationError

Duration: TypeAlias = timedelta | float | str  # seconds, or "500ms", "30s", "10m", "1h30m", "2d"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST = 100 * 366 * 86400.0
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration(value: Duration, *, name: str = "duration") -> timedelta:
    """Return `value` as a timedelta from 0 to 100 years.

    Raises ConfigurationError, naming the option `name`, when it is anything else.
    """
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds <= _MOST:  # which also refuses nan
        raise ConfigurationError(
            f'{name} = {value!r} is not a duration: give a timedelta, seconds, or "10m" (ms s m h d)'
        )
    return timedelta(seconds=seconds)


def read_duration(text: str, *, name: str = "duration") -> timedelta:
    """Like `parse_duration`, of what somebody typed: a number alone is seconds there, too."""
    return parse_duration(f"{text}s" if text.replace(".", "", 1).isdecimal() else text, name=name)


def in_words(seconds: float) -> str:
    """Return whole seconds, minutes, hours or days, rounded down: "5 s"."""
    name, size = next(unit for unit in reversed(_UNITS.items()) if unit[1] <= max(seconds, 1.0))
    return f"{int(seconds / size)} {name}"


def _seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):
        text = value.replace(" ", "")
        parts = _PART.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            return sum(float(number) * _UNITS[unit] for number, unit in parts)
    return None

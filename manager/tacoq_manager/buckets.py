"""Token buckets: rates in, how many tokens are there now, and when the next one comes, out. Pure memory.

Claims write the same arithmetic to Postgres, so that a new leader goes on where the last one was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from tacoq_protocol.rates import Rate

_EPSILON = 1e-6  # of a token: sums of parts are not exact


class Of(NamedTuple):
    """What has a bucket, or is held back: a queue, one of its kinds, or one of the kind's fairness keys."""

    queue: str
    kind: str | None = None
    fairness_key: str | None = None


class Drawn(NamedTuple):
    """Tokens that were left in a bucket when it was last drawn on, so many seconds ago, at so many per second."""

    of: Of
    tokens: float
    age: float
    per_second: float


class Bucket(NamedTuple):
    """Tokens as of a moment, when so many came per second."""

    tokens: float
    at: float
    per_second: float


class Buckets:
    """A full bucket need not be known. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[Of, Bucket] = {}

    def whole(self, of: Of, rate: Rate) -> int:
        """Tokens that can be drawn now."""
        return max(0, int(self._left(of, rate) + _EPSILON))

    def next_in(self, of: Of, rate: Rate) -> float:
        """Seconds until there is a whole token."""
        return max(0.0, (1.0 - self._left(of, rate)) / rate.per_second)

    def draw(self, of: Of, rate: Rate, count: int) -> None:
        """Take tokens; a negative number: put back what was not needed."""
        left = min(rate.burst, self._left(of, rate) - count)
        self._buckets[of] = Bucket(left, self._clock(), rate.per_second)

    def load(self, drawn: Iterable[Drawn]) -> None:
        """Know these and no others."""
        now = self._clock()
        self._buckets = {of: Bucket(tokens, now - age, per_second) for of, tokens, age, per_second in drawn}

    def prune(self) -> None:
        """Forget those that are full again."""
        now = self._clock()
        self._buckets = {
            of: bucket
            for of, bucket in self._buckets.items()
            if bucket.tokens + (now - bucket.at) * bucket.per_second < max(1.0, bucket.per_second)
        }

    def _left(self, of: Of, rate: Rate) -> float:
        """By the rate that holds now: when it was changed, since the last draw."""
        bucket = self._buckets.get(of)
        if bucket is None:
            return rate.burst
        return min(rate.burst, bucket.tokens + (self._clock() - bucket.at) * rate.per_second)

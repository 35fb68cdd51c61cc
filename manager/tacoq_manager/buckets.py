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


class Bucket:
    """Tokens as of a moment, and how fast they came to be more from then on."""

    __slots__ = ("at", "per_second", "tokens")

    def __init__(self, tokens: float, at: float, per_second: float) -> None:
        self.tokens = tokens
        self.at = at
        self.per_second = per_second

    def left(self, now: float) -> float:
        return min(max(1.0, self.per_second), self.tokens + (now - self.at) * self.per_second)


class Buckets:
    """A full bucket need not be known. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[Of, Bucket] = {}

    def whole(self, of: Of, rate: Rate) -> int:
        """Tokens that can be drawn now."""
        bucket = self._buckets.get(of)
        left = rate.burst if bucket is None else min(rate.burst, bucket.left(self._clock()))
        return max(0, int(left + _EPSILON))

    def next_in(self, of: Of, rate: Rate) -> float:
        """Seconds until there is a whole token."""
        bucket = self._buckets.get(of)
        left = 1.0 if bucket is None else bucket.left(self._clock())
        return max(0.0, (1.0 - left) / rate.per_second)

    def draw(self, of: Of, rate: Rate, count: int) -> None:
        """Take tokens; a negative number: put back what was not needed."""
        now = self._clock()
        bucket = self._buckets.get(of)
        left = rate.burst if bucket is None else min(rate.burst, bucket.left(now))
        self._buckets[of] = Bucket(min(rate.burst, left - count), now, rate.per_second)

    def load(self, buckets: Iterable[tuple[Of, float, float]]) -> None:
        """Know these and no others, each with its tokens now and its rate per second."""
        now = self._clock()
        self._buckets = {of: Bucket(tokens, now, per_second) for of, tokens, per_second in buckets}

    def prune(self) -> None:
        """Forget those that are full again."""
        now = self._clock()
        self._buckets = {
            of: bucket for of, bucket in self._buckets.items() if bucket.left(now) < max(1.0, bucket.per_second)
        }

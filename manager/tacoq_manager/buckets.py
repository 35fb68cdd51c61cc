"""Token buckets: rates in, how many tokens are there now, and when the next one comes, out. Pure memory.

Tokens come and go by the clock of the database, where releases have their time: what is drawn is told with it, as the
statement wrote it, so that memory and Postgres do not drift apart. Between two draws time is counted from when the
answer came: never more than has passed there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from tacoq_protocol.rates import Rate

_EPSILON = 1e-6  # of a token: sums of parts are not exact


class Of(NamedTuple):
    """What has a bucket, or is held back: a queue, one of its kinds, or one of the kind's fairness keys."""

    queue: str
    kind: str | None = None
    fairness_key: str | None = None


class Drawn(NamedTuple):
    """Tokens that were left in a bucket when it was last drawn on, `age` seconds ago, and how fast they came then."""

    of: Of
    tokens: float
    as_of: datetime
    age: float
    per_second: float


class Bucket(NamedTuple):
    """Tokens as of a moment of the database; on this clock it was not before `since`."""

    tokens: float
    as_of: float
    since: float
    per_second: float


class Buckets:
    """A full bucket need not be known. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[Of, Bucket] = {}
        self._reserved: Counter[Of] = Counter()  # for what is about to be released
        self._read: dict[Of, datetime] = {}  # when those that were loaded had been drawn on last
        self._since: list[tuple[Of, Rate, int, datetime]] | None = None  # drawn while Postgres is asked for all

    def whole(self, of: Of, rate: Rate) -> int:
        """Tokens that can be drawn now."""
        return max(0, int(self._left(of, rate) + _EPSILON))

    def next_in(self, of: Of, rate: Rate) -> float:
        """Seconds until there is a whole token."""
        return max(0.0, (1.0 - self._left(of, rate)) / rate.per_second)

    def reserve(self, of: Of, count: int) -> None:
        """Keep tokens for so many that may be released; a negative number: they were, or were not."""
        self._reserved[of] += count
        if not self._reserved[of]:
            del self._reserved[of]

    def draw(self, of: Of, rate: Rate, count: int, at: datetime | None) -> None:
        """So many were released, at that time of the database. None: perhaps, and it is to be read again."""
        if at is not None and self._since is not None:
            self._since.append((of, rate, count, at))
        if at is not None and at == self._read.get(of):
            return  # it was read with it
        bucket, now = self._buckets.get(of), self._clock()
        passed = 0.0 if bucket is None else now - bucket.since
        as_of = 0.0 if bucket is None else bucket.as_of + passed
        if at is not None:
            passed = 0.0 if bucket is None else at.timestamp() - bucket.as_of
            as_of = at.timestamp()
        left = rate.burst if bucket is None else min(rate.burst, bucket.tokens + passed * rate.per_second)
        self._buckets[of] = Bucket(left - count, as_of, now, rate.per_second)

    def watch(self) -> None:
        """Postgres is about to be asked for what `load` is told."""
        self._since = []

    def load(self, drawn: Iterable[Drawn]) -> None:
        """Know these and no others, beside what is reserved, and what was drawn since `watch`.

        Of that only the last of a bucket is certain to have been read or not: what comes before it may count twice.
        """
        now = self._clock()
        since, self._since = self._since or [], None
        self._buckets.clear()
        self._read.clear()
        for each in drawn:
            self._buckets[each.of] = Bucket(each.tokens, each.as_of.timestamp(), now - each.age, each.per_second)
            self._read[each.of] = each.as_of
        for draw in since:
            self.draw(*draw)

    def forget(self) -> None:
        """Others may draw from now on."""
        self._buckets.clear()
        self._reserved.clear()
        self._read.clear()
        self._since = None

    def prune(self) -> None:
        """Forget those that are full again."""
        now = self._clock()
        self._buckets = {
            of: bucket
            for of, bucket in self._buckets.items()
            if bucket.tokens + (now - bucket.since) * bucket.per_second < max(1.0, bucket.per_second)
        }
        self._read = {of: at for of, at in self._read.items() if of in self._buckets}

    def _left(self, of: Of, rate: Rate) -> float:
        """By the rate that holds now: when it was changed, since the last draw."""
        bucket = self._buckets.get(of)
        left = rate.burst
        if bucket is not None:
            left = min(left, bucket.tokens + (self._clock() - bucket.since) * rate.per_second)
        return left - self._reserved[of]

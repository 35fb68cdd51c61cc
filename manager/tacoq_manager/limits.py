"""Limits: what is set, held back, out and left of tokens in, how many of a queue, kind and key may go now out.

Each limit is a brake. One list of them answers both questions: how many may go, and which of them says that none may.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from tacoq_manager.buckets import Buckets, Of
from tacoq_manager.inflight import InFlight
from tacoq_manager.store.claim import Flow, Line
from tacoq_manager.store.draw import Rated
from tacoq_manager.store.limits import Held, Loaded, QueueRow
from tacoq_protocol.limits import MOST_CONCURRENCY, KindLimits
from tacoq_protocol.messages import KindSpec
from tacoq_protocol.rates import Rate, parse_rate

log = logging.getLogger("tacoq.limits")

ENDLESS: Final = 1 << 30  # more than any claim takes

CodeOf = Callable[[str, str], KindSpec | None]


class Limit(StrEnum):
    """What may say that a task has to wait."""

    PAUSED = "paused"  # the queue
    HELD_BACK = "held_back"  # the kind, or one key of it, by `RateLimited`
    CONCURRENCY = "concurrency"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class Brake:
    """What one limit of `of` says: how many like the task may go now.

    When it is none: the limit, `at` how many are out, or in how many seconds that changes by itself.
    """

    limit: Limit
    of: Of
    room: int
    most: int | Rate | None = None
    at: int | None = None
    opens_in: float | None = None


class Caps(NamedTuple):
    """What holds for a kind, of its code and what was set at run time."""

    concurrency: int | None = None
    rate: Rate | None = None
    max_per_key: int | None = None
    rate_per_key: Rate | None = None

    @property
    def of_keys(self) -> bool:
        return self.max_per_key is not None or self.rate_per_key is not None

    def view(self) -> KindLimits:
        """As people read and write them."""
        return KindLimits(
            concurrency=self.concurrency,
            rate=self.rate and self.rate.text,
            max_per_key=self.max_per_key,
            rate_per_key=self.rate_per_key and self.rate_per_key.text,
        )


class Limits:
    """The leader's memory of limits. `code` looks up a kind as workers registered it."""

    def __init__(self, in_flight: InFlight, code: CodeOf, clock: Callable[[], float]) -> None:
        self.version = -1
        self.in_flight = in_flight
        self.buckets = Buckets(clock)
        self._code = code
        self._clock = clock
        self._queues: dict[str, QueueRow] = {}
        self._kinds: dict[Flow, KindLimits] = {}
        self._holds: dict[Of, float] = {}
        self._held_keys: dict[Flow, float] = {}  # kinds that have keys held back, and the last end of those
        self._caps: dict[Flow, tuple[KindSpec | None, Caps]] = {}  # with the code that they are of

    def load(self, loaded: Loaded) -> None:
        """Know what is set, and no more."""
        self.version = loaded.version
        self._queues, self._kinds = loaded.queues, loaded.kinds
        self._caps.clear()
        self._holds.clear()
        self._held_keys.clear()
        self._hold(loaded.holds)

    def hold(self, held: Iterable[Held], version: int) -> None:
        """These are held back for longer than before, which made `version`. After others, all has to be loaded."""
        self._hold(held)
        if version == self.version + 1:
            self.version = version

    def _hold(self, held: Iterable[Held]) -> None:
        now = self._clock()
        for of, seconds in held:
            until = self._holds[of] = now + seconds
            if of.kind is not None and of.fairness_key is not None:
                flow = Flow(of.queue, of.kind)
                self._held_keys[flow] = max(until, self._held_keys.get(flow, until))

    def room(self, flow: Flow) -> int:
        """How many of the kind may go now, as far as its own limits and those of its queue say."""
        return min((brake.room for brake in self._brakes(flow)), default=ENDLESS)

    def key_room(self, line: Line) -> int:
        """How many of the key may go now, as far as its own limits say."""
        return min((brake.room for brake in self._key_brakes(line)), default=ENDLESS)

    def has_key_limits(self, flow: Flow) -> bool:
        """True when `key_room` may be less than ENDLESS for a key of the kind."""
        return self.caps(flow).of_keys or self._clock() < self._held_keys.get(flow, 0.0)

    def tightest(self, line: Line) -> Brake | None:
        """The limit that lets the fewest of these go now, the first of those; None: there is none."""
        brakes = (*self._brakes(Flow(line.queue, line.kind)), *self._key_brakes(line))
        return min(brakes, key=lambda brake: brake.room, default=None)

    def opens_in(self, flow: Flow) -> float | None:
        """Seconds until no limit of the kind and its queue shuts it any more; None: not by itself."""
        return _last(self._brakes(flow))

    def key_opens_in(self, line: Line) -> float | None:
        """The same of the key's own limits."""
        return _last(self._key_brakes(line))

    def weight(self, queue: str, fairness_key: str) -> int:
        row = self._queues.get(queue)
        return 1 if row is None else row.limits.weights.get(fairness_key, 1)

    def caps(self, flow: Flow) -> Caps:
        """What holds for the kind."""
        code = self._code(*flow)
        known = self._caps.get(flow)
        if known is None or known[0] is not code:
            known = self._caps[flow] = code, caps(code, self._kinds.get(flow))
        return known[1]

    def forget(self) -> None:
        """Another manager may release from now on."""
        self.in_flight.forget()
        self.buckets.forget()

    def prune(self) -> None:
        """Forget what limits nothing any more: holds that are over, and buckets that are full again."""
        now = self._clock()
        self._holds = {of: until for of, until in self._holds.items() if until > now}
        self._held_keys = {flow: until for flow, until in self._held_keys.items() if until > now}
        self.buckets.prune()

    def rates(self, flows: Iterable[Flow]) -> list[Rated]:
        """What the release of tasks of these kinds draws on: mostly nothing."""
        rated = []
        queues = set()
        for flow in flows:
            queues.add(flow.queue)
            found = self.caps(flow)
            if found.rate is not None or found.rate_per_key is not None:
                rated.append(Rated(*flow, _per_second(found.rate), _per_second(found.rate_per_key)))
        for queue in queues:
            row = self._queues.get(queue)
            if row is not None and row.limits.rate is not None:
                rated.append(Rated(queue, None, parse_rate(row.limits.rate).per_second))
        return rated

    def draws_on(self, line: Line) -> Iterator[tuple[Of, Rate]]:
        """The buckets that a release of the key draws on."""
        row = self._queues.get(line.queue)
        if row is not None and row.limits.rate is not None:
            yield Of(line.queue), parse_rate(row.limits.rate)
        found = self.caps(Flow(line.queue, line.kind))
        if found.rate is not None:
            yield Of(line.queue, line.kind), found.rate
        if found.rate_per_key is not None:
            yield Of(*line), found.rate_per_key

    def _brakes(self, flow: Flow) -> Iterator[Brake]:
        row = self._queues.get(flow.queue)
        if row is not None:
            of = Of(flow.queue)
            if row.paused:
                yield Brake(Limit.PAUSED, of, 0)
            if row.limits.concurrency is not None:
                yield _concurrency(of, row.limits.concurrency, self.in_flight.queue(flow.queue))
            if row.limits.rate is not None:
                yield self._rate(of, parse_rate(row.limits.rate))
        of = Of(*flow)
        yield from self._held(of)
        found = self.caps(flow)
        if found.concurrency is not None:
            yield _concurrency(of, found.concurrency, self.in_flight.flow(flow))
        if found.rate is not None:
            yield self._rate(of, found.rate)

    def _key_brakes(self, line: Line) -> Iterator[Brake]:
        of = Of(*line)
        yield from self._held(of)
        found = self.caps(Flow(line.queue, line.kind))
        if found.max_per_key is not None:
            yield _concurrency(of, found.max_per_key, self.in_flight.line(line))
        if found.rate_per_key is not None:
            yield self._rate(of, found.rate_per_key)

    def _held(self, of: Of) -> Iterator[Brake]:
        seconds = self._holds.get(of, 0.0) - self._clock()
        if seconds > 0:
            yield Brake(Limit.HELD_BACK, of, 0, opens_in=seconds)

    def _rate(self, of: Of, rate: Rate) -> Brake:
        room = self.buckets.whole(of, rate)
        return Brake(Limit.RATE, of, room, rate, opens_in=None if room else self.buckets.next_in(of, rate))


def caps(code: KindSpec | None, override: KindLimits | None) -> Caps:
    """Return what holds for a kind. What its code says and nobody can make sense of limits nothing."""
    code, override = code or KindSpec(""), override or KindLimits()
    return Caps(
        override.concurrency or _count(code.concurrency, code.name),
        _read(override.rate or code.rate),
        override.max_per_key or _count(code.max_per_key, code.name),
        _read(override.rate_per_key or code.rate_per_key),
    )


def _count(count: int | None, kind: str) -> int | None:
    if count is None or 1 <= count <= MOST_CONCURRENCY:
        return count
    log.warning("a limit that is none is left out", extra={"kind": kind, "limit": count})
    return None


@lru_cache(maxsize=1_000)
def _read(rate: str | None) -> Rate | None:
    try:
        return None if rate is None else parse_rate(rate)
    except ValueError:
        log.warning("a rate that is none is left out", extra={"rate": rate})
        return None


def _per_second(rate: Rate | None) -> float | None:
    return None if rate is None else rate.per_second


def _concurrency(of: Of, most: int, out: int) -> Brake:
    return Brake(Limit.CONCURRENCY, of, max(0, most - out), most, out)


def _last(brakes: Iterable[Brake]) -> float | None:
    seconds = [brake.opens_in for brake in brakes if not brake.room]
    known = [each for each in seconds if each is not None]
    return max(known) if known and len(known) == len(seconds) else None

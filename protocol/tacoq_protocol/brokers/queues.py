"""What the in-process broker is made of: exchanges route to queues, queues hand messages to taps (consumers).

Nothing here locks: `hub` does. `wake`, `lost` and `news` are called under its lock and must only schedule.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from tacoq_protocol.broker import Outgoing
from tacoq_protocol.topology import Queue


class News(Enum):
    """What the server tells a peer."""

    LOST = auto()  # the connection is gone
    BLOCKED = auto()
    UNBLOCKED = auto()
    UP = auto()  # a peer that is not connected may connect


@dataclass(eq=False, slots=True)
class Peer:
    """A client's connection as the server sees it. `news` is called with the lock held, from any thread."""

    name: str
    news: Callable[[News], None]
    connected: bool = False
    taps: list[Tap] = field(default_factory=list)


@dataclass(slots=True)
class Stored:
    """A message in one queue. `place` orders a queue, so that what comes back goes where it was."""

    message: Outgoing
    place: int
    redelivered: bool = False


@dataclass(eq=False, slots=True)
class Tap:
    """A consumer as the server sees it. `inbox`, which its client has not looked at, is unacked as well.

    `earlier` are the unacked from before it consumed again: they do not count in the prefetch.
    """

    peer: Peer
    queue: MemoryQueue
    prefetch: int | None
    wake: Callable[[], None]
    lost: Callable[[], None]
    inbox: deque[tuple[int, Stored]] = field(default_factory=deque)
    unacked: dict[int, Stored] = field(default_factory=dict)
    earlier: set[int] = field(default_factory=set)
    tags: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def free(self) -> bool:
        return self.prefetch is None or len(self.unacked) - len(self.earlier) < self.prefetch


@dataclass(eq=False, slots=True)
class MemoryQueue:
    """Messages in order, and who consumes them."""

    name: str
    declared: Queue
    owner: Peer | None = None  # of an exclusive queue
    ready: deque[Stored] = field(default_factory=deque)
    taps: deque[Tap] = field(default_factory=deque)  # the next to be served stands first
    places: itertools.count[int] = field(default_factory=itertools.count)

    def store(self, message: Outgoing) -> None:
        self.ready.append(Stored(message, next(self.places)))

    def restore(self, returned: list[Stored]) -> None:
        """Put unacked messages back in their places, marked redelivered."""
        for stored in returned:
            stored.redelivered = True
        self.ready = deque(heapq.merge(sorted(returned, key=_place), self.ready, key=_place))

    def hand_out(self) -> None:
        """Give ready messages to taps with room, in turn, and wake each of those once."""
        woken: dict[Tap, None] = {}
        full = 0
        while self.ready and full < len(self.taps):
            tap = self.taps[0]
            self.taps.rotate(-1)
            if not tap.free:
                full += 1
                continue
            full = 0
            stored = self.ready.popleft()
            tag = next(tap.tags)
            tap.unacked[tag] = stored
            tap.inbox.append((tag, stored))
            woken[tap] = None
        for tap in woken:
            tap.wake()


def _place(stored: Stored) -> int:
    return stored.place


@dataclass(eq=False, slots=True)
class MemoryExchange:
    """Knows which queues get a message."""

    type: str
    bindings: set[tuple[str, str]] = field(default_factory=set)  # (routing key or pattern, queue)

    def queues_for(self, key: str) -> set[str]:
        match self.type:
            case "fanout":
                return {queue for _, queue in self.bindings}
            case "topic":
                words = key.split(".")
                return {queue for pattern, queue in self.bindings if topic_matches(pattern.split("."), words)}
            case _:
                return {queue for bound, queue in self.bindings if bound == key}


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """True when a routing key fits a topic pattern: `*` is one word, `#` any number of them."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(topic_matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and topic_matches(pattern[1:], words[1:])

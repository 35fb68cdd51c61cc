"""What a product has to be able to do to be measured, and what all of them share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

Ticket = TypeVar("Ticket")

Kind = Literal["add", "stamp"]
Value = float  # of add: an int


def add(x: int, y: int) -> int:
    """The work: none."""
    return x + y


def stamp(x: int, y: int) -> float:
    """Tell when it began: Linux and macOS have one monotonic clock for all processes."""
    return time.monotonic()


HANDLERS = {"add": add, "stamp": stamp}


@dataclass(frozen=True)
class Leftovers:
    """What stays on RabbitMQ when all is stopped."""

    queues: list[str] = field(default_factory=list)
    exchanges: list[str] = field(default_factory=list)


class Peer(Protocol[Ticket]):
    """A product: its server processes by command, its publisher in this process.

    Every task is `kind(x, 1)`. A product whose publisher is synchronous blocks in these methods: nothing else is to be
    done meanwhile.
    """

    async def prepare(self) -> None:
        """Make tables. Nothing runs yet."""

    def commands(self) -> dict[str, list[list[str]]]:
        """Commands by role, in the order to start them. `worker` is the last role."""

    async def open(self) -> None:
        """Connect the publisher. All but the workers run; return when tasks can be published."""

    async def close(self) -> None: ...

    async def publish(self, kind: Kind, x: int) -> Ticket:
        """Publish one; return when the product promises not to lose it."""

    async def publish_many(self, kind: Kind, xs: Sequence[int]) -> list[Ticket]:
        """Publish in the fastest way that the product's documentation has."""

    async def result(self, ticket: Ticket) -> Value:
        """Wait for one in the way, and at the interval, that the product has by default."""

    async def results(self, tickets: Sequence[Ticket]) -> list[Value]:
        """Wait for all, in their order."""

    def leftovers(self) -> Leftovers: ...

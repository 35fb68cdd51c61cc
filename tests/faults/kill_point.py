"""A point and the arguments of `tacoq` in; a manager that kills itself at that point, once SIGUSR1 has armed it.

Run as `python -m tests.faults.kill_point POINT manager …`: what is to be broken there is patched in that process only.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, assert_never
from uuid import UUID

from tacoq_manager.store import accept, keyed, settle
from tacoq_manager.store.engine import HotConnection
from tacoq_manager.transitions import Transition
from tacoq_protocol.broker import Outgoing
from tacoq_protocol.brokers.rabbitmq import RabbitBroker
from tacoq_protocol.cli import main
from tacoq_protocol.codec import RELEASES


class Point(StrEnum):
    """Where it dies: between two steps that no transaction spans."""

    ACCEPTED = "accepted"  # committed, and nobody was answered
    CLAIMED = "claimed"  # committed as queued, and not published
    PUBLISHED = "published"  # the broker has it, and the confirm was not looked at
    REPORTED = "reported"  # reports have come, and are not committed
    SETTLED = "settled"  # the reports are committed, and not acked


def program(point: Point) -> tuple[str, ...]:
    """What to run instead of `tacoq`."""
    return (sys.executable, "-m", "tests.faults.kill_point", point)


def _plant(point: Point) -> None:
    armed = False

    def arm(*_: object) -> None:
        nonlocal armed
        armed = True

    def die_if_armed() -> None:
        if armed:
            os.kill(os.getpid(), signal.SIGKILL)

    signal.signal(signal.SIGUSR1, arm)
    match point:
        case Point.ACCEPTED:
            store, keyed_store = accept.accept, keyed.accept

            async def stored(
                connection: HotConnection, rows: Sequence[accept.Row], lead: accept.Lead | None = None
            ) -> dict[UUID, accept.Stored]:
                answer = await store(connection, rows, lead)
                die_if_armed()
                return answer

            async def keyed_stored(
                connection: HotConnection,
                rows: Sequence[accept.Row],
                keys: Mapping[UUID, keyed.Keys],
                lead: accept.Lead | None = None,
            ) -> dict[UUID, keyed.Answered]:
                answer = await keyed_store(connection, rows, keys, lead)
                die_if_armed()
                return answer

            accept.accept, keyed.accept = stored, keyed_stored
        case Point.CLAIMED | Point.PUBLISHED:
            publish = RabbitBroker.publish

            async def published(broker: RabbitBroker, messages: Sequence[Outgoing], *, seconds: float) -> None:
                releases = any(message.format == RELEASES.name for message in messages)
                if releases and point is Point.CLAIMED:
                    die_if_armed()
                await publish(broker, messages, seconds=seconds)
                if releases:
                    die_if_armed()

            RabbitBroker.publish = published  # type: ignore[assignment, method-assign]
        case Point.REPORTED | Point.SETTLED:
            apply = settle.apply

            async def applied(
                connection: HotConnection, transitions: Sequence[Transition], *more: Any
            ) -> list[settle.Applied]:
                if point is Point.REPORTED and any(transition.move == "complete" for transition in transitions):
                    die_if_armed()
                moved = await apply(connection, transitions, *more)
                if any(move.transition.move == "complete" for move in moved):
                    die_if_armed()
                return moved

            settle.apply = applied  # type: ignore[assignment]
        case _:
            assert_never(point)


if __name__ == "__main__":
    _plant(Point(sys.argv.pop(1)))
    main()

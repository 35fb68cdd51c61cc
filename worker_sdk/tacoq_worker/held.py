"""Held: releases from their delivery until their reports are confirmed, and the deliveries they came in."""

from __future__ import annotations

import time
from enum import Enum

from tacoq_protocol.broker import Delivery
from tacoq_protocol.messages import Fence, Release
from tacoq_worker.execute import Run
from tacoq_worker.registry import AnyHandler


class Phase(Enum):
    """Where a held release is."""

    WAITING = 1  # for a slot
    RUNNING = 2  # a slot has it
    REPORTED = 3  # its outcome is on its way, not confirmed yet


class Message:
    """A delivery and the releases it brought; it is acked when none of them waits for a confirm any more.

    `lost`: the broker has it back and gives it again, to somebody.
    """

    __slots__ = ("delivery", "held", "lost", "unconfirmed")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.lost = False
        self.held: list[Held] = []
        self.unconfirmed = 0


class Held:
    """A release this session holds. `messages`: every delivery that brought it and may still have to be acked.

    `handler` is None for a release that only waits to be handed back. `came`, by `time.monotonic`, is known of an
    announced one.
    """

    __slots__ = ("came", "fence", "handler", "messages", "phase", "release", "run", "start_confirmed", "start_reported")

    def __init__(self, release: Release, handler: AnyHandler | None, fence: Fence) -> None:
        self.release = release
        self.handler = handler
        self.fence = fence
        self.came = time.monotonic() if release.announced else 0.0
        self.phase = Phase.WAITING
        self.run: Run | None = None
        self.start_reported = self.start_confirmed = False
        self.messages: list[Message] = []

    def arrived_in(self, message: Message) -> None:
        """`message` now waits for this release too."""
        self.messages.append(message)
        message.held.append(self)
        message.unconfirmed += 1

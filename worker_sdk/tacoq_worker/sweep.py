"""Sweep: one timer over all runs. Reports starts when late, hands back what waits behind slow runs, acks long ones."""

from __future__ import annotations

import asyncio
import time

from tacoq_protocol.messages import Outcome, ReturnReason
from tacoq_worker.consume import Intake
from tacoq_worker.held import Held
from tacoq_worker.report import Reporter
from tacoq_worker.settings import Pace
from tacoq_worker.slots import Slots


class Sweep:
    """Ticks while something runs, however many runs there are."""

    def __init__(self, slots: Slots, reporter: Reporter, intake: Intake, pace: Pace) -> None:
        self._slots = slots
        self._reporter = reporter
        self._intake = intake
        self._pace = pace
        self._timer: asyncio.TimerHandle | None = None

    def began(self) -> None:
        """A run began."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pace.slow_run, self._tick)

    def ended(self, held: Held, outcome: Outcome) -> None:
        """A run ended: report it. No tick has seen one that held the loop; it counts all the same."""
        self._reporter.outcome(held, outcome)
        if held.run is not None and time.monotonic() - held.run.began > self._pace.slow_run:
            self._hand_back_rest(held)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def step(self, now: float) -> int:
        """Look at every run once, at monotonic time `now`; return how many there are."""
        running = self._slots.running()
        long: list[Held] = []
        lost: list[Held] = []
        slow = 0
        for held in running:
            if held.run is None or not held.run.began:
                continue
            age = now - held.run.began
            if age > self._pace.slow_run:
                self._hand_back_rest(held)
            slow += age > self._pace.started_after
            if age > self._pace.started_after and not held.start_reported:
                self._reporter.started(held, age)
            if held.messages and held.messages[-1].lost:
                lost.append(held)
            elif held.messages and age > self._pace.ack_deadline:
                long.append(held)
        if lost:
            self._intake.message_lost(lost, now)
        if long:
            self._intake.ack_early(long)
        if slow == self._slots.count:  # nothing here will begin soon, and by now the managers know how long it takes
            self._intake.hand_back(self._slots.waiting(), ReturnReason.SLOW)
        return len(running)

    def _tick(self) -> None:
        self._timer = None
        if self.step(time.monotonic()):
            self.began()

    def _hand_back_rest(self, held: Held) -> None:
        for message in held.messages:
            if len(message.held) > 1:
                self._intake.hand_back(message.held, ReturnReason.SLOW)

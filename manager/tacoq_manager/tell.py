"""Tell: committed moves in; what the stages here, and the other managers, have to know of them out.

Who waits for a task is told first, who only listens last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from uuid import UUID

from tacoq_manager.aftermath import aftermath
from tacoq_manager.credit import Credit
from tacoq_manager.dispatch import Dispatcher
from tacoq_manager.events import Events
from tacoq_manager.metrics import Metrics
from tacoq_manager.news import News
from tacoq_manager.notify import Waiters
from tacoq_manager.prompts import Prompter
from tacoq_manager.runtimes import RunTimes
from tacoq_manager.stats import Stats, tally
from tacoq_manager.store.claim import Flow, Line
from tacoq_manager.store.settle import Applied
from tacoq_manager.upkeep.leader import Leader


class Teller:
    """Knows who has to hear of what.

    `on_last_chance`: a task on its last chance ended; others may have theirs, in lanes that claims found empty.
    """

    def __init__(
        self,
        leader: Leader,
        *,
        waiters: Waiters,
        events: Events,
        news: News,
        dispatcher: Dispatcher,
        prompter: Prompter,
        credit: Credit,
        runtimes: RunTimes,
        metrics: Metrics,
        stats: Stats,
        on_last_chance: Callable[[], None],
    ) -> None:
        self._leader = leader
        self._waiters = waiters
        self._events = events
        self._news = news
        self._dispatcher = dispatcher
        self._prompter = prompter
        self._credit = credit
        self._runtimes = runtimes
        self._metrics = metrics
        self._stats = stats
        self._on_last_chance = on_last_chance

    def settled(self, applied: Sequence[Applied]) -> None:
        """All of one transaction."""
        if applied:
            after = aftermath(applied)
            self._waiters.settled(after.final, after.awaited)
            self.ended(after.ended, applied[0].transaction)
            self._news.tell(after.final, after.ended, applied[0].transaction)
            self._prompter.lanes(after.lanes)
            if after.due is not None:
                self._prompter.due(after.due)
            if after.frees_others:
                self._on_last_chance()
        self._learn(applied)
        self._metrics.applied(applied)
        tallies = tally(applied)
        self._metrics.ended(tallies)
        self._stats.add(tallies)
        self._events.settled(applied)

    def heard(self, final: Sequence[UUID]) -> None:
        """Another manager settled these."""
        self._waiters.settled(final)
        self._events.heard(final)

    def ended(self, ended: Mapping[Line, int], transaction: int) -> None:
        """So many releases less are out. Who does not lead does not know how many there are."""
        if self._leader.leads:
            self._credit.in_flight.moved(ended, transaction)
            self._dispatcher.ended(ended)

    def _learn(self, applied: Sequence[Applied]) -> None:
        """How long runs, and the ways of their releases, take."""
        now = monotonic()
        for move in applied:
            transition = move.transition
            if transition.seconds is None:
                continue
            if transition.move == "start":  # it goes on
                self._runtimes.outlasted(move.queue, move.kind, transition.seconds)
                if self._leader.epoch is None:
                    self._news.tell_outlasted(Flow(move.queue, move.kind), transition.seconds)
            else:
                self._runtimes.add(move.queue, move.kind, transition.seconds)
                self._credit.sample(transition.task_id, transition.release, transition.seconds, now)

"""Outstanding: reports that the broker has confirmed to workers in; whether all of them are settled by now, out.

Any manager may have them: given to it, and not settled. So the broker is asked how many consume the reports, and each
manager whether it has settled all that it was given. As many must say so as there are consumers: one that stands still,
or whose connection is dead, counts until the broker takes its messages back and gives them to another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final
from uuid import UUID, uuid4

from tacoq_manager.settle import Settler
from tacoq_protocol.broker import Broker, Consuming
from tacoq_protocol.messages import AskSettled, HasSettled
from tacoq_protocol.topology import Topology

log = logging.getLogger("tacoq.settle")

LOOKS: Final = 20
LOOK_AGAIN_SECONDS: Final = 0.05
ANSWER_SECONDS: Final = 5.0  # for what has arrived to be settled


@dataclass(eq=False, slots=True)
class _Question:
    """Asked of all managers at `at`, by `time.monotonic`."""

    at: float
    settled: set[UUID] = field(default_factory=set)  # managers that have answered, and consumed before
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, manager: UUID, consumes_for: float | None) -> None:
        # Who began later may stand for a consumer that was counted, and is gone with what it had.
        if consumes_for is not None and consumes_for >= monotonic() - self.at:
            self.settled.add(manager)
            self.answered.set()


class Outstanding:
    """Asks, and answers when others do."""

    def __init__(
        self,
        broker: Broker,
        topology: Topology,
        settler: Settler,
        *,
        manager: UUID,
        tell: Callable[[AskSettled | HasSettled], Awaitable[bool]],
    ) -> None:
        """`tell` tells every manager, this one included; whether the broker took it."""
        self._broker = broker
        self._queue = topology.reports_queue.name
        self._settler = settler
        self._manager = manager
        self._tell = tell
        self._questions: dict[UUID, _Question] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self.consuming: Consuming | None = None  # of the reports

    async def none(self) -> bool:
        """True when every report that was confirmed before this call is settled; False when that is not known.

        Who was found not to hold a release, or to be lost, may have reported its outcome just before. Raises
        BrokerUnavailable.
        """
        for _ in range(LOOKS):
            at = monotonic()
            counts = await self._broker.counts(self._queue)
            if counts is not None and counts.consumers and not counts.ready:  # all of them are with the consumers
                return await self._have_settled(counts.consumers, at)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        return False

    def hear(self, message: AskSettled | HasSettled) -> None:
        """A manager asks, or answers; this one, too."""
        if isinstance(message, HasSettled):
            question = self._questions.get(message.question)
            if question is not None:
                question.answer(message.manager, message.consumes_for)
        elif message.manager != self._manager:
            answering = asyncio.create_task(self._answer(message.question), name="tacoq outstanding")
            self._answers.add(answering)
            answering.add_done_callback(self._answers.discard)

    async def stop(self) -> None:
        """Answer nobody any more."""
        for answering in self._answers:
            answering.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)

    async def _have_settled(self, consumers: int, at: float) -> bool:
        """Ask all; True when so many had consumed before `at` and have settled what they were given."""
        key, question = uuid4(), _Question(at)
        self._questions[key] = question
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if consumers > 1:
                    await self._tell(AskSettled(self._manager, key))
                question.answer(self._manager, await self._settle_all())
                while len(question.settled) < consumers:
                    question.answered.clear()
                    await question.answered.wait()
            return True
        except TimeoutError:
            log.warning(
                "reports may be with a manager that does not answer",
                extra={"consumers": consumers, "answered": sorted(question.settled)},
            )
            return False
        finally:
            del self._questions[key]

    async def _answer(self, question: UUID) -> None:
        await self._tell(HasSettled(self._manager, question, await self._settle_all()))

    async def _settle_all(self) -> float | None:
        """Return once all that this manager was given is settled: for how many seconds it has consumed reports."""
        since = None if self.consuming is None else await self.consuming.arrived()
        await self._settler.caught_up()
        return None if since is None else monotonic() - since

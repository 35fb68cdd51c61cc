"""Early ack: messages of long runs in, acked; the consumer's prefetch kept to the slots that these runs leave.

RabbitMQ closes the channel of a message that is not acked for half an hour. A run may take longer, and once its start
is on record nobody needs its message. But an ack lets the broker send one more, while the slot is still taken. So
before it the consumer is changed: what an earlier consumer was given can be acked and nothing comes for it, and the
present one gets a prefetch of the slots less all that was at hand. It is the same for a run whose message was lost with
its connection and went to another session, which took it off the queue: it has a slot, and no message here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tacoq_protocol.broker import Consuming
from tacoq_protocol.messages import Fence
from tacoq_worker.held import Held, Message

CHANGE_SECONDS: Final = 1.0  # from one change of the consumer to the next, while that can wait


class EarlyAcks:
    """`prefetch` is that of the present consumer: the slots, and nothing is done, while each run has a message at hand.

    `held` is all that the session holds, `consuming` tells the present consumer, if there is one.
    """

    def __init__(self, slots: int, held: Mapping[Fence, Held], *, consuming: Callable[[], Consuming | None]) -> None:
        self.prefetch = slots
        self._slots = slots
        self._held = held
        self._consuming = consuming
        self._runs: set[Held] = set()  # no message at hand stands for them, and their outcomes are not confirmed
        self._earlier: set[Message] = set()  # given to earlier consumers, not acked
        self._due: set[Message] = set()  # to be acked with the next change
        self._changed_at = float("-inf")
        self._news = asyncio.Event()
        self._changing: asyncio.Task[None] | None = None
        self._paused = self._stopped = False

    @property
    def watching(self) -> bool:
        """True while the ends of runs matter here."""
        return bool(self._runs or self._earlier or self._changing)

    def ack(self, message: Message) -> None:
        """Ack this message, all of whose runs' starts are confirmed, when no other will come for it."""
        if self._stopped:
            self._ack(message)
        else:
            self._due.add(message)
            self.look()

    def ended(self, held: Iterable[Held]) -> None:
        """The outcomes of these are confirmed."""
        self._runs.difference_update(held)
        self._earlier = {message for message in self._earlier if message.unconfirmed}
        self.look()

    def pause(self, paused: bool) -> None:
        """Let nothing come any more, or again. What is at hand stays as it is."""
        self._paused = paused
        self.look()

    def lost(self) -> None:
        """What was at hand comes again, to whoever consumes; until it is `missing`, room is kept for it."""
        self._earlier.clear()
        self._due.clear()
        self.look()

    def missing(self, runs: Iterable[Held]) -> None:
        """The lost messages of these runs did not come again. Their slots are taken all the same."""
        for held in runs:
            for message in held.messages:
                message.held.clear()
            held.messages.clear()
            self._runs.add(held)
        self.look()

    def came_again(self, held: Held) -> None:
        """A message at hand stands for this run again."""
        if held in self._runs:
            self._runs.discard(held)
            self.look()

    def begin(self) -> int:
        """Return the prefetch for a new consumer, with nothing at hand."""
        self.prefetch = self._room()
        return self.prefetch

    def look(self) -> None:
        """Change the consumer when it is not as it should be, and there is one."""
        self._news.set()
        if self._changing is None and self._wanted():
            self._changing = asyncio.create_task(self._change_while_wanted(), name="tacoq-prefetch")

    def stop(self) -> None:
        """The consumer is stopped: acks let nothing in any more."""
        self._stopped = True
        self._ack_due()
        self._news.set()

    def _at_hand(self) -> set[Message]:
        return {message for held in self._held.values() for message in held.messages if not message.lost}

    def _room(self) -> int:
        return 0 if self._paused else max(0, self._slots - len(self._runs) - len(self._earlier))

    def _wanted(self) -> bool:
        return not self._stopped and (bool(self._due) or self._room() != self.prefetch)

    async def _change_while_wanted(self) -> None:
        try:
            while self._wanted() and (consuming := self._consuming()) is not None:
                await self._worth_it()
                await self._change(consuming)
        finally:
            self._changing = None

    async def _worth_it(self) -> None:
        """Many that are due, or that end, are one change. At once when all that an earlier consumer had has ended."""
        await self._until(lambda: not self._earlier and not self._due)

    async def _change(self, consuming: Consuming) -> None:
        lately = self._now() < self._changed_at + CHANGE_SECONDS
        await consuming.consume_again(0)
        if lately:
            # Runs are short: the next consumer begins with none at hand, and will do as long as the long runs last.
            await self._until(lambda: not self._at_hand())
        if consuming is not self._consuming():
            return  # it was replaced, and what is at hand is its successor's
        self._ack_due()
        self._earlier = self._at_hand()
        self._changed_at = self._now()
        await consuming.consume_again(self.begin())

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for it, at most until a change is due; looked at whenever runs end."""
        try:
            async with asyncio.timeout_at(self._changed_at + CHANGE_SECONDS):
                while not condition() and not self._stopped:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass

    def _ack_due(self) -> None:
        due, self._due = self._due, set()
        for message in due:
            self._ack(message)

    def _ack(self, message: Message) -> None:
        if not message.unconfirmed or message.lost:
            return  # it ended, and was acked for that; or it comes again
        for held in message.held:
            if self._held.get(held.fence) is held:  # not confirmed
                held.messages.remove(message)
                self._runs.add(held)
        message.held.clear()
        message.delivery.ack()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

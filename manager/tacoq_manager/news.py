"""News: what this manager settled, out to the others; what they settled, in. Lost news cost only time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, islice
from typing import Final, TypeVar
from uuid import UUID

from tacoq_manager.store.claim import Flow, Line
from tacoq_protocol import codec
from tacoq_protocol.broker import Broker, Consumer, Consuming, Declared, Delivery, LinkState, Outgoing
from tacoq_protocol.errors import BrokerError, DecodeError
from tacoq_protocol.messages import Fence, Settled
from tacoq_protocol.topology import Binding, Queue, Topology

log = logging.getLogger("tacoq.news")

T = TypeVar("T")

PUBLISH_SECONDS: Final = 2.0
IDS_IN_A_MESSAGE: Final = 10_000


class News:
    """The `settled` exchange. What gathers while a publish is in flight goes into the next one."""

    def __init__(
        self,
        broker: Broker,
        topology: Topology,
        manager: UUID,
        *,
        others_live: Callable[[], bool],
        on_final: Callable[[Sequence[UUID]], None],
        on_ended: Callable[[Mapping[Line, int], int], None],
        on_redelivered: Callable[[Sequence[Fence]], None],
        on_limits: Callable[[], None],
        on_outlasted: Callable[[Flow, float], None],
        on_missed: Callable[[], None],
    ) -> None:
        """`others_live`: is anybody there to tell. `on_missed`: what they tell may be lost. The others hear it."""
        self._broker = broker
        self._topology = topology
        self._manager = manager
        self._others_live = others_live
        self._on_final = on_final
        self._on_ended = on_ended
        self._on_redelivered = on_redelivered
        self._on_limits = on_limits
        self._on_outlasted = on_outlasted
        self._on_missed = on_missed
        self._misses = False
        self._final: dict[UUID, None] = {}
        self._ended: dict[int, Mapping[Line, int]] = {}  # by transaction
        self._redelivered: dict[Fence, None] = {}
        self._limits = False
        self._outlasted: dict[Flow, float] = {}
        self._work = asyncio.Event()
        self._consuming: Consuming | None = None
        self._publisher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        exchange = self._topology.settled
        self._broker.on_state(self._linked)
        await self._broker.declare(Declared(exchanges=[exchange]))
        self._consuming = await self._broker.consume(
            Consumer(Queue(exclusive=True), self._hear, bindings=[Binding(exchange.name, "")])
        )
        self._publisher = asyncio.create_task(self._publish_forever(), name="tacoq news")

    @property
    def loops(self) -> Sequence[asyncio.Task[None]]:
        """What runs from `start` to `stop`, for ever."""
        return [] if self._publisher is None else [self._publisher]

    async def stop(self) -> None:
        if self._publisher is not None:
            self._publisher.cancel()
            await asyncio.gather(self._publisher, return_exceptions=True)
        if self._consuming is not None:
            await self._consuming.close()

    def tell(self, final: Iterable[UUID], ended: Mapping[Line, int], transaction: int) -> None:
        """Tell the other managers, if there are any: tasks that became final, how many releases less are out by it."""
        if self._others_live():
            self._final.update(dict.fromkeys(final))
            if ended:
                self._ended[transaction] = ended
            self._work.set()

    def tell_limits(self) -> None:
        """Tell the other managers that limits were changed."""
        if self._others_live():
            self._limits = True
            self._work.set()

    def tell_outlasted(self, flow: Flow, seconds: float) -> None:
        """Tell the other managers that a run of the kind goes on after so many seconds."""
        if self._others_live():
            self._outlasted[flow] = seconds
            self._work.set()

    def tell_redelivered(self, fence: Fence) -> None:
        """Tell the other managers that a session handed this back, for it had come a second time."""
        if self._others_live():
            self._redelivered[fence] = None
            self._work.set()

    async def _publish_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._final or self._ended or self._redelivered or self._limits or self._outlasted:
                message = self._next_message()
                outgoing = Outgoing(
                    self._topology.settled.name,
                    "",
                    codec.SETTLED.name,
                    codec.encode(message),
                    mandatory=False,
                )
                try:
                    await self._broker.publish([outgoing], seconds=PUBLISH_SECONDS)
                except BrokerError as error:  # not sent again: by then everybody has looked for himself
                    log.info("news lost", extra={"tasks": len(message.final), "reason": str(error)})
                except Exception:
                    log.exception("news lost", extra={"tasks": len(message.final)})

    def _next_message(self) -> Settled:
        ids = _take(self._final)
        ended = [(by, *line, count) for by, lines in self._ended.items() for line, count in lines.items()]
        self._ended.clear()
        limits, self._limits = self._limits, False
        outlasted = [(*flow, seconds) for flow, seconds in self._outlasted.items()]
        self._outlasted.clear()
        return Settled(self._manager, ids, ended, _take(self._redelivered), limits, outlasted)

    def _linked(self, state: LinkState) -> None:
        """What others told while the link was closed is missed for good: it is said once they are heard again."""
        if state is LinkState.CLOSED:
            self._misses = self._others_live()
        elif self._misses:
            self._misses = False
            self._on_missed()

    def _hear(self, delivery: Delivery) -> None:
        try:
            message = codec.decode_settled(delivery.format, delivery.body)
        except DecodeError as error:
            log.warning("news not understood", extra={"reason": str(error)})
            delivery.reject()
            return
        delivery.ack()
        if message.manager != self._manager:
            self._on_final(message.final)
            for transaction, ended in groupby(message.ended, key=lambda item: item[0]):
                self._on_ended({Line(*line): count for _, *line, count in ended}, transaction)
            self._on_redelivered(message.redelivered)
            if message.limits:
                self._on_limits()
            for *flow, seconds in message.outlasted:
                self._on_outlasted(Flow(*flow), seconds)


def _take(waiting: dict[T, None]) -> list[T]:
    """Take as many as go in a message."""
    taken = list(islice(waiting, IDS_IN_A_MESSAGE))
    for each in taken:
        del waiting[each]
    return taken

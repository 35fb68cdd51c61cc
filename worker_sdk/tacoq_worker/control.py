"""Control: what managers ask of this session; cancel, drain, resume, rebuild, what it holds, who it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import assert_never
from uuid import UUID

from tacoq_protocol.broker import Broker, Consumer, Consuming, Delivery, Outgoing
from tacoq_protocol.codec import PRESENCE, decode_control, encode
from tacoq_protocol.errors import BrokerError, DecodeError
from tacoq_protocol.messages import AskHeld, CancelRuns, Control, Drain, Introduce, Inventory, Rebuild, Resume
from tacoq_protocol.topology import Binding, Queue, Topology, control_keys
from tacoq_worker.consume import Intake

log = logging.getLogger("tacoq.worker")

ANSWER_SECONDS = 5.0


class ControlQueue:
    """The session's ear: an exclusive queue, new at each reconnect."""

    def __init__(
        self,
        broker: Broker,
        topology: Topology,
        intake: Intake,
        *,
        session: UUID,
        queue: str,
        leave: Callable[[], None],
        pause: Callable[[], None],
        resume: Callable[[], None],
        introduce: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._topology = topology
        self._intake = intake
        self._session = session
        self._queue = queue
        self._leave = leave
        self._pause = pause
        self._resume = resume
        self._introduce = introduce
        self._consuming: Consuming | None = None
        self._answers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        exchange = self._topology.control.name
        bindings = [Binding(exchange, "", key) for key in control_keys(str(self._session), self._queue)]
        self._consuming = await self._broker.consume(
            Consumer(Queue(exclusive=True), self._delivered, bindings=bindings)
        )

    @property
    def active(self) -> bool:
        """True while managers can be heard."""
        return self._consuming is not None and self._consuming.active

    async def close(self) -> None:
        if self._consuming is not None:
            await self._consuming.close()
        for answer in self._answers:
            answer.cancel()

    def _delivered(self, delivery: Delivery) -> None:
        delivery.ack()  # what managers ask they ask again
        try:
            self.obey(decode_control(delivery.format, delivery.body))
        except DecodeError as error:
            log.error("control message refused", extra={"reason": str(error)})

    def obey(self, control: Control) -> None:
        """Do what is asked; what takes longer goes on by itself."""
        match control:
            case CancelRuns():
                self._intake.cancel(control.task_ids)
            case Drain():
                log.info("drain asked for", extra={"session": str(self._session), "leave": control.leave})
                if control.leave:
                    self._leave()
                else:
                    self._pause()
            case Resume():
                log.info("resume asked for", extra={"session": str(self._session)})
                self._resume()
            case Rebuild():
                log.warning("consuming anew: a manager saw releases that nobody takes")
                self._later(self._intake.rebuild())
            case AskHeld():
                self._later(self._tell_held(control.question))
            case Introduce():
                self._introduce()
            case _:
                assert_never(control)

    async def _tell_held(self, question: UUID) -> None:
        held = Inventory(self._session, self._queue, question, list(self._intake.held))
        message = Outgoing(self._topology.presence.name, "", PRESENCE.name, encode(held), mandatory=False)
        try:
            await self._broker.publish([message], seconds=ANSWER_SECONDS)
        except BrokerError as error:
            log.warning("what is held could not be told", extra={"reason": str(error)})

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

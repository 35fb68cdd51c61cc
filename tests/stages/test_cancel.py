"""Cancel: whoever may still hold a release of the task hears of it."""

from __future__ import annotations

from uuid import UUID

from tacoq_manager.transitions import give_back, lose
from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Declared, Delivery
from tacoq_protocol.messages import Cancelled, CancelRuns, Fence, KindSpec
from tacoq_protocol.topology import Binding, Queue
from tests.stages.floor import Floor
from tests.support.eventually import eventually


class Ear:
    """A session's ear on the queue of its name."""

    def __init__(self) -> None:
        self.cancelled: list[UUID] = []

    async def listen(self, floor: Floor) -> None:
        control = floor.manager.topology.control
        await floor.worker.declare(Declared(exchanges=[control]))
        bindings = [Binding(control.name, "", "queue.default")]
        await floor.worker.consume(Consumer(Queue(exclusive=True), self._hear, bindings=bindings))

    def _hear(self, delivery: Delivery) -> None:
        message = codec.decode_control(delivery.format, delivery.body)
        if isinstance(message, CancelRuns):
            self.cancelled += message.task_ids
        delivery.ack()


async def test_cancel_of_a_released_task_is_a_request_that_the_workers_hear(floor: Floor) -> None:
    ear = Ear()
    await ear.listen(floor)
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.dispatch()
    answer = await floor.manager.canceller.cancel(task_id)
    assert (answer.state, answer.cancel_requested) == ("queued", True)
    await eventually(lambda: ear.cancelled == [task_id])


async def test_cancel_of_a_task_that_was_given_back_is_a_request_that_the_workers_hear(floor: Floor) -> None:
    """Its older message may be with the broker all the same: what becomes of that decides."""
    ear = Ear()
    await ear.listen(floor)
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.dispatch()
    await floor.manager.settler.apply([give_back(Fence(task_id, 1))])
    answer = await floor.manager.canceller.cancel(task_id)
    assert (answer.state, answer.cancel_requested) == ("queued", True)
    await eventually(lambda: ear.cancelled == [task_id])
    await floor.report(Cancelled(task_id, 1, None, 0.0, "asked"))
    assert await floor.state(task_id) == "cancelled"


async def test_cancel_of_a_task_that_was_given_back_is_final_when_nobody_holds_it(floor: Floor) -> None:
    floor.join("k")
    (task_id,) = await floor.accept()
    await floor.dispatch()
    await floor.manager.settler.apply([give_back(Fence(task_id, 1))])
    await floor.manager.canceller.cancel(task_id)
    assert await floor.dispatch() == 0
    spec = KindSpec("k")
    await floor.manager.settler.apply([lose(Fence(task_id, 1), started=False, session=None, spec=spec, detail="d")])
    assert await floor.state(task_id) == "cancelled"


async def test_cancel_of_a_task_that_was_never_released_is_final_and_nobody_needs_to_hear(floor: Floor) -> None:
    ear = Ear()
    await ear.listen(floor)
    never, released = await floor.accept(2)
    assert (await floor.manager.canceller.cancel(never)).state == "cancelled"
    floor.join("k")
    await floor.dispatch()
    await floor.manager.canceller.cancel(released)
    await eventually(lambda: ear.cancelled == [released])

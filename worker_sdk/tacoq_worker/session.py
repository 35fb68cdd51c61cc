"""Session: one worker on one broker, from register to leave. Plugs intake, slots, reports and the rest together.

No signals and no exit here: `process` runs it in a process of its own, the embedded mode beside a manager.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from importlib.metadata import version
from uuid import UUID, uuid4

from tacoq_protocol.broker import Broker, BrokerFactory, Declared
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.labels import NO_LABELS
from tacoq_protocol.messages import ReturnReason
from tacoq_protocol.topology import Topology
from tacoq_worker.children import Child
from tacoq_worker.consume import Intake
from tacoq_worker.control import ControlQueue
from tacoq_worker.execute import Stop
from tacoq_worker.heartbeat import HeartbeatThread, Vitals
from tacoq_worker.held import Held
from tacoq_worker.report import Reporter
from tacoq_worker.settings import Pace
from tacoq_worker.silence import Silence
from tacoq_worker.slots import Slots
from tacoq_worker.sweep import Sweep
from tacoq_worker.worker import Worker

log = logging.getLogger("tacoq.worker")


class Session:
    """One start of a worker. Make it on the loop that is to run it; `start`, then `drain` or `stop`."""

    def __init__(
        self,
        worker: Worker,
        make_broker: BrokerFactory,
        topology: Topology,
        *,
        grace: float = 30.0,
        id: UUID | None = None,
        pace: Pace | None = None,
        labels: Mapping[str, str] = NO_LABELS,
    ) -> None:
        """`grace` (seconds) is that of `begin_drain`; `labels` go before the worker's own.

        Raises ConfigurationError when the worker has no handlers."""
        if not len(worker.registry):
            raise ConfigurationError(f"{worker!r} has no handlers: decorate a function with @worker.task")
        self.id = id or uuid4()
        self.worker = worker
        self._grace = grace
        self._labels = {**worker.labels, **labels}
        self._pace = pace or Pace()
        self._topology = topology
        self._broker: Broker = make_broker(f"tacoq worker {self.id}")
        self._starting = asyncio.Lock()
        self._ended = asyncio.Event()
        self._taking: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[bool] | None = None
        self._compose(make_broker)

    def _compose(self, make_broker: BrokerFactory) -> None:
        worker, topology, pace, broker = self.worker, self._topology, self._pace, self._broker
        self._silence = Silence(pace.longest_silence, grace=pace.beat)
        self._reporter = Reporter(
            broker,
            topology,
            session=self.id,
            queue=worker.queue,
            confirmed=lambda h: self._intake.confirmed(h),
            pace=pace,
        )
        references = [handler.reference for handler in worker.registry]
        in_processes = worker.executor == "process"
        self._slots = Slots(
            worker.concurrency,
            session=self.id,
            report=lambda held, outcome: self._sweep.ended(held, outcome),
            announce=self._announce,
            began=lambda: self._sweep.began(),
            children=[Child(references) for _ in range(worker.concurrency)] if in_processes else [],
        )
        self._intake = Intake(
            broker,
            topology.task_queue(worker.queue),
            worker.registry,
            self._slots,
            self._reporter,
            prefetch=worker.concurrency,
        )
        self._sweep = Sweep(self._slots, self._reporter, self._intake, pace)
        # Before it listens, a cancel would not find what it holds.
        self._vitals = Vitals(
            self._intake.held, listening=lambda: self._control.active, taken=lambda: self._intake.taken
        )
        self._heartbeat = HeartbeatThread(
            worker,
            make_broker,
            topology,
            self._vitals,
            session=self.id,
            version=version("tacoq-worker"),
            labels=self._labels,
            registered=self._registered,
            silence=self._silence,
            pace=pace,
        )
        self._control = ControlQueue(
            broker,
            topology,
            self._intake,
            session=self.id,
            queue=worker.queue,
            leave=self.begin_drain,
            pause=self.pause,
            resume=self.resume,
            introduce=self._heartbeat.introduce,
        )

    async def _announce(self, held: Held) -> bool:
        """Report a start and return when that is confirmed: whether the run may begin.

        The broker confirms also the start of what was released elsewhere meanwhile.
        """
        await self._reporter.announce(held)
        if not self._silence.since(held.came, time.monotonic()):
            return True
        about = {"task_id": str(held.fence.task_id), "release": held.fence.release}
        log.warning("release handed back: no manager has heard this session for a while", extra=about)
        return False

    def _registered(self) -> None:
        # Only now: a manager asks every session it knows of what it holds, and frees what none of them has.
        if self._taking is None:
            log.info("worker session connected", extra={"session": str(self.id), "queue": self.worker.queue})
            self._taking = asyncio.create_task(self._intake.start(), name="tacoq-intake")

    async def start(self) -> None:
        """Take work as soon as the broker has the session's registration; does not wait for it.

        A drain that is asked for meanwhile follows; after one that came before, this does nothing.
        """
        async with self._starting:
            if self._ending is None:
                await self._start()

    async def _start(self) -> None:
        topology, queue = self._topology, self.worker.queue
        await self._broker.start()
        await self._broker.declare(
            Declared(
                exchanges=topology.exchanges,
                queues=[*topology.fixed_queues, topology.task_queue(queue)],
                bindings=[*topology.fixed_bindings, topology.task_binding(queue)],
            )
        )
        self._reporter.start()
        self._slots.start()
        await self._control.start()  # then it registers, and then releases may come
        self._heartbeat.start()
        log.info(
            "worker session started",
            extra={"session": str(self.id), "queue": queue, "slots": self.worker.concurrency},
        )

    async def drain(self, grace: float) -> bool:
        """End in order; return True when nothing is left here.

        Takes no more, hands back what has not started, waits `grace` seconds for the rest, cancels it and
        hands back what stopped. When it returns True every report is confirmed and every delivery acked, and
        the session has left. Else a thread did not stop or the broker did not confirm: those releases are
        lost with the process, and rescued. A second call waits for the first, whatever its grace.
        """
        return await asyncio.shield(self._end(grace))

    async def stop(self) -> bool:
        """Drain without a grace time: what runs is cancelled at once."""
        return await self.drain(0.0)

    async def ended(self) -> bool:
        """Wait until a drain, asked for here or by a manager, is over; return its result, or raise its error."""
        await self._ended.wait()
        assert self._ending is not None, "it has ended"
        return self._ending.result()

    def begin_drain(self) -> None:
        """Begin to drain with the session's own grace time; `ended` tells when it is over. On the session's loop."""
        self._end(self._grace)

    def _end(self, grace: float) -> asyncio.Task[bool]:
        if self._ending is None:
            self._ending = asyncio.create_task(self._drain(grace), name="tacoq-drain")
            # However it ends: who waits for it would keep a process that neither takes work nor exits.
            self._ending.add_done_callback(lambda _: self._ended.set())
        return self._ending

    def pause(self) -> None:
        """Take no more, and hand back what has not started; what runs goes on. On the session's loop, as `resume`."""
        self._vitals.draining = True
        self._intake.pause()
        self._heartbeat.tell()

    def resume(self) -> None:
        """Take releases again, unless the session is ending."""
        if self._ending is None:
            self._vitals.draining = False
            self._intake.resume()
            self._heartbeat.tell()

    async def _drain(self, grace: float) -> bool:
        async with self._starting:  # half a start cannot be ended
            pass
        log.info("worker session drains", extra={"session": str(self.id), "held": len(self._intake.held)})
        self._vitals.draining = True
        await self._intake.stop()
        if self._taking is not None:
            await asyncio.wait([self._taking])
        self._intake.hand_back(self._slots.waiting(), ReturnReason.SHUTDOWN)
        if not await self._slots.until_idle(grace):
            self._slots.interrupt_all(Stop.SHUTDOWN)
            await self._slots.until_idle(self._pace.stop_runs)
        stuck = len(self._slots.running())
        confirmed = await self._reporter.flush(self._pace.last_reports)
        await self._close(left := not stuck and confirmed)
        fields = {"session": str(self.id), "stuck": stuck, "held": len(self._intake.held)}
        if left:
            log.info("worker session left", extra=fields)
        else:
            log.warning("worker session ended with releases it could neither report nor hand back", extra=fields)
        return left

    async def _close(self, leave: bool) -> None:
        await self._heartbeat.stop(leave=leave)
        await self._control.close()
        await self._intake.close()
        await self._slots.close()
        self._sweep.stop()
        await self._reporter.stop()
        await self._broker.stop()

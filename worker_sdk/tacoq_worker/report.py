"""Report: starts and outcomes in, published together with confirm; `confirmed` is told, and may ack.

One publish is in flight at a time and carries all that was reported since the last confirm came back: no
timer, no wait when idle. What could not be confirmed stays, in order, and is sent again with the rest; a
report that was stored twice is stale the second time. Memory is bounded by what the session holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

from tacoq_protocol.broker import Broker, LinkState, Outgoing
from tacoq_protocol.codec import REPORTS, cut, encode
from tacoq_protocol.errors import BrokerError
from tacoq_protocol.messages import Completed, Failed, Fence, Outcome, Report, Reports, Started
from tacoq_protocol.topology import Topology
from tacoq_worker.execute import refused
from tacoq_worker.held import Held, Phase
from tacoq_worker.settings import Pace

log = logging.getLogger("tacoq.worker")

MAX_REPORTS = 1_000  # in one message


class Reporter:
    """The one sender of a session's reports."""

    def __init__(
        self,
        broker: Broker,
        topology: Topology,
        *,
        session: UUID,
        queue: str,
        confirmed: Callable[[list[Held]], None],
        pace: Pace,
    ) -> None:
        self._broker = broker
        self._topology = topology
        self._session = session
        self._queue = queue
        self._confirmed = confirmed
        self._pace = pace
        self._reports: list[Report] = []
        self._closing: list[Held] = []  # whose outcomes are among the reports
        self._starting: list[Held] = []  # whose starts are
        self._announced: list[asyncio.Future[None]] = []  # who waits for one of them
        self._in_flight = 0
        self._something = asyncio.Event()
        self._link_changed = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._task: asyncio.Task[None] | None = None
        broker.on_state(lambda _: self._link_changed.set())

    def outcome(self, held: Held, report: Outcome) -> None:
        """This ends the release here; `confirmed` gets it when the broker has it."""
        held.phase = Phase.REPORTED
        self._closing.append(held)
        self._add(report)

    def started(self, held: Held, seconds: float = 0.0) -> None:
        """This run begins, or has run for so long and goes on."""
        assert held.run is not None, "it runs"
        held.start_reported = True
        self._starting.append(held)
        self._add(Started(held.release.task_id, held.release.release, held.run.started_at, seconds))

    async def announce(self, held: Held) -> None:
        """Report the start and return when it is confirmed, however long the broker is away."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._announced.append(confirmed)
        self.started(held)
        await confirmed

    def start(self) -> None:
        self._task = asyncio.create_task(self._send_all(), name="tacoq-reports")

    async def flush(self, seconds: float) -> bool:
        """Wait until all is confirmed; False when that takes longer."""
        try:
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _add(self, report: Report) -> None:
        self._reports.append(report)
        if not self._something.is_set():
            self._something.set()
            self._quiet.clear()

    async def _send_all(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            if not await self.send():
                await self._link_may_be_back()
                self._something.set()
            elif not self._reports:
                self._quiet.set()

    async def send(self) -> bool:
        """Publish what is there and let go of what is confirmed; False, with all of it kept, when it is not."""
        reports, self._reports = self._reports, []
        closing, self._closing = self._closing, []
        starting, self._starting = self._starting, []
        announced, self._announced = self._announced, []
        try:
            reports, messages = self._encoded(reports, closing)
            await self._broker.publish(messages, seconds=self._pace.publish_deadline)
        except Exception as error:
            self._reports[:0], self._closing[:0] = reports, closing
            self._starting[:0], self._announced[:0] = starting, announced
            unforeseen = None if isinstance(error, BrokerError) else error
            fields = {"reports": len(self._reports), "reason": str(error)}
            log.warning("reports not confirmed", exc_info=unforeseen, extra=fields)
            return False
        for held in starting:
            held.start_confirmed = True
        for future in announced:
            if not future.done():
                future.set_result(None)
        if closing:
            try:
                self._confirmed(closing)
            except Exception:
                # A delivery may stay unacked. The reports of all other releases must go on.
                log.exception("confirmed reports not acted on", extra={"releases": len(closing)})
        return True

    def _encoded(self, reports: list[Report], closing: list[Held]) -> tuple[list[Report], list[Outgoing]]:
        """Return the reports and their messages; an outcome that cannot be encoded is its own release's failure."""
        try:
            return reports, self._messages(reports)
        except Exception:
            ends = {held.fence: held for held in closing}
            sendable = [self._sendable(report, ends) for report in reports]
            return sendable, self._messages(sendable)

    def _sendable(self, report: Report, ends: dict[Fence, Held]) -> Report:
        held = ends.get(Fence(report.task_id, report.release))
        try:
            self._messages([report])
        except Exception as error:
            if held is None or held.run is None:
                raise  # a start, or the return of what never ran: nothing in it is the handler's
            log.exception("report refused", extra={"task_id": str(report.task_id), "release": report.release})
            return refused(held.run, error)
        return report

    def _messages(self, reports: list[Report]) -> list[Outgoing]:
        return [
            Outgoing(
                self._topology.reports.name,
                self._topology.reports_queue.name,
                REPORTS.name,
                encode(Reports(self._session, self._queue, part)),
                persistent=True,
            )
            for part in cut(reports, _size, most=MAX_REPORTS)
        ]

    async def _link_may_be_back(self) -> None:
        """Wait for the link to change, or a little while: an open link may refuse as well."""
        self._link_changed.clear()
        if self._broker.state is LinkState.OPEN:
            await asyncio.sleep(min(0.1, self._pace.retry_publish))
            return
        try:
            async with asyncio.timeout(self._pace.retry_publish):
                await self._link_changed.wait()
        except TimeoutError:
            pass


def _size(report: Report) -> int:
    match report:
        case Completed():
            return 64 + len(report.result)
        case Failed():
            return 128 + 2 * (len(report.error.message) + len(report.error.traceback or ""))
        case _:
            return 96

"""Slots: loops that each take a waiting release, run it in place, and report its outcome.

A slot is one long-lived task: starting a task per run would cost ten times what a short run does. A run that
was stopped, or that changed context variables, takes its slot's task with it, so that the next run sees
nothing of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID

from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.messages import Completed, Expired, Failed, Outcome, Returned, ReturnReason
from tacoq_protocol.trace import active_tracer
from tacoq_worker.children import Child
from tacoq_worker.execute import ProcessCrashed, Run, Stop, call_async, call_sync, failed, not_started, raised
from tacoq_worker.held import Held, Phase
from tacoq_worker.spans import end_run, start_run

log = logging.getLogger("tacoq.worker")
runs = logging.getLogger("tacoq.runs")  # one line for each

TURN_SECONDS = 0.005  # a slot that never had to wait lets others have the loop this often


class Slots:
    """A fixed number of slots and the releases that wait for one, in order of arrival.

    `report` is called once for every release offered, unless it was taken back; `announce` returns when a
    start is confirmed, and whether the run may begin; `began` is called at the start of every run.
    """

    def __init__(
        self,
        count: int,
        *,
        session: UUID,
        report: Callable[[Held, Outcome], None],
        announce: Callable[[Held], Awaitable[bool]],
        began: Callable[[], None],
        children: list[Child],
    ) -> None:
        self.count = count
        self.session = session
        self.report, self.announce, self.began = report, announce, began
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="tacoq-slot")
        self.closed = False
        self.watcher: asyncio.Event | None = None  # set at each end of a run
        self._waiting: deque[Held] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._slots = [_Slot(self, children[n] if children else None) for n in range(count)]

    def start(self) -> None:
        for slot in self._slots:
            slot.start()

    def offer(self, held: list[Held]) -> None:
        """These wait for a slot from now on."""
        self._waiting.extend(held)
        self.wake_next()

    def take(self) -> Held | None:
        """Return the next release that still waits."""
        while self._waiting:
            held = self._waiting.popleft()
            if held.phase is Phase.WAITING:
                return held
        return None

    def wake_next(self) -> None:
        """Wake one idle slot when something waits; it wakes the next: a slot of short runs needs no help."""
        while self._waiting and self._idle and not self._waking:
            wakeup = self._idle.pop()
            if not wakeup.done():  # else its slot's task was cancelled while it was idle, and another one is here
                self._waking = True
                wakeup.set_result(None)

    async def something_waits(self) -> None:
        """Return when there is something to take: the caller is idle."""
        wakeup: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(wakeup)
        try:
            await wakeup
        finally:
            self._waking = False  # another may be woken

    def waiting(self) -> list[Held]:
        """Releases that no slot has taken."""
        return [held for held in self._waiting if held.phase is Phase.WAITING]

    def running(self) -> list[Held]:
        """Releases that a slot has now. From any thread."""
        return [held for slot in self._slots if (held := slot.held) is not None]

    def interrupt(self, held: Held, stop: Stop) -> None:
        """Stop this release's run if a slot has it: a task is cancelled, a process killed, a thread asked."""
        for slot in self._slots:
            if slot.held is held:
                slot.interrupt(stop)

    def interrupt_all(self, stop: Stop) -> None:
        """Stop every run."""
        for slot in self._slots:
            slot.interrupt(stop)

    def look_at(self, ends: float) -> None:
        """Stop the runs whose time is up then, by `time.monotonic`."""
        # One timer, for the first of them: short runs come and go without touching it.
        if self._alarm is None or ends < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at = ends
            self._alarm = asyncio.get_running_loop().call_later(ends - time.monotonic(), self._look)

    def _look(self) -> None:
        self._alarm = None
        now = time.monotonic()
        for slot in self._slots:
            if slot.ends is not None and slot.ends <= now:
                slot.ends = None
                slot.interrupt(Stop.TIMEOUT)
        later = [slot.ends for slot in self._slots if slot.ends is not None]
        if later:
            self.look_at(min(later))

    async def until_idle(self, seconds: float) -> bool:
        """Wait until nothing runs; False when that takes longer."""
        self.watcher = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                while self.running():
                    self.watcher.clear()
                    await self.watcher.wait()
        except TimeoutError:
            return False
        finally:
            self.watcher = None
        return True

    async def close(self) -> None:
        """End the slots: tasks are cancelled, children killed, threads left to themselves."""
        self.closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        await asyncio.gather(*(slot.close() for slot in self._slots))
        self.threads.shutdown(wait=False, cancel_futures=True)


class _Slot:
    """One slot. `held` is what it runs now, until `ends` at the latest."""

    def __init__(self, slots: Slots, child: Child | None) -> None:
        self.held: Held | None = None
        self.ends: float | None = None
        self._slots = slots
        self._child = child
        self._stop: Callable[[], object] = _nothing  # how to stop the present run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="tacoq-slot")
        self._task.add_done_callback(self._ended)
        if self._child is not None:
            asyncio.get_running_loop().run_in_executor(self._slots.threads, self._child.start)

    def interrupt(self, stop: Stop) -> None:
        held = self.held
        if held is not None and held.run is not None:
            held.run.stop = held.run.stop or stop
            self._stop()

    async def close(self) -> None:
        self.interrupt(Stop.SHUTDOWN)
        if self._child is not None:
            await asyncio.to_thread(self._child.close)
        if self._task is not None:
            if self.held is None:
                self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)

    async def _work(self) -> None:
        slots = self._slots
        clean = contextvars.copy_context()
        turn_ends = time.monotonic() + TURN_SECONDS
        while not slots.closed:
            held = slots.take()
            if held is None:
                await slots.something_waits()
                turn_ends = time.monotonic() + TURN_SECONDS
                continue
            assert held.handler is not None, "only releases with a handler wait for a slot"
            run = held.run = Run(held.release, held.handler)
            self.held, held.phase = held, Phase.RUNNING
            slots.wake_next()
            outcome = await self._run(held, run)
            self._report(held, outcome)
            if isinstance(outcome, Failed):
                _log_failure(run, outcome)
            elif runs.isEnabledFor(logging.DEBUG):
                _log_end(run, outcome)
            if run.stop is not None or contextvars.copy_context() != clean or self._cancelling():
                return  # and go on in a fresh task
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN_SECONDS

    async def _run(self, held: Held, run: Run) -> Outcome:
        release, loop = held.release, asyncio.get_running_loop()
        if release.expires_at is not None and release.expires_at <= datetime.now(UTC):
            return Expired(release.task_id, release.release)
        if self._child is not None and not self._child.ready:
            self._stop = self._child.kill  # an import may hang
            await loop.run_in_executor(self._slots.threads, self._child.start, run)
            self._stop = _nothing
        if run.stop is not None:
            return not_started(run, run.stop)
        run.begin()
        self._slots.began()
        try:
            if release.announced:
                self._stop = self._cancel_task
                if not await self._slots.announce(held):
                    return Returned(release.task_id, release.release, ReturnReason.SILENT)
            if run.timeout is not None:
                self.ends = time.monotonic() + run.timeout
                self._slots.look_at(self.ends)
            if (tracer := active_tracer()) is not None:
                run.span = start_run(tracer, run, self._slots.session)
            if run.handler.is_async:
                self._stop = self._cancel_task
                return await call_async(run)
            if self._child is None:
                self._stop = run.ask_to_stop
                # An empty context for each run: a thread would keep what one sets for the next.
                return await loop.run_in_executor(self._slots.threads, contextvars.Context().run, call_sync, run)
            self._stop = self._child.kill
            return await loop.run_in_executor(self._slots.threads, self._child.call, run)
        except (asyncio.CancelledError, ProcessCrashed) as error:  # cancelled while it was announced
            return raised(run, error)
        finally:
            self.ends = None
            self._stop = _nothing

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _cancelling(self) -> bool:
        return self._task is not None and self._task.cancelling() > 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Go on in a fresh task, whatever ended this one; a run it had is reported before."""
        if self._slots.closed:
            return
        held = self.held
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            log.error("slot failed", exc_info=fault)
        if held is not None and held.run is not None:
            error = ErrorInfo("SlotFailed", f"the worker itself failed while it ran this: {fault!r}")
            self._report(held, failed(held.run, error))
        self.start()

    def _report(self, held: Held, outcome: Outcome) -> None:
        self.held = None
        self._slots.report(held, outcome)
        if self._slots.watcher is not None:
            self._slots.watcher.set()
        run = held.run
        if run is not None and run.span is not None:  # at last: whatever its exporter does, the outcome is on its way
            end_run(run.span, run, outcome)


def _nothing() -> None:
    """Nothing runs that could be stopped."""


def _log_failure(run: Run, outcome: Failed) -> None:
    error, attempt, most = outcome.error, outcome.attempt + 1, run.most_attempts
    fields = {
        "task_id": str(outcome.task_id),
        "kind": outcome.kind,
        "release": outcome.release,
        "attempt": attempt,
        "max_attempts": most,
        "retry": _retry(run, outcome) if attempt < most else "no: attempts are used up",
        "error": f"{error.type}: {error.message}",
    }
    if error.traceback is not None:
        fields["traceback"] = error.traceback
    log.warning("run failed", extra=fields)


def _retry(run: Run, outcome: Failed) -> str:
    """Whether another run follows, as far as the worker can know: a cancel goes before it, managers draw the wait."""
    if not outcome.retryable:
        return "no: not retryable"
    if outcome.delay is not None:
        return f"in {outcome.delay:g} s"
    longest = run.handler.spec.backoff.ceiling(outcome.attempt + 1)
    return f"in {longest / 2:g} to {longest:g} s"


def _log_end(run: Run, outcome: Outcome) -> None:
    fields = {"kind": run.release.kind, "outcome": type(outcome).__name__.lower()}
    if isinstance(outcome, Completed):
        fields["seconds"] = f"{outcome.seconds:.3f}"
    runs.debug("run ended", extra={**fields, "task_id": str(run.release.task_id)})

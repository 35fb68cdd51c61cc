"""Settle: reports in, one committed transaction of transitions out (stale ones counted), then the ack.

Commit, then ack: a report that is acked and not committed would be an outcome lost; one that is committed and not acked
comes again and is stale. All that has arrived while a transaction was in flight forms the next one. A success that
nobody waits for, neither for its result nor for its slot, waits a moment for others to share the commit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Protocol, assert_never
from uuid import UUID

import asyncpg
import msgspec

from tacoq_manager import transitions as moves
from tacoq_manager.dead_letters import DeadLetters
from tacoq_manager.metrics import Metrics
from tacoq_manager.retry import retry_delay
from tacoq_manager.sessions import Sessions
from tacoq_manager.store import settle as store
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.store.limits import Held, Hold, hold
from tacoq_manager.store.results import Results
from tacoq_manager.store.settle import Applied
from tacoq_manager.transitions import Transition
from tacoq_protocol.broker import Delivery
from tacoq_protocol.codec import REPORTS, decode_reports, encode
from tacoq_protocol.errors import DecodeError
from tacoq_protocol.http import MAX_PAYLOAD_BYTES
from tacoq_protocol.messages import (
    Cancelled,
    Completed,
    DeadCause,
    DeadLetter,
    Expired,
    Failed,
    Fence,
    Holds,
    KindSpec,
    Report,
    Reports,
    Returned,
    ReturnReason,
    Snoozed,
    Started,
)

log = logging.getLogger("tacoq.settle")

PREFETCH_MESSAGES = 200
SETTLE_REPORTS = 4_000  # in one transaction
GATHER_SECONDS = 0.02  # what nobody waits for
GATHER_MESSAGES = PREFETCH_MESSAGES // 4
RETRY_SECONDS = 0.5
SOURCE = "reports"  # the queue that the deliveries come from

_json = msgspec.json.Decoder(msgspec.Raw)


class Settled(Protocol):
    """What the rest of the manager does about committed moves."""

    def __call__(self, applied: Sequence[Applied]) -> None: ...


class Settler:
    """Gathers deliveries of `tacoq.reports` and settles them."""

    def __init__(
        self,
        connection: HotConnection,
        sessions: Sessions,
        metrics: Metrics,
        *,
        results: Results,
        dead_letters: DeadLetters,
        random: Random,
        is_awaited: Callable[[UUID], bool],
        is_pressing: Callable[[], bool],
        is_timed: Callable[[UUID], bool],
        on_settled: Settled,
        on_redelivered: Callable[[Fence], None],
        on_held: Callable[[Sequence[Held], int], None],
    ) -> None:
        """`is_awaited`: somebody waits for this task. `is_pressing`: or, here or elsewhere, for whatever ends.

        `is_timed`: how long this task takes to be settled is measured.
        """
        self._connection = connection
        self._sessions = sessions
        self._metrics = metrics
        self._results = results
        self._dead_letters = dead_letters
        self._random = random
        self._is_awaited = is_awaited
        self._is_pressing = is_pressing
        self._is_timed = is_timed
        self._on_settled = on_settled
        self._on_redelivered = on_redelivered
        self._on_held = on_held
        self._holds: list[Hold] = []  # that the reports at hand ask for
        self._arrived: deque[tuple[Delivery, Reports | DeadLetter]] = deque()
        self._now = asyncio.Event()  # to be settled
        self._soon: asyncio.TimerHandle | None = None
        self._came = 0  # deliveries so far
        self._done = 0  # of these, those that are settled
        self._progress = asyncio.Event()

    def on_delivery(self, delivery: Delivery) -> None:
        """A message of reports arrived."""
        message = _read(delivery)
        self._arrived.append((delivery, message))
        self._came += 1
        if self._now.is_set():
            return
        if len(self._arrived) >= GATHER_MESSAGES or not self._can_wait(message):
            self._now.set()
        elif self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._now.set)

    def hurry(self) -> None:
        """Somebody waits for what may have ended: settle at once what has arrived."""
        if self._arrived:
            self._now.set()

    async def caught_up(self) -> None:
        """Return when every report that has arrived by now is settled, whatever arrives meanwhile."""
        self.hurry()
        came = self._came
        while self._done < came:
            self._progress.clear()
            await self._progress.wait()

    async def run(self) -> None:
        """Settle batch after batch, for ever; while Postgres is away the batch waits."""
        while True:
            await self._now.wait()
            await self.step()

    async def step(self) -> int:
        """Settle what has arrived, in one transaction, and ack it; return how many reports there were."""
        self._now.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        deliveries, reports, unreadable = self._take()
        transitions = self._transitions(reports)
        refused = {_fence(move): move.error.message for move in transitions if move.move == "refuse" and move.error}
        if self._holds:
            await self._hold_until_done()
        if transitions:
            await self._apply_until_done(transitions, refused)
        await self._end(deliveries, unreadable, _letters(reports, refused))
        self._done += len(deliveries)
        self._progress.set()
        return len(transitions)

    def _take(self) -> tuple[list[Delivery], list[Reports], dict[int, DeadLetter]]:
        """What has arrived, up to a size: all deliveries, those that can be read, and by place those that cannot."""
        deliveries: list[Delivery] = []
        reports: list[Reports] = []
        unreadable: dict[int, DeadLetter] = {}
        count = 0
        while self._arrived and count < SETTLE_REPORTS:
            delivery, message = self._arrived.popleft()
            if isinstance(message, DeadLetter):
                unreadable[len(deliveries)] = message
            else:
                reports.append(message)
                count += len(message.reports)
            deliveries.append(delivery)
        self.hurry()  # what was too much
        return deliveries, reports, unreadable

    def _can_wait(self, message: Reports | DeadLetter) -> bool:
        return (
            isinstance(message, Reports)
            and not self._is_pressing()
            and not any(self._presses(report) for report in message.reports)
        )

    def _presses(self, report: Report) -> bool:
        """What is to run again cannot wait, nor can what somebody waits for."""
        return not isinstance(report, Completed) or self._is_awaited(report.task_id) or self._is_timed(report.task_id)

    async def _end(
        self, deliveries: list[Delivery], unreadable: dict[int, DeadLetter], refused: list[DeadLetter]
    ) -> None:
        """Ack what is settled or among the dead letters. Without those, the broker keeps what cannot be read there,
        as it came; what was refused is in the log.
        """
        letters = [*unreadable.values(), *refused]
        if letters and not await self._dead_letters.send(letters):
            for place in unreadable:
                deliveries[place].reject()
            deliveries = [delivery for place, delivery in enumerate(deliveries) if place not in unreadable]
        if deliveries:
            deliveries[-1].ack(multiple=True)

    def _transitions(self, messages: Sequence[Reports]) -> list[Transition]:
        """One transition per report; of an outcome reported twice only the first, for the second is stale; of a start
        before its outcome none.
        """
        outcomes: dict[Fence, Transition] = {}
        starts: dict[Fence, Transition] = {}
        for message in messages:
            for report in message.reports:
                fence = Fence(report.task_id, report.release)
                if isinstance(report, Started):
                    starts[fence] = moves.start(report, message.session)
                elif isinstance(report, Returned) and report.reason is ReturnReason.REDELIVERED:
                    self._on_redelivered(fence)  # says nothing about the run: its holder may go on with it
                else:
                    outcome = self._outcome(report, message)
                    if outcomes.setdefault(fence, outcome) is not outcome:
                        self._metrics.stale(outcome.move, 1)
        return [start for fence, start in starts.items() if fence not in outcomes] + list(outcomes.values())

    def _outcome(self, report: Report, message: Reports) -> Transition:
        session = message.session
        match report:
            case Completed():
                problem = _problem(report.result)
                if problem is not None:
                    return moves.refuse(Fence(report.task_id, report.release), session, problem)
                return moves.complete(report, session)
            case Failed():
                spec = self._sessions.spec(message.queue, report.kind) or KindSpec(report.kind)
                delay = report.delay
                if delay is None:
                    delay = retry_delay(spec.backoff, report.attempt + 1, self._random)
                return moves.fail(report, session, spec, delay)
            case Cancelled():
                return moves.stop(report, session)
            case Snoozed():
                if report.holds is not None:
                    fence = Fence(report.task_id, report.release)
                    self._holds.append(Hold(fence, report.delay, report.holds is Holds.KEY))
                return moves.snooze(report, session)
            case Expired():
                return moves.run_out(report, session)
            case Returned():
                return moves.hand_back(report, session)
            case Started():
                raise AssertionError("a start is not an outcome")
            case _:
                assert_never(report)

    async def _hold_until_done(self) -> None:
        """Store what handlers hold back, before their tasks are snoozed: until then a crash asks for it again."""
        holds, self._holds = self._holds, []
        while True:
            try:
                return await self._hold(holds)
            except DatabaseUnavailable as error:
                log.warning("reports wait for Postgres", extra={"reports": len(holds), "error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)

    async def _hold(self, holds: Sequence[Hold]) -> None:
        """Halve them until one that Postgres refuses stands alone: its delay is none, its report is refused, too."""
        try:
            self._on_held(*await hold(self._connection, holds))
        except (asyncpg.PostgresError, ValueError) as error:
            if len(holds) == 1:
                log.error("Postgres refuses to hold a kind back", extra={"error": str(error)})
                return
            middle = len(holds) // 2
            await self._hold(holds[:middle])
            await self._hold(holds[middle:])

    async def _apply_until_done(self, transitions: Sequence[Transition], refused: dict[Fence, str]) -> None:
        """Apply all, however long Postgres is away. What may have been too much for one statement comes in parts."""
        applied: list[Applied] = []
        left, most = transitions, len(transitions)
        while left:
            try:
                applied += await self._apply(left[:most], refused)
            except DatabaseUnavailable as error:
                log.warning("reports wait for Postgres", extra={"reports": len(left), "error": str(error)})
                most = max(1, most // 2)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                left, most = left[most:], 2 * most
        self._count_stale(transitions, applied)

    def _count_stale(self, transitions: Sequence[Transition], applied: Sequence[Applied]) -> None:
        if len(applied) < len(transitions):
            stale = Counter(t.move for t in transitions) - Counter(a.transition.move for a in applied)
            for move, count in stale.items():
                self._metrics.stale(move, count)

    async def apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        """Apply and tell `on_settled`; committed when it returns. Raises DatabaseUnavailable.

        When Postgres, or its driver, refuses a value the batch is halved until the offending report stands alone; its
        task fails.
        """
        return await self._apply(transitions, {})

    async def _apply(self, transitions: Sequence[Transition], refused: dict[Fence, str]) -> list[Applied]:
        """`apply`; the offending reports are added to `refused`."""
        began = time.perf_counter()
        try:
            kept = await self._results.put(transitions)  # before who reads a state can look for a result
            applied = await store.apply(self._connection, transitions, self._is_awaited, kept)
        except (asyncpg.PostgresError, ValueError) as error:
            if len(transitions) > 1:
                middle = len(transitions) // 2
                return await self._apply(transitions[:middle], refused) + await self._apply(
                    transitions[middle:], refused
                )
            (offending,) = transitions
            if offending.release is None or offending.session is None:
                raise
            fence, reason = _fence(offending), str(error).replace("\0", "")
            refused.setdefault(fence, reason)
            if offending.move == "refuse":  # not even its fence: no task can have it
                log.error("a report is dropped", extra={"task_id": fence.task_id, "error": reason})
                return []
            log.error("Postgres refuses a report", extra={"task_id": fence.task_id, "error": reason})
            return await self._apply([moves.refuse(fence, offending.session, reason)], refused)
        self._metrics.settled(len(applied), time.perf_counter() - began)
        if not kept and self._results.state is not None:
            self._metrics.fell_back(sum(move.transition.result is not None for move in applied))
        self._on_settled(applied)
        return applied


def _read(delivery: Delivery) -> Reports | DeadLetter:
    try:
        return decode_reports(delivery.format, delivery.body)
    except DecodeError as error:
        log.error("a message of reports cannot be read; it goes to the dead letters", extra={"error": str(error)})
        return DeadLetter(DeadCause.UNREADABLE, str(error), SOURCE, delivery.format, delivery.body)


def _fence(transition: Transition) -> Fence:
    return Fence(transition.task_id, transition.release or 0)


def _letters(messages: Sequence[Reports], refused: Mapping[Fence, str]) -> list[DeadLetter]:
    """A letter for each of the refused, with what was reported of it and nothing else."""
    letters = []
    for message in messages if refused else ():
        of_fence: dict[Fence, list[Report]] = {}
        for report in message.reports:
            fence = Fence(report.task_id, report.release)
            if fence in refused:
                of_fence.setdefault(fence, []).append(report)
        for fence, reports in of_fence.items():
            body = encode(Reports(message.session, message.queue, reports))
            letters.append(DeadLetter(DeadCause.REFUSED, refused[fence], SOURCE, REPORTS.name, body))
    return letters


def _problem(result: bytes) -> str | None:
    """Say why a result cannot be stored: answers hold it as it is, next to those of other tasks."""
    if len(result) > MAX_PAYLOAD_BYTES:
        return f"the result has {len(result):,} bytes, the limit is {MAX_PAYLOAD_BYTES:,}"
    try:
        _json.decode(result)
    except msgspec.DecodeError as error:
        return f"the result is not JSON: {error}"
    except RecursionError:
        return "the result is nested too deep to be read"
    return "the result is not JSON in one line" if b"\n" in result else None

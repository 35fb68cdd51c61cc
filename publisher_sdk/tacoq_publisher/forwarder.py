"""Forwarder: rows of an outbox in, oldest first, tasks that the manager has accepted out.

A row goes when its task is durable with the manager. A forwarder that dies in between sends it again: a task is
accepted once, however often it is sent. So any number of forwarders may run, and none holds a lock that could outlive
it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from tacoq_protocol.codec import cut
from tacoq_protocol.errors import ConfigurationError, ManagerError
from tacoq_protocol.http import MAX_BATCH_TASKS, NewTask
from tacoq_publisher.batching import MAX_REQUEST_BYTES
from tacoq_publisher.manager import Manager, Refusal
from tacoq_publisher.outbox import table
from tacoq_publisher.outbox_rows import OutboxUnavailable, Rows, Waiting

log = logging.getLogger("tacoq.outbox")

POLL_SECONDS: Final = 0.5  # where nobody notifies, or a notification was lost
PAUSE_SECONDS: Final = 1.0  # after a fault
TELL_SECONDS: Final = 60.0  # while it lasts

_task: Final = msgspec.json.Decoder(NewTask)


class _Answers:
    """What became of the rows of one step, by their numbers."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.refused: dict[int, str] = {}

    def refuse(self, row: Waiting, task_id: UUID | None, error: str) -> None:
        self.refused[row.seq] = error
        log.error(
            "a task of the outbox is refused: set its error to NULL to have it sent again",
            extra={"seq": row.seq, "task_id": task_id, "error": error},
        )


class Forwarder:
    """Forwards for ever. What comes in while it sends goes with the next request."""

    def __init__(self, rows: Rows, manager: Manager) -> None:
        self._rows = rows
        self._manager = manager
        self._news = asyncio.Event()
        self._trouble = ""  # that is not over
        self._told = 0.0

    async def run(self) -> None:
        """Forward; while the manager or the database is away, rows wait. Raises ConfigurationError without a table."""
        looked = False
        while True:
            self._news.clear()
            try:
                looked = looked or await self._look()
                await self._rows.listen(self._news.set)
                if await self.step():
                    continue
            except (OutboxUnavailable, ManagerError) as error:
                await self._wait_out(str(error))
            else:
                await self._wait_for_news()

    async def step(self) -> int:
        """Forward the oldest; return how many there were. Raises ManagerError and OutboxUnavailable.

        One request after the other, and none after one that failed: who is accepted later stood behind.
        """
        waiting = await self._rows.first()
        answers = _Answers()
        try:
            for rows in cut(_readable(waiting, answers), _size, most=MAX_BATCH_TASKS, max_bytes=MAX_REQUEST_BYTES):
                await self._send(rows, answers)
        finally:
            await self._rows.settle(answers.sent, answers.refused)
        if self._trouble:
            self._trouble = ""
            log.info("the outbox goes on")
        return len(waiting)

    async def _send(self, rows: Sequence[tuple[Waiting, UUID]], answers: _Answers) -> None:
        """Have all accepted but those that the manager refuses, which holds up none of the others."""
        answer = await self._manager.accept([row.task for row, _ in rows])
        if not isinstance(answer, Refusal):
            answers.sent += [row.seq for row, _ in rows]
        elif answer.index is not None:
            bad = answer.index
            answers.refuse(*rows[bad], str(answer.error))
            if others := [*rows[:bad], *rows[bad + 1 :]]:
                await self._send(others, answers)
        else:  # nobody is named: one alone is
            middle = len(rows) // 2
            await self._send(rows[:middle], answers)
            await self._send(rows[middle:], answers)

    async def _look(self) -> bool:
        if not await self._rows.exist():
            raise ConfigurationError(
                f"there is no table {table.name} in {self._rows.place}: make it with "
                "tacoq_publisher.outbox.metadata.create_all(engine), or by your migrations"
            )
        log.info("the outbox is there", extra={"database": self._rows.place})
        return True

    async def _wait_for_news(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _wait_out(self, trouble: str) -> None:
        now = time.monotonic()
        if trouble != self._trouble or now > self._told + TELL_SECONDS:
            log.warning("the outbox waits, and tries again", extra={"for": trouble})
            self._trouble, self._told = trouble, now
        await asyncio.sleep(PAUSE_SECONDS)


def _readable(waiting: Sequence[Waiting], answers: _Answers) -> list[tuple[Waiting, UUID]]:
    """Those that are tasks, each once: a second row of the same task is a resend, and goes with a later request."""
    found: dict[UUID, Waiting] = {}
    for row in waiting:
        try:
            found.setdefault(_task.decode(row.task).id, row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # written by hand: it would spoil its request
            answers.refuse(row, None, f"it is not the JSON of a task: {error}")
    return [(row, task_id) for task_id, row in found.items()]


def _size(row: tuple[Waiting, UUID]) -> int:
    return len(row[0].task)

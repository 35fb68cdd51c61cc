"""Listening: which tasks somebody wants to hear of in, each as it ends out, and where some were not told that they
were not. A stream that breaks is opened again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final, cast

import msgspec

from tacoq_protocol.errors import FilterRefused
from tacoq_protocol.events import LOST, READY, TASK, EndsLost, Ready, TaskEnd
from tacoq_publisher.endpoints import Endpoints
from tacoq_publisher.errors import describe, read_problem
from tacoq_publisher.http1 import Fault
from tacoq_publisher.transport import Answer, Backoff, Query

log = logging.getLogger("tacoq.publisher")

SILENCE_SECONDS: Final = 40.0  # the manager says something every 15
_ACTION: Final = "listen to events"
_DECODERS: Final = {
    READY.encode(): msgspec.json.Decoder[TaskEnd | EndsLost | Ready](Ready).decode,
    TASK.encode(): msgspec.json.Decoder[TaskEnd | EndsLost | Ready](TaskEnd).decode,
    LOST.encode(): msgspec.json.Decoder[TaskEnd | EndsLost | Ready](EndsLost).decode,
}


class Listening(Endpoints):
    """The endpoint of events."""

    @asynccontextmanager
    async def listen(self, query: Query) -> AsyncIterator[AsyncIterator[TaskEnd | EndsLost]]:
        """Give events from now on. After a break an EndsLost comes first.

        Raises FilterRefused, ManagerUnavailable when there was no stream for `retry_for` seconds; so does the iterator.
        """
        async with aclosing(self._follow(query)) as events:
            await anext(events)
            yield cast("AsyncIterator[TaskEnd | EndsLost]", events)  # Ready comes first, and no more

    async def _follow(self, query: Query) -> AsyncGenerator[TaskEnd | EndsLost | Ready]:
        clock = asyncio.get_running_loop().time
        backoff, began, deadline = Backoff(), False, clock() + self._transport.retry_for
        while True:
            opened = False
            try:
                async with self._transport.stream("/events", None, query=query, silence=SILENCE_SECONDS) as stream:
                    if isinstance(stream, Answer):
                        raise self._refused(stream)
                    async for event in self._events(stream):
                        if isinstance(event, Ready):
                            yield EndsLost() if began else event
                            backoff, began, opened = Backoff(), True, True
                        else:
                            yield event
                fault = Fault("the stream ended", sent=True)
            except Fault as broken:
                fault = broken
            if opened:
                deadline = clock() + self._transport.retry_for
            left = deadline - clock()
            if left <= 0:
                raise self._transport.unavailable(_ACTION, fault, outcome="the tasks go on")
            pause = min(backoff.pause(fault.pause), left)
            log.info(
                "event stream broke, opening another",
                extra={"url": self._transport.url, "fault": str(fault), "pause": round(pause, 3)},
            )
            await asyncio.sleep(pause)

    async def _events(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[TaskEnd | EndsLost | Ready]:
        """Events that a newer manager may have beside these are left out."""
        decode = None
        async for lines in chunks:
            for line in lines.split(b"\n"):
                field, _, value = line.partition(b": ")
                if field == b"event":
                    decode = _DECODERS.get(value)
                elif field == b"data" and decode is not None:
                    try:
                        yield decode(value)
                    except msgspec.DecodeError as error:
                        raise self._malformed(Answer(200, line), _ACTION, error) from error

    def _refused(self, answer: Answer) -> Exception:
        if answer.status == 422 and (problem := read_problem(answer.body)):
            return FilterRefused(describe(problem))
        return self._unexpected(answer, _ACTION)

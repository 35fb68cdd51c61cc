"""/v1/events: tasks as they end, whoever published them and whichever manager settled them, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tacoq_manager.api.docs import answer
from tacoq_manager.api.names import FairnessKey, Kind, QueueName
from tacoq_manager.api.within import ABORT, disconnected, manager_of
from tacoq_manager.events import Events, Listener, Wanted, event_of
from tacoq_protocol.events import READY, Ready, TaskEnd
from tacoq_protocol.states import TaskState

MEDIA_TYPE: Final = "text/event-stream"
KEEP_ALIVE_SECONDS: Final = 15.0
END_SECONDS: Final = 1.0  # for a client to take what it was not told when the manager stops
_COMMENT: Final = b":\n\n"
_HEADERS: Final = [
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back
]

router = APIRouter(prefix="/v1/events", tags=["events"])

FinalState = Literal["completed", "failed", "cancelled", "expired"]
_SEVERAL: Final = Field(description="may be given several times")


class Filters(BaseModel):
    """What `GET /v1/events` takes."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[list[Kind], _SEVERAL] = []
    queue: Annotated[list[QueueName], _SEVERAL] = []
    fairness_key: Annotated[list[FairnessKey], _SEVERAL] = []
    state: Annotated[list[FinalState], _SEVERAL] = []


class EventStream(Response):
    """Tells one client, until it goes away or the manager stops."""

    def __init__(self, events: Events, wanted: Wanted) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self._wanted = wanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._events.listener(self._wanted) as listener:
            gone = asyncio.ensure_future(disconnected(receive))
            telling = asyncio.ensure_future(self._tell(listener, send))
            stopping = asyncio.ensure_future(self._events.released.wait())
            try:
                await asyncio.wait((gone, telling, stopping), return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    await asyncio.wait((gone, telling), timeout=END_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if telling.done():
                    telling.result()
                elif not gone.done():
                    await _cut(scope, gone)
            finally:
                for task in (gone, telling, stopping):
                    task.cancel()
                await asyncio.gather(gone, telling, stopping, return_exceptions=True)

    async def _tell(self, listener: Listener, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send(_chunk(event_of(READY, Ready(KEEP_ALIVE_SECONDS))))
        while (events := await listener.take(KEEP_ALIVE_SECONDS)) or not self._events.released.is_set():
            await send(_chunk(events or _COMMENT))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.get("", response_class=Response, responses=answer(TaskEnd, media=MEDIA_TYPE))
async def listen(request: Request, filters: Annotated[Filters, Query()]) -> Response:
    """Tell of tasks as they end.

    First an event `ready`, then one `task` for each end that fits all that is given, and `lost` where some were not
    told. It tells and does not prove: what ended is in `GET /v1/tasks`.
    """
    wanted = Wanted(
        kinds=frozenset(filters.kind),
        queues=frozenset(filters.queue),
        fairness_keys=frozenset(filters.fairness_key),
        states=frozenset(map(TaskState, filters.state)),
    )
    return EventStream(manager_of(request).events, wanted)


async def _cut(scope: Scope, gone: asyncio.Future[None]) -> None:
    """End the connection of a client that does not read: no answer can."""
    abort: Callable[[], None] | None = scope.get("state", {}).get(ABORT)
    if abort is not None:
        abort()
        await gone


def _chunk(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}

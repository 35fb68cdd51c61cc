"""/v1/tasks/cancel and /v1/tasks/retry: many tasks by a filter, counted first."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tacoq_manager.api.bodies import json_response, read
from tacoq_manager.api.within import manager_of
from tacoq_protocol.http import BulkRequest

_request: Final = msgspec.json.Decoder(BulkRequest)


async def cancel(request: Request) -> Response:
    """How many live tasks fit, or, with `most`, a page of them cancelled."""
    wanted = await read(request, _request)
    return json_response(await manager_of(request).bulk.cancel(wanted))


async def retry(request: Request) -> Response:
    """How many ended tasks fit, or, with `most`, a page of them published again."""
    wanted = await read(request, _request)
    return json_response(await manager_of(request).bulk.retry(wanted))


routes: Final = [
    Route("/v1/tasks/cancel", cancel, methods=["POST"]),
    Route("/v1/tasks/retry", retry, methods=["POST"]),
]

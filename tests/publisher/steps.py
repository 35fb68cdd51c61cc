"""Steps of a scripted manager: a request and the ordinary answer in; that answer, late, cut off or another, out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tacoq_protocol.http import (
    Problem,
)

Handler = Callable[[], Awaitable[web.StreamResponse]]


Step = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def problem(status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> web.Response:
    body = Problem(title="refused", status=status, detail=detail, **more).model_dump_json(exclude_none=True)
    return web.Response(text=body, status=status, content_type="application/problem+json", headers=headers)


async def as_usual(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No fault."""
    return await handler()


async def cut_after_doing(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Do what was asked, and let the connection break before the answer."""
    response = await handler()
    return cut_off(request, response)


async def cut_before_doing(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let the connection break before anything was done."""
    return cut_off(request, web.Response())


def cut_off(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return response


def busy(status: int = 503, *, after: str | None = None) -> Step:
    """Answer that it cannot be done now, and do nothing."""

    async def step(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = {"Retry-After": after} if after else None
        return problem(status, "the database is away", headers=headers)

    return step


def says(body: bytes, status: int = 200, **headers: str) -> Step:
    """Answer with these bytes, whatever was asked."""

    async def step(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return step


def refuses(status: int, detail: str, **more: Any) -> Step:
    """Answer with a problem, and do nothing."""

    async def step(request: web.Request, handler: Handler) -> web.StreamResponse:
        return problem(status, detail, **more)

    return step


def held(until: asyncio.Event, *, then: Step | None = None) -> Step:
    """When `until` is set, do and answer what was asked, or do `then`."""

    async def step(request: web.Request, handler: Handler) -> web.StreamResponse:
        await until.wait()
        return await (then(request, handler) if then else handler())

    return step

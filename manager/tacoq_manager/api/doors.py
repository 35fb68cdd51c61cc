"""Doors: every HTTP request in, refused or let through; what comes once a task answered here, all else by the app.

FastAPI's layers and its router take longer than the doors of the hot requests themselves. Those are called directly,
with the errors of everybody.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from tacoq_manager.api import dashboard
from tacoq_manager.api.auth import Guard
from tacoq_manager.api.problems import OWN_ERROR, answer_to, respond
from tacoq_manager.manager import Manager

OPEN: Final = frozenset({"/livez", "/readyz"})  # health checks need no key


def _is_open(path: str) -> bool:
    return path in OPEN or dashboard.is_file(path)


class Doors:
    """The ASGI app that is served. `hot` are routes of `app` without parameters in their paths."""

    def __init__(self, app: FastAPI, guard: Guard, hot: Iterable[Route]) -> None:
        self.app = app
        self._guard = guard
        self._hot = {(method, route.path): route.endpoint for route in hot for method in route.methods or ()}

    @property
    def manager(self) -> Manager:
        manager: Manager = self.app.state.manager
        return manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if (refusal := self._guard.refusal(scope)) is not None and not _is_open(scope["path"]):
            await refusal(scope, receive, send)
            return
        door = self._hot.get((scope["method"], scope["path"]))
        if door is None:
            await self.app(scope, receive, send)
            return
        scope["app"] = self.app
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            response = await door(Request(scope, receive, send))
            await response(scope, receive, answer)
        except Exception as error:
            problem = answer_to(error)
            if not begun:
                await (problem or respond(HTTPStatus.INTERNAL_SERVER_ERROR, OWN_ERROR))(scope, receive, send)
            if problem is None or begun:
                raise  # the server logs it

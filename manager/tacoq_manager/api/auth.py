"""Auth: requests in; with TACOQ_API_KEY set those without it refused, else those that a foreign web page makes."""

from __future__ import annotations

import hmac
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tacoq_manager.api.problems import respond

OPEN: Final = frozenset({"/livez", "/readyz"})  # health checks need no key
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class RequireKey:
    """ASGI middleware: `Authorization: Bearer <key>`, compared in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = Headers(scope=scope).get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self._wanted):
                detail = "this manager wants a key: send it as 'Authorization: Bearer <key>' (SDKs: TACOQ_API_KEY)"
                refusal = respond(401, detail, headers={"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class OwnPagesOnly:
    """ASGI middleware: who can open a page in a browser on this machine is not to publish and cancel by it.

    Browsers say where the page of a request comes from, unless it only reads; what is no browser says nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != headers.get("host"):
                detail = f"a page of {origin} asks for it: without TACOQ_API_KEY only this manager's own may"
                await respond(403, detail)(scope, receive, send)
                return
        await self._app(scope, receive, send)

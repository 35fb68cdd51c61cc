"""Auth: with TACOQ_API_KEY set, requests that carry it in, the others refused; health checks are open."""

from __future__ import annotations

import hmac
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tacoq_manager.api.problems import respond

OPEN: Final = frozenset({"/livez", "/readyz"})


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

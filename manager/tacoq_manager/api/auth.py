"""Auth: requests in; with TACOQ_API_KEY set those without it refused, else those that a foreign web page makes."""

from __future__ import annotations

import hmac
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from tacoq_manager.api.problems import respond

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard(Protocol):
    """Who may ask."""

    def refusal(self, scope: Scope) -> Response | None:
        """What a request is refused with; None: it may pass."""


class RequireKey:
    """`Authorization: Bearer <key>`, compared in constant time."""

    def __init__(self, key: str) -> None:
        self._wanted = f"Bearer {key}".encode()

    def refusal(self, scope: Scope) -> Response | None:
        given = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if hmac.compare_digest(given, self._wanted):
            return None
        detail = "this manager wants a key: send it as 'Authorization: Bearer <key>' (SDKs: TACOQ_API_KEY)"
        return respond(401, detail, headers={"WWW-Authenticate": "Bearer"})


class OwnPagesOnly:
    """Who can open a page in a browser on this machine is not to publish and cancel by it.

    Browsers say where the page of a request comes from, unless it only reads; what is no browser says nothing. A page
    whose name was made to lead here is of the same origin to them: so what this machine alone can reach, at the
    address `host`, has to be asked by a name of this machine.
    """

    def __init__(self, host: str) -> None:
        self._local = _is_local(host)

    def refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host")
        if self._local and host and not _is_no_domain(host):
            return respond(
                403,
                f"it is asked as {host}: without TACOQ_API_KEY this manager answers to localhost and addresses alone",
            )
        origin = None if scope["method"] in SAFE else headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return respond(403, f"a page of {origin} asks for it: without TACOQ_API_KEY only this manager's own may")
        return None


def _is_local(host: str) -> bool:
    """True when what is served there can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=100)
def _is_no_domain(authority: str) -> bool:
    """True of an address or localhost, with or without a port: of what nobody can have lead elsewhere."""
    try:
        name = (urlsplit(f"//{authority}").hostname or "").removesuffix(".")
        if name == "localhost" or name.endswith(".localhost"):
            return True
        ip_address(name)
    except ValueError:
        return False
    return True

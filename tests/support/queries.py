"""A proxy before Postgres that counts what is asked: statements that clients had run, whatever they are."""

from __future__ import annotations

from tests.support.proxy import Proxy

_UNTYPED = {80877103, 196608}  # a question for TLS, and the start of a session
_RUN = (b"Q", b"E")  # Query and Execute


class CountingProxy(Proxy):
    """`queries` is how many statements went through so far."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.queries = 0
        self._unread: dict[object, bytearray] = {}

    def _asked(self, client: object, data: bytes) -> None:
        unread = self._unread.setdefault(client, bytearray())
        unread += data
        while len(unread) >= 8:
            untyped = int.from_bytes(unread[4:8], "big") in _UNTYPED and unread[0] == 0
            size = int.from_bytes(unread[:4] if untyped else unread[1:5], "big") + (not untyped)
            if len(unread) < size:
                return
            self.queries += not untyped and bytes(unread[:1]) in _RUN
            del unread[:size]

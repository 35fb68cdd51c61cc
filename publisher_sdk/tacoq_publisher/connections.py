"""Connections: requests to one address in, their answers out; what is kept open, and what a broken connection means.

A publish is one such exchange, and a client that can do everything was half of what it cost its application
(docs/decisions/0029). Redirects, cookies, compression and the environment's proxies are not done.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from socket import SOCK_STREAM
from typing import Final
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs

from tacoq_publisher.http1 import Connection, Fault, Reply

CONNECT_SECONDS: Final = 5.0
# A second below the 5 after which uvicorn closes an idle connection, or what a proxy before it says: a request never
# meets one that is just being closed.
KEEP_IDLE_SECONDS: Final = 4.0
_ON_ITS_WAY_SECONDS: Final = 1.0
_NEXT_ADDRESS_SECONDS: Final = 0.25  # while the one before has not answered: RFC 8305
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Connections:
    """To where `url` leads, as many as there are requests at a time. Belongs to one event loop.

    The URL is one that the settings have normalised: it is ASCII.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, "the settings see to it"
        default = _DEFAULT_PORTS[parts.scheme]
        self._host = parts.hostname
        self._port = parts.port or default
        self._path = parts.path
        self._tls = _tls() if parts.scheme == "https" else None
        name = f"[{self._host}]" if ":" in self._host else self._host
        about = {"Host": name if self._port == default else f"{name}:{self._port}", **headers}
        if parts.username is not None:
            about.setdefault("Authorization", _basic(parts.username, parts.password or ""))
        self._about = "".join(f"{field}: {value}\r\n" for field, value in about.items())
        self._open: set[Connection] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        self.closed = False
        self._idle: list[Connection] = []  # the last one used is the next

    async def ask(self, method: str, target: str, body: bytes | None, seconds: float) -> Reply:
        """Send a request and return its answer, within so many seconds. Raises Fault."""
        deadline = asyncio.get_running_loop().time() + seconds
        connection = await self._take(deadline)
        try:
            async with asyncio.timeout_at(deadline):
                await connection.send(self._head(method, target, body), body or b"")
                return await connection.reply()
        except TimeoutError:
            raise Fault("no answer in time", sent=True) from None
        finally:
            self._give_back(connection)

    @asynccontextmanager
    async def stream(self, method: str, target: str, body: bytes | None, seconds: float) -> AsyncIterator[Connection]:
        """Send a request within so many seconds; what its answer brings is read by the caller. Raises Fault."""
        connection = await self._take(None)
        try:
            async with noticing(seconds):
                await connection.send(self._head(method, target, body), body or b"")
            yield connection
        finally:
            self._give_back(connection)

    async def close(self) -> None:
        """Close all of them, whatever is under way. Idempotent."""
        self.closed = True
        self._idle.clear()
        for connection in list(self._open):
            connection.close()
        await self._none_open.wait()

    def _head(self, method: str, target: str, body: bytes | None) -> bytes:
        about = self._about
        if body is not None:
            about += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        elif method != "GET":
            about += "Content-Length: 0\r\n"
        return f"{method} {self._path}{target} HTTP/1.1\r\n{about}\r\n".encode("ascii")

    async def _take(self, deadline: float | None) -> Connection:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            idle = min(KEEP_IDLE_SECONDS, connection.kept_for - _ON_ITS_WAY_SECONDS)
            if now - connection.idle_since < idle and not connection.is_closing:
                return connection
            connection.close()
        latest = now + CONNECT_SECONDS
        try:
            async with asyncio.timeout_at(latest if deadline is None else min(latest, deadline)):
                return await self._connect()
        except TimeoutError:
            raise Fault("cannot connect (no answer in time)", sent=False) from None
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Fault(f"cannot connect ({reason})", sent=False) from None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(self._host, self._port, type=SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS)
        connection = Connection(self._lost)
        try:
            await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
            )
        except BaseException:
            connection.close()  # before the socket: a transport that still reads would read another's with its number
            sock.close()
            raise
        if self.closed:
            connection.close()
            raise Fault("cannot connect (all connections were closed)", sent=False)
        self._open.add(connection)
        self._none_open.clear()
        return connection

    def _give_back(self, connection: Connection) -> None:
        if self.closed or not connection.can_be_kept:
            connection.close()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        if connection.idle_since - self._idle[0].idle_since > KEEP_IDLE_SECONDS:
            self._idle.pop(0).close()

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._none_open.set()
        if connection in self._idle:
            self._idle.remove(connection)


@asynccontextmanager
async def noticing(silence: float) -> AsyncIterator[None]:
    """Make it a Fault when what is awaited does not come for so many seconds."""
    try:
        async with asyncio.timeout(silence):
            yield
    except TimeoutError:
        raise Fault("no answer in time", sent=True) from None


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()

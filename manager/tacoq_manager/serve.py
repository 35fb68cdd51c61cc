"""Serve: an app and an address in, HTTP answered from `start` to `stop`. Signals are the caller's business."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tacoq_manager.api.doors import Doors
from tacoq_manager.api.within import ABORT
from tacoq_protocol.errors import ConfigurationError

STOP_SECONDS: Final = 5  # for requests under way, once waits are over


class Together:
    """A connection that sends the head of an answer with what follows in the same turn of the loop.

    uvicorn writes them one after the other: twice the system calls, and a client that wakes up twice.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            if not self._transport.is_closing():
                self._transport.write(head)


class _Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", Together(transport)))
        # For a stream whose client does not read it: the server would wait for what cannot be written.
        self.app_state = {**self.app_state, ABORT: transport.abort}


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class HttpServer:
    """One HTTP server on the running loop, for an app of `create_app`."""

    def __init__(self, app: Doors, host: str, port: int) -> None:
        self._manager = app.manager
        self._host = host
        self._port = port
        config = uvicorn.Config(
            app,
            http=_Protocol,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it answers; the port is the real one when 0 was asked for."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def start(self) -> None:
        """Return when connections are taken. Raises ConfigurationError when the address cannot be had."""
        try:
            listener = socket.create_server(
                (self._host, self._port), family=socket.AF_INET6 if ":" in self._host else socket.AF_INET, backlog=2048
            )
        except OSError as error:
            raise ConfigurationError(
                f"cannot serve on {self._host}:{self._port}: {error.strerror}; give another --port (TACOQ_PORT)"
            ) from error
        self._port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve([listener]), name="tacoq http")
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110 (uvicorn offers nothing to wait for)
            await asyncio.sleep(0.005)
        if self._serving.done():
            await self._serving

    async def stop(self) -> None:
        """Take no more connections, end waits and streams, let requests under way end for STOP_SECONDS, then cancel."""
        self._manager.waiters.release()
        self._manager.events.release()
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

"""Serve: an app and an address in, HTTP answered from `start` to `stop`. Signals are the caller's business."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext

import uvicorn
from fastapi import FastAPI

from tacoq_protocol.errors import ConfigurationError

STOP_SECONDS = 5


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:
        return nullcontext()


class HttpServer:
    """One HTTP server on the running loop."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._server = _Server(
            uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=STOP_SECONDS)
        )
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
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.005)  # uvicorn offers nothing to wait for
        if self._serving.done():
            await self._serving

    async def stop(self) -> None:
        """Take no more connections, let requests under way end for STOP_SECONDS, then cancel them."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

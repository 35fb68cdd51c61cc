"""Serve: an app and an address in, HTTP answered from `start` to `stop`. Signals are the caller's business."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI

from tacoq_manager.manager import Manager
from tacoq_protocol.errors import ConfigurationError

STOP_SECONDS: Final = 5  # for requests under way, once waits are over


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class HttpServer:
    """One HTTP server on the running loop, for an app of `create_app`."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._manager: Manager = app.state.manager
        self._host = host
        self._port = port
        config = uvicorn.Config(
            app,
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
        """Take no more connections, end waits, let requests under way end for STOP_SECONDS, then cancel them."""
        self._manager.waiters.release()
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

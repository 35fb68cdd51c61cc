"""/livez, /readyz, /metrics."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tacoq_manager.api.problems import respond
from tacoq_manager.api.within import manager_of
from tacoq_manager.metrics import CONTENT_TYPE
from tacoq_manager.store.engine import Database, DatabaseUnavailable
from tacoq_manager.store.faults import database_faults
from tacoq_manager.store.migrate import OldSchema, UnknownSchema, check_connection

router = APIRouter(tags=["health"])

CHECK_SECONDS = 2.0


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@router.get("/readyz", responses={200: {"model": dict[str, Any]}})
async def readyz(request: Request) -> Response:
    """The manager can accept tasks: Postgres is reachable and has this version's schema.

    RabbitMQ is not needed for that: tasks wait in Postgres. The state of its link is told in the answer; so is, where
    results are in Redis, that of Redis.
    """
    manager = manager_of(request)
    broker = manager.broker.state.value
    reason = "the manager is stopping" if manager.waiters.released else await _database_problem(manager.database)
    if reason is not None:
        return respond(503, f"{reason} (the link to the broker is {broker})", headers={"Retry-After": "1"})
    results = {} if manager.results.state is None else {"results": manager.results.state}
    links = {"database": "open", "broker": broker, **results}
    return JSONResponse({"status": "ready", "version": version("tacoq-manager"), **links})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    return Response(manager_of(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def _database_problem(database: Database) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            with database_faults():
                async with database.engine.connect() as connection:
                    await check_connection(connection)
    except (DatabaseUnavailable, OldSchema, UnknownSchema) as error:
        return str(error)
    except TimeoutError:
        return f"Postgres did not answer in {CHECK_SECONDS:g} s"
    return None

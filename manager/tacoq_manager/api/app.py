"""App: a manager in, its HTTP API out."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from tacoq_manager.api import (
    bulk,
    dashboard,
    docs,
    events,
    health,
    kinds,
    problems,
    queues,
    schedules,
    stats,
    tasks,
    workers,
)  # fmt: skip
from tacoq_manager.api.auth import OwnPagesOnly, RequireKey
from tacoq_manager.api.doors import Doors
from tacoq_manager.manager import Manager


def create_app(manager: Manager) -> Doors:
    """Return the API of `manager`. Whoever serves it starts and stops the manager."""
    app = FastAPI(
        title="TacoQ",
        version=version("tacoq-manager"),
        description="A very smart task queue: publish tasks, wait for results, see what runs.",
        responses=docs.PROBLEM,
        docs_url=None,  # `docs.install` does
        redoc_url=None,
    )
    app.state.manager = manager
    app.router.routes.extend([*bulk.routes, *tasks.hot_routes, *tasks.routes])
    for part in (tasks, events, schedules, workers, queues, kinds, stats, health):
        app.include_router(part.router)
    dashboard.install(app)
    docs.install(app)
    problems.install(app)
    key = manager.settings.api_key
    guard = OwnPagesOnly(manager.settings.host) if key is None else RequireKey(key.get_secret_value())
    return Doors(app, guard, tasks.hot_routes)

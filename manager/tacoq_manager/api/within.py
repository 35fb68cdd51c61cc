"""Within a request: the manager it is for."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request

from tacoq_manager.manager import Manager


def manager_of(request: Request) -> Manager:
    """Return the manager that the app was made for."""
    return cast("Manager", request.app.state.manager)

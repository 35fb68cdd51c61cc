"""Dashboard: the files in `dashboard/`, served. The pages ask the API as anybody does, with a key where one is set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PATH: Final = "/dashboard"
_FILES: Final = Path(__file__).parents[1] / "dashboard"
_HEADERS: Final = {
    # Only what is served here is run and shown, and nobody may lay a page of theirs over it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked for anew, by ETag: after an upgrade no file of before it is used
}


class _Files(StaticFiles):
    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_HEADERS)
        return response


def install(app: FastAPI) -> None:
    """Serve the dashboard below PATH, and send who asks for `/` there."""
    for path in ("/", PATH):
        app.add_route(path, _to_the_dashboard, include_in_schema=False)
    app.mount(PATH, _Files(directory=_FILES, html=True))


def is_file(path: str) -> bool:
    """True of what anybody may read: the files hold nothing of what the API tells."""
    return path in ("/", PATH) or path.startswith(f"{PATH}/")


async def _to_the_dashboard(_request: Request) -> Response:
    return RedirectResponse(f"{PATH[1:]}/")  # relative: a proxy may have it below a path of its own

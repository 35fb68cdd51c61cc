"""What is installed in; the program of a browser that tests can drive out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from scripts.private_servers import ServiceError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def find_browser(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return what TACOQ_TEST_BROWSER names, else the first of those that are known here."""
    named = environ.get("TACOQ_TEST_BROWSER")
    candidates = [named] if named else [*NAMES, MAC]
    return next((found for candidate in candidates if (found := shutil.which(candidate))), None)


def needed_browser(environ: Mapping[str, str] = os.environ) -> str:
    """Return the same. Raises ServiceError when there is none."""
    found = find_browser(environ)
    if found is None:
        raise ServiceError(
            "no browser is installed that tests of the dashboard can drive: as root on Debian "
            "`apt-get install chromium`, or name Chromium or Chrome in TACOQ_TEST_BROWSER"
        )
    return found

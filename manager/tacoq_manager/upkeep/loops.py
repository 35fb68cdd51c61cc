"""`run_every`: a step in, run for ever at an interval, its faults logged and tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_protocol.errors import BrokerError

log = logging.getLogger("tacoq.upkeep")

Step = Callable[[], Awaitable[int]]


async def run_every(seconds: float, name: str, step: Step) -> None:
    """Run `step` every `seconds`.

    An outage is a warning; anything else is a bug, logged whole; both are tried again.
    """
    while True:
        try:
            await step()
        except (DatabaseUnavailable, BrokerError) as error:
            log.warning("a step has to wait", extra={"step": name, "error": str(error)})
        except Exception:
            log.exception("a step failed", extra={"step": name})
        await asyncio.sleep(seconds)

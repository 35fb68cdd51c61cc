"""`run_every`: a step in, run for ever at an interval, its faults logged and tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_protocol.errors import BrokerError

log = logging.getLogger("tacoq.upkeep")

Step = Callable[[], Awaitable[int]]
GATHER_SECONDS = 0.05  # what wakes a step rarely comes alone


async def run_every(
    seconds: float | Callable[[], float], name: str, step: Step, *, wake: asyncio.Event | None = None
) -> None:
    """Run `step` every `seconds`, asked anew each time when they vary, and soon after `wake` is set.

    An outage is a warning; anything else is a bug, logged whole; both are tried again.
    """
    while True:
        try:
            await step()
        except (DatabaseUnavailable, BrokerError) as error:
            log.warning("a step has to wait", extra={"step": name, "error": str(error)})
        except Exception:
            log.exception("a step failed", extra={"step": name})
        pause = seconds if isinstance(seconds, float) else seconds()
        if wake is None:
            await asyncio.sleep(pause)
            continue
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await wake.wait()
            await asyncio.sleep(GATHER_SECONDS)
        wake.clear()

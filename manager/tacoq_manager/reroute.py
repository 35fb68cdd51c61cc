"""Reroute: kinds that workers bring in; waiting tasks that were published without a queue moved to theirs, out.

While nobody knew their kind they waited in the default queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from tacoq_manager.sessions import Sessions
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import DatabaseUnavailable, HotConnection
from tacoq_manager.store.reroute import reroute

log = logging.getLogger("tacoq.manager")


class Rerouter:
    """Remembers by queue the kinds whose waiting tasks were looked for."""

    def __init__(
        self,
        connection: HotConnection,
        sessions: Sessions,
        *,
        on_lanes: Callable[[Iterable[Lane]], None],
        begin: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`begin` runs an errand beside the caller, who does not wait."""
        self._connection = connection
        self._sessions = sessions
        self._on_lanes = on_lanes
        self._begin = begin
        self._routed: dict[str, set[str]] = {}

    def sessions_changed(self, queue: str) -> None:
        """The queue's workers may have brought kinds."""
        brought = self._sessions.kinds_of(queue) - self._routed.setdefault(queue, set())
        kinds = [kind for kind in brought if self._sessions.queue_of_kind(kind) == queue]
        if kinds:
            self._routed[queue].update(kinds)
            self._begin(self._reroute(queue, kinds))

    def strayed(self, kinds: set[str]) -> None:
        """Workers brought these kinds while tasks of them were under way to the table."""
        for kind in kinds:
            queue = self._sessions.queue_of_kind(kind)
            if queue is not None:
                self._begin(self._reroute(queue, [kind]))

    async def _reroute(self, queue: str, kinds: list[str]) -> None:
        try:
            async for lanes in reroute(self._connection, queue, kinds):
                self._on_lanes(lanes)
        except DatabaseUnavailable as error:
            self._routed.setdefault(queue, set()).difference_update(kinds)  # the next change of sessions tries again
            log.warning("tasks wait for their queue", extra={"queue": queue, "kinds": kinds, "error": str(error)})

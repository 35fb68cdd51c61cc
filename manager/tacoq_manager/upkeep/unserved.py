"""The unserved step: kinds that tasks wait for and that sessions do not know in, one warning for each out.

A typo, a worker that nobody started, half a deploy: nothing fails, and nothing happens either. So somebody is told.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final, NamedTuple

from tacoq_manager.lanes import Lanes
from tacoq_manager.sessions import Sessions
from tacoq_manager.store import why as store
from tacoq_manager.store.engine import HotConnection

log = logging.getLogger("tacoq.unserved")

STEP_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 5.0  # workers may just be starting


class _Kind(NamedTuple):
    queue: str
    name: str


class Unserved:
    """Remembers since when each kind is not served, and which ones somebody was told of. Leader only."""

    def __init__(self, connection: HotConnection, lanes: Lanes, sessions: Sessions) -> None:
        self._connection = connection
        self._lanes = lanes
        self._sessions = sessions
        self._since: dict[_Kind, float] = {}
        self._told: set[_Kind] = set()

    async def step(self) -> int:
        """Warn of each kind that tasks have waited for long enough, once until it was served; return how many."""
        now = monotonic()
        steady = self._sessions.steady_since
        if steady is None:
            self._since.clear()  # who is not heard may be there
            return 0
        kinds = {_Kind(*lane) for lane in self._lanes.kinds()}
        unserved = {kind for kind in kinds if not self._sessions.known_by_all(*kind)}
        self._since = {kind: self._since.get(kind, now) for kind in unserved}
        self._told &= unserved
        late = [kind for kind in unserved if now - max(self._since[kind], steady) >= PATIENCE_SECONDS]
        told = 0
        for kind in sorted({*late} - self._told):
            if await store.waits(self._connection, *kind):
                self._tell(kind)
                told += 1
            else:  # a lane is noted until a claim finds it empty, and of this kind there is no claim
                self._since[kind] = now
        return told

    def _tell(self, kind: _Kind) -> None:
        self._told.add(kind)
        about: dict[str, object] = {"queue": kind.queue, "kind": kind.name}
        live = self._sessions.live(kind.queue)
        lacking = self._sessions.lacking(*kind)
        if not live:
            log.warning("tasks wait for a queue that no live worker serves: start one that has the kind", extra=about)
        elif not lacking:
            log.warning("tasks wait for a queue whose workers are all drained: let them go on", extra=about)
        elif kind.name not in self._sessions.kinds_of(kind.queue):
            about["known"] = sorted(self._sessions.kinds_of(kind.queue))
            log.warning(
                "tasks wait for a kind that no live worker of their queue knows: start one that does",
                extra=about,
            )
        else:
            about["sessions"] = [str(session) for session in lacking]
            log.warning("tasks wait for a kind that some live workers do not know: restart or drain these", extra=about)

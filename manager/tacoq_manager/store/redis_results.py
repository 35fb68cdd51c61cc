"""Results in Redis: a batch of them in, or many views without theirs, one command out.

A key is `<namespace>:result:<task>:<release>`: with the fence in it, the late report of an earlier release cannot
replace the result of a later one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from msgspec import Raw
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LinkBroke
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoAnswer

from tacoq_manager.store.results import Results, ResultsUnavailable, lacks_result
from tacoq_manager.transitions import Transition
from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.http import TaskView

log = logging.getLogger("tacoq.results")

ANSWER_SECONDS: Final = 3.0
# One command for a batch: as many of SET in a pipeline cost the manager ten times the CPU.
_PUT: Final = "for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1]) end"
_TRIAL_SECONDS: Final = 60
_GONE: Final = (LinkBroke, NoAnswer, OSError)  # what takes no results may still give those it has: it is full, say
_NOT_TO_BE_READ: Final = "the result is in Redis, which cannot be asked now: {}"


class RedisResults(Results):
    """Results for `ttl`. While Redis takes none they go to Postgres: its loss costs no more than what it had."""

    def __init__(self, url: str, *, ttl: timedelta, namespace: str) -> None:
        self._shown = _without_password(url)
        self._seconds = int(ttl.total_seconds())
        self._prefix = f"{namespace}:result:"
        self._fault: Exception | None = None  # why Redis takes nothing now
        # A connection that a restart broke is opened anew at once; what gets no answer is not sent again.
        retry = Retry(NoBackoff(), 1, supported_errors=(LinkBroke,))
        try:
            self._redis: Redis = Redis.from_url(
                url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS, retry=retry
            )
        except ValueError as error:  # a port that is none
            raise ConfigurationError(f"TACOQ_RESULTS_URL: {self._shown}: {error}") from None

    @property
    def state(self) -> str:  # type: ignore[override]
        return "open" if self._fault is None else "away"

    async def open(self) -> None:
        """Try to keep something. Raises ConfigurationError."""
        try:
            await self._try()
        except (RedisError, OSError) as error:
            raise ConfigurationError(
                f"the Redis of TACOQ_RESULTS_URL ({self._shown}) cannot keep results: {error}"
            ) from error

    async def look(self) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = await self._redis.info()
        except (RedisError, OSError) as error:
            raise ResultsUnavailable(
                f"the Redis of TACOQ_RESULTS_URL ({self._shown}) does not answer: {error}"
            ) from error
        return found

    async def close(self) -> None:
        await self._redis.aclose()

    async def put(self, transitions: Sequence[Transition]) -> bool:
        if self._fault is not None:
            return False
        found = {self._key(t.task_id, t.release or 0): t.result for t in transitions if t.result is not None}
        try:
            if found:
                await self._set(found, self._seconds)
        except (RedisError, OSError) as error:
            self._failed(error)
            return False
        return True

    async def fill(self, views: Sequence[TaskView]) -> None:
        wanted = [view for view in views if lacks_result(view)]
        if not wanted:
            return
        if isinstance(self._fault, _GONE):  # nobody has to wait for the same once more
            raise ResultsUnavailable(_NOT_TO_BE_READ.format(self._fault))
        try:
            found = await self._redis.mget([self._key(view.id, view.release) for view in wanted])
        except (RedisError, OSError) as error:
            self._failed(error)
            raise ResultsUnavailable(_NOT_TO_BE_READ.format(error)) from error
        for view, result in zip(wanted, found, strict=True):
            if result is None:
                view.result_expired = True
            else:
                view.result = Raw(result)

    async def step(self) -> int:
        try:
            if self._fault is None:
                await self._redis.ping()
                return 0
            await self._try()
        except (RedisError, OSError) as error:
            self._failed(error)
            return 0
        self._fault = None
        log.info("Redis takes results again")
        return 1

    def _failed(self, error: Exception) -> None:
        if self._fault is None:
            log.warning("Redis takes no results: they go to Postgres", extra={"error": str(error)})
        self._fault = error

    async def _try(self) -> None:
        """Keep two: a cluster would refuse them, and a replica both."""
        await self._set({f"{self._prefix}trial:{number}": b"null" for number in (1, 2)}, _TRIAL_SECONDS)

    async def _set(self, values: Mapping[str, bytes], seconds: int) -> None:
        arguments: Sequence[Any] = (*values, seconds, *values.values())
        await self._redis.eval(_PUT, len(values), *arguments)

    def _key(self, task_id: UUID, release: int) -> str:
        return f"{self._prefix}{task_id}:{release}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"

"""The endpoints of queues and kinds: what there is, and what limits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from tacoq_protocol.errors import KindNotFound
from tacoq_protocol.http import Kinds, KindView, Queues, QueueView
from tacoq_protocol.limits import SetKindLimits, SetQueueLimits
from tacoq_publisher.endpoints import Endpoints, V
from tacoq_publisher.errors import describe, read_problem

_encoder: Final = msgspec.json.Encoder()


class Limiting(Endpoints):
    """Queues and kinds."""

    async def queues(self) -> Queues:
        """Return the queues."""
        return await self._listing(Queues, "/queues")

    async def pause_queue(self, name: str) -> QueueView:
        """Release nothing more of a queue."""
        return await self._set(QueueView, "POST", "/queues", name, "pause")

    async def resume_queue(self, name: str) -> QueueView:
        """Release tasks of a queue again."""
        return await self._set(QueueView, "POST", "/queues", name, "resume")

    async def limit_queue(self, name: str, limits: SetQueueLimits) -> QueueView:
        """Set the limits of a queue that are given."""
        return await self._set(QueueView, "PATCH", "/queues", name, "limits", limits.model_dump(exclude_unset=True))

    async def kinds(self) -> Kinds:
        """Return the kinds that workers have registered."""
        return await self._listing(Kinds, "/kinds")

    async def limit_kind(self, name: str, limits: SetKindLimits) -> KindView:
        """Set what goes before the limits of a kind's code, where it is given. Raises KindNotFound."""
        return await self._set(KindView, "PATCH", "/kinds", name, "limits", limits.model_dump(exclude_unset=True))

    async def resume_kind(self, name: str, queue: str | None) -> KindView:
        """Let go what handlers hold back of a kind. Raises KindNotFound."""
        return await self._set(KindView, "POST", "/kinds", name, "resume", {"queue": queue})

    async def _set(
        self,
        model: type[V],
        method: str,
        path: str,
        name: str,
        verb: str,
        body: Mapping[str, Any] | None = None,
    ) -> V:
        action = f"{method.lower()} {verb} of {name!r}"
        answer = await self._transport.request(
            method, f"{path}/{quote(name, safe='')}/{verb}", action=action, body=_encoder.encode(body or {})
        )
        if answer.status == 404 and (problem := read_problem(answer.body)):
            raise KindNotFound(name, describe(problem))
        return self._model(model, self._ok(answer, action), action)

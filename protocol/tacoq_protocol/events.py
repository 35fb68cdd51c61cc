"""Events: what `GET /v1/events` tells, each as the JSON in the data of a server-sent event."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec import Struct

from tacoq_protocol.states import TaskState

# The names of events.
READY: Final = "ready"
TASK: Final = "task"
LOST: Final = "lost"


class TaskEnd(Struct, omit_defaults=True, kw_only=True, frozen=True, gc=False):
    """A task that ended: the data of an event `task`.

    `id`, `kind`, `queue`, `fairness_key`, `priority`, `attempt`, `created_at`, `started_at` and `finished_at` are those
    of a TaskView. `state` is a final one. `error_type` is the type of the error that it ended with. Payload, result and
    the rest of the error are for `GET /v1/tasks/{id}`.
    """

    id: UUID
    kind: str
    queue: str
    fairness_key: str = ""
    priority: int = 0
    state: TaskState
    attempt: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error_type: str | None = None


class EndsLost(Struct, omit_defaults=True, frozen=True, gc=False):
    """Ends that were not told, here in the stream: the data of an event `lost`.

    `count` is how many they are, at most; without it nobody knows.
    """

    count: int | None = None


class Ready(Struct, frozen=True, gc=False):
    """From here on ends are told: the data of the first event, `ready`.

    After `keep_alive` seconds of silence a comment follows.
    """

    keep_alive: float

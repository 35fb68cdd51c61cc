"""Every error TacoQ raises, under one root.

    TacoqError
    ├── ConfigurationError        a setting, a decorator or an option is wrong; nothing was started
    ├── InvalidTask               the manager refuses the task as it is (HTTP 422, 413); nothing was stored
    ├── TaskConflict              the id is known with other content (HTTP 409)
    ├── TaskExists                a live task has the unique key, and the publish said "reject" (HTTP 409)
    ├── TaskNotFound              no task has this id (HTTP 404)
    ├── FilterRefused             a filter says too little, or fits too much to be found in time (HTTP 422)
    ├── TooManyMeant              a filter means more tasks than were expected (HTTP 409); nothing was done
    ├── InvalidSchedule           the manager refuses the schedule as it is (HTTP 422); nothing was stored
    ├── ScheduleConflict          the schedule is declared by code, and not to be changed otherwise (HTTP 409)
    ├── ScheduleNotFound          no schedule has this name (HTTP 404)
    ├── KindNotFound              no worker has registered this kind, or not for the queue (HTTP 404)
    ├── WorkerNotFound            no worker session has this id, or it does not live any more (HTTP 404)
    ├── ManagerError              the manager answered something else than it should
    │   └── ManagerUnavailable    not reachable, or 503, until the deadline
    ├── WaitTimeout               the task was not final in time; it goes on (also a TimeoutError)
    ├── TaskNotCompleted          the task is final, without a result
    │   ├── TaskFailed
    │   ├── TaskCancelled
    │   └── TaskExpired
    ├── ResultExpired             the task completed; its result was kept for a time, and is gone
    ├── BrokerError
    │   ├── BrokerUnavailable     not connected, or blocked: nothing was sent
    │   ├── Unroutable            no queue took the message: it is not stored
    │   └── PublishUnconfirmed    no confirm within the deadline: stored or not, nobody knows
    └── DecodeError               bytes from the wire that are not a message
        └── UnknownFormat         a message of a format this version does not read

A message says what went wrong, on which thing, and what to do; what a program may want is kept as a field.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID


class TacoqError(Exception):
    """Root of all errors raised by TacoQ."""


class ConfigurationError(TacoqError):
    """A setting, a decorator or an option is wrong."""


class InvalidTask(TacoqError):
    """The manager refuses a task. `index` is its place in the batch, when it came in one."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class TaskConflict(TacoqError):
    """The task id is already known with other content."""

    def __init__(self, message: str, *, task_id: UUID | None = None, index: int | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.index = index


class TaskExists(TacoqError):
    """A live task has the unique key of a publish with `on_conflict="reject"`. `task_id` is that task's."""

    def __init__(self, message: str, *, task_id: UUID | None = None, index: int | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.index = index


class TaskNotFound(TacoqError):
    """No task has this id: never accepted, or its retention has passed."""

    def __init__(self, task_id: UUID) -> None:
        super().__init__(f"no task has the id {task_id}: it was never accepted, or its retention has passed")
        self.task_id = task_id


class FilterRefused(TacoqError):
    """A filter says too little for what is asked, or fits too much to be read in time."""


class TooManyMeant(TacoqError):
    """A filter means more tasks than were expected. Nothing was done."""

    def __init__(self, most: int) -> None:
        super().__init__(f"more than {most:,} tasks are meant; nothing was done: count again")
        self.most = most


class InvalidSchedule(TacoqError):
    """The manager refuses a schedule. `field` is the one that is wrong."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ScheduleConflict(TacoqError):
    """The schedule is declared by the code of workers."""

    def __init__(self, message: str, *, schedule: str) -> None:
        super().__init__(message)
        self.schedule = schedule


class ScheduleNotFound(TacoqError):
    """No schedule has this name."""

    def __init__(self, schedule: str) -> None:
        super().__init__(f"no schedule has the name {schedule!r}: see those there are with `tacoq schedules`")
        self.schedule = schedule


class WorkerNotFound(TacoqError):
    """No worker session has this id, or none that lives, where it has to."""

    def __init__(self, session: UUID) -> None:
        super().__init__(f"no live worker session has the id {session}: it left, was lost, or never was")
        self.session = session


class KindNotFound(TacoqError):
    """No worker has registered this kind, or several queues have it and none was named."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ManagerError(TacoqError):
    """The manager answered with a status that the call does not expect."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ManagerUnavailable(ManagerError):
    """The manager could not be reached, or answered 503, until the deadline."""


class WaitTimeout(TacoqError, TimeoutError):
    """The task was not final in time. It goes on; wait again with the same handle."""

    def __init__(self, task_id: UUID, seconds: float) -> None:
        super().__init__(f"task {task_id} was not final after {seconds:g} s; it goes on: wait again, or cancel it")
        self.task_id = task_id
        self.seconds = seconds


class TaskNotCompleted(TacoqError):
    """The task ended without a result."""

    def __init__(self, task_id: UUID, message: str) -> None:
        super().__init__(message)
        self.task_id = task_id


class TaskFailed(TaskNotCompleted):
    """Attempts used up, or an error that is not retried."""

    def __init__(self, task_id: UUID, kind: str, error_type: str, error_message: str, traceback: str | None) -> None:
        super().__init__(task_id, f"task {task_id} of kind {kind!r} failed: {error_type}: {error_message}")
        self.kind = kind
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback


class TaskCancelled(TaskNotCompleted):
    """The task was cancelled."""


class TaskExpired(TaskNotCompleted):
    """The deadline passed before the task started."""


class ResultExpired(TacoqError):
    """The task completed, and its result is gone: it was kept in Redis, for a time."""

    def __init__(self, task_id: UUID, kind: str, finished_at: datetime | None) -> None:
        when = "" if finished_at is None else f" at {finished_at:%Y-%m-%d %H:%M:%S} UTC"
        super().__init__(
            f"result expired: task {task_id} of kind {kind!r} completed{when}, and its result is not kept any more: "
            "read results sooner, or raise TACOQ_RESULTS_TTL of the managers"
        )
        self.task_id = task_id
        self.kind = kind
        self.finished_at = finished_at


class BrokerError(TacoqError):
    """Something between us and the broker."""


class BrokerUnavailable(BrokerError):
    """Not connected, or blocked by the broker: nothing was sent."""


class Unroutable(BrokerError):
    """No queue took a message of the batch; the broker did not keep it."""


class PublishUnconfirmed(BrokerError):
    """No confirm within the deadline: the broker may or may not have the messages."""


class DecodeError(TacoqError):
    """Bytes from the wire that are not the message they claim to be."""


class UnknownFormat(DecodeError):
    """A message whose format this version does not read."""

    def __init__(self, found: str, known: Iterable[str]) -> None:
        self.found = found
        self.known = tuple(sorted(known))
        super().__init__(
            f"message format {found!r} is not known here; this version reads {', '.join(self.known)}: "
            "upgrade this process, or downgrade the one that sent it"
        )

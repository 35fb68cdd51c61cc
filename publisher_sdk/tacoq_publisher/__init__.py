"""Publisher SDK: an application's tasks in, handles that give results out.

Reading order: publisher (what an application uses), newtask, batching, bulk, handle, waiting, completed, listening;
manager and transport below them; sync, spans and cli beside; outbox, outbox_rows and forwarder for publishes within an
application's transaction, which need the extra `outbox`. Errors are those of `tacoq_protocol.errors`, and two of
our own.
"""

from tacoq_protocol.calls import TaskCall
from tacoq_protocol.durations import Duration
from tacoq_protocol.errors import (
    ConfigurationError,
    InvalidTask,
    ManagerError,
    ManagerUnavailable,
    ResultExpired,
    TacoqError,
    TaskCancelled,
    TaskConflict,
    TaskExists,
    TaskExpired,
    TaskFailed,
    TaskNotCompleted,
    TaskNotFound,
    WaitTimeout,
)
from tacoq_protocol.events import EndsLost, TaskEnd
from tacoq_protocol.http import TaskView
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.states import TaskState
from tacoq_protocol.why import Reason, Why
from tacoq_publisher.errors import PublisherClosed, PublishInterrupted
from tacoq_publisher.handle import TaskHandle
from tacoq_publisher.newtask import TaskOptions
from tacoq_publisher.publisher import Publisher
from tacoq_publisher.sync import SyncPublisher, SyncTaskHandle

__all__ = [
    "ConfigurationError",
    "Duration",
    "EndsLost",
    "InvalidTask",
    "ManagerError",
    "ManagerUnavailable",
    "PublishInterrupted",
    "Publisher",
    "PublisherClosed",
    "Reason",
    "ResultExpired",
    "SyncPublisher",
    "SyncTaskHandle",
    "TacoqError",
    "TaskCall",
    "TaskCancelled",
    "TaskConflict",
    "TaskEnd",
    "TaskExists",
    "TaskExpired",
    "TaskFailed",
    "TaskHandle",
    "TaskNotCompleted",
    "TaskNotFound",
    "TaskOptions",
    "TaskState",
    "TaskView",
    "WaitTimeout",
    "Why",
    "new_task_id",
]

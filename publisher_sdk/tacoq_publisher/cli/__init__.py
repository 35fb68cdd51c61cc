"""The commands that ask a manager: `tacoq publish, cancel, retry, ps, show, why, workers, queues, kinds, schedules`.

And two that run: `tacoq events` and `outbox`.
"""

from tacoq_publisher.cli.act import cancel, publish, retry
from tacoq_publisher.cli.events import events
from tacoq_publisher.cli.limits import kinds, queues
from tacoq_publisher.cli.look import ps, show, why
from tacoq_publisher.cli.outbox import outbox
from tacoq_publisher.cli.schedules import schedules
from tacoq_publisher.cli.workers import workers

__all__ = [
    "cancel",
    "events",
    "kinds",
    "outbox",
    "ps",
    "publish",
    "queues",
    "retry",
    "schedules",
    "show",
    "why",
    "workers",
]

"""The commands that ask a manager: `tacoq publish, cancel, retry, ps, show, workers, queues, kinds`."""

from tacoq_publisher.cli.act import cancel, publish, retry
from tacoq_publisher.cli.look import kinds, ps, queues, show, workers

__all__ = ["cancel", "kinds", "ps", "publish", "queues", "retry", "show", "workers"]

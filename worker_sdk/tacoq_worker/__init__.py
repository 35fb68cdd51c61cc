"""Worker SDK: decorated functions in, releases executed and reported out.

Reading order: worker, registry, arguments, context, outcomes (what applications see); session (how it is
composed); consume, held, slots, execute, children (the life of a release); report, sweep, early_ack (how it is told);
heartbeat, control (how managers see it); spans (how traces do); process, supervise, cli (`tacoq worker`).
"""

from tacoq_worker.context import Context
from tacoq_worker.outcomes import Cancel, Fail, RateLimited, Retry, Snooze
from tacoq_worker.registry import Backoff
from tacoq_worker.worker import Worker

__all__ = ["Backoff", "Cancel", "Context", "Fail", "RateLimited", "Retry", "Snooze", "Worker"]

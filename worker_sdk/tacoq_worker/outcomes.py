"""What a handler raises to decide how its run ends; anything else it raises follows the kind's policy."""

from __future__ import annotations

from tacoq_protocol.durations import Duration, parse_duration


class Verdict(Exception):
    """Root of the five. They are exceptions so that they pass through the handler's own calls."""


class Retry(Verdict):
    """The run failed and may be tried again, after `delay` when given, else after the policy's backoff.

    Uses up an attempt; at the last attempt the task fails.
    """

    def __init__(self, delay: Duration | None = None, reason: str = "the handler asked for a retry") -> None:
        super().__init__(reason)
        self.seconds = None if delay is None else parse_duration(delay, name="Retry delay").total_seconds()


class Fail(Verdict):
    """The task failed for good: no further attempt."""

    def __init__(self, reason: str = "the handler gave up") -> None:
        super().__init__(reason)


class Cancel(Verdict):
    """The task is not wanted any more: it ends as cancelled."""

    def __init__(self, reason: str = "the handler cancelled it") -> None:
        super().__init__(reason)


class Snooze(Verdict):
    """Run it again after `delay`; costs no attempt, however often."""

    def __init__(self, delay: Duration) -> None:
        self.seconds = parse_duration(delay, name="Snooze delay").total_seconds()
        super().__init__(f"snoozed for {self.seconds:g} s")


class RateLimited(Verdict):
    """Somebody else limits what this kind may do: release no task of it, on any worker, until `retry_after` has passed.

    This one is run again then; it costs no attempt, however often. With `key` only tasks of its own fairness key wait.
    """

    def __init__(self, retry_after: Duration, *, key: bool = False) -> None:
        self.seconds = parse_duration(retry_after, name="RateLimited retry_after").total_seconds()
        self.key = key
        super().__init__(f"rate limited for {self.seconds:g} s")

"""Why a task is where it is: one reason of a closed set, a sentence for people, and the facts in it for programs."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import Field

from tacoq_protocol.http import View
from tacoq_protocol.states import TaskState

MOST_AHEAD = 1_000  # tasks that are counted in front of one


class Reason(StrEnum):
    """Of a task that waits the first thing that holds it, in this order; else where it is, or how it ended."""

    NOT_DUE = "not_due"  # its time has not come
    RETRY_WAIT = "retry_wait"  # a run failed, and another one follows
    SNOOZED = "snoozed"  # its handler asked to be run again later
    NO_LEADER = "no_leader"  # no manager releases anything
    BROKER_AWAY = "broker_away"  # RabbitMQ takes nothing
    PAUSED = "paused"  # its queue is
    NO_WORKERS = "no_workers"  # no live session serves its queue
    DRAINING = "draining"  # every one that does was drained
    UNKNOWN_KIND = "unknown_kind"  # one of them does not know its kind
    HELD_BACK = "held_back"  # its kind, or key, by a handler that was told to wait
    AT_LIMIT = "at_limit"  # as many of its queue, kind or key are released as may be at once
    AT_RATE = "at_rate"  # none of these may be released yet
    LAST_CHANCE = "last_chance"  # it crashed its workers, and is released alone
    RECOVERING = "recovering"  # the leader looks for lost releases of its queue first
    NO_SLOT = "no_slot"  # all slots are taken
    BEHIND_KEY = "behind_key"  # so they are, and its fairness key has others before it
    RELEASING = "releasing"  # nothing: it goes with the next round
    QUEUED = "queued"  # released, and no start is on record
    RUNNING = "running"
    CANCEL_REQUESTED = "cancel_requested"  # released, and its workers were asked to stop it
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Why(View):
    """Why a task is where it is. `sentence` says it; the fields that the reason has no use for are not there.

    `position` 1 is the next of its queue. With `more` over 1,000 are before it, and `position` says no more than that.
    """

    id: UUID
    kind: str
    queue: str
    state: TaskState
    reason: Reason
    sentence: str
    since: datetime | None = Field(None, description="When it began, was released, or ended")
    until: datetime | None = Field(None, description="When the reason ends by itself")
    attempt: int | None = Field(None, description="Runs that failed or were lost")
    max_attempts: int | None = None
    error: str | None = Field(None, description="Of its last run, or of its end: type and first line")
    sessions: list[UUID] | None = Field(None, description="Those that the reason is about")
    host: str | None = None
    pid: int | None = None
    slots: int | None = Field(None, description="Of the live workers of its queue")
    released: int | None = Field(None, description="Tasks that are with these workers, or on their way")
    limit: str | None = Field(None, description='The one that holds it: "concurrency", "max_per_key", "rate" and so on')
    limit_of: str | None = Field(None, description="What it is set for: queue, kind or fairness_key")
    most: int | str | None = Field(None, description="What it allows")
    used: int | None = Field(None, description="How much of that is taken")
    position: int | None = None
    more: bool | None = None

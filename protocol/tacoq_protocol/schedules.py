"""Schedules as they cross HTTP: one to be made in, what is known of one out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tacoq_protocol.cron import MissedPolicy
from tacoq_protocol.http import KIND_PATTERN, KindName, QueueName

SCHEDULE_PATTERN: Final = KIND_PATTERN  # a schedule that came from code has the name of its kind


class NewSchedule(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """Body of `PUT /v1/schedules/{name}`: a task of `kind` at each fire time of `cron` in `timezone`.

    `missed` says what becomes of fire times more than a minute past. `payload`, `queue` and `priority` are those of its
    tasks. A task is dropped that has not started `expires_in` seconds after it was made.
    """

    kind: KindName
    cron: str
    timezone: str = "UTC"
    missed: MissedPolicy = MissedPolicy.RUN_ONCE
    payload: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    queue: QueueName | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] = 0
    expires_in: Annotated[float, Meta(gt=0, le=10 * 366 * 86400)] | None = None


class ScheduleView(Struct, omit_defaults=True, kw_only=True):
    """A schedule, with its `name` and when it was made: `created_at`.

    `source`: api, or code, whose workers declare it; `retired_at`: they are there and do not any more. It makes a task
    of `kind` at each fire time of `cron` in `timezone`; `missed` says what becomes of fire times more than a minute
    past. `payload`, `queue` and `priority` are those of its tasks, and `expires_in` the seconds in which they have to
    start. While it is `paused` it does not fire. `next_fire_at` is not there while it is paused or retired. `last_task`
    is of `last_fire_at`, its last fire time.
    """

    name: str
    source: str
    kind: str
    cron: str
    timezone: str
    missed: MissedPolicy
    queue: str | None = None
    priority: int = 0
    expires_in: float | None = None
    created_at: datetime
    paused: bool = False
    retired_at: datetime | None = None
    next_fire_at: datetime | None = None
    last_fire_at: datetime | None = None
    last_task: UUID | None = None
    payload: msgspec.Raw | UnsetType = UNSET


class Schedules(Struct):
    """All `schedules`, by name, without their payloads."""

    schedules: list[ScheduleView]

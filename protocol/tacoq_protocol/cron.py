"""Cron: a cron expression and a time zone in, the moments at which it fires, in UTC, out.

Five fields, or six with the second first; months and weekdays also by name, `L`, `LW` and `MON#1` as in Quartz. When
clocks change it does as Debian's cron: five fields that name minute and hour fire once, in a skipped hour right after
it; what has a star there goes by the time that passes, as do six fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from msgspec import Struct

MAX_CRON_LENGTH: Final = 200


class MissedPolicy(StrEnum):
    """What becomes of fire times at which nobody was there to fire: no task, one for all, one for each."""

    SKIP = "skip"
    RUN_ONCE = "run_once"
    RUN_ALL = "run_all"


class Cron(Struct, frozen=True):
    """When a schedule fires. `timezone` is a name of the IANA database."""

    text: str
    timezone: str = "UTC"
    missed: MissedPolicy = MissedPolicy.RUN_ONCE


def cron_problem(text: str, now: datetime) -> str | None:
    """Say why `text` is no cron expression that fires after `now`, or None when it is one."""
    if len(text) > MAX_CRON_LENGTH:
        return f"it has {len(text):,} characters, and {MAX_CRON_LENGTH} are the limit: make several schedules"
    try:
        if next(fire_times(text, "UTC", after=now), None) is None:
            return f"{text!r} does not fire in the next 50 years: correct it"
    except CronSimError as error:
        return (
            f"{text!r} is not a cron expression ({str(error).lower()}): give minute, hour, day of month, month and "
            "day of week, as in '0 3 * * *'"
        )
    return None


def timezone_problem(name: str) -> str | None:
    """Say why `name` is no time zone, or None when it is one."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not there; not a relative path; a folder
        return f"{name!r} is not a time zone of the IANA database: give one like 'Europe/Lisbon' or 'UTC'"
    return None


def fire_times(text: str, timezone: str, *, after: datetime) -> Iterator[datetime]:
    """Yield the fire times later than `after`, in order; ends when there is none for 50 years.

    Wherever one begins, the times are the same. `text` and `timezone` have been checked.
    """
    for local in CronSim(text, after.astimezone(ZoneInfo(timezone))):
        moment = local.astimezone(UTC)
        if moment > after:  # cronsim takes a repeated hour for its first pass, also when it begins in the second
            yield moment

"""Stats: how many tasks ended lately, as the API tells it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from tacoq_protocol.http import View


class _Counts(View):
    completed: int
    failed: int
    cancelled: int
    expired: int
    retried: int = Field(description="Runs that failed, and are followed by another one")
    runs: int = Field(description="Runs whose end was reported, however they ended")
    run_seconds: float = Field(description="All that these took")


class MinuteStats(_Counts):
    """What ended in a minute that begins at `minute`. Minutes in which nothing did are left out."""

    minute: datetime


class KindStats(_Counts):
    """What ended of a kind."""

    queue: str
    kind: str


class Stats(View):
    """What ended lately, twice: by the minute, oldest first, and by kind. `this_minute` is not over yet."""

    this_minute: datetime
    minutes: list[MinuteStats]
    kinds: list[KindStats]

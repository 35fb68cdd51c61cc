"""Backoff: a kind's policy and the number of failed attempts in, seconds to wait out. Pure."""

from __future__ import annotations

from random import Random

from tacoq_protocol.messages import Backoff


def retry_delay(backoff: Backoff, failed: int, random: Random) -> float:
    """Return the seconds to wait after the `failed`-th failed attempt (1 for the first)."""
    return backoff.ceiling(failed) * (0.5 + 0.5 * random.random())

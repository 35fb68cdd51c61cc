"""Backoff: a kind's policy and the number of failed attempts in, seconds to wait out. Pure."""

from __future__ import annotations

from random import Random

from tacoq_protocol.messages import Backoff


def retry_delay(backoff: Backoff, failed: int, random: Random) -> float:
    """Return the seconds to wait after the `failed`-th failed attempt (1 for the first).

    min(max, base × factor^(failed-1)), drawn uniformly from its upper half ("equal jitter", M. Brooker, "Exponential
    Backoff And Jitter", 2015). Capped in the exponent, too, so that a long series cannot overflow.
    """
    try:
        ceiling = min(backoff.max, backoff.base * backoff.factor ** (failed - 1))
    except OverflowError:
        ceiling = backoff.max
    return ceiling * (0.5 + 0.5 * random.random())

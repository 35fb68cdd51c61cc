"""Backoff: how long a failed task waits."""

from __future__ import annotations

from random import Random

import pytest

from tacoq_manager.retry import retry_delay
from tacoq_protocol.messages import Backoff


@pytest.mark.parametrize(("failed", "ceiling"), [(1, 2.0), (2, 6.0), (3, 18.0), (4, 20.0), (5_000, 20.0)])
def test_delay_grows_to_its_bound_and_is_never_below_half(failed: int, ceiling: float) -> None:
    random = Random(1)
    delays = [retry_delay(Backoff(2.0, 3.0, 20.0), failed, random) for _ in range(200)]
    assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
    assert len(set(delays)) > 100

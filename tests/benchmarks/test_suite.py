"""The benchmark suite works: TacoQ and the bare consumer go through every measure with a handful of tasks.

What is asserted is that results are right, never how long they took.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.servers import Servers
from benchmarks.system import Fault, system
from scripts.services import PrivateRedis


@pytest.fixture
def servers(database_url: str, broker_url: str, private_redis: PrivateRedis) -> Servers:
    return Servers(database_url, broker_url, private_redis.redis_url)


@pytest.mark.parametrize("peer", ["tacoq-postgres", "tacoq-redis", "bare-postgres", "bare-redis"])
def test_every_measure_answers(servers: Servers, peer: str) -> None:
    with system(servers, peer, python=Path(sys.executable)) as at_work:
        at_work.work(warm=5)
        assert all(mib > 0 for mib in at_work.memory().values())
        measured = at_work.measure("end_to_end", tasks=20)
        assert measured.value > 0
        assert set(measured.cpu) >= {"publisher", "worker"}
        starts, results = at_work.ask("trips", count=2)
        assert all(0 < start <= result for start, result in zip(starts, results, strict=True))
        assert at_work.ask("publish_at", per_second=100, seconds=0.1) > 0
        latencies, begun = at_work.ask("starts")
        assert (len(latencies), begun <= 10) == (10, True)
        at_work.ask("rest")
        at_work.ask("publish_singly", tasks=5)
        at_work.ask("publish_in_bulk", tasks=5)
        drained, started, seconds = at_work.ask("drain")
        assert (drained, started <= seconds) == (10, True)


def test_what_fails_is_told_with_the_reason(servers: Servers) -> None:
    with pytest.raises(Fault, match="unexpected keyword argument 'wrong'"):
        with system(servers, "bare-postgres", python=Path(sys.executable)) as at_work:
            at_work.ask("end_to_end", wrong=1)

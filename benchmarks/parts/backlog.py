"""Backlogs: how fast a product takes tasks while nothing runs, and how fast its workers then get through them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.plan import Plan
from benchmarks.servers import Servers
from benchmarks.system import Fault, system


def run(servers: Servers, plan: Plan) -> Iterator[dict[str, Any]]:
    for number in range(plan.backlog_rounds):
        for peer in plan.peers:
            tasks = plan.backlog * PEERS[peer].backlog
            about = {"peer": peer, "round": number, "tasks": tasks}
            try:
                with system(servers, peer) as at_work:
                    at_work.work(warm=100)
                    at_work.ask("rest")
                    singly = at_work.ask("publish_singly", tasks=tasks)
                    in_bulk = at_work.ask("publish_in_bulk", tasks=tasks)
                    drained, started, seconds = at_work.ask("drain")
                published = {"singly": tasks / singly, "in_bulk": tasks / in_bulk}
                yield about | published | {"start": drained / started, "drain": drained / seconds}
            except Fault as fault:
                print(fault, file=sys.stderr)
                yield about | {"fault": fault.what}

"""Whatever happens, in whichever order: every task ends once.

The same examples at each run. `MACHINE_EXAMPLES=5000` draws so many others.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tacoq_manager import manager, outstanding, settle
from tacoq_manager.settings import Settings
from tacoq_manager.store.engine import Database
from tests.machine.machine import Machine

DRAWN = os.environ.get("MACHINE_EXAMPLES")
EXAMPLES = settings(
    max_examples=int(DRAWN or 60),
    derandomize=DRAWN is None,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),  # they are of time
)


@pytest.fixture
def machine(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Machine]]:
    """The machine, on connections that all of its managers share: there are hundreds."""
    postgres = Database(database)
    monkeypatch.setattr(manager, "Database", lambda _url: postgres)
    monkeypatch.setattr(outstanding, "LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(settle, "RETRY_SECONDS", 0.0)
    with asyncio.Runner() as runner:
        Machine.runner, Machine.settings = runner, Settings(database_url=database)
        Machine.connection = runner.run(asyncpg.connect(database))
        yield Machine
        runner.run(postgres.close())
        runner.run(Machine.connection.close())


@pytest.mark.timeout(3600 if DRAWN else 600)  # it may have to shrink what it finds
def test_whatever_happens_every_task_ends_once(machine: type[Machine]) -> None:
    run_state_machine_as_test(machine, settings=EXAMPLES)

"""What a worker logs, for who reads it on the worker."""

from __future__ import annotations

import pytest

from tacoq_protocol.broker import BrokerFactory
from tacoq_worker import Fail, Retry, Worker
from tests.worker.manager import playing

worker = Worker("logged")


@worker.task
async def fails(how: str) -> None:
    match how:
        case "later":
            raise Retry("10s")
        case "for good":
            raise Fail
        case _:
            raise ValueError("a value")


@pytest.mark.parametrize(
    ("how", "fields", "attempt", "retry"),
    [
        ("by itself", {"attempt": 1}, (2, 3), "in 1 to 2 s"),
        ("later", {}, (1, 3), "in 10 s"),
        ("by itself", {"attempt": 1, "max_attempts": 2}, (2, 2), "no: attempts are used up"),
        ("for good", {}, (1, 3), "no: not retryable"),
    ],
)
async def test_a_failed_run_is_logged_with_what_follows(
    how: str,
    fields: dict[str, int],
    attempt: tuple[int, int],
    retry: str,
    *,
    make_broker: BrokerFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with playing(worker, make_broker) as (_, manager):
        outcome = await manager.run("fails", f'{{"how": "{how}"}}'.encode(), **fields)
    [record] = [r for r in caplog.records if r.message == "run failed"]
    told = record.__dict__
    assert (told["task_id"], told["kind"]) == (str(outcome.task_id), "fails")
    assert (told["attempt"], told["max_attempts"], told["retry"]) == (*attempt, retry)
    if how == "by itself":
        assert told["error"] == "ValueError: a value"
        assert "in fails" in told["traceback"]

"""How each way a run may end is reported."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import trace

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.messages import (
    AskHeld,
    Cancelled,
    CancelRuns,
    Completed,
    Expired,
    Failed,
    Holds,
    Inventory,
    Outcome,
    Returned,
    ReturnReason,
    Snoozed,
)
from tacoq_worker import Cancel, Context, Fail, RateLimited, Retry, Snooze, Worker
from tests.worker.manager import make_release, playing

worker = Worker("outcomes", concurrency=4)
leak = contextvars.ContextVar("leak", default="clean")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def decide(how: str) -> str:
    """Shared by the handlers: raise, or return."""
    match how:
        case "return":
            return "done"
        case "retry":
            raise Retry
        case "retry later":
            raise Retry("10s", "not yet")
        case "fail":
            raise Fail("no use")
        case "cancel":
            raise Cancel("not wanted")
        case "snooze":
            raise Snooze("5m")
        case "rate limited":
            raise RateLimited("30s")
        case "rate limited by key":
            raise RateLimited(1.5, key=True)
        case "value":
            raise ValueError("a value")
        case "exit":
            sys.exit(3)
        case "cancelled":
            raise asyncio.CancelledError("by itself")
        case "dirty":
            raise ValueError("nul \0 and surrogate \ud800")
        case "unprintable":
            raise Unprintable
        case "long":
            raise ValueError("x" * 100_000)
        case _:
            raise AssertionError(how)


@worker.task
async def run_async(how: str) -> str:
    return decide(how)


@worker.task
def run_sync(how: str) -> str:
    return decide(how)


@worker.task(retry_on=(KeyError,))
async def picky(how: str) -> None:
    decide(how)


@worker.task
async def wrong_result() -> int:
    return "three"  # type: ignore[return-value]


@worker.task
async def huge_result() -> str:
    return "x" * 2_000_000


@worker.task
async def describe(ctx: Context) -> dict[str, Any]:
    ctx.logger.info("described", extra={"more": 1})
    return {
        "task_id": str(ctx.task_id),
        "kind": ctx.kind,
        "queue": ctx.queue,
        "attempt": ctx.attempt,
        "release": ctx.release,
        "fence": [str(ctx.fence.task_id), ctx.fence.release],
        "key": ctx.idempotency_key,
        "deadline": None if ctx.deadline is None else ctx.deadline.isoformat(),
        "cancelled": ctx.cancelled,
    }


@worker.task
async def leak_async() -> str:
    before = leak.get()
    leak.set("dirty")
    return before


@worker.task
def leak_sync() -> str:
    before = leak.get()
    leak.set("dirty")
    return before


@worker.task
async def cancels_itself() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return "went on"


def trace_id() -> str:
    return format(trace.get_current_span().get_span_context().trace_id, "032x")


@worker.task
async def trace_async() -> str:
    return trace_id()


@worker.task
def trace_sync() -> str:
    return trace_id()


async def outcome_of(make_broker: BrokerFactory, kind: str, how: str) -> Outcome:
    async with playing(worker, make_broker) as (_, manager):
        return await manager.run(kind, f'{{"how": "{how}"}}'.encode(), release=4, attempt=2)


both = pytest.mark.parametrize("kind", ["run_async", "run_sync"])


@both
async def test_a_return_completes(kind: str, make_broker: BrokerFactory) -> None:
    outcome = await outcome_of(make_broker, kind, "return")
    assert isinstance(outcome, Completed)
    assert (outcome.result, outcome.release) == (b'"done"', 4)
    assert outcome.seconds >= 0
    assert abs(datetime.now(UTC) - outcome.started_at) < timedelta(minutes=1)


@both
@pytest.mark.parametrize(
    ("how", "retryable", "delay", "type", "message"),
    [
        ("retry", True, None, "Retry", "the handler asked for a retry"),
        ("retry later", True, 10.0, "Retry", "not yet"),
        ("fail", False, None, "Fail", "no use"),
        ("value", True, None, "ValueError", "a value"),
        ("exit", True, None, "SystemExit", "3"),
        ("cancelled", True, None, "CancelledError", "by itself"),
        ("dirty", True, None, "ValueError", "nul � and surrogate ?"),
        ("unprintable", True, None, "Unprintable", "<its text cannot be had: RuntimeError>"),
    ],
)
async def test_a_failure_says_what_and_whether_to_retry(
    kind: str, how: str, retryable: bool, delay: float | None, type: str, message: str, make_broker: BrokerFactory
) -> None:
    outcome = await outcome_of(make_broker, kind, how)
    assert isinstance(outcome, Failed)
    assert (outcome.retryable, outcome.delay, outcome.attempt, outcome.kind) == (retryable, delay, 2, kind)
    assert (outcome.error.type, outcome.error.message) == (type, message)


@both
async def test_cancel_and_snooze_are_outcomes_of_their_own(kind: str, make_broker: BrokerFactory) -> None:
    cancelled = await outcome_of(make_broker, kind, "cancel")
    assert isinstance(cancelled, Cancelled)
    assert cancelled.reason == "not wanted"
    assert cancelled.started_at is not None
    snoozed = await outcome_of(make_broker, kind, "snooze")
    assert isinstance(snoozed, Snoozed)
    assert (snoozed.delay, snoozed.holds) == (300.0, None)


@both
async def test_rate_limited_handler_snoozes_its_task_and_says_what_it_holds_back(
    kind: str, make_broker: BrokerFactory
) -> None:
    for how, delay, holds in (("rate limited", 30.0, Holds.KIND), ("rate limited by key", 1.5, Holds.KEY)):
        outcome = await outcome_of(make_broker, kind, how)
        assert isinstance(outcome, Snoozed)
        assert (outcome.delay, outcome.holds) == (delay, holds)


@both
async def test_the_traceback_shows_the_handlers_frames_alone(kind: str, make_broker: BrokerFactory) -> None:
    outcome = await outcome_of(make_broker, kind, "value")
    assert isinstance(outcome, Failed)
    assert outcome.error.traceback is not None
    assert f"in {kind}" in outcome.error.traceback
    assert "in decide" in outcome.error.traceback
    assert "tacoq_worker" not in outcome.error.traceback
    assert outcome.error.traceback.rstrip().endswith("ValueError: a value")


async def test_a_long_text_is_cut(make_broker: BrokerFactory) -> None:
    outcome = await outcome_of(make_broker, "run_async", "long")
    assert isinstance(outcome, Failed)
    assert len(outcome.error.message) < 9_000
    assert "92,000 characters cut" in outcome.error.message


async def test_an_exception_outside_retry_on_is_final(make_broker: BrokerFactory) -> None:
    final = await outcome_of(make_broker, "picky", "value")
    assert isinstance(final, Failed)
    assert not final.retryable
    asked = await outcome_of(make_broker, "picky", "retry")
    assert isinstance(asked, Failed)
    assert asked.retryable


async def test_a_payload_that_does_not_fit_is_final_and_names_the_place(make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        outcome = await manager.run("run_async", b'{"hwo": "return"}')
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert outcome.error.type == "InvalidPayload"
    assert "$.how: Field required; $.hwo: Extra inputs" in outcome.error.message


@pytest.mark.parametrize(
    ("kind", "words"), [("wrong_result", "does not fit: expected int, got "), ("huge_result", "2,000,002 bytes")]
)
async def test_a_result_that_does_not_fit_is_final(kind: str, words: str, make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        outcome = await manager.run(kind)
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert outcome.error.type == "InvalidResult"
    assert words in outcome.error.message


async def test_an_unknown_kind_is_handed_back(make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        release = make_release("nobody_knows")
        await manager.publish(release)
        assert await manager.outcome(release) == Returned(release.task_id, 1, ReturnReason.UNKNOWN_KIND)


async def test_a_release_past_its_deadline_is_not_run(make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        past, coming = datetime.now(UTC) - timedelta(seconds=1), datetime.now(UTC) + timedelta(hours=1)
        assert isinstance(await manager.run("run_async", b'{"how": "return"}', expires_at=past), Expired)
        assert isinstance(await manager.run("run_async", b'{"how": "return"}', expires_at=coming), Completed)


async def test_the_context_tells_about_the_run(make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        release = make_release("describe", release=7, attempt=1, timeout=60.0)
        await manager.publish(release)
        outcome = await manager.outcome(release)
    assert isinstance(outcome, Completed)
    seen = json.loads(outcome.result)
    id = str(release.task_id)
    assert (seen["task_id"], seen["kind"], seen["queue"]) == (id, "describe", "outcomes")
    assert (seen["attempt"], seen["release"], seen["fence"], seen["key"]) == (1, 7, [id, 7], id)
    assert datetime.fromisoformat(seen["deadline"]) == outcome.started_at + timedelta(seconds=60)
    assert seen["cancelled"] is False


@pytest.mark.parametrize("kind", ["leak_async", "leak_sync"])
async def test_a_run_sees_no_context_variables_of_an_earlier_one(kind: str, make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        releases = [make_release(kind) for _ in range(12)]
        await manager.publish(*releases)
        for release in releases:
            outcome = await manager.outcome(release)
            assert isinstance(outcome, Completed)
            assert outcome.result == b'"clean"'


async def test_a_handler_that_cancels_its_own_task_does_not_stop_the_slot(make_broker: BrokerFactory) -> None:
    async with playing(worker, make_broker) as (_, manager):
        for _ in range(6):
            assert isinstance(await manager.run("cancels_itself"), Completed)
        assert isinstance(await manager.run("run_async", b'{"how": "return"}'), Completed)


@pytest.mark.parametrize("kind", ["trace_async", "trace_sync"])
async def test_the_trace_context_is_there_for_its_run_only(kind: str, make_broker: BrokerFactory) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with playing(worker, make_broker) as (_, manager):
        traced = await manager.run(kind, traceparent=parent, tracestate="a=b")
        plain = await manager.run(kind)
    assert isinstance(traced, Completed)
    assert isinstance(plain, Completed)
    assert traced.result == b'"0af7651916cd43dd8448eb211c80319c"'
    assert plain.result == b'"00000000000000000000000000000000"'


async def test_the_cause_of_a_verdict_is_its_traceback(make_broker: BrokerFactory) -> None:
    local = Worker("outcomes")

    @local.task
    async def gives_up() -> None:
        try:
            raise OSError("disk full")
        except OSError as error:
            raise Fail("no space") from error

    async with playing(local, make_broker) as (_, manager):
        outcome = await manager.run("gives_up")
    assert isinstance(outcome, Failed)
    assert outcome.error.message == "no space"
    assert outcome.error.traceback is not None
    assert "OSError: disk full" in outcome.error.traceback


async def test_the_context_s_logger_adds_the_task_to_each_record(
    make_broker: BrokerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tacoq.task")
    async with playing(worker, make_broker) as (_, manager):
        release = make_release("describe")
        await manager.publish(release)
        await manager.outcome(release)
    [record] = [r for r in caplog.records if r.message == "described"]
    assert (record.__dict__["task_id"], record.__dict__["kind"]) == (str(release.task_id), "describe")
    assert record.__dict__["more"] == 1


async def test_a_cancel_that_is_asked_for_again_does_not_break_into_the_cleaning_up(make_broker: BrokerFactory) -> None:
    worker = Worker("outcomes")
    running, cleaning, go_on, cleaned = (asyncio.Event() for _ in range(4))

    @worker.task
    async def tidy() -> None:
        try:
            running.set()
            await asyncio.sleep(60)
        finally:
            cleaning.set()
            await go_on.wait()
            cleaned.set()

    async with playing(worker, make_broker) as (session, manager):
        release = make_release("tidy")
        await manager.publish(release)
        await running.wait()
        await manager.control(session.id, CancelRuns([release.task_id]))
        await cleaning.wait()
        await manager.control(session.id, CancelRuns([release.task_id]))
        await manager.control(session.id, AskHeld(uuid4()))
        await manager.seen(Inventory)  # so it has heard what came before
        go_on.set()
        assert isinstance(await manager.outcome(release), Cancelled)
    assert cleaned.is_set()

"""A publish, its runs and what its handlers do are one trace: with processes of their own, and embedded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from tacoq_embedded.stack import Stack
from tacoq_manager.settings import Settings
from tacoq_publisher import Publisher, TaskCall
from tests.acceptance import traced
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.tracing import Spans, parent_of, traceparent_of


class Ended:
    """Spans that the workers' processes have ended, by name."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def one(self, name: str) -> dict[str, Any]:
        """Wait for it: a process exports it when it has told what became of the run."""

        def found() -> list[dict[str, Any]]:
            lines = self._file.read_text().splitlines(keepends=True)
            spans = [json.loads(line) for line in lines if line.endswith("\n")]
            return [span for span in spans if span["name"] == name]

        (span,) = await eventually(found, 20, what=f"a span {name}")
        return span


def ids(span: dict[str, Any]) -> str:
    return f"00-{span['context']['trace_id'][2:]}-{span['context']['span_id'][2:]}"


def parent_ids(span: dict[str, Any]) -> str:
    return f"00-{span['context']['trace_id'][2:]}-{span['parent_id'][2:]}"


@pytest.fixture
async def processes(cluster: Cluster, tmp_path: Path) -> Ended:
    """A manager and both workers run, and the workers trace."""
    file = tmp_path / "spans"
    file.touch()
    await cluster.start_manager()
    for name in ("worker", "processes"):
        cluster.spawn("worker", f"tests.acceptance.traced:{name}", env={"SPANS": str(file)})
    await cluster.joined(1, "default")
    await cluster.joined(1, "processes")
    return Ended(file)


async def test_what_a_handler_does_is_below_its_run_and_that_below_the_publish(
    cluster: Cluster, processes: Ended, spans: Spans
) -> None:
    calls: list[TaskCall[None]] = [traced.in_loop.task(), traced.in_thread.task(), traced.in_process.task()]
    async with Publisher(cluster.url) as tacoq:
        for call in calls:
            handle = await tacoq.publish(call)
            await handle.result(20)
            run, work = await processes.one(f"process {call.kind}"), await processes.one(f"{call.kind} works")
            assert parent_ids(work) == ids(run)
            assert traceparent_of(spans.one(f"publish {call.kind}")).startswith(parent_ids(run))
            assert run["attributes"]["messaging.message.id"] == str(handle.id)


@pytest_asyncio.fixture
async def tacoq(database: str) -> AsyncIterator[Publisher]:
    """Of a manager and a worker in this process."""
    async with Stack([traced.worker], Settings(database_url=database, port=0), grace=1.0) as stack:
        async with Publisher(stack.url) as publisher:
            yield publisher


def told(span: ReadableSpan, name: str) -> Any:
    assert span.attributes is not None
    return span.attributes[name]


async def test_each_try_is_a_span_and_those_that_fail_have_their_error(tacoq: Publisher, spans: Spans) -> None:
    await (await tacoq.publish(traced.third_time.task())).result(20)
    tries = spans.named("process third_time")
    assert [told(span, "tacoq.attempt") for span in tries] == [0, 1, 2]
    assert [span.status.status_code for span in tries] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert [span.status.description for span in tries] == ["ValueError: attempt 0", "ValueError: attempt 1", None]
    assert [len(span.events) for span in tries] == [1, 1, 0]
    assert {parent_of(span) for span in tries} == {traceparent_of(spans.one("publish third_time"))}
    waited = [told(span, "tacoq.waited") for span in tries]
    assert waited == sorted(waited)


async def test_runs_of_many_are_below_their_one_publish(tacoq: Publisher, spans: Spans) -> None:
    handles = await tacoq.publish_many(traced.in_loop.task() for _ in range(50))
    async for handle in tacoq.as_completed(handles, timeout=20):
        await handle.result()
    runs = spans.named("process in_loop")
    assert {parent_of(span) for span in runs} == {traceparent_of(spans.one("publish in_loop"))}
    assert sorted(told(span, "messaging.message.id") for span in runs) == sorted(str(handle.id) for handle in handles)

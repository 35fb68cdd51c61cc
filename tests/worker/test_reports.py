"""Reports that cannot be sent, and confirms that cannot be acted on, stop no other report."""

from __future__ import annotations

import pytest

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.brokers.memory import MemoryHub
from tacoq_protocol.messages import Completed, Failed
from tacoq_worker import Worker, execute
from tacoq_worker.held import Held
from tests.worker.manager import TOPOLOGY, make_release, playing

worker = Worker("reports", concurrency=4)


@worker.task
async def works() -> None: ...


@worker.task
async def raises() -> None:
    raise ValueError("half a pair: \ud800")


async def test_a_report_that_cannot_be_encoded_fails_its_own_release_alone(
    hub: MemoryHub, make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(execute, "clean", lambda text, most=0: text)  # what stands between such a text and the wire
    async with playing(worker, make_broker) as (session, manager):
        releases = [make_release(kind) for kind in ("works", "raises", "works")]
        await manager.publish(*releases)
        first, refused, last = [await manager.outcome(release) for release in releases]
        assert isinstance(first, Completed)
        assert isinstance(last, Completed)
        assert isinstance(refused, Failed)
        assert (refused.error.type, refused.retryable) == ("ReportRefused", False)
        assert "surrogates not allowed" in refused.error.message
        await manager.until(lambda: not session._intake.held)
        (tap,) = hub._queues[TOPOLOGY.task_queue_name("reports")].taps
        assert not tap.unacked
    assert "report refused" in caplog.text


async def test_an_error_over_confirmed_reports_does_not_end_reporting(
    make_broker: BrokerFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with playing(worker, make_broker) as (session, manager):
        with monkeypatch.context() as patch:
            patch.setattr(session._reporter, "_confirmed", _fails)
            await manager.run("works")
            await manager.until(lambda: "confirmed reports not acted on" in caplog.text)
        assert isinstance(await manager.run("works"), Completed)


def _fails(_: list[Held]) -> None:
    raise RuntimeError("a bug")

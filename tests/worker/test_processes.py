"""Handlers in processes: what they answer, crashes, timeout, cancel, and the end of the session."""

from __future__ import annotations

from pathlib import Path

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.messages import Cancelled, CancelRuns, Completed, Failed, Returned, ReturnReason
from tests.worker.handlers import in_processes
from tests.worker.manager import QUICK, make_release, playing


async def test_processes_run_handlers_and_survive_a_crash(make_broker: BrokerFactory) -> None:
    async with playing(in_processes, make_broker) as (_, manager):
        outcome = await manager.run("add", b'{"x": 2, "y": 3}')
        assert isinstance(outcome, Completed)
        assert outcome.result == b"5"
        exited = await manager.run("crash", b'{"how": "exit"}')
        assert isinstance(exited, Failed)
        assert (exited.error.type, exited.retryable) == ("ProcessCrashed", True)
        assert exited.error.message == "the process of the run ended with exit code 7"
        killed = await manager.run("crash", b'{"how": "segv"}')
        assert isinstance(killed, Failed)
        assert killed.error.message == "the process of the run was killed by SIGSEGV"
        assert isinstance(await manager.run("add", b'{"x": 2, "y": 3}'), Completed)


async def test_a_crash_is_not_retried_where_a_loss_is_not(make_broker: BrokerFactory) -> None:
    async with playing(in_processes, make_broker) as (_, manager):
        outcome = await manager.run("crash_for_good")
    assert isinstance(outcome, Failed)
    assert (outcome.error.type, outcome.retryable) == ("ProcessCrashed", False)


async def test_a_crash_is_blamed_on_its_own_run_alone(make_broker: BrokerFactory, tmp_path: Path) -> None:
    async with playing(in_processes, make_broker) as (_, manager):
        end = tmp_path / "end"
        beside = make_release("wait_for", f'{{"path": "{end}"}}'.encode())
        await manager.publish(beside)
        await manager.until((tmp_path / "end.running").exists)
        assert isinstance(await manager.run("crash", b'{"how": "segv"}'), Failed)
        end.touch()
        assert isinstance(await manager.outcome(beside), Completed)


async def test_a_process_over_its_timeout_is_killed(make_broker: BrokerFactory) -> None:
    async with playing(in_processes, make_broker) as (_, manager):
        outcome = await manager.run("too_long")
        assert isinstance(outcome, Failed)
        assert outcome.error.type == "TimeoutError"
        assert isinstance(await manager.run("add", b'{"x": 2, "y": 3}'), Completed)


async def test_a_cancelled_process_is_killed(make_broker: BrokerFactory, tmp_path: Path) -> None:
    async with playing(in_processes, make_broker) as (session, manager):
        release = make_release("wait_for", f'{{"path": "{tmp_path / "end"}"}}'.encode())
        await manager.publish(release)
        await manager.until((tmp_path / "end.running").exists)
        await manager.control(session.id, CancelRuns([release.task_id]))
        assert isinstance(await manager.outcome(release), Cancelled)


async def test_processes_are_handed_back_at_the_end(make_broker: BrokerFactory, tmp_path: Path) -> None:
    async with playing(in_processes, make_broker) as (session, manager):
        release = make_release("wait_for", f'{{"path": "{tmp_path / "end"}"}}'.encode())
        await manager.publish(release)
        await manager.until((tmp_path / "end.running").exists)
        assert await session.drain(0.0)
        assert await manager.outcome(release) == Returned(release.task_id, 1, ReturnReason.SHUTDOWN)


async def test_verdicts_context_and_bad_payloads_come_back_from_processes(make_broker: BrokerFactory) -> None:
    async with playing(in_processes, make_broker, pace=QUICK) as (_, manager):
        told = await manager.run("tell", b'{"how": "tell"}', release=3, attempt=1)
        assert isinstance(told, Completed)
        assert told.result == b'"crunch 3 1"'
        assert type(await manager.run("tell", b'{"how": "snooze"}')).__name__ == "Snoozed"
        failed = await manager.run("tell", b'{"how": "fail"}')
        assert isinstance(failed, Failed)
        assert (failed.error.message, failed.retryable) == ("no use", False)
        misfit = await manager.run("add", b'{"x": 2}')
        assert isinstance(misfit, Failed)
        assert "$.y: Field required" in misfit.error.message

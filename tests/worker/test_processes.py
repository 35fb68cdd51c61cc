"""Handlers in processes: what they answer, crashes, timeout, cancel, and the end of the session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.messages import Cancelled, CancelRuns, Completed, Failed, Returned, ReturnReason
from tacoq_worker.children import Child
from tacoq_worker.execute import Run
from tests.worker.handlers import add, in_processes
from tests.worker.hanging import hanging
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


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child([add.reference])
    child.start()
    yield child
    child.close()


def five() -> Run:
    return Run(make_release("add", b'{"x": 2, "y": 3}'), add)


def signalled(child: Child, *numbers: signal.Signals) -> None:
    assert child._process is not None
    assert child._process.pid is not None
    for number in numbers:
        os.kill(child._process.pid, number)


def test_a_run_that_comes_with_a_sigterm_is_run(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = child._pipe
    assert pipe is not None
    send = pipe.send_bytes

    def send_and_go_on(request: bytes) -> None:
        send(request)
        signalled(child, signal.SIGCONT)  # it finds both

    monkeypatch.setattr(pipe, "send_bytes", send_and_go_on)
    signalled(child, signal.SIGSTOP, signal.SIGTERM)
    assert isinstance(child.call(five()), Completed)
    monkeypatch.undo()
    assert isinstance(child.call(five()), Completed)


def test_a_run_that_a_leaving_process_did_not_take_goes_to_another(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = child._process
    assert left is not None
    signalled(child, signal.SIGTERM)
    left.join(10)
    assert left.exitcode == 0
    monkeypatch.setattr(left, "is_alive", lambda: True)  # it was, when one looked
    assert isinstance(child.call(five()), Completed)
    assert child._process is not left


async def test_an_import_that_hangs_can_be_cancelled_and_drained(make_broker: BrokerFactory) -> None:
    async with playing(hanging, make_broker) as (session, manager):
        cancelled, waiting = make_release("never"), make_release("never")
        await manager.publish(cancelled)
        await manager.until(lambda: len(session._slots.running()) == 1)
        await manager.control(session.id, CancelRuns([cancelled.task_id]))
        assert isinstance(await manager.outcome(cancelled), Cancelled)
        await manager.publish(waiting)
        await manager.until(lambda: len(session._slots.running()) == 1)
        assert await session.drain(0.0)
        assert await manager.outcome(waiting) == Returned(waiting.task_id, 1, ReturnReason.SHUTDOWN)

"""Silence: a session that managers may have taken for lost begins nothing that may run once only."""

from __future__ import annotations

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.messages import Completed, Returned, ReturnReason
from tacoq_worker import Worker
from tacoq_worker.silence import Silence
from tests.worker.manager import make_release, playing

LONGEST, GRACE = 6.0, 2.0


def heard(*moments: float) -> Silence:
    """Beats that were sent, and confirmed at once, then."""
    silence = Silence(LONGEST, GRACE)
    for moment in moments:
        silence.broken(moment, moment)
    return silence


def test_session_that_beats_is_not_silent() -> None:
    assert not heard(0, 2, 4, 6, 8, 10).since(1, now=12)


def test_silence_counts_from_when_the_last_confirmed_beat_was_sent() -> None:
    silence = heard(0, 2)
    silence.broken(4, 7.5)
    assert not silence.since(3, now=10)
    assert silence.since(3, now=10.1)


def test_silence_that_lasts_counts_before_it_is_broken() -> None:
    """The process goes on, and the heartbeat's thread had no turn yet."""
    assert heard(0, 2).since(1, now=20)


def test_silence_that_is_over_counts_for_what_came_before() -> None:
    silence = heard(0, 2, 20, 22, 24)
    assert silence.since(1, now=25)
    assert silence.since(21, now=25), "it was given to the session before, and read only now"
    assert not silence.since(23, now=25)


def test_before_the_first_beat_nobody_takes_it_for_lost() -> None:
    assert not heard().since(0, now=100)


async def test_announced_release_is_handed_back_after_a_silence_and_runs_without(make_broker: BrokerFactory) -> None:
    worker, ran = Worker("silence", concurrency=2), []

    @worker.task
    async def noop() -> None:
        ran.append(1)

    async with playing(worker, make_broker) as (session, manager):
        await manager.until(lambda: session._intake.active)
        told, session._silence._ended = session._silence._ended, float("inf")
        late = make_release("noop", announced=True)
        await manager.publish(late)
        outcome = await manager.outcome(late)
        assert isinstance(outcome, Returned)
        assert outcome.reason is ReturnReason.SILENT
        assert not ran
        session._silence._ended = told
        again = make_release("noop", announced=True)
        await manager.publish(again)
        assert isinstance(await manager.outcome(again), Completed)

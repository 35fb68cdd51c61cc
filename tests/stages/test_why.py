"""Why: each reason from a situation that is so, read as people do, through HTTP and the command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from click.testing import CliRunner

from tacoq_manager.api.app import create_app
from tacoq_manager.serve import HttpServer
from tacoq_manager.store import limits
from tacoq_manager.store.limits import Hold
from tacoq_manager.transitions import MAX_CRASHES, expire
from tacoq_protocol.broker import LinkState
from tacoq_protocol.cli import tacoq
from tacoq_protocol.errors import PublishUnconfirmed
from tacoq_protocol.http import ErrorInfo
from tacoq_protocol.ids import new_task_id
from tacoq_protocol.limits import QueueLimits
from tacoq_protocol.messages import Cancelled, Completed, Failed, Fence, Heartbeat, Snoozed, Started
from tacoq_protocol.why import Reason, Why
from tests.stages.floor import Floor
from tests.support.eventually import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)

Ask = Callable[[UUID], Awaitable[Why]]


@pytest_asyncio.fixture
async def url(either_floor: Floor) -> AsyncIterator[str]:
    server = HttpServer(create_app(either_floor.manager), "127.0.0.1", 0)
    await server.start()
    yield server.url
    await server.stop()


@pytest_asyncio.fixture
async def ask(url: str) -> Ask:
    async def asked(task_id: UUID) -> Why:
        output = await run("why", str(task_id), "--json", "--url", url)
        return Why.model_validate_json(output)

    return asked


async def run(*args: str) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, tacoq, args)
    assert result.exit_code == 0, result.output
    return result.stdout


def beat(floor: Floor, *, draining: bool = False) -> None:
    message = Heartbeat(floor.session, "default", 10, 0, [], "('k',)", "0", draining=draining)
    floor.manager.sessions.heartbeat(message, 0.0)


async def test_task_that_is_not_due(either_floor: Floor, ask: Ask, url: str) -> None:
    (task_id,) = await either_floor.accept(delay=3600.0)
    why = await ask(task_id)
    assert why.reason is Reason.NOT_DUE
    assert why.until is not None
    assert "(in 59 m)" in why.sentence
    assert (await run("why", str(task_id), "--url", url)).startswith("scheduled, not_due: it is not due")


async def test_task_that_waits_for_its_next_attempt(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    await either_floor.dispatch()
    error = ErrorInfo("ValueError", "no such mailbox\nat all")
    await either_floor.report(Failed(task_id, 1, NOW, 0.1, 0, error, retryable=True, delay=60.0, kind="k"))
    why = await ask(task_id)
    assert (why.reason, why.attempt, why.max_attempts) == (Reason.RETRY_WAIT, 1, 3)
    assert why.error == "ValueError: no such mailbox"
    assert "attempt 1 of 3 failed" in why.sentence


async def test_task_that_was_snoozed(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    await either_floor.dispatch()
    await either_floor.report(Snoozed(task_id, 1, NOW, 0.1, 60.0))
    assert (await ask(task_id)).reason is Reason.SNOOZED


async def test_task_while_no_manager_leads(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    await either_floor.manager.leader.give_up()
    assert (await ask(task_id)).reason is Reason.NO_LEADER


async def test_task_while_the_broker_is_away(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    await either_floor.manager.broker.stop()
    await eventually(lambda: either_floor.manager.broker.state is not LinkState.OPEN)
    why = await ask(task_id)
    assert why.reason is Reason.BROKER_AWAY
    assert "RabbitMQ is not reached, so nothing is released" in why.sentence
    assert "TACOQ_BROKER_URL" in why.sentence


async def test_task_that_the_broker_does_not_take(
    either_floor: Floor, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise PublishUnconfirmed("not confirmed")

    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    monkeypatch.setattr(either_floor.manager.broker, "publish", refuse)
    with pytest.raises(PublishUnconfirmed):
        await either_floor.manager.dispatcher.step()
    why = await ask(task_id)
    assert why.reason is Reason.BROKER_AWAY
    assert "RabbitMQ did not take what was last released to queue 'default'" in why.sentence


async def test_task_of_a_queue_that_nobody_serves(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k", queue="other")
    (task_id,) = await either_floor.accept()
    why = await ask(task_id)
    assert why.reason is Reason.NO_WORKERS
    assert "no live worker serves queue 'default'" in why.sentence
    assert "kind 'k' is served in queue 'other'" in why.sentence


async def test_task_of_a_queue_whose_workers_were_drained(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    beat(either_floor, draining=True)
    (task_id,) = await either_floor.accept()
    why = await ask(task_id)
    assert (why.reason, why.sessions) == (Reason.DRAINING, [either_floor.session])
    assert "tacoq workers resume --queue default" in why.sentence


async def test_task_of_a_kind_that_nobody_knows(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept(kind="unheard")
    why = await ask(task_id)
    assert (why.reason, why.sessions) == (Reason.UNKNOWN_KIND, [either_floor.session])
    assert "no live worker of queue 'default' knows kind 'unheard'" in why.sentence


async def test_task_of_a_kind_that_one_of_two_workers_knows(either_floor: Floor, ask: Ask) -> None:
    old = uuid4()
    either_floor.join("k", "new")
    either_floor.join("k", session=old)
    (task_id,) = await either_floor.accept(kind="new")
    why = await ask(task_id)
    assert (why.reason, why.sessions) == (Reason.UNKNOWN_KIND, [old])
    assert "1 of the 2 live workers of queue 'default' do not know kind 'new'" in why.sentence
    assert str(old) in why.sentence


async def test_task_of_a_paused_queue(either_floor: Floor, ask: Ask) -> None:
    """Whether it has workers, or not."""
    (task_id,) = await either_floor.accept()
    await either_floor.manager.limiting.pause("default")
    why = await ask(task_id)
    assert (why.reason, why.limit_of) == (Reason.PAUSED, "queue")
    assert "`tacoq queues resume default`" in why.sentence


async def test_task_of_a_kind_that_is_at_its_limit(either_floor: Floor, ask: Ask) -> None:
    """Only what the limit is for is before it."""
    either_floor.join("k", "other", concurrency=2)
    await either_floor.accept(2)
    await either_floor.dispatch()
    await either_floor.accept(2, kind="other")
    ids = await either_floor.accept(3)
    why = await ask(ids[2])
    assert (why.reason, why.limit, why.limit_of, why.used, why.most) == (Reason.AT_LIMIT, "concurrency", "kind", 2, 2)
    assert "kind 'k' is at its limit, 2 of 2 tasks at once: it is number 3 in line; `tacoq kinds" in why.sentence


async def test_task_of_a_queue_that_is_at_its_limit(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    await either_floor.manager.limiting.set_queue("default", QueueLimits(concurrency=1))
    ids = await either_floor.accept(2)
    await either_floor.dispatch()
    why = await ask(ids[1])
    assert (why.reason, why.limit_of, why.position) == (Reason.AT_LIMIT, "queue", 1)
    assert "queue 'default' is at its limit, 1 of 1 tasks at once" in why.sentence


async def test_task_of_a_key_that_is_at_its_limit(either_floor: Floor, ask: Ask) -> None:
    """Another key has its turn; while its own is shut it has none."""
    either_floor.join("k", slots=2, max_per_key=1)
    held = await either_floor.accept(3, fairness_key="a")
    await either_floor.dispatch()
    why = await ask(held[2])
    assert (why.reason, why.limit, why.limit_of, why.position) == (Reason.AT_LIMIT, "max_per_key", "fairness_key", 2)
    assert "fairness key 'a' of kind 'k' is at its limit, 1 of 1 tasks at once" in why.sentence
    await either_floor.accept(fairness_key="b")
    await either_floor.dispatch()
    (free,) = await either_floor.accept(fairness_key="c")
    why = await ask(free)
    assert (why.reason, why.position) == (Reason.NO_SLOT, 1)


async def test_task_that_waits_for_the_next_token(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k", rate="1/h")
    ids = await either_floor.accept(2)
    await either_floor.dispatch()
    why = await ask(ids[1])
    assert (why.reason, why.limit, why.limit_of, why.most) == (Reason.AT_RATE, "rate", "kind", "1/h")
    assert why.until is not None
    assert "kind 'k' is at its rate of 1/h, the next goes" in why.sentence
    assert "(in 59 m)" in why.sentence


async def test_task_of_a_kind_that_is_held_back(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (limited,) = await either_floor.accept()
    await either_floor.dispatch()
    asked = [Hold(Fence(limited, 1), 60.0, of_key=False)]
    either_floor.manager.limits.hold(*await limits.hold(either_floor.manager.database.settle, asked))
    (task_id,) = await either_floor.accept()
    why = await ask(task_id)
    assert (why.reason, why.limit_of) == (Reason.HELD_BACK, "kind")
    assert "kind 'k' is held back until" in why.sentence


async def test_weights_of_keys_are_in_the_place_in_line(either_floor: Floor, ask: Ask) -> None:
    """Three of `a` go for each other."""
    either_floor.join("k", slots=1)
    await either_floor.manager.limiting.set_queue("default", QueueLimits(weights={"a": 3}))
    await either_floor.accept(fairness_key="z")
    await either_floor.dispatch()
    heavy = await either_floor.accept(20, fairness_key="a")
    light = await either_floor.accept(20, fairness_key="b")
    assert (await ask(heavy[7])).position == 7 + 2 + 1
    assert (await ask(light[2])).position == 2 + 6 + 1


async def test_manager_that_does_not_lead_says_the_same(either_floor: Floor, ask: Ask) -> None:
    """It learns what decides, as if it took the lead."""
    either_floor.join("k", "other", slots=3, concurrency=2)
    ids = await either_floor.accept(4)
    await either_floor.dispatch()
    others = await either_floor.accept(4, kind="other")
    await either_floor.dispatch()
    before = [await ask(id) for id in (ids[3], others[3])]
    assert [why.reason for why in before] == [Reason.AT_LIMIT, Reason.NO_SLOT]
    await either_floor.connection.execute(
        "UPDATE leader SET epoch = epoch + 1, holder = gen_random_uuid(), expires_at = now() + interval '1 hour'"
    )
    await either_floor.manager.leader.step()
    assert either_floor.manager.leader.epoch is None
    assert [await ask(id) for id in (ids[3], others[3])] == before


async def test_task_on_its_last_chance_beside_another(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    first, second = await either_floor.accept(2)
    await either_floor.connection.execute("UPDATE tasks SET crashes = $1", MAX_CRASHES - 1)
    await either_floor.dispatch()
    why = await ask(second)
    assert why.reason is Reason.LAST_CHANCE
    assert str(first) in why.sentence


async def test_task_of_a_queue_in_which_lost_releases_are_looked_for(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    either_floor.manager.dispatcher.hold("default", True)
    assert (await ask(task_id)).reason is Reason.RECOVERING


async def test_task_that_waits_for_a_slot_knows_its_place_in_line(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k", slots=2)
    ids = await either_floor.accept(6)
    await either_floor.dispatch()
    why = await ask(ids[5])
    assert (why.reason, why.position, why.slots, why.released) == (Reason.NO_SLOT, 4, 2, 2)
    assert "no slot of queue 'default' is free (2 slots, 2 tasks released): it is number 4 in line" in why.sentence
    (urgent,) = await either_floor.accept(priority=1)
    assert [(await ask(id)).position for id in (urgent, *ids[2:])] == [1, 2, 3, 4, 5]


async def test_place_in_line_is_exact_up_to_a_thousand(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k", slots=1)
    ids = await either_floor.accept(1_003)
    await either_floor.dispatch()
    last_counted, too_far = await ask(ids[1_001]), await ask(ids[1_002])
    assert (last_counted.position, last_counted.more) == (1_001, None)
    assert (too_far.position, too_far.more) == (1_000, True)
    assert "over 1,000 tasks are before it" in too_far.sentence


async def test_task_behind_others_of_its_fairness_key(either_floor: Floor, ask: Ask) -> None:
    """Of the other key as many have their turn before it as of its own."""
    either_floor.join("k", slots=1)
    await either_floor.accept(fairness_key="z")
    await either_floor.dispatch()
    large = await either_floor.accept(50, fairness_key="large")
    small = await either_floor.accept(3, fairness_key="small")
    why = await ask(large[10])
    assert (why.reason, why.position) == (Reason.BEHIND_KEY, 10 + 3 + 1)
    assert "fairness key 'large' has 10 before it" in why.sentence
    last = await ask(small[2])
    assert (last.reason, last.position) == (Reason.BEHIND_KEY, 2 + 2 + 1)
    assert (await ask(small[0])).reason is Reason.NO_SLOT


async def test_kinds_take_turns_before_a_task_too(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k", "other", slots=1)
    await either_floor.accept()
    await either_floor.dispatch()
    await either_floor.accept(50, kind="other")
    await either_floor.accept(50, kind="unheard", priority=9)  # which have no turn
    ids = await either_floor.accept(5)
    assert (await ask(ids[4])).position == 4 + 4 + 1


async def test_task_that_nothing_holds(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    assert (await ask(task_id)).reason is Reason.RELEASING


async def test_task_that_was_released(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    await either_floor.dispatch()
    why = await ask(task_id)
    assert why.reason is Reason.QUEUED
    assert "no worker has reported its start" in why.sentence


async def test_task_that_runs_and_is_to_be_stopped(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    await either_floor.dispatch()
    await either_floor.report(Started(task_id, 1, NOW))
    why = await ask(task_id)
    assert (why.reason, why.sessions, why.host, why.pid) == (Reason.RUNNING, [either_floor.session], "host", 1)
    await either_floor.manager.canceller.cancel(task_id)
    assert (await ask(task_id)).reason is Reason.CANCEL_REQUESTED
    await either_floor.report(Cancelled(task_id, 1, NOW, 0.1, "asked to"))
    assert (await ask(task_id)).reason is Reason.CANCELLED


async def test_run_whose_session_is_lost(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    await either_floor.dispatch()
    await either_floor.report(Started(task_id, 1, NOW))
    either_floor.manager.sessions.lost(either_floor.session)
    why = await ask(task_id)
    assert why.reason is Reason.RUNNING
    assert "which is lost" in why.sentence


async def test_task_that_completed(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    (task_id,) = await either_floor.accept()
    await either_floor.dispatch()
    await either_floor.report(Completed(task_id, 1, NOW, 0.1, b"1"))
    why = await ask(task_id)
    assert (why.reason, why.sessions) == (Reason.COMPLETED, [either_floor.session])
    assert why.since is not None


async def test_task_that_failed_and_is_not_retried(either_floor: Floor, ask: Ask) -> None:
    either_floor.join("k")
    used_up, final = [(await either_floor.accept(max_attempts=most))[0] for most in (1, 3)]
    await either_floor.dispatch()
    error = ErrorInfo("ValueError", "no such mailbox")
    await either_floor.report(
        Failed(used_up, 1, NOW, 0.1, 0, error, retryable=True, kind="k"),
        Failed(final, 1, NOW, 0.1, 0, error, retryable=False, kind="k"),
    )
    assert "ValueError: no such mailbox; its attempts (1) are used up" in (await ask(used_up)).sentence
    why = await ask(final)
    assert why.reason is Reason.FAILED
    assert "this is not retried" in why.sentence
    assert f"tacoq retry {final}" in why.sentence


async def test_task_whose_deadline_passed(either_floor: Floor, ask: Ask) -> None:
    (task_id,) = await either_floor.accept(expires_in=0.001)
    await either_floor.manager.settler.apply([expire(task_id)])
    assert (await ask(task_id)).reason is Reason.EXPIRED


async def test_task_that_nobody_knows(url: str) -> None:
    result = await asyncio.to_thread(CliRunner().invoke, tacoq, ["why", str(new_task_id()), "--url", url])
    assert "no task has the id" in str(result.exception)

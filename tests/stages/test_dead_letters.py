"""Dead letters: what nobody can read or apply is kept with its reason, and holds up nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import pytest_asyncio

from tacoq_protocol import codec
from tacoq_protocol.broker import Consumer, Delivery, Outgoing
from tacoq_protocol.errors import PublishUnconfirmed
from tacoq_protocol.messages import Completed, DeadCause, DeadLetter, Report, Reports, Snoozed
from tests.stages.floor import Floor
from tests.support.eventually import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOO_LATE = 1e300  # seconds: no moment of Postgres is that late


@pytest_asyncio.fixture
async def released(either_floor: Floor) -> Floor:
    """Three tasks are released."""
    either_floor.join("k")
    await either_floor.accept(3)
    await either_floor.dispatch()
    return either_floor


async def arrived(floor: Floor, *bodies: bytes) -> None:
    """Messages of reports come, to be settled together."""
    topology = floor.manager.topology
    messages = [
        Outgoing(topology.reports.name, topology.reports_queue.name, codec.REPORTS.name, body) for body in bodies
    ]
    await floor.worker.publish(messages, seconds=5)
    await eventually(lambda: len(floor.manager.settler._arrived) == len(bodies))


async def dead(floor: Floor, count: int) -> list[Delivery]:
    """The dead letters, of which there are so many."""
    deliveries: list[Delivery] = []
    await floor.worker.consume(Consumer(floor.manager.topology.dead_queue, deliveries.append))
    await eventually(lambda: len(deliveries) >= count)
    assert len(deliveries) == count
    return deliveries


async def all_acked(floor: Floor) -> bool:
    """No report would come again to another consumer."""
    await floor.manager.broker.stop()
    return await floor.worker.message_count(floor.manager.topology.reports_queue.name) == 0


def reports(floor: Floor, *reports: Report) -> bytes:
    return codec.encode(Reports(floor.session, "default", list(reports)))


async def test_message_that_cannot_be_read_is_kept_as_it_was_with_the_reason(released: Floor) -> None:
    one = Completed(released.releases[0].task_id, 1, NOW, 0.1, b"5")
    await arrived(released, b"\xc1", reports(released, one), b"")
    await released.manager.settler.step()
    await released.send(b"new", "reports/9")
    letters = [codec.decode_dead(delivery.format, delivery.body) for delivery in await dead(released, 3)]
    assert [(letter.cause, letter.source, letter.format, letter.body) for letter in letters] == [
        (DeadCause.UNREADABLE, "reports", "reports/1", b"\xc1"),
        (DeadCause.UNREADABLE, "reports", "reports/1", b""),
        (DeadCause.UNREADABLE, "reports", "reports/9", b"new"),
    ]
    assert "'reports/9' is not known here" in letters[2].reason
    assert await released.state(one.task_id) == "completed"
    assert await released.manager.dead_letters.count() == 0, "somebody holds them"
    assert b'tacoq_dead_lettered_total{cause="unreadable"} 3.0' in released.manager.metrics.text()
    assert await all_acked(released)


async def test_report_that_is_refused_is_kept_without_those_beside_it(released: Floor) -> None:
    one, two, three = [release.task_id for release in released.releases]
    offending = Snoozed(two, 1, NOW, 0.1, TOO_LATE)
    not_json = Completed(three, 1, NOW, 0.1, b"not JSON")
    nowhere = Completed(one, 2**40, NOW, 0.1, b"5")
    fine = Completed(one, 1, NOW, 0.1, b"5")
    await released.report(fine, offending, not_json, nowhere)
    assert [await released.state(task_id) for task_id in (one, two, three)] == ["completed", "failed", "failed"]
    letters = [codec.decode_dead(delivery.format, delivery.body) for delivery in await dead(released, 3)]
    assert {letter.cause for letter in letters} == {DeadCause.REFUSED}
    assert [codec.decode_reports(letter.format, letter.body).reports for letter in letters] == [
        [offending],
        [not_json],
        [nowhere],
    ]
    assert "out of range" in letters[0].reason
    assert "not JSON" in letters[1].reason
    assert await all_acked(released)


async def test_dead_letters_that_cannot_be_sent_hold_up_nothing(
    released: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be read is then kept as it came, by the broker itself."""

    async def refuse(*_: object, **__: object) -> None:
        raise PublishUnconfirmed("not confirmed")

    one, two, three = [release.task_id for release in released.releases]
    refused = reports(released, Snoozed(two, 1, NOW, 0.1, TOO_LATE))
    fine = [reports(released, Completed(task_id, 1, NOW, 0.1, b"5")) for task_id in (one, three)]
    with monkeypatch.context() as fault:
        fault.setattr(released.manager.broker, "publish", refuse)
        await arrived(released, fine[0], b"\xc1", refused, fine[1], b"")
        await released.manager.settler.step()
    assert [await released.state(task_id) for task_id in (one, two, three)] == ["completed", "failed", "completed"]
    assert [delivery.body for delivery in await dead(released, 2)] == [b"\xc1", b""]
    assert await all_acked(released)


async def test_leader_shows_how_many_dead_letters_there_are(released: Floor) -> None:
    assert b"tacoq_dead_letters " not in released.manager.metrics.text(), "nobody has looked"
    letters = [DeadLetter(DeadCause.REFUSED, "why", "reports", "reports/1", b"%d" % number) for number in range(3)]
    assert await released.manager.dead_letters.send(letters)
    assert await released.manager.dead_letters.count() == 3
    assert b"tacoq_dead_letters 3.0" in released.manager.metrics.text()
    await released.manager.leader.give_up()
    assert b"tacoq_dead_letters " not in released.manager.metrics.text()

"""Runs whose messages went to others with a lost connection: their slots stay taken, nothing waits behind them."""

from __future__ import annotations

from tacoq_protocol.broker import BrokerFactory
from tacoq_protocol.brokers.memory import MemoryHub
from tacoq_protocol.messages import Completed, Returned, ReturnReason
from tacoq_worker.session import Session
from tests.worker.bench import Bench
from tests.worker.manager import QUICK, TOPOLOGY


async def beside(bench: Bench, make_broker: BrokerFactory) -> Session:
    """Another session of the same worker."""
    other = Session(bench.worker, make_broker, TOPOLOGY, pace=QUICK)
    await other.start()
    await bench.manager.until(lambda: other._intake.active)
    return other


async def test_nothing_waits_behind_a_run_whose_message_another_session_handed_back(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    bench = Bench(1)
    async with bench.at_work(make_broker):
        (long,) = await bench.release("long")
        await bench.runs("long")
        other = await beside(bench, make_broker)
        hub.disconnect(f"tacoq worker {bench.session.id}")
        assert await bench.manager.outcome(long) == Returned(long.task_id, 1, ReturnReason.REDELIVERED)
        await bench.manager.until(lambda: bench.session._intake.active)
        one, two = await bench.release("one", "two")  # one for each session: both seem to have a free slot
        await bench.manager.until(lambda: bool(bench.manager.outcomes(one) or bench.manager.outcomes(two)))
        (back,) = [release for release in (one, two) if bench.manager.outcomes(release)]
        assert bench.manager.outcomes(back) == [Returned(back.task_id, 1, ReturnReason.SLOW)]
        await bench.manager.until(lambda: bench.prefetch == 0)
        for name in ("one", "two", "a", "b", "c"):
            bench.go_on[name].set()
        for release in await bench.release("a", "b", "c"):
            assert isinstance(await bench.manager.outcome(release), Completed)
        assert bench.held == 1
        bench.go_on["long"].set()
        await bench.manager.until(lambda: bench.prefetch == 1)
        assert bench.begun.count("long") == 1
        await other.stop()


async def test_a_message_that_comes_again_late_stands_for_its_run_again(
    hub: MemoryHub, make_broker: BrokerFactory
) -> None:
    bench = Bench(2)
    async with bench.at_work(make_broker):
        (long,) = await bench.release("long")
        await bench.runs("long")
        other = await beside(bench, make_broker)
        hub.disconnect(f"tacoq worker {bench.session.id}")
        await bench.manager.outcome(long)
        await other.stop()
        await bench.manager.until(lambda: bench.prefetch == 1)
        await bench.manager.publish(long)
        await bench.manager.until(lambda: bench.messages_of(long) == 1)
        await bench.manager.until(lambda: not bench.session._intake._early._runs)
        await bench.release("short")
        await bench.runs("short")
        for name in ("long", "short"):
            bench.go_on[name].set()
        await bench.manager.until(lambda: not bench.held and bench.prefetch == 2)
        assert bench.begun == ["long", "short"]

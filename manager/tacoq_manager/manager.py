"""The manager, composed: settings and a broker in, every stage of a task's life at work out. HTTP is `app`.

accept → dispatch → (workers) → settle → notify, with presence beside them and upkeep behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from random import Random
from time import monotonic
from uuid import UUID, uuid4

from tacoq_manager.accept import Accepter
from tacoq_manager.aside import Aside
from tacoq_manager.bulk import Bulk
from tacoq_manager.cancel import REMIND_SECONDS, Canceller
from tacoq_manager.credit import Credit
from tacoq_manager.dead_letters import DeadLetters
from tacoq_manager.direct import DirectPath
from tacoq_manager.dispatch import FINISH_SECONDS, Dispatcher
from tacoq_manager.drain import Drainer
from tacoq_manager.events import Events
from tacoq_manager.inflight import InFlight
from tacoq_manager.lanes import Lanes
from tacoq_manager.limiting import PRUNE_SECONDS, Limiting
from tacoq_manager.limits import Limits
from tacoq_manager.metrics import Metrics
from tacoq_manager.news import News
from tacoq_manager.notify import Waiters
from tacoq_manager.outstanding import Outstanding
from tacoq_manager.presence import Presence
from tacoq_manager.prompts import Prompter
from tacoq_manager.publish import ReleasePublisher
from tacoq_manager.reroute import Rerouter
from tacoq_manager.rescue import STEP_SECONDS as RESCUE_SECONDS
from tacoq_manager.rescue import Rescuer
from tacoq_manager.running import Running
from tacoq_manager.runtimes import RunTimes
from tacoq_manager.sessions import Sessions
from tacoq_manager.settings import Settings
from tacoq_manager.settle import PREFETCH_MESSAGES, Settler
from tacoq_manager.stats import STEP_SECONDS as STATS_SECONDS
from tacoq_manager.stats import Stats
from tacoq_manager.store import tasks as lookup
from tacoq_manager.store.claim import Lane
from tacoq_manager.store.ends import ends
from tacoq_manager.store.engine import Database, DatabaseUnavailable
from tacoq_manager.store.leader import Taken, Tick
from tacoq_manager.store.prompts import CHANNEL
from tacoq_manager.store.results import STEP_SECONDS as RESULTS_SECONDS
from tacoq_manager.store.results import results_of
from tacoq_manager.tell import Teller
from tacoq_manager.unpublished import Unpublished
from tacoq_manager.upkeep import deaf, prune, recount, retention, unserved
from tacoq_manager.upkeep.cron import CronStep
from tacoq_manager.upkeep.expire import Expiry
from tacoq_manager.upkeep.leader import Leader
from tacoq_manager.upkeep.loops import run_every
from tacoq_manager.upkeep.schedule import Schedule
from tacoq_manager.upkeep.timers import DueTimer
from tacoq_manager.why import Explainer
from tacoq_protocol.broker import Broker, Consumer, Declared
from tacoq_protocol.errors import BrokerError
from tacoq_protocol.messages import Fence

log = logging.getLogger("tacoq.manager")

SETTLE_SECONDS = 1.0  # before a publish by a key


class Manager:
    """One manager process without its HTTP door. `id` is new at every start."""

    teller: Teller  # made last: what is made before it tells by way of it

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self.id = uuid4()
        self.settings = settings
        self.broker = broker
        self.topology = settings.topology
        self.database = Database(settings.database_url)
        self.sessions = Sessions()
        self.metrics = Metrics()
        self.stats = Stats(self.database.upkeep, self.id)
        self.results = results_of(settings.results_url, ttl=settings.results_ttl, namespace=settings.namespace)
        self.waiters = Waiters(partial(lookup.ended, self.database, self.results), lambda: self.settler.hurry())
        self.runtimes = RunTimes()
        self.in_flight = InFlight()
        self.credit = Credit(self.runtimes, self.in_flight)
        self.limits = Limits(self.in_flight, self.sessions.spec, monotonic)
        self.running = Running()
        self.events = Events(partial(ends, self.database.events), self.running.errand)
        self.broken = self.running.broken
        self._compose()
        self.metrics.watch(
            self.sessions,
            credit=self.credit_left,
            in_flight=lambda: self.in_flight.by_queue() if self.leader.leads else {},
            dead_letters=lambda: self.dead_letters.waiting if self.leader.epoch is not None else None,
        )

    def _compose(self) -> None:
        database, sessions, upkeep = self.database, self.sessions, self.database.upkeep
        lanes = Lanes(Aside(monotonic))
        self.leader = Leader(database.leader, self.id, on_taken=self._taken, on_tick=self._tick)
        self.dead_letters = DeadLetters(self.broker, self.topology, self.metrics)
        self.settler = Settler(
            database.settle,
            sessions,
            self.metrics,
            results=self.results,
            dead_letters=self.dead_letters,
            random=Random(),
            is_awaited=self.waiters.waits_for,
            is_pressing=lambda: not lanes.empty or sessions.other_managers(monotonic()),
            is_timed=self.credit.times,
            on_settled=lambda applied: self.teller.settled(applied),
            on_redelivered=self._came_back,
            on_held=lambda held, version: self.limiting.held(held, version),
        )
        unpublished = Unpublished(database.claim, self.leader, self.settler, lambda: self._learn())
        self.publisher = ReleasePublisher(
            self.broker,
            self.topology,
            sessions=sessions,
            settler=self.settler,
            unpublished=unpublished,
            lanes=lanes,
            credit=self.credit,
            metrics=self.metrics,
        )
        self.limiting = Limiting(
            database,
            self.limits,
            self.leader,
            on_news=lambda: self.news.tell_limits(),
            on_change=lambda: self.dispatcher.limits_changed(),
        )
        self.dispatcher = Dispatcher(
            database,
            self.broker,
            self.publisher,
            leader=self.leader,
            sessions=sessions,
            unpublished=unpublished,
            lanes=lanes,
            credit=self.credit,
            limits=self.limits,
            limiting=self.limiting,
            metrics=self.metrics,
        )
        self.direct = DirectPath(
            self.leader,
            self.dispatcher,
            self.publisher,
            unpublished,
            lanes=lanes,
            credit=self.credit,
            limits=self.limits,
        )
        self.prompter = Prompter(
            database.claim,  # free while another leads, and claims
            self.leader,
            on_lanes=self._note,
            on_due=lambda seconds: self.schedule.notice(seconds),
            on_deadline=lambda seconds: self.expiry.notice(seconds),
            on_missed=lambda: self.running.errand(self._look_for_lanes()),
        )
        self.rerouter = Rerouter(upkeep, sessions, on_lanes=self.prompter.lanes, begin=self.running.errand)
        database.leader.listen(CHANNEL, self.prompter.hear)
        self.schedule = DueTimer("schedule", Schedule(upkeep, self.leader, self.prompter.lanes).step)
        self.expiry = DueTimer("expire", Expiry(upkeep, self.leader, self.settler).step)
        self.accepter = Accepter(
            database.accept,
            sessions,
            self.metrics,
            retention=self.settings.retention,
            on_lanes=self.prompter.lanes,
            on_due=self.prompter.due,
            on_deadline=self.prompter.deadline,
            on_strays=self.rerouter.strayed,
            # Who does not lead hears of ends by news alone, perhaps before it hears of its own commit.
            on_live=lambda ids: self.waiters.accepted(ids) if self.leader.leads else None,
            before_keys=self._settle_what_came,
            reserving=self.direct.reserving,
        )
        self.cron = DueTimer("cron", CronStep(upkeep, self.leader, self.accepter, sessions).step)
        self.presence = Presence(
            self.broker,
            self.topology,
            database,
            sessions,
            manager=self.id,
            on_change=self._sessions_changed,
            on_lost=self._session_lost,
            on_manager=lambda message: self.outstanding.hear(message),
        )
        self.outstanding = Outstanding(
            self.broker, self.topology, self.settler, manager=self.id, tell=self.presence.tell
        )
        self.canceller = Canceller(database, self.settler, self.presence)
        self.explainer = Explainer(
            database,
            self.broker,
            leader=self.leader,
            sessions=sessions,
            credit=self.credit,
            limits=self.limits,
            runtimes=self.runtimes,
            dispatcher=self.dispatcher,
        )
        self.drainer = Drainer(sessions, self.presence)
        self.bulk = Bulk(database, self.canceller, self.accepter)
        self.rescuer = Rescuer(
            upkeep,
            self.broker,
            self.topology,
            leader=self.leader,
            sessions=sessions,
            presence=self.presence,
            settler=self.settler,
            outstanding=self.outstanding,
            in_flight=self.in_flight,
            hold=self.dispatcher.hold,
        )
        self.deafness = deaf.Deafness(
            self.broker, self.topology, sessions=sessions, presence=self.presence, in_flight=self.in_flight
        )
        self.unserved = unserved.Unserved(upkeep, lanes, sessions)
        self.recount = recount.Recount(
            upkeep, self.in_flight, on_lanes=self.dispatcher.note, on_ended=self.dispatcher.ended
        )
        self.news = News(
            self.broker,
            self.topology,
            self.id,
            others_live=lambda: sessions.other_managers(monotonic()),
            on_final=lambda ids: self.teller.heard(ids),
            on_ended=lambda ended, transaction: self.teller.ended(ended, transaction),
            on_redelivered=self.rescuer.redelivered,
            on_limits=lambda: self.running.errand(self._look_at_limits()),
            on_outlasted=lambda flow, seconds: self.runtimes.outlasted(*flow, seconds),
            on_missed=self.events.missed,
        )
        self.teller = Teller(
            self.leader,
            waiters=self.waiters,
            events=self.events,
            news=self.news,
            dispatcher=self.dispatcher,
            prompter=self.prompter,
            credit=self.credit,
            runtimes=self.runtimes,
            metrics=self.metrics,
            stats=self.stats,
            on_last_chance=lambda: self.running.errand(self._look_for_lanes()),
        )

    async def start(self) -> None:
        """Begin every stage. The broker may be away: accepting works without it.

        Raises DatabaseUnavailable, ConfigurationError.
        """
        await self.results.open()
        await self._keep()  # before a report is consumed: what ends today has its place
        await self.broker.start()
        self.broker.on_state(lambda _state: self.dispatcher.wake())
        await self.broker.declare(
            Declared(self.topology.exchanges, self.topology.fixed_queues, self.topology.fixed_bindings)
        )
        await self.presence.start()
        await self.waiters.start()
        await self.news.start()
        self.running.watch((*self.presence.loops, *self.waiters.loops, *self.news.loops))
        self.outstanding.consuming = await self.broker.consume(
            Consumer(self.topology.reports_queue, self.settler.on_delivery, prefetch=PREFETCH_MESSAGES)
        )
        begin, leading = self.running.begin, self.leader.while_leading
        begin("accept", self.accepter.run())
        begin("settle", self.settler.run())
        begin("dispatch", self.dispatcher.run())
        begin("schedule", self.schedule.run())
        begin("expire", self.expiry.run())
        begin("cron", self.cron.run())
        begin("prompts", self.prompter.run())
        begin("results", run_every(RESULTS_SECONDS, "results", self.results.step))
        begin("leader", run_every(self.leader.pause, "leader", self.leader.step, wake=self.leader.vacant))
        begin("recount", run_every(recount.STEP_SECONDS, "recount", leading(self.recount.step)))
        begin("limits", run_every(PRUNE_SECONDS, "limits", leading(self.limiting.prune)))
        begin("dead letters", run_every(recount.STEP_SECONDS, "dead letters", leading(self.dead_letters.count)))
        begin("cancel", run_every(REMIND_SECONDS, "cancel", leading(self._remind)))
        begin("rescue", run_every(RESCUE_SECONDS, "rescue", self.rescuer.step, wake=self.rescuer.wake))
        begin("deaf", run_every(deaf.STEP_SECONDS, "deaf", leading(self.deafness.step)))
        begin("stats", run_every(STATS_SECONDS, "stats", self.stats.step))
        pruning = partial(prune.step, self.database.upkeep)
        begin("prune", run_every(prune.STEP_SECONDS, "prune", leading(pruning)))
        begin("unserved", run_every(unserved.STEP_SECONDS, "unserved", leading(self.unserved.step)))
        begin("retention", run_every(retention.STEP_SECONDS, "retention", leading(self._keep)))

    async def stop(self) -> None:
        """End the stages in the order of a task's life, so that what was taken in is finished. Idempotent."""
        with suppress(TimeoutError, DatabaseUnavailable):
            async with asyncio.timeout(FINISH_SECONDS):
                await self.dispatcher.finish()
                await self.direct.finish()
        if self.outstanding.consuming is not None:
            await self.outstanding.consuming.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self.settler.caught_up()
        await self.running.stop()
        await self.leader.give_up()
        await self.stats.stop()
        await self.outstanding.stop()
        await self.news.stop()
        await self.waiters.stop()
        await self.presence.stop()
        await self.broker.stop()
        await self.database.close()
        await self.results.close()

    def credit_left(self) -> dict[str, int]:
        """How many tasks the live workers of each queue can take now. Only the leader knows."""
        queues = self.sessions.queues() if self.leader.leads else ()
        return {queue: max(0, int(self.sessions.capacity(queue) - self.credit.used(queue))) for queue in queues}

    async def _remind(self) -> int:
        return await self.canceller.remind() if self.in_flight.total() else 0  # idle it asks nothing of Postgres

    async def _keep(self) -> int:
        return await retention.step(self.database, retention=self.settings.retention)

    # What one stage tells the others.

    def _note(self, lanes: Collection[Lane]) -> None:
        """Tasks wait, perhaps for what has ended and is not settled."""
        self.dispatcher.note(lanes)
        if lanes:
            self.settler.hurry()

    async def _settle_what_came(self) -> None:
        """Or nothing, while Postgres is away: then the statement of who waits for this will tell."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self.settler.caught_up()

    async def _look_for_lanes(self) -> None:
        with suppress(DatabaseUnavailable):  # the next recount finds them
            await self.leader.while_leading(self.recount.step)()

    async def _look_at_limits(self) -> None:
        with suppress(DatabaseUnavailable):  # a claim by the old ones takes nothing, and looks again
            await self.limiting.heard()

    def _came_back(self, fence: Fence) -> None:
        self.rescuer.redelivered([fence])
        if self.leader.epoch is None:
            self.news.tell_redelivered(fence)

    async def _taken(self, taken: Taken) -> None:
        """This manager leads now: learn what is released and what waits before anything is claimed."""
        self.dispatcher.taken(taken)
        self.limits.forget()
        await self._learn()

    async def _learn(self) -> int:
        """Count what is out and what waits, and read what limits it."""
        await self.limiting.load()
        return await self.recount.step()

    def _tick(self, tick: Tick) -> None:
        self.dispatcher.wake()
        if tick.limits != self.limits.version:
            self.running.errand(self._look_at_limits())
        if tick.due is not None:
            self.schedule.notice(tick.due)
        if tick.expiry is not None:
            self.expiry.notice(tick.expiry)
        if tick.fire is not None:
            self.cron.notice(tick.fire)

    def _sessions_changed(self, queue: str) -> None:
        self.dispatcher.wake()
        self.rerouter.sessions_changed(queue)

    def _session_lost(self, session: UUID, queue: str, detail: str) -> None:
        self.dispatcher.wake()
        if self.leader.epoch is not None:
            self.running.errand(self._free(session, queue, detail))

    async def _free(self, session: UUID, queue: str, detail: str) -> None:
        try:
            await self.rescuer.session_lost(session, queue, detail)
        except (DatabaseUnavailable, BrokerError) as error:  # the next step of the rescue finds them
            log.warning("a lost session's runs wait for the next rescue", extra={"error": str(error)})

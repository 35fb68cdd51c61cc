"""Direct path: rows about to be accepted in; those that may run at once, released by the same statement, published out.

It saves a task its claim: a commit, and the way to it. Only the leader takes it, and only where nothing waits that may
run: else it is for the dispatcher to say whose turn it is. The room is kept in memory before the statement is sent; in
Postgres the statement releases nothing in a lane where something is pending, nor once another manager leads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any
from uuid import UUID

from tacoq_manager.credit import Credit
from tacoq_manager.dispatch import Dispatcher
from tacoq_manager.lanes import Lanes
from tacoq_manager.limits import Limits
from tacoq_manager.publish import ReleasePublisher
from tacoq_manager.purse import Purse
from tacoq_manager.store.accept import Lead, Row, Stored
from tacoq_manager.store.claim import CLAIM_BYTES, Claimed, Flow, Lane, Line
from tacoq_manager.store.engine import DatabaseUnavailable
from tacoq_manager.unpublished import Unpublished
from tacoq_manager.upkeep.leader import Leader
from tacoq_protocol.errors import BrokerError
from tacoq_protocol.messages import Release
from tacoq_protocol.states import TaskState

log = logging.getLogger("tacoq.direct")


class Reservation:
    """Room for rows of one statement; `lead` goes with it. Whoever is answered sets `stored`."""

    def __init__(
        self, rows: Sequence[Row], taken: Mapping[Lane, Sequence[int]], purses: Sequence[Purse], lead: Lead
    ) -> None:
        self.rows = rows
        self.taken = taken
        self.lead = lead
        self.stored: Mapping[UUID, Stored] | None = None
        self._purses = purses

    def reserved(self) -> Iterator[tuple[Lane, list[Row]]]:
        for lane, places in self.taken.items():
            yield lane, [self.rows[place] for place in places]

    def released(self, stored: Mapping[UUID, Stored]) -> list[Claimed]:
        """What the statement released, in the order in which it is to be published."""
        claimed = []
        for lane, rows in self.reserved():
            for row in rows:
                found = stored[row.id]
                if found.state is TaskState.QUEUED and not found.duplicate:
                    claimed.append(Claimed(lane, _release(row, found)))
        return claimed

    def settle(self, claimed: Sequence[Claimed]) -> set[Line]:
        """These are released, and nothing else. Return the lines that did not need all that was kept for them."""
        taken = Counter(item.lane.line for item in claimed)
        at = claimed[0].release.created_at if claimed else None
        for purse in self._purses:
            purse.settle(taken, at)
        return {line for purse in self._purses for line in purse.asked - taken}

    def lose(self) -> None:
        """Perhaps all are: they count until they are given back."""
        for purse in self._purses:
            purse.lose()


class DirectPath:
    """Keeps room for what is being accepted, and publishes what was released there."""

    def __init__(
        self,
        leader: Leader,
        dispatcher: Dispatcher,
        publisher: ReleasePublisher,
        unpublished: Unpublished,
        *,
        lanes: Lanes,
        credit: Credit,
        limits: Limits,
    ) -> None:
        self._leader = leader
        self._dispatcher = dispatcher
        self._publisher = publisher
        self._unpublished = unpublished
        self._lanes = lanes
        self._credit = credit
        self._limits = limits
        self._publishing: set[asyncio.Task[None]] = set()

    @contextmanager
    def reserving(self, rows: Sequence[Row]) -> Iterator[Reservation | None]:
        """Around the statement that stores `rows`. None: nothing of them can be released by it."""
        epoch = self._leader.epoch
        reservation = None if epoch is None else self._reserve(rows, epoch)
        if epoch is None or reservation is None:
            yield None
            return
        direct = self._unpublished.direct(row.id for _, rows in reservation.reserved() for row in rows)
        try:
            yield reservation
        except (DatabaseUnavailable, asyncio.CancelledError):
            self._unpublished.lost(direct)
            reservation.lose()
            raise
        except BaseException:
            self._unpublished.answered(direct, None)
            self._settle(reservation, [])
            raise
        assert reservation.stored is not None, "who is answered says so"
        claimed = reservation.released(reservation.stored)
        self._unpublished.answered(direct, claimed[0].release.created_at if claimed else None)
        self._settle(reservation, claimed)
        self._release(claimed, epoch)

    async def finish(self) -> None:
        """Return when all that was released is confirmed or given back. The dispatcher has finished before."""
        await asyncio.gather(*self._publishing, return_exceptions=True)

    def _reserve(self, rows: Sequence[Row], epoch: int) -> Reservation | None:
        """Keep room for the rows for which there is some now; nothing overtakes what no slot is there for."""
        waiting: dict[str, dict[Lane, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, row in enumerate(rows):
            if row.run_at is None and not row.delay:
                waiting[row.queue][Lane(row.queue, row.kind, row.fairness_key, row.priority)].append(place)
        taken: dict[Lane, list[int]] = {}
        purses: list[Purse] = []
        for queue, lanes in waiting.items():
            if not self._dispatcher.is_open(queue):
                continue
            purse = self._dispatcher.purse(queue)
            if not self._lanes.any_may_run(queue, purse):
                taken |= _take(rows, lanes, purse)
                purses.append(purse)
        if not taken:
            return None
        lines: list[int | None] = [None] * len(rows)
        for number, places in enumerate(taken.values(), start=1):
            for place in places:
                lines[place] = number
        rates = self._limits.rates({Flow(lane.queue, lane.kind) for lane in taken})
        lead = Lead(epoch, self._leader.holder, self._limits.version, list(taken), lines, rates)
        return Reservation(rows, taken, purses, lead)

    def _settle(self, reservation: Reservation, claimed: Sequence[Claimed]) -> None:
        if unneeded := reservation.settle(claimed):
            self._dispatcher.ended(unneeded)  # something may have been set aside, or passed over, for what was kept

    def _release(self, claimed: Sequence[Claimed], epoch: int) -> None:
        for queue, of_queue in groupby(claimed, key=lambda item: item.lane.queue):
            items = list(of_queue)
            if self._credit.used(queue) <= self._dispatcher.capacity(queue):
                self._credit.probe(items[0].release.fence, time.monotonic())
            try:
                sent = self._publish(queue, items, epoch)
            except Exception:  # of this batch: the rescue finds it
                log.exception("what was released as it was accepted is not published")
                continue
            publishing = asyncio.create_task(self._confirm(queue, sent))
            self._publishing.add(publishing)
            publishing.add_done_callback(self._publishing.discard)

    def _publish(self, queue: str, claimed: Sequence[Claimed], epoch: int) -> Coroutine[Any, Any, None]:
        """Sent when this returns, before anybody is answered: to read what follows an answer would come first."""
        if self._leader.epoch != epoch:  # it stood still: another may have freed and released them
            return self._publisher.give_back(claimed)
        return self._publisher.publish(queue, claimed)

    async def _confirm(self, queue: str, sent: Awaitable[None]) -> None:
        try:
            await sent
        except BrokerError as error:
            log.warning("what was released as it was accepted has to wait", extra={"error": str(error)})
            self._dispatcher.put_last(queue)
        except DatabaseUnavailable:
            self._dispatcher.wake()  # which gives them back as soon as that can be
        except Exception:  # of this batch: the rescue finds it
            log.exception("what was released as it was accepted is not published")


def _take(rows: Sequence[Row], lanes: Mapping[Lane, list[int]], purse: Purse) -> dict[Lane, list[int]]:
    """Places of rows for which a queue has room, by lane."""
    taken: dict[Lane, list[int]] = {}
    for lane in sorted(lanes, key=lambda lane: -lane.priority):
        room = purse.room(lane.kind)
        if room is None:
            continue
        limit = purse.most(lane.kind)
        if purse.limits_keys(lane.kind):
            limit = min(limit, purse.key_room(lane.kind, lane.fairness_key))
        wanted = lanes[lane][:limit]  # what limits hold back is passed over
        places = _within_size(rows, wanted[:room])
        if places:
            taken[lane] = places
            purse.spend(lane.kind, lane.fairness_key, len(places))
        if len(places) < len(wanted):
            break
    return taken


def _within_size(rows: Sequence[Row], places: Iterable[int]) -> list[int]:
    """Those at the front that one publish can carry in its time."""
    kept, size = [], 0
    for place in places:
        size += len(rows[place].payload)
        if size > CLAIM_BYTES:
            break
        kept.append(place)
    return kept


def _release(row: Row, stored: Stored) -> Release:
    return Release(
        row.id,
        1,
        row.kind,
        0,
        row.payload,
        stored.created_at,
        row.timeout,
        stored.expires_at,
        False,
        row.traceparent,
        row.tracestate,
        row.max_attempts,
    )

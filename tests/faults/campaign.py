"""Campaign: a seed and seconds in; the faults to make in that time, drawn at random, and each made and undone, out.

Two strands go on at the same time, one against workers and one against servers and links, so that faults meet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from random import Random

from tests.faults.field import LEASE, Field, Group, Link

Breaks = Callable[[Field, Random], Awaitable[None]]

QUORUM_SETTLES = 20.0  # RabbitMQ 3.10, killed sooner after the first declaration of a quorum queue, may not serve it


class Campaign:
    """What the two strands need to know of each other."""

    def __init__(self, field: Field, seed: int, seconds: float) -> None:
        self.field = field
        self._seed = seed
        self._seconds = seconds
        self._began = time.monotonic()

    async def run(self) -> None:
        """Break things for the campaign's time. Whatever was begun is undone, but for what `Field.heal` undoes."""
        async with asyncio.TaskGroup() as strands:
            for name, breaks in (("workers", AGAINST_WORKERS), ("servers", AGAINST_SERVERS)):
                strands.create_task(self._strand(Random(f"{self._seed} {name}"), breaks))

    async def _strand(self, random: Random, breaks: dict[str, Breaks]) -> None:
        for name in draws(random, list(breaks)):
            await asyncio.sleep(random.uniform(0.5, 3.0))
            if time.monotonic() > self._began + self._seconds:
                return
            await breaks[name](self.field, random)


def draws(random: Random, names: list[str]) -> Iterator[str]:
    """Yield names for ever: each comes once before any comes again, every time in another order."""
    while True:
        random.shuffle(names)
        yield from names


def _some_group(field: Field, random: Random) -> Group:
    return random.choice([group for group in field.groups if group.process.running])


async def kill_session(field: Field, random: Random) -> None:
    group = _some_group(field, random)
    if group.sessions():  # else it is being replaced
        group.kill_session()


async def kill_worker(field: Field, random: Random) -> None:
    group = _some_group(field, random)
    group.kill()
    await asyncio.sleep(random.uniform(0.0, 2.0))
    await field.add_worker(group.name, own_link=group.link is not None)


async def freeze_worker(field: Field, random: Random) -> None:
    """For twice a lease: its runs begin again elsewhere, and then it goes on with them."""
    group = _some_group(field, random)
    group.freeze()
    await asyncio.sleep(2 * LEASE)
    group.thaw()


async def reset_worker(field: Field, random: Random) -> None:
    group = _some_group(field, random)
    assert group.link is not None
    field.strike("worker's connections reset", group.slots)
    group.link.reset()


async def half_open_worker(field: Field, random: Random) -> None:
    """Silence both ways, shorter or longer than the lease, and then a reset."""
    group = _some_group(field, random)
    assert group.link is not None
    field.strike("worker's link silent", 2 * group.slots)  # what it runs, and what it has and begins afterwards
    group.link.freeze()
    await asyncio.sleep(random.uniform(1.0, 1.5 * LEASE))
    group.link.reset()
    group.link.thaw()


async def lose_replies_to_worker(field: Field, random: Random) -> None:
    """The broker hears it and is not heard: its reports arrive, and no confirm."""
    group = _some_group(field, random)
    assert group.link is not None
    field.strike("worker's replies lost", 2 * group.slots)
    group.link.freeze(requests=False)
    await asyncio.sleep(random.uniform(1.0, 8.0))
    group.link.reset()
    group.link.thaw()


async def kill_manager(field: Field, random: Random) -> None:
    seat = random.choice(field.seats)
    await seat.kill(field.slots())
    await asyncio.sleep(random.uniform(0.0, 2.0))
    await seat.begin_and_wait()


async def freeze_manager(field: Field, random: Random) -> None:
    """Shorter or longer than its lead, and than the broker waits for it."""
    seat = random.choice(field.seats)
    seat.freeze(field.slots())
    await asyncio.sleep(random.uniform(1.0, 1.5 * LEASE))
    seat.thaw()


async def terminate_manager(field: Field, random: Random) -> None:
    seat = random.choice(field.seats)
    await seat.stop()
    await seat.begin_and_wait()


async def restart_broker(field: Field, random: Random) -> None:
    await field.broker.restart(random.uniform(0.0, 3.0))


async def kill_broker(field: Field, random: Random) -> None:
    await asyncio.sleep(max(0.0, field.seats[0].began + QUORUM_SETTLES - time.monotonic()))
    await field.broker.kill()
    await asyncio.sleep(random.uniform(0.0, 3.0))
    await field.broker.start()


async def alarm(field: Field, random: Random) -> None:
    await field.broker.raise_alarm()
    await asyncio.sleep(random.uniform(1.0, 6.0))
    await field.broker.clear_alarm()


async def close_all_connections(field: Field, random: Random) -> None:
    await field.broker.close_all_connections()


async def delete_task_queue(field: Field, random: Random) -> None:
    await field.broker.delete_queue(field.topology.task_queue_name("default"))


async def restart_postgres(field: Field, random: Random) -> None:
    await field.postgres.restart(random.uniform(0.0, 3.0))


async def kill_postgres(field: Field, random: Random) -> None:
    await field.postgres.kill()
    await field.postgres.start()


async def terminate_backends(field: Field, random: Random) -> None:
    await field.postgres.terminate_backends()


async def reset_manager(field: Field, random: Random) -> None:
    field.strike("manager's connections to the broker reset")
    field.link(Link.MANAGER_BROKER).reset()


async def half_open_manager(field: Field, random: Random) -> None:
    field.strike("manager's link to the broker silent")
    link = field.link(Link.MANAGER_BROKER)
    link.freeze()
    await asyncio.sleep(random.uniform(1.0, 8.0))
    link.reset()
    link.thaw()


async def lose_replies_to_manager(field: Field, random: Random) -> None:
    """Releases are with the broker, and their confirms get lost."""
    field.strike("manager's replies from the broker lost")
    link = field.link(Link.MANAGER_BROKER)
    link.freeze(requests=False)
    await asyncio.sleep(random.uniform(1.0, 8.0))
    link.reset()
    link.thaw()


AGAINST_WORKERS: dict[str, Breaks] = {
    breaks.__name__: breaks
    for breaks in (
        kill_session,
        kill_worker,
        freeze_worker,
        reset_worker,
        half_open_worker,
        lose_replies_to_worker,
    )
}
AGAINST_SERVERS: dict[str, Breaks] = {
    breaks.__name__: breaks
    for breaks in (
        kill_manager,
        freeze_manager,
        terminate_manager,
        restart_broker,
        kill_broker,
        alarm,
        close_all_connections,
        delete_task_queue,
        restart_postgres,
        kill_postgres,
        terminate_backends,
        reset_manager,
        half_open_manager,
        lose_replies_to_manager,
    )
}

"""What aio-pika and aiormq throw in, two faults out: the link is lost, or the broker refused a call.

aiormq mixes up cancellations. A call in flight on a dying connection may end in a CancelledError although nobody
cancelled us: taken at its word it would end the task that was to reconnect. A real one may come out as another error,
or as success, when a channel closes at the same moment: taken at its word it would keep a task alive that was to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from aiormq import exceptions as amqp

RPC_SECONDS: Final = 10.0
CODES: Final[dict[type[amqp.AMQPChannelError], int]] = {
    amqp.ChannelAccessRefused: 403,
    amqp.ChannelNotFoundEntity: 404,
    amqp.ChannelLockedResource: 405,
    amqp.ChannelPreconditionFailed: 406,
}

T = TypeVar("T")


class LinkLost(Exception):
    """The connection or the channel is gone, or does not answer."""


class Refused(Exception):
    """The broker closed the channel over a call. `code` is its reply code, 0 when aiormq does not tell."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


async def call(answer: Awaitable[T], *, seconds: float = RPC_SECONDS) -> T:
    """Return what is awaited. Raises Refused or LinkLost, and CancelledError only when the caller is cancelled."""
    task = asyncio.current_task()
    assert task is not None
    cancels = task.cancelling()  # not always 0: clean-up may run in a task that was cancelled
    try:
        async with asyncio.timeout(seconds):
            result = await answer
    except (Exception, asyncio.CancelledError) as error:
        if task.cancelling() > cancels:
            raise asyncio.CancelledError from error
        fault = _fault(error, seconds)
        if fault is None:
            raise
        raise fault from error
    if task.cancelling() > cancels:
        raise asyncio.CancelledError
    return result


def _fault(error: BaseException, seconds: float) -> LinkLost | Refused | None:
    match error:
        case asyncio.CancelledError():
            return LinkLost("the connection was closed under a call")
        case TimeoutError():
            return LinkLost(f"the broker did not answer within {seconds:g} s")
        case amqp.AMQPChannelError():
            return Refused(str(error), CODES.get(type(error), 0))
        case ValueError() | TypeError():
            return None  # ours: a name that AMQP has no room for, say
        case amqp.InvalidFrameError() if "Connection.OpenOk" in str(error):
            return LinkLost("there is no such virtual host, or the user may not use it")  # aiormq drops what was said
        case _:
            # Whatever else: for a call in flight aiormq has been seen to raise a bare Exception.
            return LinkLost(f"{type(error).__name__}: {error}")

"""What aio-pika and aiormq throw in, two faults out: the link is lost, or the broker refused a call.

aiormq ends calls in flight with whatever ended the connection, which may be a CancelledError although nobody
cancelled us: taken at its word it would end the task that was to reconnect.
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
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise LinkLost("the connection was closed under a call") from None
    except TimeoutError:
        raise LinkLost(f"the broker did not answer within {seconds:g} s") from None
    except amqp.AMQPChannelError as error:
        raise Refused(str(error), CODES.get(type(error), 0)) from error
    except (amqp.AMQPError, OSError, RuntimeError) as error:
        raise LinkLost(f"{type(error).__name__}: {error}") from error

"""Prompts on their way from one manager to the one that leads: NOTIFY, which no table remembers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from tacoq_manager.store.claim import Lane
from tacoq_manager.store.engine import HotConnection
from tacoq_protocol.codec import cut

CHANNEL: Final = "tacoq"
MAX_BYTES: Final = 7_900  # Postgres takes less than 8,000 in one notification

_PROMPT: Final = f"SELECT pg_notify('{CHANNEL}', payload) FROM unnest($1::text[]) AS payload"


class Prompt(msgspec.Struct, array_like=True):
    """Lanes that got work, and the seconds until a task comes due or expires. `vacant`: nobody leads any more."""

    lanes: list[Lane] = []
    due: float | None = None
    deadline: float | None = None
    vacant: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Prompt).decode


def encode(prompt: Prompt) -> str:
    return _encode(prompt).decode()


def decode(payload: str) -> Prompt:
    """Read what was heard. Raises msgspec.MsgspecError."""
    return _decode(payload)


async def send(connection: HotConnection, lanes: Collection[Lane], due: float | None, deadline: float | None) -> None:
    """Tell whoever listens, in one statement. Raises DatabaseUnavailable: perhaps it was told."""
    parts = list(cut(lanes, _most_bytes, most=len(lanes), max_bytes=MAX_BYTES)) or [[]]
    await connection.fetch(_PROMPT, [encode(Prompt(part, due, deadline)) for part in parts])


def _most_bytes(lane: Lane) -> int:
    return len(lane.queue) + len(lane.kind) + 4 * len(lane.fairness_key) + 20  # UTF-8, quotes, commas

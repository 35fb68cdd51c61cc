"""A call that was not made yet: kind, payload and return type, as `handler.task(…)` gives it to a publisher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class TaskCall(Generic[R_co]):
    """One call of a handler, ready to publish.

    `payload` is JSON; `decode` turns the result's JSON into the handler's return type and raises pydantic's
    ValidationError (msgspec's, for a struct) when it does not fit.
    """

    kind: str
    queue: str
    payload: bytes
    decode: Callable[[bytes], R_co]

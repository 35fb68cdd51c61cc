"""Endpoints: an answer of the manager in, the protocol model that it should be, or the error it means, out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from pydantic import ValidationError

from tacoq_protocol.errors import TacoqError
from tacoq_protocol.http import View
from tacoq_publisher.errors import malformed, unexpected
from tacoq_publisher.transport import Answer, Transport

T = TypeVar("T")
V = TypeVar("V", bound=View)


class Endpoints:
    """What all of them share, over one transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def _listing(self, model: type[V], path: str) -> V:
        action = f"list {path[1:]}"
        answer = await self._transport.request("GET", path, action=action)
        return self._model(model, self._ok(answer, action), action)

    def _ok(self, answer: Answer, action: str) -> Answer:
        if 200 <= answer.status < 300:
            return answer
        raise self._unexpected(answer, action)

    def _model(self, model: type[V], answer: Answer, action: str) -> V:
        try:
            return model.model_validate_json(answer.body)
        except ValidationError as error:
            raise self._malformed(answer, action, error.errors()[0]["msg"]) from error

    def _read(self, decode: Callable[[bytes], T], answer: Answer, action: str) -> T:
        try:
            return decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._malformed(answer, action, error) from error

    def _unexpected(self, answer: Answer, action: str) -> TacoqError:
        return unexpected(answer.status, answer.body, url=self._transport.url, action=action)

    def _malformed(self, answer: Answer, action: str, reason: object) -> TacoqError:
        return malformed(answer.status, answer.body, url=self._transport.url, action=action, reason=reason)

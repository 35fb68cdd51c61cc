"""Bodies: bytes of a request in, its checked content out, or a `BadRequest` that names the place."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tacoq_manager.api.problems import BadRequest
from tacoq_protocol.http import MAX_BODY_BYTES

T = TypeVar("T")

_PLACE: Final = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_LOOKAHEAD: Final = "(?!\\\\n)"  # msgspec's own end of a pattern

encode_json: Final = msgspec.json.Encoder().encode
encode_lines: Final = msgspec.json.Encoder().encode_lines


def json_response(content: object, status: int = 200) -> Response:
    """Answer with a msgspec struct."""
    return Response(encode_json(content), status, media_type="application/json")


async def read_body(request: Request) -> bytes:
    """Return the body; stops reading when it is over the limit."""
    declared = request.headers.get("content-length", "")
    total = int(declared) if declared.isdecimal() else 0
    if total > MAX_BODY_BYTES:
        raise _too_large()
    chunks: list[bytes] = []
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > MAX_BODY_BYTES:
            raise _too_large()
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read(request: Request, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the decoded body. Raises BadRequest: 413 when too large, 400 when not JSON, 422 when it does not fit."""
    try:
        body = await read_body(request)
    except ClientDisconnect:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "the body ended before it was complete") from None
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look into what it leaves raw
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _misfit(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "the body is nested too deep to be read") from None


def task_id_of(request: Request) -> UUID:
    """Return the id in the path. Raises BadRequest."""
    text = request.path_params["task_id"]
    try:
        return UUID(text)
    except ValueError:
        message = f"{text!r} in the path is not a task id: task ids are UUIDs"
        raise BadRequest(HTTPStatus.UNPROCESSABLE_ENTITY, message) from None


def _too_large() -> BadRequest:
    return BadRequest(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {MAX_BODY_BYTES:,} bytes: send fewer tasks at once, nothing of it was accepted",
    )


def _misfit(message: str) -> BadRequest:
    """From msgspec's "Expected `int`, got `str` - at `$.tasks[3].priority`"."""
    found = _PLACE.match(message)
    assert found is not None
    steps = [name or number for name, number in _STEP.findall(found["path"] or "")]
    what = found["what"].replace(_LOOKAHEAD, "").replace("`", "'")
    index = None
    if len(steps) > 1 and steps[0] == "tasks":
        index, steps = int(steps[1]), steps[2:]
    pointer = "".join(f"/{step}" for step in steps) or None
    detail = f"{'.'.join(steps)}: {what}" if steps else what
    return BadRequest(HTTPStatus.UNPROCESSABLE_ENTITY, detail, index=index, pointer=pointer)

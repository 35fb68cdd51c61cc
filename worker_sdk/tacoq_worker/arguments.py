"""Type hints in, once per handler; payload → arguments and result → JSON out, for every run.

The payload rule is FastAPI's body rule: exactly one parameter (besides the Context) that is a model → the
payload is that model; else the payload is an object of named parameters, and an unknown or missing name is an
error.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NotRequired, Protocol, Union, get_args, get_origin, get_type_hints

import msgspec
from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict, is_typeddict

from tacoq_protocol.errors import ConfigurationError
from tacoq_protocol.http import MAX_PAYLOAD_BYTES
from tacoq_worker.context import Context

_SHOWN_ERRORS = 5


class InvalidPayload(Exception):
    """The payload does not fit the handler; the text names the place, as in `$.mail.to[0]`."""


_UNEXPECTED: Final = re.compile(
    r"Expected `(.*?)` - serialized value may not be as expected "
    r"\[(?:field_name='(.*?)', )?input_value=(.*?), input_type=([^\],]+)\]"
)


class InvalidResult(Exception):
    """The handler's return value cannot be written as the JSON of its return type, or is too large."""


class Codec(Protocol):
    """JSON ↔ one Python type. `read` raises the validating library's own ValidationError."""

    read: Callable[[bytes], Any]

    def decode(self, payload: bytes) -> Any:
        """Like `read`, but raises InvalidPayload."""

    def encode(self, value: object, *, strict: bool) -> bytes:
        """Raises InvalidResult when it is no JSON, and if `strict` when it is not of the type."""

    def schema(self, mode: Literal["validation", "serialization"]) -> dict[str, Any]: ...


class PydanticCodec:
    """Everything but msgspec structs."""

    def __init__(self, hint: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(hint)
        # The adapter's own methods cost more than the work they wrap.
        self.read: Callable[[bytes], Any] = self._adapter.validator.validate_json
        self._serialize = self._adapter.serializer.to_json

    def decode(self, payload: bytes) -> Any:
        try:
            return self.read(payload)
        except ValidationError as error:
            raise InvalidPayload(_places(error)) from None

    def encode(self, value: object, *, strict: bool) -> bytes:
        try:
            return self._serialize(value, warnings="error" if strict else "none")
        except PydanticSerializationError as error:
            raise InvalidResult(_unexpected(str(error))) from None

    def schema(self, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
        try:
            return self._adapter.json_schema(mode=mode)
        except PydanticInvalidForJsonSchema:
            return {}


def _unexpected(text: str) -> str:
    """Say in a few words what pydantic says as a list of warnings; anything else as it says it."""
    found = [
        f"{f'at {field}: ' if field else ''}expected {expected}, got {value} ({kind})"
        for expected, field, value, kind in _UNEXPECTED.findall(text)
    ]
    return "; ".join(found) or text


class StructCodec:
    """msgspec structs."""

    def __init__(self, hint: Any) -> None:
        self._hint = hint
        self.read: Callable[[bytes], Any] = msgspec.json.Decoder(hint).decode

    def decode(self, payload: bytes) -> Any:
        try:
            return self.read(payload)
        except (
            msgspec.DecodeError,
            UnicodeDecodeError,
        ) as error:  # ValidationError is one; its text has the path
            raise InvalidPayload(str(error)) from None

    def encode(self, value: object, *, strict: bool) -> bytes:
        try:
            if strict and not isinstance(value, get_origin(self._hint) or self._hint):
                raise TypeError(f"expected {self._hint!r}, got {type(value).__qualname__}")
            return msgspec.json.encode(value)
        except (TypeError, ValueError, msgspec.EncodeError) as error:
            raise InvalidResult(str(error)) from None

    def schema(self, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
        return msgspec.json.schema(self._hint)


class Arguments:
    """How payloads become the arguments of one handler, and its return values results."""

    def __init__(self, function: Callable[..., object], *, name: str) -> None:
        """Read the hints of `function`. Raises ConfigurationError, naming the handler and the parameter."""
        signature = inspect.signature(function)
        hints = _hints(function, name)
        self._context = _context_parameter(signature, hints, name)
        self._signature = signature.replace(
            parameters=[p for p in signature.parameters.values() if p.name != self._context],
            return_annotation=signature.empty,
        )
        parameters = self._signature.parameters
        for parameter in parameters.values():
            _refuse_unnamed(parameter, name)
        models = [p for p in parameters if p in hints and is_model(hints[p])]
        self._model = models[0] if len(parameters) == len(models) == 1 else None
        if self._model is not None:
            self._payload = _codec(hints[self._model], f"{name}, parameter {self._model!r}")
            self._optional = parameters[self._model].default is not inspect.Parameter.empty
        else:
            self._payload = _named_codec(parameters, hints, name)
            self._optional = all(p.default is not p.empty for p in parameters.values())
        self._result = _codec(hints.get("return", Any), f"{name}, return type")

    @property
    def wants_context(self) -> bool:
        return self._context is not None

    @property
    def optional(self) -> bool:
        """True when the payload may be null."""
        return self._optional

    def bind(self, payload: bytes, context: Context | None) -> dict[str, Any]:
        """Return the keyword arguments for one run. Raises InvalidPayload."""
        arguments: dict[str, Any]
        if self._optional and payload == b"null":
            arguments = {}
        elif self._model is not None:
            arguments = {self._model: self._payload.decode(payload)}
        else:
            arguments = self._payload.decode(payload)
        if self._context is not None:
            arguments[self._context] = context
        return arguments

    def call_payload(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """Return the payload of a call with these arguments, the Context left out.

        Raises TypeError when they do not fit the signature or are no JSON; their types are checked by the
        worker.
        """
        given = self._signature.bind(*args, **kwargs).arguments
        if self._model is not None and not given:
            return b"null"
        try:
            return self._payload.encode(given if self._model is None else given[self._model], strict=False)
        except InvalidResult as error:
            raise TypeError(f"the arguments cannot be written as JSON: {error}") from None

    def encode_result(self, value: object) -> bytes:
        """Raises InvalidResult."""
        result = self._result.encode(value, strict=True)
        if len(result) > MAX_PAYLOAD_BYTES:
            raise InvalidResult(
                f"the result has {len(result):,} bytes of JSON and at most {MAX_PAYLOAD_BYTES:,} are taken: "
                "store it elsewhere and return where it is"
            )
        return result

    def decode_result(self, result: bytes) -> Any:
        """Turn a result's JSON into the return type. Raises pydantic's ValidationError, for structs msgspec's."""
        return self._result.read(result)

    def payload_schema(self) -> bytes:
        """JSON Schema of the payload."""
        schema = self._payload.schema("validation")
        if self._optional:
            shared = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
            schema = {"anyOf": [schema, {"type": "null"}], **shared}
        return json.dumps(schema).encode()

    def result_schema(self) -> bytes:
        """JSON Schema of the result."""
        return json.dumps(self._result.schema("serialization")).encode()


def is_model(hint: object) -> bool:
    """True for a pydantic model, dataclass, TypedDict, msgspec struct, and a union of such, None aside."""
    origin = get_origin(hint)
    if origin is Annotated:
        return is_model(get_args(hint)[0])
    if origin in (Union, UnionType):
        members = [member for member in get_args(hint) if member is not NoneType]
        return all(is_model(member) for member in members)
    plain = origin or hint
    return isinstance(plain, type) and (
        issubclass(plain, (BaseModel, msgspec.Struct)) or dataclasses.is_dataclass(plain) or is_typeddict(plain)
    )


def _hints(function: Callable[..., object], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:  # whatever evaluating the user's annotations may raise
        raise ConfigurationError(
            f"the type hints of {name} cannot be evaluated: {error}; what they name must be there "
            "at run time, at module level"
        ) from error


def _context_parameter(signature: inspect.Signature, hints: Mapping[str, object], name: str) -> str | None:
    found = [p for p in signature.parameters if hints.get(p) is Context]
    if len(found) > 1:
        raise ConfigurationError(f"{name} has {len(found)} parameters annotated Context ({', '.join(found)}): keep one")
    return found[0] if found else None


def _refuse_unnamed(parameter: inspect.Parameter, name: str) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        raise ConfigurationError(
            f"{name} takes {stars}{parameter.name}, and a payload has named fields: "
            "give each its own parameter, or take one dict"
        )
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ConfigurationError(
            f"{name} takes {parameter.name!r} by position only, and a payload has names: drop the '/'"
        )


def _named_codec(parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, object], name: str) -> Codec:
    # A TypedDict takes any name (a model would refuse "copy" and "_id") and yields keyword arguments at once.
    fields: dict[str, Any] = {}
    for parameter in parameters.values():
        hint = hints.get(parameter.name, Any)
        _codec(hint, f"{name}, parameter {parameter.name!r}")  # for an error that names it
        fields[parameter.name] = hint if parameter.default is parameter.empty else NotRequired[hint]
    payload = TypedDict("Payload", fields)  # type: ignore[misc]
    payload.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return _codec(payload, name)


def _codec(hint: object, where: str) -> Codec:
    try:
        return StructCodec(hint) if _is_struct(hint) else PydanticCodec(hint)
    except (PydanticUserError, PydanticSchemaGenerationError, TypeError) as error:
        raise ConfigurationError(f"{where}: {hint!r} cannot be read from or written as JSON: {error}") from error


def _is_struct(hint: object) -> bool:
    plain = get_origin(hint) or hint
    return isinstance(plain, type) and issubclass(plain, msgspec.Struct)


def _places(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{_path(e['loc'])}: {e['msg']}" for e in found[:_SHOWN_ERRORS]]
    if len(found) > _SHOWN_ERRORS:
        lines.append(f"and {len(found) - _SHOWN_ERRORS} more")
    return "; ".join(lines)


def _path(places: tuple[int | str, ...]) -> str:
    return "$" + "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)

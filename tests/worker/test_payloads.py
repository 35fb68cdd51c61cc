"""What a payload must be, and what a handler hears of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import msgspec
import pytest
from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypedDict

from tacoq_protocol.errors import ConfigurationError
from tacoq_worker import Context, Worker
from tacoq_worker.arguments import InvalidPayload, InvalidResult
from tacoq_worker.registry import AnyHandler


class Address(BaseModel):
    city: str


class Mail(BaseModel):
    to: list[Address]
    subject: str = ""


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Pair(TypedDict):
    left: int
    right: int


class Wire(msgspec.Struct):
    value: int


class OtherMail(BaseModel):
    letter: str


def handler(function: Any) -> AnyHandler:
    made: AnyHandler = Worker().task(function)
    return made


def bind(function: Any, payload: str) -> dict[str, Any]:
    return handler(function).arguments.bind(payload.encode(), None)


def complaint(function: Any, payload: str) -> str:
    with pytest.raises(InvalidPayload) as caught:
        bind(function, payload)
    return str(caught.value)


def named(x: int, y: int = 2, *, copy: str = "") -> None: ...
def model(mail: Mail) -> None: ...
def model_and_context(mail: Mail, ctx: Context) -> None: ...
def data(point: Point) -> None: ...
def typed_dict(pair: Pair) -> None: ...
def struct(wire: Wire) -> None: ...
def two_models(mail: Mail, address: Address) -> None: ...
def model_with_option(mail: Mail, urgent: bool = False) -> None: ...
def optional_model(mail: Mail | None = None) -> None: ...
def either_model(mail: Mail | OtherMail) -> None: ...
def annotated(count: Annotated[int, Field(gt=0)]) -> None: ...
def nothing() -> None: ...
def untyped(x, y=1):  # type: ignore[no-untyped-def]
    return x


def one_dict(data: dict[str, int]) -> None: ...


def test_named_parameters_are_an_object_and_defaults_are_left_to_python() -> None:
    assert bind(named, '{"x": 1}') == {"x": 1}
    assert bind(named, '{"x": "7", "y": 3, "copy": "c"}') == {"x": 7, "y": 3, "copy": "c"}


@pytest.mark.parametrize(
    ("function", "payload", "expected"),
    [
        (model, '{"to": [{"city": "Porto"}]}', {"mail": Mail(to=[Address(city="Porto")])}),
        (data, '{"x": 1, "y": 2}', {"point": Point(1, 2)}),
        (typed_dict, '{"left": 1, "right": 2}', {"pair": {"left": 1, "right": 2}}),
        (struct, '{"value": 5}', {"wire": Wire(5)}),
        (either_model, '{"letter": "a"}', {"mail": OtherMail(letter="a")}),
        (optional_model, "null", {}),
        (optional_model, '{"to": []}', {"mail": Mail(to=[])}),
        (model_and_context, '{"to": []}', {"mail": Mail(to=[]), "ctx": None}),
    ],
)
def test_a_single_model_is_the_payload_itself(function: Any, payload: str, expected: dict[str, Any]) -> None:
    assert bind(function, payload) == expected


def test_a_model_beside_another_parameter_is_a_named_field() -> None:
    assert bind(two_models, '{"mail": {"to": []}, "address": {"city": "Faro"}}')["address"] == Address(city="Faro")
    assert bind(model_with_option, '{"mail": {"to": []}}') == {"mail": Mail(to=[])}
    assert bind(one_dict, '{"data": {"a": 1}}') == {"data": {"a": 1}}


@pytest.mark.parametrize("payload", ["{}", "null"])
def test_no_parameters_take_an_empty_payload(payload: str) -> None:
    assert bind(nothing, payload) == {}


def test_parameters_without_hints_take_any_json() -> None:
    assert bind(untyped, '{"x": [1, "a"]}') == {"x": [1, "a"]}


@pytest.mark.parametrize(
    ("function", "payload", "places"),
    [
        (named, '{"y": 1}', ["$.x: Field required"]),
        (named, '{"x": 1, "z": 2}', ["$.z: Extra inputs are not permitted"]),
        (named, '{"x": "many", "y": []}', ["$.x: ", "$.y: "]),
        (named, "[1]", ["$: Input should be an object"]),
        (named, "{", ["$: Invalid JSON"]),
        (named, "null", ["$: Input should be an object"]),
        (nothing, '{"x": 1}', ["$.x: Extra inputs"]),
        (model, '{"to": [{"city": "a"}, {"city": 5}]}', ["$.to[1].city: Input should be a valid string"]),
        (two_models, '{"mail": {"to": [{}]}, "address": {"city": ""}}', ["$.mail.to[0].city: Field required"]),
        (annotated, '{"count": 0}', ["$.count: Input should be greater than 0"]),
        (struct, '{"value": "x"}', ["Expected `int`, got `str` - at `$.value`"]),
        (struct, "{", ["truncated"]),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_with_its_place(function: Any, payload: str, places: list[str]) -> None:
    text = complaint(function, payload)
    for place in places:
        assert place in text


def test_the_complaint_does_not_repeat_what_was_sent() -> None:
    assert "hunter2" not in complaint(named, '{"x": "hunter2"}')


def test_a_long_list_of_complaints_is_cut() -> None:
    payload = json.dumps({"to": [{"city": 1}] * 50})
    assert complaint(model, payload).endswith("and 45 more")


def test_calls_become_payloads_without_the_context() -> None:
    worker = Worker("letters")

    @worker.task("mail.send")
    def send(ctx: Context, mail: Mail) -> int:
        return len(mail.to)

    call = send.task(Mail(to=[Address(city="Porto")]))
    assert (call.kind, call.queue) == ("mail.send", "letters")
    assert json.loads(call.payload) == {"to": [{"city": "Porto"}], "subject": ""}
    assert call.decode(b"3") == 3


def test_calls_with_named_parameters_leave_defaults_out() -> None:
    assert json.loads(handler(named).task(1, copy="c").payload) == {"x": 1, "copy": "c"}
    assert handler(nothing).task().payload == b"{}"
    assert handler(optional_model).task().payload == b"null"
    assert handler(struct).task(Wire(1)).payload == b'{"value":1}'


def test_a_call_that_does_not_fit_the_signature_or_json_is_refused_when_made() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        handler(named).task()
    with pytest.raises(TypeError, match="too many positional"):
        handler(nothing).task(1)
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        handler(untyped).task(object())


def returns_int() -> int: ...  # type: ignore[empty-body]
def returns_mail() -> Mail: ...  # type: ignore[empty-body]
def returns_float() -> float: ...  # type: ignore[empty-body]
def returns_struct() -> Wire: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (returns_int, 3, b"3"),
        (returns_float, 3, b"3.0"),
        (returns_mail, Mail(to=[]), b'{"to":[],"subject":""}'),
        (returns_struct, Wire(1), b'{"value":1}'),
        (nothing, None, b"null"),
        (untyped, {"a": [1]}, b'{"a":[1]}'),
    ],
)
def test_results_are_written_by_the_return_type(function: Any, value: object, expected: bytes) -> None:
    assert handler(function).arguments.encode_result(value) == expected


@pytest.mark.parametrize(
    ("function", "value", "words"),
    [
        (returns_int, "3", r"^expected int, got '3' \(str\)$"),
        (returns_mail, {"to": []}, r"^expected Mail, got \{'to': \[\]\} \(dict\)$"),
        (returns_struct, 5, "expected .*Wire.*, got int"),
        (untyped, object(), "object"),
        (untyped, "\ud800", "surrogates"),
    ],
)
def test_results_of_another_type_are_refused(function: Any, value: object, words: str) -> None:
    with pytest.raises(InvalidResult, match=words):
        handler(function).arguments.encode_result(value)


@pytest.mark.parametrize(
    ("function", "error"), [(returns_mail, ValidationError), (returns_struct, msgspec.ValidationError)]
)
def test_a_result_that_the_caller_cannot_read_is_the_error_of_its_type(function: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        handler(function).task().decode(b'"no object"')


def test_a_result_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidResult, match=r"1,048,577 bytes .* at most 1,048,576"):
        handler(untyped).arguments.encode_result("x" * (1024 * 1024 - 1))


def test_schemas_say_what_the_payload_must_be() -> None:
    schema = json.loads(handler(named).spec.payload_schema)
    assert schema["required"] == ["x"]
    assert schema["additionalProperties"] is False
    optional = json.loads(handler(optional_model).spec.payload_schema)
    assert {"type": "null"} in optional["anyOf"]
    assert "Address" in optional["$defs"]
    assert json.loads(handler(returns_int).spec.result_schema) == {"type": "integer"}
    assert json.loads(handler(struct).spec.payload_schema)["$ref"] == "#/$defs/Wire"


def star(*numbers: int) -> None: ...
def double_star(**fields: int) -> None: ...
def by_position(x: int, /) -> None: ...
def two_contexts(a: Context, b: Context) -> None: ...
def unknown_hint(x: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821
def not_json(x: AnyHandler) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (star, "'star' takes \\*numbers.*give each its own parameter"),
        (double_star, "'double_star' takes \\*\\*fields"),
        (by_position, "'x' by position only.*drop the '/'"),
        (two_contexts, "2 parameters annotated Context \\(a, b\\)"),
        (unknown_hint, "'unknown_hint' cannot be evaluated: name 'Nowhere' is not defined"),
        (not_json, "'not_json', parameter 'x'.*cannot be read from or written as JSON"),
    ],
)
def test_signatures_that_no_payload_can_fill_are_refused_at_decoration(function: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        handler(function)

"""OTLP/JSON to protobuf, and answers back to JSON.

OTLP's JSON is protobuf's, with differences: trace and span ids are hex instead of base64, enums are
numbers, keys are lowerCamelCase only, and what is unknown is ignored. A walk along the message
descriptors does it all in one pass: five times as fast as mending the ids and handing over to
`google.protobuf.json_format` (0.08 s instead of 0.40 s for 3,000 spans of nine attributes), and
with the path in its errors. The library is the oracle of its tests.

Liberal where it costs nothing: names of enums are understood, as the Collector does it, and null
counts as absent.

Source:
    OTLP specification 1.9, "JSON Protobuf Encoding"; protobuf's "ProtoJSON Format".
"""

import base64
import binascii
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from outcome_exporter import strict_json
from outcome_exporter.errors import DecodeError
from outcome_exporter.strict_json import Json

LEVELS_MAX = 100
"""Nested messages, as many as protobuf's parsers allow."""

_HEX_FIELDS = {"trace_id", "span_id", "parent_span_id"}
_NOT_FINITE = {"NaN", "Infinity", "-Infinity"}
_NUMBER = re.compile(r"-?\d{1,400}(\.\d{1,400})?([eE][+-]?\d{1,3})?", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,20}", re.ASCII)

Convert = Callable[[Json], Any]


class _Field(NamedTuple):
    name: str
    repeated: bool
    message: Descriptor | None
    convert: Convert | None


class _Bad(ValueError):
    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path: list[str] = []
        super().__init__(problem)


def parse(body: bytes, request: type[Message]) -> bytes:
    """The protobuf of a request in OTLP/JSON.

    Raises:
        DecodeError: It is not such a request; says where.
    """
    value = strict_json.loads(body)
    try:
        return request(**_message(_descriptor(request), value, LEVELS_MAX)).SerializeToString()
    except _Bad as bad:
        where = "".join(reversed(bad.path)).lstrip(".") or "the request"
        raise DecodeError(f"{where}: {bad.problem}") from None


def write(message: Message) -> bytes:
    """An answer in OTLP/JSON: Export…Response or google.rpc.Status; none of them holds an id."""
    return json_format.MessageToJson(message, indent=None).encode()


def _message(descriptor: Descriptor, value: Json, levels: int) -> dict[str, Any]:
    """Arguments of the message's constructor."""
    if not isinstance(value, dict):
        raise _Bad(f"{_show(value)} is no object")
    if levels == 0:
        raise _Bad(f"more than {LEVELS_MAX} levels; flatten it")
    fields = _fields(descriptor)
    arguments = {}
    for key, inner in value.items():
        field = fields.get(key)
        if field is None or inner is None:
            continue
        try:
            arguments[field.name] = (
                _list(field, inner, levels) if field.repeated else _one(field, inner, levels)
            )
        except _Bad as bad:
            bad.path.append(f".{key}")
            raise
    return arguments


def _list(field: _Field, values: Json, levels: int) -> list[object]:
    if not isinstance(values, list):
        raise _Bad(f"{_show(values)} is no array")
    converted = []
    for i, value in enumerate(values):
        try:
            converted.append(_one(field, value, levels))
        except _Bad as bad:
            bad.path.append(f"[{i}]")
            raise
    return converted


def _one(field: _Field, value: Json, levels: int) -> object:
    if field.message is not None:
        return _message(field.message, value, levels - 1)
    assert field.convert is not None
    return field.convert(value)


def _descriptor(message: type[Message]) -> Descriptor:
    # What protobuf's C implementation hands out is no subclass of the class it is documented as.
    return cast("Descriptor", message.DESCRIPTOR)


@functools.cache
def _fields(descriptor: Descriptor) -> dict[str, _Field]:
    """The fields of a message by their key in JSON."""
    return {
        field.json_name: _Field(
            field.name,
            field.is_repeated,
            field.message_type,
            None if field.message_type else _converter(field),
        )
        for field in descriptor.fields
    }


def _converter(field: FieldDescriptor) -> Convert:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _hex if field.name in _HEX_FIELDS else _base64
    if field.enum_type is not None:
        return functools.partial(_enum, field.enum_type)
    return _CONVERTERS[field.cpp_type]


def _string(value: Json) -> str:
    if not isinstance(value, str):
        raise _Bad(f"{_show(value)} is no string")
    return value


def _bool(value: Json) -> bool:
    if not isinstance(value, bool):
        raise _Bad(f"{_show(value)} is neither true nor false")
    return value


def _hex(value: Json) -> bytes:
    text = _string(value)
    try:
        return binascii.unhexlify(text)
    except ValueError:
        raise _Bad(f"{_show(value)} is no hex; OTLP writes ids in hex, not in base64") from None


def _base64(value: Json) -> bytes:
    text = _string(value).replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise _Bad(f"{_show(value)} is no base64") from None


def _integer(lowest: int, end: int, value: Json) -> int:
    number = _whole(value)
    if number is None:
        raise _Bad(f"{_show(value)} is no integer")
    if not lowest <= number < end:
        raise _Bad(f"{_show(value)} is out of range")
    return number


def _whole(value: Json) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value) else None
    return value if isinstance(value, int) else None


def _double(value: Json) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _Bad(f"{_show(value)} is out of range") from None
    if isinstance(value, str) and (value in _NOT_FINITE or _NUMBER.fullmatch(value)):
        return float(value)
    raise _Bad(f"{_show(value)} is no number")


def _enum(descriptor: EnumDescriptor, value: Json) -> int:
    if isinstance(value, str):
        named = descriptor.values_by_name.get(value)
        if named is None:
            raise _Bad(f"{_show(value)} is no {descriptor.name}; OTLP writes enums as numbers")
        return int(named.number)
    return _integer(-(2**31), 2**31, value)


_CONVERTERS: dict[int, Convert] = {
    FieldDescriptor.CPPTYPE_STRING: _string,
    FieldDescriptor.CPPTYPE_BOOL: _bool,
    FieldDescriptor.CPPTYPE_DOUBLE: _double,
    FieldDescriptor.CPPTYPE_INT32: functools.partial(_integer, -(2**31), 2**31),
    FieldDescriptor.CPPTYPE_INT64: functools.partial(_integer, -(2**63), 2**63),
    FieldDescriptor.CPPTYPE_UINT32: functools.partial(_integer, 0, 2**32),
    FieldDescriptor.CPPTYPE_UINT64: functools.partial(_integer, 0, 2**64),
}
"""By the type in C++; OTLP has no field of type float."""


def _show(value: Json) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = strict_json.dumps(value).decode()
    return text if len(text) <= 40 else text[:37] + "…"  # noqa: PLR2004 -- what fits in a message

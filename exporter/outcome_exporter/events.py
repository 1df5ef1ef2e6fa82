"""Business events out of payloads: CloudEvents in JSON, and OTLP log records that are events.

Both become `BusinessEvent`, with one identity, (source, id), by which duplicates are told:

| | CloudEvents | OTLP log record |
| --- | --- | --- |
| source | `source` | resource attribute `service.name` |
| id | `id` | attribute `log.record.uid`, else a 128-bit hash of resource and record |
| type | `type` | `event_name`, else the older attribute `event.name` |
| time | `time` | `time_unix_nano`, else `observed_time_unix_nano` |
| trace | extension `traceparent` | `trace_id` |
| `fields` | the whole event | `data`: attributes and body entries; `resource` |

The SDK of CloudEvents is not used for reading: it invents what is missing (id, time), so that a
broken sender goes unnoticed and its repeats count twice, and it cuts times to microseconds. It
serves the tests as an independent sender.

A CloudEvent that is wrong refuses its whole request, and is named by its index: the sender can mend
and send everything again, since what is sent twice counts once. A log record that is no event is
ordinary, and only left out.

Linear in the payload. Bounded: events a request, levels, lengths of keys.
"""

import base64
import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from itertools import chain, starmap
from operator import methodcaller
from typing import Any

from google.protobuf.message import DecodeError as ProtobufError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from outcome_exporter import strict_json
from outcome_exporter.errors import DecodeError
from outcome_exporter.model import BusinessEvent, EventBatch
from outcome_exporter.strict_json import Json
from outcome_exporter.units import SECOND

EVENTS_MAX = 100_000
"""Events in one request."""
LEVELS_MAX = 32
"""Levels of objects and lists in one event."""
KEY_LENGTH_MAX = 256
"""Characters in a key, an id, a source or a type; more is a mistake, and memory."""

_NESTED = {dict, list}

TIME_MIN = -(2**63)
TIME_MAX = 2**63 - 1
"""Times beyond int64 (1677 to 2262) are taken as its ends: valid, and skewed beyond doubt."""


# CloudEvents ------------------------------------------------------------------------------------

SPEC_VERSION = "1.0"

_SECOND = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d):(\d\d):(\d\d)", re.ASCII)
_AFTER_SECOND = re.compile(r"(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
_SECOND_LENGTH = len("2024-05-01T12:00:00")
_EPOCH = date(1970, 1, 1).toordinal()
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.IGNORECASE | re.ASCII
)
_JSON_TYPE = re.compile(r"[^/;]+/(?:[^/;]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_TEXT_TYPE = re.compile(
    r"text/.*|[^/;]+/(?:[^/;]+\+)?xml\s*(?:;.*)?|application/x-www-form-urlencoded.*",
    re.IGNORECASE,
)


def decode_cloudevents(payload: bytes) -> EventBatch:
    """The events of a JSON array of CloudEvents 1.0 in structured mode.

    Raises:
        DecodeError: It is no such array; names the event by its index.
    """
    array = strict_json.loads(payload)
    if not isinstance(array, list):
        raise DecodeError("no JSON array of CloudEvents; send one event as an array of one")
    if len(array) > EVENTS_MAX:
        raise DecodeError(f"{len(array)} events; send at most {EVENTS_MAX} in one request")
    if _excess(array):
        for i, event in enumerate(array):
            if excess := _excess([event]):
                raise DecodeError(f"events[{i}]: {excess}")
    # Column by column: a call for each field of each event would cost more than reading the JSON.
    objects = _objects(array)
    columns = zip(
        _texts(objects, "source"),
        _texts(objects, "id"),
        _texts(objects, "type"),
        _times(objects),
        [_traceparent(text) if (text := event.get("traceparent")) else None for event in objects],
        _with_data(objects),
        strict=True,
    )
    return EventBatch(list(starmap(BusinessEvent, columns)), 0)


def cloudevents_of_structured(body: bytes) -> bytes:
    """The payload of one CloudEvent in structured mode, validated by `decode_cloudevents`."""
    return strict_json.dumps([strict_json.loads(body)])


def cloudevents_of_binary(
    attributes: Mapping[str, str], content_type: str | None, body: bytes
) -> bytes:
    """The payload of one CloudEvent in binary mode, validated by `decode_cloudevents`.

    Data is JSON if its type says so, or if it has no type and reads as JSON; text stays text;
    anything else is carried in base64, as the JSON format prescribes.

    Args:
        attributes: Values of the `ce-` headers by name, decoded.
        content_type: Type of the data.
        body: The data; empty for none.

    Raises:
        DecodeError: Data that calls itself JSON is not.
    """
    event: dict[str, Any] = dict(attributes)
    if content_type is not None:
        event["datacontenttype"] = content_type
    if body:
        event.update(_data(content_type, body))
    return strict_json.dumps([event])


def _data(content_type: str | None, body: bytes) -> dict[str, Any]:
    if content_type is not None and _JSON_TYPE.fullmatch(content_type):
        return {"data": strict_json.loads(body)}
    try:
        if content_type is None:
            return {"data": strict_json.loads(body)}
        if _TEXT_TYPE.fullmatch(content_type):
            return {"data": body.decode()}
    except (DecodeError, UnicodeDecodeError):
        pass
    return {"data_base64": base64.b64encode(body).decode()}


def _objects(array: Sequence[Json]) -> list[dict[str, Json]]:
    """Events of the version that is read here."""
    objects = []
    for i, event in enumerate(array):
        if not isinstance(event, dict):
            raise DecodeError(f"events[{i}]: no JSON object; a CloudEvent is one")
        version = event.get("specversion")
        if version != SPEC_VERSION:
            raise DecodeError(f"events[{i}].specversion: {version!r:.50}; send {SPEC_VERSION!r}")
        objects.append(event)
    return objects


def _texts(events: Sequence[Mapping[str, Json]], name: str) -> list[str]:
    """What every event must say."""
    texts = []
    for i, event in enumerate(events):
        text = event.get(name)
        if not isinstance(text, str) or not text:
            raise DecodeError(f"events[{i}].{name}: missing; every CloudEvent has it, as a text")
        if len(text) > KEY_LENGTH_MAX:
            raise DecodeError(
                f"events[{i}].{name}: more than {KEY_LENGTH_MAX} characters; shorten it"
            )
        texts.append(text)
    return texts


def _excess(values: Sequence[Json]) -> str | None:
    """By what some values exceed the bounds, if they do; all those of a level at once."""
    for _ in range(LEVELS_MAX):
        objects = [value for value in values if type(value) is dict]
        if max(map(len, set[str]().union(*objects)), default=0) > KEY_LENGTH_MAX:
            return f"a key of more than {KEY_LENGTH_MAX} characters"
        lists = [value for value in values if type(value) is list]
        inside = chain.from_iterable(chain(map(dict.values, objects), lists))
        values = [value for value in inside if type(value) in _NESTED]
        if not values:
            return None
    return f"more than {LEVELS_MAX} levels; flatten it"


def _times(events: Sequence[Mapping[str, Json]]) -> list[int | None]:
    """When they happened, where they say so."""
    times: list[int | None] = []
    for i, event in enumerate(events):
        value = event.get("time")
        try:
            times.append(None if value is None else parse_time(str(value)))
        except ValueError:
            raise DecodeError(
                f"events[{i}].time: {value!r:.50} is no time; write it like 2024-05-01T12:00:00.25Z"
            ) from None
    return times


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time, exactly; digits below the nanosecond are cut.

    A leap second is the second after it, as in Unix time. Clamped to int64.

    Raises:
        ValueError: It is no such time.
    """
    match = _AFTER_SECOND.fullmatch(text, _SECOND_LENGTH)
    if match is None:
        raise ValueError(text)
    fraction, sign, hours_off, minutes_off = match.groups()
    second = _second(text[:_SECOND_LENGTH])
    if sign:
        hour, minute = int(hours_off), int(minutes_off)
        if hour > 23 or minute > 59:  # noqa: PLR2004 -- a clock's own bounds
            raise ValueError(text)
        off = (hour * 60 + minute) * 60
        second += off if sign == "-" else -off
    nanoseconds = int(fraction[:9].ljust(9, "0")) if fraction else 0
    return _clamp(second * SECOND + nanoseconds)


@functools.lru_cache(maxsize=1024)
def _second(text: str) -> int:
    """Seconds since 1970, before any offset: many events of a request are of one second."""
    match = _SECOND.fullmatch(text)
    if match is None:
        raise ValueError(text)
    day, hours, minutes, seconds = match.groups()
    hour, minute, second = int(hours), int(minutes), int(seconds)
    if hour > 23 or minute > 59 or second > 60:  # noqa: PLR2004 -- a clock's own bounds
        raise ValueError(text)
    days = date.fromisoformat(day).toordinal() - _EPOCH
    return ((days * 24 + hour) * 60 + minute) * 60 + second


def _clamp(time_unix_nano: int) -> int:
    return min(max(time_unix_nano, TIME_MIN), TIME_MAX)


def _traceparent(value: Json) -> bytes | None:
    # As W3C Trace Context has it, one that cannot be read counts as absent. The traceparent of the
    # HTTP request itself is never taken instead: where a worker delivers what others left in an
    # outbox, it would pin the event on a stranger's attempt and so hide a silent failure.
    match = _TRACEPARENT.fullmatch(value) if isinstance(value, str) else None
    return _trace_id(bytes.fromhex(match.group(1))) if match else None


def _trace_id(value: bytes) -> bytes | None:
    return value if len(value) == 16 and any(value) else None  # noqa: PLR2004 -- W3C: 16 bytes


def _with_data(events: Sequence[dict[str, Json]]) -> list[dict[str, Json]]:
    """The events with `data`, also where a sender had it as bytes."""
    return [
        event if event.get("data_base64") is None else _with_decoded_data(f"events[{i}]", event)
        for i, event in enumerate(events)
    ]


def _with_decoded_data(where: str, event: dict[str, Json]) -> dict[str, Json]:
    if event.get("data") is not None:
        raise DecodeError(f"{where}.data_base64: there is data as well; send one of them")
    content_type = event.get("datacontenttype")
    try:
        body = base64.b64decode(str(event["data_base64"]), validate=True)
    except ValueError:
        raise DecodeError(f"{where}.data_base64: no base64") from None
    if content_type is not None and not _JSON_TYPE.fullmatch(str(content_type)):
        return event
    try:
        data = strict_json.loads(body)
    except DecodeError:
        return event
    if excess := _excess([[data]]):
        raise DecodeError(f"{where}.data_base64: {excess}")
    return {**event, "data": data}


# OTLP log records -------------------------------------------------------------------------------

UNKNOWN_SERVICE = "unknown_service"
"""As the resource conventions of OpenTelemetry call a service that does not say its name."""


def decode_logs(payload: bytes) -> EventBatch:
    """The events of an ExportLogsServiceRequest: log records that have an event name.

    Every other record is counted as rejected, and the sender is told so. A sender that mixes events
    with ordinary logs therefore gets a partial success for every request: nothing is wrong, nothing
    is sent again, yet its own telemetry counts dropped logs and it may log a warning each time. Let
    it filter instead, e.g. with the Collector's filter processor on ``event_name == ""``.

    Identical records, from the same resource and without `log.record.uid`, are one event.

    Raises:
        DecodeError: It is no such request, or has too many events.
    """
    try:
        request = ExportLogsServiceRequest.FromString(payload)
    except ProtobufError:
        raise DecodeError("no ExportLogsServiceRequest: the protobuf is malformed") from None
    events: list[BusinessEvent] = []
    rejected = 0
    for event in _records(request):
        if event is None:
            rejected += 1
            continue
        events.append(event)
        if len(events) > EVENTS_MAX:
            raise DecodeError(f"more than {EVENTS_MAX} events in one request; send fewer")
    return EventBatch(events, rejected)


def _records(request: ExportLogsServiceRequest) -> Iterator[BusinessEvent | None]:
    for resource_logs in request.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)
        seed = resource_logs.resource.SerializeToString(deterministic=True)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield _log_event(record, resource, seed)


def _log_event(record: LogRecord, resource: Mapping[str, Any], seed: bytes) -> BusinessEvent | None:
    attributes = _attributes(record.attributes)
    name = record.event_name or attributes.get("event.name")
    if not isinstance(name, str) or not name:
        return None
    uid = attributes.get("log.record.uid")
    time = record.time_unix_nano or record.observed_time_unix_nano
    body = _value(record.body)
    return BusinessEvent(
        source=str(resource.get("service.name") or UNKNOWN_SERVICE),
        id=uid if isinstance(uid, str) and uid else _hash(seed, record),
        type=name,
        time_unix_nano=_clamp(time) if time else None,
        trace_id=_trace_id(record.trace_id),
        fields={
            "data": {**body, **attributes} if isinstance(body, dict) else attributes,
            "resource": resource,
        },
    )


def _hash(seed: bytes, record: LogRecord) -> str:
    # The resource is part of it: two browsers that view a page in the same millisecond send equal
    # records.
    digest = hashlib.blake2b(len(seed).to_bytes(8), digest_size=16)
    digest.update(seed)
    digest.update(record.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    # The parser bounds the levels: protobuf nests at most 100 messages, three of them a level here.
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if kind == "array_value":
        return [_value(inner) for inner in value.array_value.values]
    if kind is None or (kind == "double_value" and not math.isfinite(value.double_value)):
        return None
    plain: object = getattr(value, kind)
    return plain


_EXACT_FLOAT = 2.0**53

# Paths ------------------------------------------------------------------------------------------


Lookup = Callable[[Mapping[str, Any]], object]
"""Gives what an event's fields hold at a path; None where it leads nowhere."""


@functools.lru_cache(maxsize=1024)
def lookup(path: str) -> Lookup:
    """Where in an event to look, such as ``data.order_id``.

    A key may hold dots itself, as attributes of OpenTelemetry do: of several ways the longest key
    wins at each step. Lists are not entered.
    """
    dots = [at for at, character in enumerate(path) if character == "." and at]
    if not dots:
        return methodcaller("get", path)
    steps = [(path[:dot], lookup(path[dot + 1 :])) for dot in reversed(dots)]

    def find(fields: Mapping[str, Any]) -> object:
        if path in fields:
            return fields[path]
        for key, inside in steps:
            inner = fields.get(key)
            if isinstance(inner, dict) and (found := inside(inner)) is not None:
                return found
        return None

    return find


def text_of(value: object) -> str:
    """A value as a key: as an attribute of a span reads it."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if abs(value) < _EXACT_FLOAT and value.is_integer():
            return str(int(value))
        case _:
            return ""

"""The wire decoder against the protobuf library: same verdict, same fields, whatever the bytes."""

import itertools
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError as ProtobufError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from outcome_exporter.errors import DecodeError
from outcome_exporter.kernels import otlp_schema, span_events
from outcome_exporter.kernels.otlp_values import wanted_keys
from outcome_exporter.kernels.wire import decode_spans
from outcome_exporter.model import FLAG_NAMES, AttributeType

NAMES = (
    "service.name",
    "http.response.status_code",
    "http.request.method",
    "app.order.id",
    "app.order.ix",  # as long as the one before, and alike but for its end
    "k8s.cluster.a.name",  # differ in the middle only, between the first and last 8 bytes
    "k8s.cluster.b.name",
    "größe",
    "k",
    "",
)
WANTED = wanted_keys(NAMES)
TIME_MAX = 2**63 - 1

# The wire format by hand --------------------------------------------------------------------------

VARINT, FIXED64, DELIMITED, GROUP, END_GROUP, FIXED32 = range(6)


def varint(value, *, surplus=0):
    """`value` in base 128; `surplus` adds bytes that say nothing."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(surplus):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def tag(number, wire_type):
    return varint(number << 3 | wire_type)


def sized(number, content):
    return tag(number, DELIMITED) + varint(len(content)) + content


def group(number, content=b""):
    return tag(number, GROUP) + content + tag(number, END_GROUP)


def groups(depth, number=99):
    return tag(number, GROUP) * depth + tag(number, END_GROUP) * depth


def attribute(key, *fields):
    """An attribute of a span; `fields` are those of its value."""
    return sized(9, sized(1, key) + sized(2, b"".join(fields)))


def in_scope(*fields):
    return sized(1, sized(2, b"".join(fields)))


def in_span(*fields):
    """A request with one valid span that has these fields too."""
    return in_scope(sized(2, IDS + b"".join(fields)))


def in_value(*fields):
    return in_span(attribute(b"k", *fields))


def arrays(depth, innermost=b""):
    for _ in range(depth):
        innermost = sized(5, sized(1, innermost))
    return innermost


IDS = sized(1, bytes(range(16))) + sized(2, bytes(range(8)))
TEXT = sized(1, b"text")
STATUS_OK = tag(3, VARINT) + b"\x01"
STATUS_ERROR = tag(3, VARINT) + b"\x02"

# The oracle ---------------------------------------------------------------------------------------


@dataclass
class Decoded:
    """What a request says, in terms of neither implementation."""

    spans: list = field(default_factory=list)
    resources: list = field(default_factory=list)
    rejected: int = 0
    flags: dict = field(default_factory=dict)
    """When each evaluation, by its resource and attributes, came last; in order of the first."""


TYPES = {
    "string_value": AttributeType.STRING,
    "bool_value": AttributeType.BOOL,
    "int_value": AttributeType.INT,
    "double_value": AttributeType.DOUBLE,
    "bytes_value": AttributeType.BYTES,
}


def by_protobuf(payload, names=NAMES):
    """What the official library reads, or None where it refuses."""
    try:
        request = ExportTraceServiceRequest.FromString(payload)
    except ProtobufError:
        return None
    decoded = Decoded()
    for resource, resource_spans in enumerate(request.resource_spans):
        decoded.resources.append(wanted_of(resource_spans.resource.attributes, names))
        for span in itertools.chain.from_iterable(s.spans for s in resource_spans.scope_spans):
            for event in span.events:
                note_flag(decoded.flags, resource, event)
            if is_valid(span.trace_id, 16) and is_valid(span.span_id, 8):
                decoded.spans.append(span_of(span, resource, names))
            else:
                decoded.rejected += 1
    return decoded


def note_flag(flags, resource, event):
    rows = wanted_of(event.attributes, FLAG_NAMES)
    count = len(rows)
    if any(name.endswith("variant") for name, _, _ in rows):
        rows = [row for row in rows if row[0] != "feature_flag.result.value"]
    texts = [value.encode() if isinstance(value, str) else value for _, _, value in rows]
    long = any(isinstance(text, bytes) and len(text) > span_events.FLAG_TEXT_MAX for text in texts)
    evaluation = resource, tuple(rows)
    if (
        event.name in {"feature_flag", "feature_flag.evaluation"}
        and 0 < count <= span_events.FLAG_ROWS_MAX
        and not long
        and (evaluation in flags or len(flags) < span_events.FLAGS_MAX)
    ):
        time = min(event.time_unix_nano, TIME_MAX)
        flags[evaluation] = max(flags.get(evaluation, 0), time)


def is_valid(identifier, length):
    return len(identifier) == length and any(identifier)


def span_of(span, resource, names):
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_span_id if len(span.parent_span_id) == 8 else bytes(8),
        "start": min(span.start_time_unix_nano, TIME_MAX),
        "end": min(span.end_time_unix_nano, TIME_MAX),
        "name": span.name,
        "tracestate": span.trace_state,
        "kind": span.kind if 0 <= span.kind <= 5 else 0,
        "status": span.status.code if 0 <= span.status.code <= 2 else 0,
        "resource": resource,
        "attributes": wanted_of(span.attributes, names),
    }


def wanted_of(attributes, names):
    rows = []
    for row in attributes:
        which = row.value.WhichOneof("value")
        if row.key not in names or which not in TYPES:
            continue
        value = getattr(row.value, which)
        if which == "double_value":
            value = struct.pack("<d", value)  # bits, so that NaN equals itself
        rows.append((row.key, TYPES[which], value))
    return rows


def by_kernel(payload, names=NAMES, wanted=WANTED):
    """What we read, or None where we refuse."""
    try:
        batch = decode_spans(payload, wanted)
    except DecodeError as error:
        place = error.offset
    else:
        return read(batch, payload, names)
    assert 0 <= place <= len(payload)
    return None


def read(batch, payload, names):
    raw = batch.payload.tobytes()
    assert raw == bytes(payload)
    rows = [attribute_of(raw, row, names) for row in batch.attributes]
    taken = []

    def attributes_of(record):
        at, length = int(record["attributes_at"]), int(record["attributes_len"])
        taken.extend(range(at, at + length))
        return rows[at : at + length]

    decoded = Decoded(rejected=batch.rejected)
    decoded.resources = [attributes_of(row) for row in batch.resources]
    decoded.spans = [
        {
            "trace_id": struct.pack(">QQ", span["trace_hi"], span["trace_lo"]),
            "span_id": struct.pack(">Q", span["span_id"]),
            "parent_id": struct.pack(">Q", span["parent_id"]),
            "start": int(span["start"]),
            "end": int(span["end"]),
            "name": text_of(raw, span["name_at"], span["name_len"]).decode(),
            "tracestate": text_of(raw, span["tracestate_at"], span["tracestate_len"]).decode(),
            "kind": int(span["kind"]),
            "status": int(span["status"]),
            "resource": int(span["resource"]),
            "attributes": attributes_of(span),
        }
        for span in batch.spans
    ]
    assert sorted(taken) == list(range(len(rows))), "every row belongs to one span or resource"
    decoded.flags = flags_of(batch, raw)
    return decoded


def flags_of(batch, raw):
    found = {}
    for flag in batch.flags:
        at = int(flag["attributes_at"])
        rows = batch.flag_attributes[at : at + int(flag["attributes_len"])]
        evaluation = tuple(attribute_of(raw, row, FLAG_NAMES) for row in rows)
        if any(name.endswith("variant") for name, _, _ in evaluation):
            evaluation = tuple(row for row in evaluation if row[0] != "feature_flag.result.value")
        found[int(flag["resource"]), evaluation] = int(flag["time"])
    assert len(found) == len(batch.flags), "each evaluation once"
    return found


def text_of(raw, at, length):
    assert int(at) + int(length) <= len(raw)
    return raw[int(at) : int(at) + int(length)]


def attribute_of(raw, row, names):
    kind = AttributeType(int(row["type"]))
    number = int(row["number"])
    text = text_of(raw, row["at"], row["len"])
    value = {
        AttributeType.STRING: text.decode,
        AttributeType.BYTES: lambda: text,
        AttributeType.INT: lambda: number,
        AttributeType.BOOL: lambda: bool(number),
        AttributeType.DOUBLE: lambda: struct.pack("<q", number),
    }[kind]()
    return names[int(row["key"])], kind, value


def assert_alike(payload):
    """Both accept and read the same, or both refuse. Returns whether they accept."""
    ours = by_kernel(payload)
    assert ours == by_protobuf(payload), payload.hex()
    return ours is not None


# Requests -----------------------------------------------------------------------------------------


def real_request(rng, spans=3):
    """A request as an SDK would send it, with something of everything."""
    request = ExportTraceServiceRequest()
    for _ in range(rng.randint(1, 2)):
        resource_spans = request.resource_spans.add(schema_url="https://schema.example/1.30")
        add_attributes(resource_spans.resource.attributes, rng)
        resource_spans.resource.entity_refs.add(type="service", id_keys=["service.name", "größe"])
        scope_spans = resource_spans.scope_spans.add(schema_url="https://schema.example/1.30")
        scope_spans.scope.name = "instrumentation.http"
        scope_spans.scope.version = "1.2.3"
        add_attributes(scope_spans.scope.attributes, rng)
        for _ in range(rng.randint(1, spans)):
            add_span(scope_spans, rng)
    return request.SerializeToString()


def add_span(scope_spans, rng):
    start = 1_760_000_000_000_000_000 + rng.randrange(10**12)
    span = scope_spans.spans.add(
        trace_id=rng.randbytes(16),
        span_id=rng.randbytes(8),
        parent_span_id=rng.choice([b"", rng.randbytes(8)]),
        name=rng.choice(["POST /api/checkout", "GET /", "Überweisung", "支付 💳", ""]),
        trace_state=rng.choice(["", "vendor=t61rcWkgMzE"]),
        kind=rng.randrange(6),
        flags=rng.choice([0, 0x101]),
        start_time_unix_nano=start,
        end_time_unix_nano=start + rng.randrange(10**10),
        dropped_attributes_count=rng.choice([0, 3]),
    )
    add_attributes(span.attributes, rng)
    if rng.random() < 0.5:
        event = span.events.add(time_unix_nano=start, name="exception")
        add_attributes(event.attributes, rng)
    for _ in range(rng.randrange(3)):
        add_evaluation(span.events.add(time_unix_nano=start + rng.randrange(99)), rng)
    if rng.random() < 0.5:
        link = span.links.add(trace_id=rng.randbytes(16), span_id=rng.randbytes(8), flags=1)
        add_attributes(link.attributes, rng)
    span.status.code = rng.randrange(3)
    span.status.message = rng.choice(["", "card declined", "Karte abgelehnt: Übertrag"])


def add_evaluation(event, rng):
    event.name = rng.choice(["feature_flag", "feature_flag.evaluation", "feature_flag.evaluated"])
    for _ in range(
        rng.choice([1, 2, 2, 3, span_events.FLAG_ROWS_MAX, span_events.FLAG_ROWS_MAX + 1])
    ):
        value = event.attributes.add(key=rng.choice([*FLAG_NAMES, "feature_flag.set.id"])).value
        match rng.randrange(8):
            case 0:
                value.bool_value = True
            case 1:
                value.int_value = 1
            case 2:
                value.string_value = "x" * (span_events.FLAG_TEXT_MAX + rng.randrange(2))
            case _:
                value.string_value = rng.choice(["on", "off", "new-checkout", "grün, 日本語"])


def add_attributes(attributes, rng):
    for _ in range(rng.randint(0, 5)):
        key = rng.choice([*NAMES, "url.path", "k8s.cluster.c.name", "user_agent.original"])
        value = attributes.add(key=key).value
        match rng.randrange(7):
            case 0 | 1:
                value.string_value = rng.choice(["", "4f1e", "größer als 8", "日本語", "y" * 200])
            case 2:
                value.int_value = rng.choice([0, 1, -1, 200, 2**63 - 1, -(2**63)])
            case 3:
                value.bool_value = rng.random() < 0.5
            case 4:
                value.double_value = rng.choice([0.0, -1.5, float("nan"), float("inf")])
            case 5:
                value.bytes_value = rng.randbytes(rng.randrange(12))
            case 6:
                value.array_value.values.add().kvlist_value.values.add(key="in").value.int_value = 1


REQUEST = ExportTraceServiceRequest.DESCRIPTOR
WIRE_TYPES = {
    FieldDescriptor.TYPE_STRING: DELIMITED,
    FieldDescriptor.TYPE_BYTES: DELIMITED,
    FieldDescriptor.TYPE_MESSAGE: DELIMITED,
    FieldDescriptor.TYPE_DOUBLE: FIXED64,
    FieldDescriptor.TYPE_FIXED64: FIXED64,
    FieldDescriptor.TYPE_FIXED32: FIXED32,
}
UPPER_MESSAGES = {"ExportTraceServiceRequest", "ResourceSpans", "ScopeSpans"}


def any_message(rng, descriptor, levels=9):
    """Fields of any message of the schema, on the wire: any order, repeated, unknown, misplaced."""
    out = b"".join(any_field(rng, descriptor, levels) for _ in range(rng.choice([0, 1, 1, 2, 3])))
    if descriptor.name in UPPER_MESSAGES:  # down to the spans, more often than not
        out += any_field(rng, descriptor, levels) + any_field(rng, descriptor, levels)
    if descriptor.name == "Span" and rng.random() < 0.8:
        out += sized(1, rng.choice([b"t" * 16, bytes(16)])) + sized(2, b"s" * 8)
    return out


def any_field(rng, descriptor, levels):
    known = rng.choice(descriptor.fields)
    number = known.number
    wire_type = WIRE_TYPES.get(known.type, VARINT)
    oddity = rng.random()
    if oddity < 0.02:
        number = rng.choice([0, 1, 2, 15, 16, 17, 100, 2**29 - 1])
    elif oddity < 0.04:
        wire_type = rng.randrange(8)
    elif known.message_type is not None:
        content = any_message(rng, known.message_type, levels - 1) if levels else b""
        return sized(number, content)
    elif known.type == FieldDescriptor.TYPE_STRING:
        return sized(number, any_text(rng))
    head = varint(number << 3 | wire_type, surplus=int(rng.random() < 0.05))
    return head + any_content(rng, number, wire_type)


def any_content(rng, number, wire_type):
    match wire_type:
        case 0:
            return varint(rng.choice([0, 1, 2, 5, 6, 200, 2**31, 2**32 + 2, 2**63, 2**64 - 1]))
        case 1:
            return rng.choice([rng.randbytes(8), bytes(8), b"\xff" * 8, struct.pack("<Q", 2**63)])
        case 2:
            content = rng.randbytes(rng.choice([0, 1, 7, 8, 8, 9, 16, 16, 130]))
            return varint(len(content), surplus=rng.choice([0, 0, 0, 1])) + content
        case 3:
            return rng.choice([b"", group(7), sized(1, b"\xff")]) + tag(number, END_GROUP)
        case 5:
            return rng.randbytes(4)
    return b""


def any_text(rng):
    if rng.random() < 0.01:
        return rng.randbytes(rng.randrange(20))
    return rng.choice([*NAMES, "value", "ä" * 9, "日本語テキスト", "x" * 300, "💳"]).encode()


def damage(rng, payload):
    """The payload with one to three small injuries."""
    data = bytearray(payload)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                data[at : at + 1] = rng.choice(
                    [b"\x00", b"\x80", b"\xff", b"\x7f", b"\x0b", b"\x0c"]
                )
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 3))
            case 3:
                del data[at : at + rng.randint(1, 4)]
            case 4 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case _:
                other = rng.randrange(len(data) + 1)
                data[at : at + 6] = data[other : other + 6]
    return bytes(data)


# Differential tests -------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_fields_of_the_schema_are_read_as_the_library_reads_them(rng):
    assert_alike(any_message(rng, REQUEST))


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_arbitrary_bytes_get_the_verdict_of_the_library(payload):
    assert_alike(payload)


def test_generated_requests_are_read_as_the_library_reads_them():
    rng = random.Random(20_240_917)
    verdicts = [assert_alike(any_message(rng, REQUEST)) for _ in range(4_000)]
    assert verdicts.count(True) > 1_000
    assert verdicts.count(False) > 300


def test_requests_of_an_sdk_are_read_as_the_library_reads_them():
    rng = random.Random(7)
    assert all(assert_alike(real_request(rng, spans=20)) for _ in range(150))


def test_damaged_requests_get_the_verdict_of_the_library():
    rng = random.Random(11)
    requests = [real_request(rng) for _ in range(40)]
    verdicts = [assert_alike(damage(rng, rng.choice(requests))) for _ in range(12_000)]
    assert verdicts.count(True) > 2_000
    assert verdicts.count(False) > 2_000


def test_requests_cut_at_every_byte_get_the_verdict_of_the_library():
    rng = random.Random(13)
    for payload in [real_request(rng) for _ in range(4)]:
        verdicts = [assert_alike(payload[:cut]) for cut in range(len(payload))]
        assert verdicts[0]
        assert verdicts.count(False) > len(payload) * 0.9


def test_spans_cut_at_every_byte_get_the_verdict_of_the_library():
    request = ExportTraceServiceRequest.FromString(real_request(random.Random(17)))
    content = request.resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    assert len(content) > 100
    for cut in range(len(content)):
        # Whole fields follow: a read across the end of the span would find bytes.
        assert_alike(in_scope(sized(2, content[:cut]), sized(2, IDS)) + in_span())


EDGES = {
    "nothing at all": (b"", True),
    "an empty resource": (sized(1, b""), True),
    "varint of 10 bytes": (in_span(tag(6, VARINT), b"\x80" * 9, b"\x01"), True),
    "varint of 10 bytes with surplus bits": (in_span(tag(6, VARINT), b"\x82" * 9, b"\x7f"), True),
    "varint of 11 bytes": (in_span(tag(6, VARINT), b"\x80" * 10, b"\x01"), False),
    "unknown varint of 11 bytes": (in_span(tag(99, VARINT), b"\x80" * 10, b"\x01"), False),
    "tag of 5 bytes": (in_span(varint(6 << 3, surplus=4), b"\x02"), True),
    "tag of 6 bytes": (in_span(varint(6 << 3, surplus=5), b"\x02"), False),
    "highest field number": (in_span(tag(2**29 - 1, VARINT), b"\x02"), True),
    "tag above 32 bits": (in_span(varint(2**32 | 6 << 3), b"\x02"), False),
    "length of 5 bytes": (in_span(tag(5, DELIMITED), varint(1, surplus=4), b"a"), True),
    "length of 6 bytes": (in_span(tag(5, DELIMITED), varint(1, surplus=5), b"a"), False),
    "length above 31 bits": (in_span(tag(5, DELIMITED), varint(2**31 + 1), b"a"), False),
    "length that wraps in 32 bits": (in_span(tag(5, DELIMITED), varint(2**32 + 1), b"a"), False),
    "length that wraps in 64 bits": (in_span(tag(5, DELIMITED), varint(2**64 - 1), b"a"), False),
    "field number 0": (in_span(tag(0, VARINT), b"\x01"), False),
    "field number 0 at the top": (tag(0, DELIMITED) + b"\x00", False),
    "field number 0 in a group": (in_span(group(99, tag(0, VARINT) + b"\x01")), True),
    "group 0": (in_span(group(0)), False),
    "group 0 in a group": (in_span(group(99, group(0))), True),
    "wire type 6": (in_span(tag(6, 6)), False),
    "wire type 7": (in_span(tag(6, 7), b"\x00"), False),
    "wire type 6 in a group": (in_span(group(99, tag(6, 6))), False),
    "a group's end alone": (in_span(tag(99, END_GROUP)), False),
    "a group's end at the top": (tag(99, END_GROUP), False),
    "a group that ends as another": (in_span(tag(99, GROUP), tag(98, END_GROUP)), False),
    "groups that cross": (
        in_span(tag(99, GROUP), tag(98, GROUP), tag(99, END_GROUP), tag(98, END_GROUP)),
        False,
    ),
    "a group without end": (in_span(tag(99, GROUP)), False),
    "a group that ends outside": (sized(1, tag(99, GROUP)) + tag(99, END_GROUP), False),
    "groups in groups": (in_span(group(99, group(98, group(99)) + group(98))), True),
    "a text as a group": (in_span(group(5)), True),
    "a message as a group": (in_span(group(9, sized(1, b"\xff"))), True),
    "a length beyond a group's message": (sized(1, group(9, sized(1, b"abc")[:-1])), False),
    "name as a varint": (in_span(tag(5, VARINT), b"\x01"), True),
    "kind as a text": (in_span(sized(6, b"\xff")), True),
    "kind as fixed32": (in_span(tag(6, FIXED32), b"abcd"), True),
    "start as a varint": (in_span(tag(7, VARINT), b"\x05"), True),
    "unknown fixed64": (in_span(tag(99, FIXED64), b"abcdefgh"), True),
    "unknown fixed64 cut": (in_span(tag(99, FIXED64), b"abcdefg"), False),
    "unknown fixed32 cut": (in_span(tag(99, FIXED32), b"abc"), False),
    "unknown text": (in_span(sized(99, b"\xff")), True),
    "field 1000 of spans of old": (sized(1, sized(1000, b"\xff")), True),
    "name not UTF-8": (in_span(sized(5, b"\xff")), False),
    "first name not UTF-8": (in_span(sized(5, b"\xff"), sized(5, b"ok")), False),
    "trace state not UTF-8": (in_span(sized(3, b"\xff")), False),
    "schema URL not UTF-8": (sized(1, sized(3, b"\xff")), False),
    "schema URL of a scope not UTF-8": (in_scope(sized(3, b"\xff")), False),
    "scope name not UTF-8": (in_scope(sized(1, sized(1, b"\xff"))), False),
    "scope version not UTF-8": (in_scope(sized(1, sized(2, b"\xff"))), False),
    "scope attribute not UTF-8": (in_scope(sized(1, sized(3, sized(1, b"\xff")))), False),
    "entity type not UTF-8": (sized(1, sized(1, sized(3, sized(2, b"\xff")))), False),
    "entity key not UTF-8": (sized(1, sized(1, sized(3, sized(4, b"\xff")))), False),
    "event name not UTF-8": (in_span(sized(11, sized(2, b"\xff"))), False),
    "event attribute not UTF-8": (in_span(sized(11, sized(3, sized(1, b"\xff")))), False),
    "link trace state not UTF-8": (in_span(sized(13, sized(3, b"\xff"))), False),
    "link id not UTF-8": (in_span(sized(13, sized(1, b"\xff"))), True),
    "status message not UTF-8": (in_span(sized(15, sized(2, b"\xff"))), False),
    "status field of old not UTF-8": (in_span(sized(15, sized(1, b"\xff"))), True),
    "key not UTF-8": (in_span(attribute(b"\xff")), False),
    "value not UTF-8": (in_value(sized(1, b"\xff")), False),
    "first value not UTF-8": (in_value(sized(1, b"\xff"), sized(1, b"ok")), False),
    "bytes not UTF-8": (in_value(sized(7, b"\xff")), True),
    "text in an array not UTF-8": (in_value(sized(5, sized(1, sized(1, b"\xff")))), False),
    "key in a map not UTF-8": (in_value(sized(6, sized(1, sized(1, b"\xff")))), False),
    "bytes in an array not UTF-8": (in_value(sized(5, sized(1, sized(7, b"\xff")))), True),
    "arrays 47 deep": (in_value(arrays(47)), True),
    "arrays 47 deep with a text": (in_value(arrays(47, TEXT)), True),
    "arrays 47 deep with a group": (in_value(arrays(47, groups(1))), True),
    "arrays 47 deep with two groups": (in_value(arrays(47, groups(2))), False),
    "arrays 48 deep": (in_value(arrays(48)), False),
    "arrays 2,000 deep": (in_value(arrays(2_000)), False),
    "groups 100 deep at the top": (groups(100), True),
    "groups 101 deep at the top": (groups(101), False),
    "groups 99 deep beside a resource": (sized(1, groups(99)), True),
    "groups 100 deep beside a resource": (sized(1, groups(100)), False),
    "groups 98 deep in a resource": (sized(1, sized(1, groups(98))), True),
    "groups 99 deep in a resource": (sized(1, sized(1, groups(99))), False),
    "groups 98 deep in a scope": (in_scope(groups(98)), True),
    "groups 99 deep in a scope": (in_scope(groups(99)), False),
    "groups 97 deep in a span": (in_span(groups(97)), True),
    "groups 98 deep in a span": (in_span(groups(98)), False),
    "groups 96 deep in a status": (in_span(sized(15, groups(96))), True),
    "groups 97 deep in a status": (in_span(sized(15, groups(97))), False),
    "groups 95 deep in a value": (in_value(groups(95)), True),
    "groups 96 deep in a value": (in_value(groups(96)), False),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edge_of_the_format(edge):
    payload, accepted = EDGES[edge]
    assert assert_alike(payload) is accepted
    # The same with whole fields around it: bytes for every read that goes astray.
    assert assert_alike(in_span() + payload + in_span()) is accepted


UTF8 = {
    "ASCII": (b"plain", True),
    "NUL": (b"\x00", True),
    "2 bytes": ("ä".encode(), True),
    "3 bytes": ("日".encode(), True),
    "4 bytes": ("💳".encode(), True),
    "last code point": (b"\xf4\x8f\xbf\xbf", True),
    "above the last": (b"\xf4\x90\x80\x80", False),
    "lead byte F5": (b"\xf5\x80\x80\x80", False),
    "surrogate": (b"\xed\xa0\x80", False),
    "before the surrogates": (b"\xed\x9f\xbf", True),
    "after the surrogates": (b"\xee\x80\x80", True),
    "overlong in 2 bytes": (b"\xc1\xbf", False),
    "overlong in 3 bytes": (b"\xe0\x9f\xbf", False),
    "shortest in 3 bytes": (b"\xe0\xa0\x80", True),
    "overlong in 4 bytes": (b"\xf0\x8f\xbf\xbf", False),
    "shortest in 4 bytes": (b"\xf0\x90\x80\x80", True),
    "continuation alone": (b"\x80", False),
    "cut in 2 bytes": (b"\xc3", False),
    "cut in 3 bytes": (b"\xe6\x97", False),
    "cut in 4 bytes": (b"\xf0\x9f\x92", False),
    "no second byte": (b"\xe6\x41\x80", False),
    "no third byte": (b"\xe6\x97\x41", False),
    "no fourth byte": (b"\xf0\x9f\x92\x41", False),
}


@pytest.mark.parametrize("case", UTF8)
def test_utf8_at_every_place_of_a_text(case):
    text, valid = UTF8[case]
    for before, after in itertools.product(range(20), (0, 1, 7, 8, 33)):
        name = b"x" * before + text + b"y" * after
        assert assert_alike(in_span(sized(5, name))) is valid
        # So near the payload's start that no word ends where the text does.
        assert assert_alike(sized(1, sized(3, name))) is valid


RESOURCE_K = sized(1, sized(1, sized(1, b"k") + sized(2, TEXT)))
SPAN_K = sized(2, sized(2, IDS + attribute(b"k", TEXT)))

MEANINGS = {
    "the last name counts": in_span(sized(5, b"first"), sized(5, b"last")),
    "the last id counts": in_span(sized(1, b"short"), sized(1, b"t" * 16)),
    "a status that comes twice is merged": in_span(
        sized(15, STATUS_ERROR), sized(15, sized(2, b"why"))
    ),
    "the last status code counts": in_span(sized(15, STATUS_ERROR), sized(15, STATUS_OK)),
    "the last alternative counts": in_value(TEXT, tag(3, VARINT), b"\x07"),
    "an array hides the text before it": in_value(TEXT, sized(5, b"")),
    "a map hides the text before it": in_value(TEXT, sized(6, b"")),
    "an index hides the text before it": in_value(TEXT, tag(8, VARINT), b"\x01"),
    "an array of another wire type hides nothing": in_value(TEXT, tag(5, VARINT), b"\x01"),
    "a value that comes twice is merged": in_span(
        sized(9, sized(1, b"k") + sized(2, TEXT) + sized(2, b""))
    ),
    "the last key counts": in_span(
        sized(9, sized(1, b"k") + sized(1, b"other") + sized(2, TEXT)),
        sized(9, sized(2, TEXT) + sized(1, b"other") + sized(1, b"k")),
    ),
    "a value without a key has the empty one": in_span(sized(9, sized(2, TEXT))),
    "a key that comes twice is there twice": in_span(
        attribute(b"k", TEXT), attribute(b"k", sized(1, b"again"))
    ),
    "a key without a value is absent": in_span(sized(9, sized(1, b"k")), attribute(b"k")),
    "spans may come before their resource": sized(1, SPAN_K + RESOURCE_K),
    "a resource that comes twice is merged": sized(1, RESOURCE_K + SPAN_K + RESOURCE_K),
    "a bool is any bit of 64": in_value(tag(2, VARINT), varint(2**40)),
    "a bool's surplus bits are dropped": in_value(tag(2, VARINT), b"\x80" * 9, b"\x02"),
    "an int's surplus bits are dropped": in_value(tag(3, VARINT), b"\x80" * 9, b"\x7f"),
    "a kind has 32 bits": in_span(tag(6, VARINT), varint(2**32 + 2)),
    "an unknown kind is none": in_span(tag(6, VARINT), varint(6)),
    "a negative kind is none": in_span(tag(6, VARINT), varint(2**64 - 1)),
    "an unknown status is none": in_span(sized(15, tag(3, VARINT) + varint(3))),
    "times are clamped": in_span(
        tag(7, FIXED64), struct.pack("<Q", 2**63 - 1), tag(8, FIXED64), struct.pack("<Q", 2**63)
    ),
    "a parent id of another length is none": in_span(sized(4, b"1234567")),
    "a zero trace id is rejected": in_span(sized(1, bytes(16))),
    "half a zero trace id is fine": in_span(sized(1, bytes(8) + b"12345678")),
    "a zero span id is rejected": in_span(sized(2, bytes(8))),
    "a long trace id is rejected": in_span(sized(1, b"t" * 17)),
    "a short span id is rejected": in_span(sized(2, b"s" * 7)),
    "a span without ids is rejected with its attributes": in_scope(
        sized(2, attribute(b"k", TEXT) * 9), sized(2, IDS)
    ),
    "spans of several scopes": sized(1, sized(2, sized(2, IDS)) + sized(2, sized(2, IDS) * 2)),
}


@pytest.mark.parametrize("meaning", MEANINGS)
def test_meaning(meaning):
    assert assert_alike(MEANINGS[meaning]) is True


# What is decided beyond the format ----------------------------------------------------------------


def test_schema_is_that_of_the_installed_descriptors():
    seen = {}

    def look_at(descriptor):
        if descriptor.name in seen:
            return
        seen[descriptor.name] = {
            known.number: known.message_type.name if known.message_type else otlp_schema.TEXT
            for known in descriptor.fields
            if known.message_type or known.type == FieldDescriptor.TYPE_STRING
        }
        for known in descriptor.fields:
            if known.message_type:
                look_at(known.message_type)

    look_at(REQUEST)
    names = {message: message.name.title().replace("_", "") for message in otlp_schema.Message}
    names[otlp_schema.Message.REQUEST] = "ExportTraceServiceRequest"
    names[otlp_schema.Message.SCOPE] = "InstrumentationScope"
    assert seen == {
        names[message]: {number: names.get(what, what) for number, what in fields.items()}
        for message, fields in otlp_schema.FIELDS.items()
    }


def test_fields_of_a_span_as_columns():
    parent = b"\x00\x00\x00\x00\x00\x00\x01\x02"
    batch = decode_spans(
        in_span(sized(4, parent), sized(5, b"name"), tag(6, VARINT), b"\2"), WANTED
    )
    (row,) = batch.spans
    assert (int(row["trace_hi"]), int(row["trace_lo"])) == (0x0001020304050607, 0x08090A0B0C0D0E0F)
    assert (int(row["span_id"]), int(row["parent_id"])) == (0x0001020304050607, 0x0102)
    assert batch.payload[row["name_at"] :][: row["name_len"]].tobytes() == b"name"
    assert (int(row["kind"]), int(row["attributes_len"]), batch.rejected) == (2, 0, 0)


def test_refusal_says_what_and_where():
    payload = in_span(sized(5, b"good" * 9 + b"\xff"))
    with pytest.raises(DecodeError, match="a text is not UTF-8") as caught:
        decode_spans(payload, WANTED)
    assert caught.value.offset == len(payload) - 1


def test_more_attributes_than_keys_still_fit():
    wanted = wanted_keys(["k"])
    assert len(decode_spans(in_span(attribute(b"k", TEXT) * 500), wanted).attributes) == 500


def test_evaluations_of_flags_are_bounded_and_each_is_kept_once():
    request = ExportTraceServiceRequest()
    for number in range(4 * span_events.FLAGS_MAX):
        spans = request.resource_spans.add().scope_spans.add().spans
        event = spans.add(trace_id=b"t" * 16, span_id=b"s" * 8).events.add(name="feature_flag")
        event.time_unix_nano = number
        event.attributes.add(key="feature_flag.key").value.string_value = "new-checkout"
    again = request.resource_spans[3].scope_spans[0].spans[0].events.add()
    again.CopyFrom(request.resource_spans[3].scope_spans[0].spans[0].events[0])
    again.time_unix_nano = 1_000
    flags = decode_spans(request.SerializeToString(), WANTED).flags
    assert flags["resource"].tolist() == list(range(span_events.FLAGS_MAX))
    assert flags["time"].tolist() == [0, 1, 2, 1_000, *range(4, span_events.FLAGS_MAX)]


def test_shortest_attributes_still_fit():
    wanted = wanted_keys([""])
    shortest = sized(9, sized(2, sized(1, b"")))  # the empty key, left out, and an empty text
    assert len(decode_spans(in_span(shortest * 500), wanted).attributes) == 500


def test_shortest_spans_and_resources_still_fit():
    wanted = wanted_keys(["k"])
    span = sized(1, b"t" * 16) + sized(2, b"s" * 8)
    for resources, spans in ((500, 0), (500, 1), (1, 500)):
        batch = decode_spans(sized(1, sized(2, sized(2, span) * spans)) * resources, wanted)
        assert (len(batch.resources), len(batch.spans)) == (resources, resources * spans)


MANY_NAMES = [f"app.key.{i}" for i in range(3_000)]


@pytest.mark.parametrize("names", [[], ["k"], ["k", "größe"], MANY_NAMES], ids=len)
def test_any_number_of_wanted_keys(names):
    asked = [*names[:50], "k", "app.key.x", "größe"]
    payload = in_span(*(attribute(name.encode(), sized(1, name.encode())) for name in asked))
    ours = by_kernel(payload, names, wanted_keys(names))
    assert ours == by_protobuf(payload, names)
    assert len(ours.spans[0]["attributes"]) == sum(name in names for name in asked)


def test_wanted_names_are_distinct():
    with pytest.raises(AssertionError, match="distinct"):
        wanted_keys(["k", "k"])


def test_bytes_and_arrays_are_decoded_alike():
    payload = real_request(random.Random(3))
    assert by_kernel(np.frombuffer(payload, np.uint8).copy()) == by_kernel(payload)


def test_the_payload_is_not_copied():
    payload = real_request(random.Random(3))
    assert np.shares_memory(decode_spans(payload, WANTED).payload, np.frombuffer(payload, np.uint8))


def test_many_threads_decode_at_once():
    rng = random.Random(23)
    requests = [real_request(rng, spans=30) for _ in range(40)]
    expected = [by_protobuf(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(by_kernel, requests)) == expected


def test_example_of_the_otlp_specification():
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = "my.service"
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "my.library"
    scope_spans.scope.version = "1.0.0"
    span = scope_spans.spans.add(
        trace_id=bytes.fromhex("5B8EFFF798038103D269B633813FC60C"),
        span_id=bytes.fromhex("EEE19B7EC3C1B174"),
        parent_span_id=bytes.fromhex("EEE19B7EC3C1B173"),
        name="I'm a server span",
        start_time_unix_nano=1_544_712_660_000_000_000,
        end_time_unix_nano=1_544_712_661_000_000_000,
        kind=2,
    )
    span.attributes.add(key="my.span.attr").value.string_value = "some value"
    names = ["service.name", "my.span.attr"]
    ours = by_kernel(request.SerializeToString(), names, wanted_keys(names))
    assert ours == by_protobuf(request.SerializeToString(), names)
    assert ours.resources == [[("service.name", AttributeType.STRING, "my.service")]]
    assert ours.spans[0]["attributes"] == [("my.span.attr", AttributeType.STRING, "some value")]
    assert ours.spans[0]["end"] - ours.spans[0]["start"] == 10**9

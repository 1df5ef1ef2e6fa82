import base64
import json
import math
import random

import pytest
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from tests import otlp_samples as samples

from outcome_exporter.errors import DecodeError
from outcome_exporter.receive import otlp_json

IDS = {"traceId", "spanId", "parentSpanId"}


def parse(value, request=ExportTraceServiceRequest):
    return request.FromString(otlp_json.parse(json.dumps(value).encode(), request))


def one_span(**fields):
    return parse(samples.traces(fields)).resource_spans[0].scope_spans[0].spans[0]


def with_base64_ids(value):
    """As the protobuf library wants ids."""
    if isinstance(value, list):
        return [with_base64_ids(inner) for inner in value]
    if isinstance(value, dict):
        return {
            key: base64.b64encode(bytes.fromhex(inner)).decode()
            if key in IDS
            else with_base64_ids(inner)
            for key, inner in value.items()
        }
    return value


def with_hex_ids(value, case):
    if isinstance(value, list):
        return [with_hex_ids(inner, case) for inner in value]
    if isinstance(value, dict):
        return {
            key: case(base64.b64decode(inner).hex()) if key in IDS else with_hex_ids(inner, case)
            for key, inner in value.items()
        }
    return value


@pytest.mark.parametrize(
    ("sample", "request_type"),
    [
        (samples.traces(samples.SPAN), ExportTraceServiceRequest),
        (samples.logs(samples.LOG), ExportLogsServiceRequest),
        (samples.logs(samples.EVENT), ExportLogsServiceRequest),
        (samples.metrics(), ExportMetricsServiceRequest),
    ],
    ids=["trace", "log", "event", "metrics"],
)
def test_the_documented_examples_read_as_the_library_reads_them(sample, request_type):
    expected = json_format.ParseDict(with_base64_ids(sample), request_type())
    assert parse(sample, request_type) == expected
    assert expected.ByteSize() > 100


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
UINT64 = st.integers(0, 2**64 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
ANY_VALUE = st.recursive(
    st.fixed_dictionaries({"string_value": TEXT})
    | st.fixed_dictionaries({"bool_value": st.booleans()})
    | st.fixed_dictionaries({"int_value": INT64})
    | st.fixed_dictionaries({"double_value": st.floats(allow_nan=False)})
    | st.fixed_dictionaries({"bytes_value": st.binary(max_size=5)})
    | st.just({}),
    lambda inner: (
        st.builds(lambda v: {"array_value": {"values": v}}, st.lists(inner, max_size=2))
        | st.builds(
            lambda v: {"kvlist_value": {"values": v}},
            st.lists(st.fixed_dictionaries({"key": TEXT, "value": inner}), max_size=2),
        )
    ),
    max_leaves=4,
)
ATTRIBUTES = st.lists(st.fixed_dictionaries({"key": TEXT, "value": ANY_VALUE}), max_size=3)
LINK = st.fixed_dictionaries(
    {
        "trace_id": st.binary(min_size=16, max_size=16),
        "span_id": st.binary(max_size=9),
        "attributes": ATTRIBUTES,
        "flags": st.integers(0, 2**32 - 1),
    }
)
SPAN = st.fixed_dictionaries(
    {
        "trace_id": st.binary(max_size=17),
        "span_id": st.binary(max_size=9),
        "parent_span_id": st.binary(max_size=9),
        "name": TEXT,
        "kind": st.integers(0, 5),
        "start_time_unix_nano": UINT64,
        "end_time_unix_nano": UINT64,
        "attributes": ATTRIBUTES,
        "links": st.lists(LINK, max_size=2),
        "status": st.fixed_dictionaries({"code": st.integers(0, 2), "message": TEXT}),
        "dropped_attributes_count": st.integers(0, 2**32 - 1),
    }
)


@settings(max_examples=150, deadline=None)
@given(spans=st.lists(SPAN, max_size=3), chance=st.randoms(use_true_random=False))
def test_json_of_the_library_comes_back_as_the_same_message(spans, chance: random.Random):
    message = ExportTraceServiceRequest(
        resource_spans=[{"scope_spans": [{"scope": {"name": "s"}, "spans": spans}]}]
    )
    written = json_format.MessageToDict(
        message,
        use_integers_for_enums=True,
        always_print_fields_with_no_presence=chance.random() < 0.5,
    )
    assert parse(with_hex_ids(written, chance.choice([str.lower, str.upper]))) == message


def test_ids_are_hex_in_either_case():
    for text in (samples.TRACE_ID, samples.TRACE_ID.lower()):
        assert one_span(traceId=text).trace_id == bytes.fromhex(samples.TRACE_ID)


@pytest.mark.parametrize(
    "value", ["1544712660000000000", 1544712660000000000, 1.54471266e18, "01544712660000000000"]
)
def test_64_bit_integers_are_strings_or_numbers(value):
    assert one_span(startTimeUnixNano=value).start_time_unix_nano == 1544712660000000000


def test_enums_are_numbers_known_or_not_and_names_are_understood():
    assert one_span(kind=3).kind == 3
    assert one_span(kind=77).kind == 77
    assert one_span(kind="SPAN_KIND_CLIENT").kind == 3


def test_unknown_fields_snake_case_and_null_are_ignored():
    span = one_span(name="n", start_time_unix_nano="5", future={"a": [1]}, traceState=None)
    assert (span.name, span.start_time_unix_nano, span.trace_state) == ("n", 0, "")


def test_bytes_that_are_no_id_stay_base64_of_either_alphabet():
    for text in ("+/8=", "-_8", "-_8="):
        span = one_span(attributes=[{"key": "k", "value": {"bytesValue": text}}])
        assert span.attributes[0].value.bytes_value == b"\xfb\xff"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (1.5, 1.5), ("2.5e1", 25.0), ("Infinity", math.inf), ("-Infinity", -math.inf)],
)
def test_doubles_are_numbers_or_strings(value, expected):
    span = one_span(attributes=[{"key": "k", "value": {"doubleValue": value}}])
    assert span.attributes[0].value.double_value == expected


SPAN_PATH = r"resourceSpans\[0\].scopeSpans\[0\].spans\[0\]"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"traceId": "W47/95gDgQPSabYzgT/GDA=="}, r"traceId: .* is no hex"),
        ({"traceId": "123"}, r"traceId: .* is no hex"),
        ({"traceId": 5}, r"traceId: 5 is no string"),
        ({"name": 5}, "name: 5 is no string"),
        ({"name": ["x"]}, "name: an array is no string"),
        ({"kind": "CLIENT"}, 'kind: "CLIENT" is no SpanKind; OTLP writes enums as numbers'),
        ({"kind": 2**31}, "kind: 2147483648 is out of range"),
        ({"kind": True}, "kind: true is no integer"),
        ({"startTimeUnixNano": "-1"}, r'startTimeUnixNano: "-1" is out of range'),
        ({"startTimeUnixNano": 2**64}, "startTimeUnixNano: 18446744073709551616 is out of range"),
        ({"startTimeUnixNano": "soon"}, r'startTimeUnixNano: "soon" is no integer'),
        ({"startTimeUnixNano": 0.5}, "startTimeUnixNano: 0.5 is no integer"),
        ({"startTimeUnixNano": "\N{ARABIC-INDIC DIGIT ONE}"}, "is no integer"),
        ({"attributes": {}}, "attributes: an object is no array"),
        ({"attributes": [5]}, r"attributes\[0\]: 5 is no object"),
        ({"attributes": [{"value": {"boolValue": 1}}]}, r"boolValue: 1 is neither"),
        ({"attributes": [{"value": {"doubleValue": "1_0"}}]}, r'doubleValue: "1_0" is no number'),
        ({"attributes": [{"value": {"doubleValue": "nan"}}]}, r'doubleValue: "nan" is no number'),
        ({"attributes": [{"value": {"doubleValue": 10**400}}]}, "doubleValue: 10.* is out of"),
        ({"attributes": [{"value": {"bytesValue": "?"}}]}, "bytesValue: .* is no base64"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(fields, problem):
    with pytest.raises(DecodeError, match=rf"^{SPAN_PATH}\..*{problem}"):
        one_span(**fields)


@pytest.mark.parametrize("body", [b"[]", b"5", b'"x"', b"null"])
def test_a_request_is_an_object(body):
    with pytest.raises(DecodeError, match=r"^the request: .* is no object"):
        otlp_json.parse(body, ExportTraceServiceRequest)


def test_levels_are_bounded():
    value: dict = {"stringValue": "x"}
    for _ in range(120):
        value = {"arrayValue": {"values": [value]}}
    with pytest.raises(DecodeError, match="more than 100 levels"):
        one_span(attributes=[{"key": "k", "value": value}])


def test_damage_is_refused_or_read_but_never_a_crash():
    whole = json.dumps(samples.logs(samples.LOG, samples.EVENT)).encode()
    chance = random.Random(4)
    refused = 0
    for _ in range(2_000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.choice(b'"{}[],:0e-x\\ \x00\xff')
        try:
            otlp_json.parse(bytes(damaged), ExportLogsServiceRequest)
        except DecodeError:
            refused += 1
    assert 1_000 < refused < 2_000


def test_answers_are_lower_camel_case_with_64_bit_integers_as_strings():
    assert otlp_json.write(ExportTraceServiceResponse()) == b"{}"
    partial = ExportTraceServiceResponse(
        partial_success={"rejected_spans": 3, "error_message": "why"}
    )
    assert json.loads(otlp_json.write(partial)) == {
        "partialSuccess": {"rejectedSpans": "3", "errorMessage": "why"}
    }
    assert json.loads(otlp_json.write(Status(code=3, message="m"))) == {"code": 3, "message": "m"}

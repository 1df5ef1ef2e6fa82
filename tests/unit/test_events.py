import base64
import json
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import ClassVar

import pytest
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from tests import otlp_samples as samples

from outcome_exporter import events
from outcome_exporter.errors import DecodeError
from outcome_exporter.events import decode_cloudevents, decode_logs, lookup, parse_time
from outcome_exporter.model import BusinessEvent
from outcome_exporter.receive import otlp_json

EVENT = {
    "specversion": "1.0",
    "id": "order-1",
    "source": "/shop",
    "type": "shop.order.completed",
    "time": "2024-05-01T12:00:00.25Z",
    "traceparent": "00-5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174-01",
    "data": {"order_id": "o1", "total": 19.99},
}
TRACE_ID = bytes.fromhex("5b8efff798038103d269b633813fc60c")


def cloudevents(*array) -> list[BusinessEvent]:
    return decode_cloudevents(json.dumps(array).encode()).events


def one(**changes) -> BusinessEvent:
    changed = {**EVENT, **changes}
    return cloudevents({k: v for k, v in changed.items() if v is not ...})[0]


def otlp(*records) -> events.EventBatch:
    request = json.dumps(samples.logs(*records)).encode()
    return decode_logs(otlp_json.parse(request, ExportLogsServiceRequest))


def text_attribute(key, value):
    return {"key": key, "value": {"stringValue": value}}


class TestCloudEvents:
    def test_an_event_is_read_with_its_identity_time_and_trace(self):
        assert one() == BusinessEvent(
            source="/shop",
            id="order-1",
            type="shop.order.completed",
            time_unix_nano=1714564800_250000000,
            trace_id=TRACE_ID,
            fields=EVENT,
        )

    def test_a_batch_keeps_its_order_and_may_be_empty(self):
        ids = [event.id for event in cloudevents(EVENT, {**EVENT, "id": "2"})]
        assert ids == ["order-1", "2"]
        assert cloudevents() == []

    def test_what_is_absent_or_null_stays_absent(self):
        event = one(time=None, traceparent=..., data=...)
        assert (event.time_unix_nano, event.trace_id) == (None, None)

    @pytest.mark.parametrize(
        "traceparent",
        [
            5,
            "",
            "00-00000000000000000000000000000000-eee19b7ec3c1b174-01",
            "ff-5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174-01",
            "00-5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174",
            "00-5b8efff798038103d269b633813fc60-eee19b7ec3c1b174-01",
        ],
    )
    def test_a_traceparent_that_cannot_be_read_counts_as_absent(self, traceparent):
        assert one(traceparent=traceparent).trace_id is None

    def test_a_traceparent_of_a_later_version_is_read(self):
        later = "01-5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174-01-future"
        assert one(traceparent=later).trace_id == TRACE_ID

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"specversion": ...}, "specversion: None; send '1.0'"),
            ({"specversion": "0.3"}, "specversion: '0.3'; send '1.0'"),
            ({"id": ...}, "id: missing"),
            ({"id": ""}, "id: missing"),
            ({"id": 5}, "id: missing"),
            ({"source": None}, "source: missing"),
            ({"type": ["x"]}, "type: missing"),
            ({"id": "x" * 257}, "id: more than 256 characters"),
            ({"time": "yesterday"}, "time: 'yesterday' is no time; write it like 2024-"),
            ({"time": 1714564800}, "time: 1714564800 is no time"),
            ({"data_base64": "eA=="}, "data_base64: there is data as well"),
            ({"data": ..., "data_base64": "?"}, "data_base64: no base64"),
            ({"data": ..., "data_base64": 5}, "data_base64: no base64"),
        ],
    )
    def test_a_wrong_event_refuses_the_batch_and_is_named_by_its_index(self, changes, problem):
        bad = {k: v for k, v in {**EVENT, **changes}.items() if v is not ...}
        with pytest.raises(DecodeError) as refused:
            cloudevents(EVENT, EVENT, bad, EVENT)
        assert f"events[2].{problem}" in str(refused.value)

    @pytest.mark.parametrize("payload", [b"{}", b"5", json.dumps(EVENT).encode()])
    def test_a_payload_is_an_array(self, payload):
        with pytest.raises(DecodeError, match="no JSON array"):
            decode_cloudevents(payload)

    def test_an_event_is_an_object(self):
        with pytest.raises(DecodeError, match=r"events\[1\]: no JSON object"):
            cloudevents(EVENT, [])

    def test_levels_keys_and_events_are_bounded(self, monkeypatch):
        deep: object = "x"
        for _ in range(events.LEVELS_MAX - 1):
            deep = {"a": deep}
        assert one(data=deep).fields["data"] == deep
        with pytest.raises(DecodeError, match=r"events\[0\]: more than 32 levels"):
            one(data=[deep])
        with pytest.raises(DecodeError, match=r"events\[0\]: a key of more than 256"):
            one(data={"k" * 257: 1})
        monkeypatch.setattr(events, "EVENTS_MAX", 2)
        assert len(cloudevents(EVENT, EVENT)) == 2
        with pytest.raises(DecodeError, match="3 events; send at most 2"):
            cloudevents(EVENT, EVENT, EVENT)

    def test_json_that_a_sender_carries_as_bytes_is_read(self):
        encoded = base64.b64encode(b'{"order_id": "o1"}').decode()
        for content_type in (..., "application/json", "application/vnd.shop+json; charset=utf-8"):
            event = one(data=..., data_base64=encoded, datacontenttype=content_type)
            assert lookup("data.order_id")(event.fields) == "o1"
        opaque = one(data=..., data_base64=encoded, datacontenttype="image/png")
        assert "data" not in opaque.fields

    def test_damage_is_refused_or_read_but_never_a_crash(self):
        whole = json.dumps([EVENT, EVENT]).encode()
        chance = random.Random(5)
        refused = 0
        for _ in range(2_000):
            damaged = bytearray(whole)
            for _ in range(chance.randint(1, 3)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            try:
                decode_cloudevents(bytes(damaged))
            except DecodeError:
                refused += 1
        assert 1_000 < refused < 2_000


DATA = st.none() | st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    max_size=3,
)


class TestEventsOfTheSdk:
    """The SDK of CloudEvents as a sender."""

    @given(
        data=DATA,
        subject=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
        time=st.datetimes(
            datetime(1700, 1, 1),  # noqa: DTZ001 -- naive by Hypothesis' interface
            datetime(2200, 1, 1),  # noqa: DTZ001
            timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))]),
        ),
    )
    def test_structured_and_binary_mode_carry_the_same_event(self, data, subject, time):
        attributes = {
            "id": "1",
            "source": "/€",
            "type": "t",
            "subject": subject,
            "time": time,
            "datacontenttype": "application/json",
        }
        event = CloudEvent(attributes, data)
        structured = to_structured(event, JSONFormat()).body
        binary = to_binary(event, JSONFormat())
        headers = {
            name.removeprefix("ce-"): value
            for name, value in binary.headers.items()
            if name.startswith("ce-")
        }
        # Decoding of headers is the HTTP receiver's business and tested there.
        headers |= {"source": "/€", "subject": subject}
        (first,) = decode_cloudevents(events.cloudevents_of_structured(structured)).events
        (second,) = decode_cloudevents(
            events.cloudevents_of_binary(headers, binary.headers["content-type"], binary.body)
        ).events
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        assert first.time_unix_nano == (time - epoch) // timedelta(microseconds=1) * 1_000
        assert first.fields.get("data") == data
        assert (first.source, first.fields["subject"]) == ("/€", subject)
        assert first == second


class TestBinaryData:
    def data_of(self, content_type, body):
        headers = {k: v for k, v in EVENT.items() if isinstance(v, str)}
        return json.loads(events.cloudevents_of_binary(headers, content_type, body))[0]

    @pytest.mark.parametrize(
        ("content_type", "body", "expected"),
        [
            ("application/json", b'{"a": [1]}', {"data": {"a": [1]}}),
            ("application/vnd.x+json", b"5", {"data": 5}),
            ("TEXT/JSON; charset=utf-8", b'"x"', {"data": "x"}),
            (None, b'{"a": 1}', {"data": {"a": 1}}),
            (None, b"no json", {"data_base64": "bm8ganNvbg=="}),
            ("text/plain", "grüß".encode(), {"data": "grüß"}),
            ("text/plain", b"\xff", {"data_base64": "/w=="}),
            ("application/xml", b"<a/>", {"data": "<a/>"}),
            ("image/png", b"\x89PNG", {"data_base64": "iVBORw=="}),
            ("application/json", b"", {}),
        ],
    )
    def test_data_is_kept_as_its_type_has_it(self, content_type, body, expected):
        event = self.data_of(content_type, body)
        assert {
            k: v for k, v in event.items() if k.startswith("data") and k in expected
        } == expected
        assert ("data" in event) + ("data_base64" in event) == len(expected)

    def test_data_that_calls_itself_json_must_be_json(self):
        with pytest.raises(DecodeError, match="not JSON"):
            self.data_of("application/json", b"no json")


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "nanoseconds"),
        [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00z", 0),
            ("1970-01-01 00:00:00Z", 0),
            ("1970-01-01T00:00:00.000000001Z", 1),
            ("1970-01-01T00:00:00.1Z", 100_000_000),
            ("1970-01-01T00:00:00.1234567899Z", 123_456_789),
            ("1969-12-31T23:59:59.999999999Z", -1),
            ("1970-01-01T05:30:00+05:30", 0),
            ("1969-12-31T15:30:00-08:30", 0),
            ("2024-02-29T12:00:00.123456789-00:00", 1709208000_123456789),
            ("2016-12-31T23:59:60Z", 1483228800_000000000),
            ("2262-04-11T23:47:16.854775807Z", 2**63 - 1),
            ("9999-12-31T23:59:59Z", 2**63 - 1),
            ("0001-01-01T00:00:00Z", -(2**63)),
        ],
    )
    def test_rfc_3339_is_read_exactly(self, text, nanoseconds):
        assert parse_time(text) == nanoseconds

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "2024-05-01",
            "2024-05-01T12:00:00",
            "2024-05-01T12:00Z",
            "2024-05-01T24:00:00Z",
            "2024-05-01T12:60:00Z",
            "2024-05-01T12:00:61Z",
            "2024-02-30T12:00:00Z",
            "2024-13-01T12:00:00Z",
            "0000-01-01T00:00:00Z",
            "2024-05-01T12:00:00+24:00",
            "2024-05-01T12:00:00+01:60",
            "2024-05-01T12:00:00+0100",
            "2024-05-01T12:00:00.Z",
            "2024-05-01T12:00:00Z\n",
            "٢٠٢٤-05-01T12:00:00Z",
        ],
    )
    def test_anything_else_is_refused(self, text):
        with pytest.raises(ValueError, match=r".*"):
            parse_time(text)

    @given(
        st.datetimes(
            datetime(1700, 1, 1),  # noqa: DTZ001 -- naive by Hypothesis' interface
            datetime(2200, 1, 1),  # noqa: DTZ001
            timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
        )
    )
    def test_agrees_with_the_standard_library(self, time):
        micros = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        assert parse_time(time.isoformat()) == micros * 1_000


class TestLogRecords:
    def test_an_event_is_read_with_body_attributes_and_resource(self):
        (event,) = otlp(samples.EVENT).events
        assert (event.source, event.type) == ("shop", "browser.page_view")
        assert event.time_unix_nano == 1544712660300000000
        assert event.trace_id is None
        assert event.fields == {
            "data": {
                "type": 0,
                "url": "https://www.example.com/cart",
                "event.attribute": "of an event",
            },
            "resource": {"service.name": "shop"},
        }

    def test_every_type_of_value_is_read(self):
        (event,) = otlp({**samples.LOG, "eventName": "e"}).events
        assert event.trace_id == bytes.fromhex(samples.TRACE_ID)
        assert event.fields["data"] == {
            "string": "some string",
            "boolean": True,
            "int": 10,
            "double": 637.704,
            "array": ["many", 2],
            "map": {"k": "v"},
            "bytes": b"\x00\x01\x02\xff",
        }

    def test_the_older_attribute_names_an_event_too(self):
        (event,) = otlp({"attributes": [text_attribute("event.name", "old")]}).events
        assert event.type == "old"

    def test_the_name_wins_over_the_attribute_and_attributes_over_the_body(self):
        record = {
            "eventName": "new",
            "attributes": [text_attribute("event.name", "old"), text_attribute("k", "attribute")],
            "body": {"kvlistValue": {"values": [text_attribute("k", "body")]}},
        }
        (event,) = otlp(record).events
        assert (event.type, event.fields["data"]["k"]) == ("new", "attribute")

    def test_records_without_a_name_are_counted_as_rejected(self):
        batch = otlp(
            samples.LOG,
            samples.EVENT,
            {},
            {"attributes": [{"key": "event.name", "value": {"intValue": 5}}]},
        )
        assert (len(batch.events), batch.rejected) == (1, 3)

    def test_the_uid_is_the_id(self):
        record = {"eventName": "e", "attributes": [text_attribute("log.record.uid", "u1")]}
        assert otlp(record).events[0].id == "u1"

    def test_without_a_uid_equal_records_share_an_id_and_others_do_not(self):
        first, again, other = otlp(
            samples.EVENT, samples.EVENT, {**samples.EVENT, "severityNumber": 10}
        ).events
        assert first.id == again.id != other.id
        assert len(first.id) == 32

    def test_equal_records_of_two_instances_are_two_events(self):
        request = samples.logs(samples.EVENT)
        instance = json.loads(json.dumps(request))
        instance["resourceLogs"][0]["resource"]["attributes"].append(
            text_attribute("service.instance.id", "2")
        )
        both = {"resourceLogs": request["resourceLogs"] + instance["resourceLogs"]}
        payload = otlp_json.parse(json.dumps(both).encode(), ExportLogsServiceRequest)
        first, second = decode_logs(payload).events
        assert first.id != second.id

    def test_the_observed_time_stands_in_and_without_both_there_is_none(self):
        observed, none, far = otlp(
            {"eventName": "e", "observedTimeUnixNano": "7"},
            {"eventName": "e"},
            {"eventName": "e", "timeUnixNano": str(2**64 - 1)},
        ).events
        assert observed.time_unix_nano == 7
        assert none.time_unix_nano is None
        assert far.time_unix_nano == 2**63 - 1

    def test_a_trace_id_that_is_none_is_left_out(self):
        for trace_id in ("00" * 16, "ab", ""):
            assert otlp({"eventName": "e", "traceId": trace_id}).events[0].trace_id is None

    def test_numbers_that_are_not_finite_count_as_absent(self):
        record = {
            "eventName": "e",
            "attributes": [{"key": "total", "value": {"doubleValue": "NaN"}}],
        }
        assert lookup("data.total")(otlp(record).events[0].fields) is None

    def test_a_service_without_a_name_has_the_name_of_the_conventions(self):
        payload = ExportLogsServiceRequest(
            resource_logs=[{"scope_logs": [{"log_records": [{"event_name": "e"}]}]}]
        )
        assert decode_logs(payload.SerializeToString()).events[0].source == "unknown_service"

    def test_an_empty_request_has_no_events(self):
        assert decode_logs(b"") == ([], 0)

    def test_the_number_of_events_is_bounded_and_that_of_other_records_is_not(self, monkeypatch):
        monkeypatch.setattr(events, "EVENTS_MAX", 2)
        assert otlp(samples.LOG, samples.LOG, samples.LOG, samples.EVENT).rejected == 3
        with pytest.raises(DecodeError, match="more than 2 events"):
            otlp(samples.EVENT, samples.EVENT, samples.EVENT)

    def test_damage_is_refused_or_read_but_never_a_crash(self):
        request = json.dumps(samples.logs(samples.LOG, samples.EVENT)).encode()
        whole = otlp_json.parse(request, ExportLogsServiceRequest)
        chance = random.Random(6)
        refused = 0
        for _ in range(2_000):
            damaged = bytearray(whole[: chance.randint(1, len(whole))])
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            try:
                decode_logs(bytes(damaged))
            except DecodeError:
                refused += 1
        assert 1_000 < refused < 2_000


class TestPaths:
    FIELDS: ClassVar = {
        "type": "t",
        "data": {"order": {"id": "nested"}, "order.total": 5, "none": None, "list": [{"a": 1}]},
        "data.order.id": "exact",
        "resource": {"service.name": "shop"},
        "a.b": {"c.d": 1},
        "a": {"b": {"c": {"d": 2}}, "x": {"y": 3}},
    }

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("type", "t"),
            ("data.order.id", "exact"),
            ("data.order.total", 5),
            ("resource.service.name", "shop"),
            ("a.b.c.d", 1),
            ("a.x.y", 3),
            ("data.none", None),
            ("data.missing", None),
            ("type.more", None),
            ("data.list.0.a", None),
            ("data.list.a", None),
            ("", None),
            (".", None),
            ("data.", None),
        ],
    )
    def test_the_longest_key_wins_and_lists_are_not_entered(self, path, expected):
        assert lookup(path)(self.FIELDS) == expected

    def test_without_an_exact_key_the_nested_one_is_found(self):
        assert lookup("data.order.id")({"data": {"order": {"id": "nested"}}}) == "nested"

import gzip
import json
import logging
import random
import select
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import zstandard
from google.protobuf import json_format
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from tests import otlp_samples as samples
from tests.receivers import LIMIT_BYTES, Inbox, running, wait_until

from outcome_exporter import series
from outcome_exporter.errors import ListenError, LogCorrupt, Overloaded
from outcome_exporter.events import lookup
from outcome_exporter.model import Encoding, Kind
from outcome_exporter.receive import otlp_json
from outcome_exporter.receive.serving import ThreadedServer, split

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"a": 1}}

OTLP = {
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse),
    "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
}
GOOD = {
    "/v1/traces": samples.traces(samples.SPAN),
    "/v1/logs": samples.logs(samples.EVENT),
}
PACK = {
    None: bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.fixture(scope="module")
def servers():
    with running() as exporter:
        yield exporter


@pytest.fixture
def exporter(servers):
    servers.inbox.records.clear()
    servers.inbox.refuse = None
    return servers


def body_of(path, value, content_type):
    text = json.dumps(value).encode()
    return text if content_type == JSON else otlp_json.parse(text, OTLP[path][0])


def message_of(answer, message):
    if answer.headers["content-type"] == PROTOBUF:
        return message.FromString(answer.body)
    assert answer.headers["content-type"] == JSON
    return json_format.Parse(answer.body, message())


def headers_of(content_type, encoding=None):
    headers = {"content-type": content_type}
    return headers | ({"content-encoding": encoding} if encoding else {})


class TestOtlp:
    @pytest.mark.parametrize("path", GOOD)
    @pytest.mark.parametrize("content_type", [JSON, PROTOBUF])
    @pytest.mark.parametrize("encoding", PACK)
    @pytest.mark.parametrize("chunked", [False, True])
    def test_every_encoding_of_every_format_is_taken(
        self, exporter, path, content_type, encoding, chunked
    ):
        body = PACK[encoding](body_of(path, GOOD[path], content_type))
        sent = iter([body[:7], body[7:50], body[50:]]) if chunked else body
        answer = exporter.request(path, sent, headers_of(content_type, encoding), chunked=chunked)
        assert answer.status == 200
        assert answer.headers["content-type"] == content_type
        assert answer.body == (b"{}" if content_type == JSON else b"")
        assert [s.name for s in exporter.inbox.spans()] + [
            e.type for e in exporter.inbox.events()
        ] == (["I'm a server span"] if path == "/v1/traces" else ["browser.page_view"])

    def test_protobuf_is_logged_as_it_came_and_json_as_protobuf(self, exporter):
        plain = body_of("/v1/traces", GOOD["/v1/traces"], PROTOBUF)
        packed = gzip.compress(plain)
        exporter.request("/v1/traces", packed, headers_of(PROTOBUF, "gzip"))
        text = gzip.compress(json.dumps(GOOD["/v1/traces"]).encode())
        exporter.request("/v1/traces", text, headers_of(JSON, "gzip"))
        assert [record[:3] for record in exporter.inbox.records] == [
            (Kind.TRACES, Encoding.GZIP, packed),
            (Kind.TRACES, Encoding.NONE, plain),
        ]

    @pytest.mark.parametrize("path", OTLP)
    @pytest.mark.parametrize(
        ("content_type", "body"), [(JSON, b"{}"), (PROTOBUF, b"")], ids=["json", "protobuf"]
    )
    def test_an_empty_request_is_accepted(self, exporter, path, content_type, body):
        answer = exporter.request(path, body, headers_of(content_type))
        assert (answer.status, answer.body) == (200, body)
        assert exporter.inbox.records == []

    @pytest.mark.parametrize(
        "content_type",
        ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json;odata=x"],
    )
    def test_parameters_and_case_of_the_content_type_do_not_matter(self, exporter, content_type):
        body = body_of("/v1/traces", GOOD["/v1/traces"], JSON)
        answer = exporter.request("/v1/traces", body, headers_of(content_type))
        assert (answer.status, answer.headers["content-type"]) == (200, JSON)

    @pytest.mark.parametrize("content_type", [JSON, PROTOBUF])
    def test_what_was_left_out_is_told(self, exporter, content_type):
        spans = samples.traces(samples.SPAN, {**samples.SPAN, "spanId": ""})
        answer = exporter.request(
            "/v1/traces", body_of("/v1/traces", spans, content_type), headers_of(content_type)
        )
        partial = message_of(answer, ExportTraceServiceResponse).partial_success
        assert (answer.status, partial.rejected_spans) == (200, 1)
        assert "without a valid trace id" in partial.error_message
        logs = samples.logs(samples.EVENT, samples.LOG, samples.LOG)
        answer = exporter.request(
            "/v1/logs", body_of("/v1/logs", logs, content_type), headers_of(content_type)
        )
        partial = message_of(answer, ExportLogsServiceResponse).partial_success
        assert (answer.status, partial.rejected_log_records) == (200, 2)
        assert "without an event name" in partial.error_message

    @pytest.mark.parametrize("content_type", [JSON, PROTOBUF])
    def test_metrics_are_kept_where_an_slo_reads_one_of_them(self, exporter, content_type):
        body = body_of("/v1/metrics", samples.metrics(), content_type)
        answer = exporter.request("/v1/metrics", body, headers_of(content_type))
        assert answer.status == 200
        assert not message_of(answer, ExportMetricsServiceResponse).HasField("partial_success")
        [(_, _, _, batch)] = exporter.inbox.records
        assert [point.value for point in batch.points] == [5.0]


class TestRefusals:
    @pytest.mark.parametrize("path", OTLP)
    @pytest.mark.parametrize(
        "case",
        [
            (b"\xff", headers_of(PROTOBUF), 400, 3, "no Export"),
            (b"\x0a\x05abc", headers_of(PROTOBUF), 400, 3, "no Export"),
            (b"", headers_of(JSON), 400, 3, "not JSON"),
            (b"{", headers_of(JSON), 400, 3, "not JSON"),
            (b"[]", headers_of(JSON), 400, 3, "is no object"),
            (b"this is no gzip", headers_of(PROTOBUF, "gzip"), 400, 3, "damaged gzip body"),
            (b"this is no gzip", headers_of(JSON, "gzip"), 400, 3, "damaged gzip body"),
            (b"no zstd", headers_of(PROTOBUF, "zstd"), 400, 3, "damaged zstd body"),
            (gzip.compress(b"{}", mtime=0)[:-1], headers_of(JSON, "gzip"), 400, 3, "cut short"),
            (b"{}", headers_of(JSON, "br"), 415, 3, "content encoding 'br'; send gzip, zstd"),
            (b"{}", headers_of(JSON, "gzip, gzip"), 415, 3, "content encoding 'gzip, gzip'"),
            (b"{}", headers_of("text/plain"), 415, 3, "content type 'text/plain'; send"),
            (b"{}", {}, 415, 3, "content type ''; send application/x-protobuf or"),
            (bytes(LIMIT_BYTES + 1), headers_of(PROTOBUF), 413, 8, "larger than 1048576 bytes"),
            (bytes(LIMIT_BYTES + 1), headers_of(JSON), 413, 8, "larger than 1048576 bytes"),
            (
                gzip.compress(bytes(LIMIT_BYTES + 1), mtime=0),
                headers_of(PROTOBUF, "gzip"),
                413,
                8,
                "the decompressed request is larger",
            ),
            (
                gzip.compress(b" " * (LIMIT_BYTES + 1), mtime=0),
                headers_of(JSON, "gzip"),
                413,
                8,
                "the decompressed request is larger",
            ),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_a_refusal_is_a_status_in_the_encoding_of_the_request(self, exporter, path, case):
        body, headers, status, code, text = case
        answer = exporter.request(path, body, headers)
        assert answer.status == status
        asked = headers.get("content-type")
        assert answer.headers["content-type"] == (PROTOBUF if asked == PROTOBUF else JSON)
        refused = message_of(answer, Status)
        assert refused.code == code
        assert text in refused.message
        assert exporter.inbox.records == []

    def test_the_limit_counts_a_body_without_a_length_too(self, exporter):
        pieces = (bytes(64 << 10) for _ in range(LIMIT_BYTES // (64 << 10) + 1))
        answer = exporter.request("/v1/traces", pieces, headers_of(PROTOBUF), chunked=True)
        assert answer.status == 413

    @pytest.mark.parametrize("path", ["/", "/v1/traces/", "/v1/profiles", "/metrics", "/events/1"])
    def test_other_paths_are_not_found(self, exporter, path):
        answer = exporter.request(path, b"", headers_of(PROTOBUF))
        assert answer.status == 404
        assert answer.body == (
            b"nothing is here; senders POST to /v1/traces, /v1/logs, /v1/metrics, /events\n"
        )

    @pytest.mark.parametrize("path", [*OTLP, "/events"])
    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
    def test_other_methods_are_not_allowed(self, exporter, path, method):
        answer = exporter.request(path, method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert b"senders POST to" in answer.body

    @pytest.mark.parametrize("content_type", [JSON, PROTOBUF])
    @pytest.mark.parametrize(
        ("error", "seconds"),
        [(Overloaded("full", retry_after_seconds=7), 7), (LogCorrupt("x", offset=1), 10)],
    )
    def test_without_room_the_sender_is_asked_to_try_again(
        self, exporter, content_type, error, seconds
    ):
        exporter.inbox.refuse = error
        body = body_of("/v1/traces", GOOD["/v1/traces"], content_type)
        answer = exporter.request("/v1/traces", body, headers_of(content_type))
        assert (answer.status, answer.headers["retry-after"]) == (503, str(seconds))
        refused = message_of(answer, Status)
        assert (refused.code, refused.message) == (14, str(error))
        retry = RetryInfo()
        assert refused.details[0].Unpack(retry)
        assert retry.retry_delay.seconds == seconds

    def test_a_defect_is_an_internal_error_that_is_logged_and_not_shown(self, exporter, caplog):
        exporter.inbox.refuse = ZeroDivisionError("secret")
        with caplog.at_level(logging.ERROR):
            answer = exporter.request("/v1/traces", b"", headers_of(PROTOBUF))
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert "secret" in caplog.text

    def test_damage_never_becomes_a_server_error(self, exporter):
        chance = random.Random(7)
        seen = set()
        for _ in range(300):
            path = chance.choice(list(GOOD))
            content_type = chance.choice([JSON, PROTOBUF])
            encoding = chance.choice(["gzip", "zstd", "deflate", None])
            body = bytearray(PACK[encoding](body_of(path, GOOD[path], content_type)))
            for _ in range(chance.randint(1, 3)):
                body[chance.randrange(len(body))] = chance.randrange(256)
            cut = chance.choice([len(body), chance.randrange(len(body))])
            answer = exporter.request(path, bytes(body[:cut]), headers_of(content_type, encoding))
            seen.add(answer.status)
        assert seen <= {200, 400, 413}
        assert {200, 400} <= seen


class TestBodiesInPieces:
    def open(self, exporter, *, length):
        connection = socket.create_connection(("127.0.0.1", exporter.http_port), timeout=20)
        connection.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
            b"Content-Length: %d\r\n\r\n" % length
        )
        return connection

    def count(self, exporter, result):
        samples = exporter.counters.snapshot()[series.REQUESTS]
        return next(s.value for s in samples if s.labels == ("http", "traces", result))

    def test_a_body_that_does_not_come_is_given_up(self):
        with running(read_seconds=0.05) as exporter:
            with self.open(exporter, length=10) as connection:
                connection.sendall(b"\x0a")
                assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
            assert self.count(exporter, "too_slow") == 1

    def test_a_client_that_goes_away_is_counted_and_its_memory_given_back(self, exporter):
        before = self.count(exporter, "aborted")
        for done in range(1, 7):
            connection = self.open(exporter, length=LIMIT_BYTES)
            connection.sendall(bytes(LIMIT_BYTES - 1))
            connection.close()
            expected = before + done
            wait_until(lambda: self.count(exporter, "aborted") == expected)  # noqa: B023 -- waited for here
        body = bytes(LIMIT_BYTES)
        assert exporter.request("/v1/traces", body, headers_of(PROTOBUF)).status == 400

    def test_large_json_is_read_in_turn(self, exporter, monkeypatch):
        together = threading.Barrier(2)

        def parse(_body, _request):
            together.wait(0.5)
            return b""

        monkeypatch.setattr(otlp_json, "parse", parse)
        body = gzip.compress(bytes(LIMIT_BYTES))
        headers = headers_of(JSON) | {"content-encoding": "gzip"}
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(exporter.request, "/v1/traces", body, headers) for _ in range(2)]
            # Neither met the other there.
            assert [answer.result().status for answer in answers] == [500, 500]

    def test_bodies_of_all_connections_together_are_bounded(self, exporter):
        with ExitStack() as stack:
            held = []
            for _ in range(5):
                connection = stack.enter_context(self.open(exporter, length=LIMIT_BYTES))
                connection.sendall(bytes(LIMIT_BYTES - 1))
                held.append(connection)
            refused, _, _ = select.select(held, [], [], 20)
            assert len(refused) == 1
            assert refused[0].recv(100).startswith(b"HTTP/1.1 503 ")


class TestEvents:
    def send(self, exporter, body, **headers):
        return exporter.request(
            "/events", body, {k.replace("_", "-"): v for k, v in headers.items()}
        )

    @pytest.mark.parametrize("encoding", [None, "gzip", "zstd", "deflate"])
    def test_structured_mode(self, exporter, encoding):
        body = PACK[encoding](json.dumps(EVENT).encode())
        answer = exporter.request(
            "/events", body, headers_of("application/cloudevents+json; charset=utf-8", encoding)
        )
        assert (answer.status, json.loads(answer.body)) == (202, {"rejected": 0})
        assert [event.fields for event in exporter.inbox.events()] == [EVENT]

    @pytest.mark.parametrize("encoding", [None, "gzip"])
    def test_a_batch_is_logged_as_it_came(self, exporter, encoding):
        body = PACK[encoding](json.dumps([EVENT, {**EVENT, "id": "2"}]).encode())
        answer = exporter.request(
            "/events", body, headers_of("application/cloudevents-batch+json", encoding)
        )
        assert answer.status == 202
        assert [event.id for event in exporter.inbox.events()] == ["1", "2"]
        assert exporter.inbox.records[0][2] == body

    def test_an_empty_batch_is_accepted(self, exporter):
        answer = self.send(exporter, b"[]", content_type="application/cloudevents-batch+json")
        assert (answer.status, exporter.inbox.records) == (202, [])

    def test_binary_mode_with_percent_encoding_and_quotes(self, exporter):
        answer = self.send(
            exporter,
            b'{"a": 1}',
            content_type="application/json",
            CE_Specversion="1.0",
            ce_id="Euro%20%E2%82%AC%20%F0%9F%98%80",
            ce_source='"/a \\"quoted\\" source"',
            ce_type="t",
            ce_time="2024-05-01T12:00:00.123456789+02:00",
            ce_traceparent="00-5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174-01",
            ce_region="eu",
        )
        assert answer.status == 202
        (event,) = exporter.inbox.events()
        assert event.id == "Euro € \N{GRINNING FACE}"
        assert event.source == '/a "quoted" source'
        assert event.time_unix_nano == 1714557600_123456789
        assert event.trace_id == bytes.fromhex(samples.TRACE_ID)
        assert lookup("data.a")(event.fields) == 1
        assert lookup("region")(event.fields) == "eu"

    def test_the_trace_of_the_request_itself_is_not_the_events(self, exporter):
        self.send(
            exporter,
            json.dumps(EVENT).encode(),
            content_type="application/cloudevents+json",
            traceparent="00-5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174-01",
        )
        assert exporter.inbox.events()[0].trace_id is None

    def test_binary_mode_with_data_that_is_no_json(self, exporter):
        ce = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t"}
        self.send(exporter, b"\x89PNG", content_type="image/png", **ce)
        self.send(exporter, b"", **ce)
        first, second = (event.fields for event in exporter.inbox.events())
        assert first["data_base64"] == "iVBORw=="
        assert "data" not in second

    @pytest.mark.parametrize(
        ("body", "headers", "status", "text"),
        [
            (b"{}", {"content_type": JSON}, 415, "without ce- headers; send application/cloud"),
            (b"{}", {"content_type": "application/cloudevents+avro"}, 415, "cloudevents+avro"),
            (b"{", {"content_type": "application/cloudevents+json"}, 400, "not JSON"),
            (b"", {"content_type": "application/cloudevents+json"}, 400, "not JSON"),
            (b"", {"content_type": "application/cloudevents-batch+json"}, 400, "not JSON"),
            (b"{}", {"content_type": "application/cloudevents-batch+json"}, 400, "no JSON array"),
            (b"[]", {"content_type": "application/cloudevents+json"}, 400, "events[0]: no JSON ob"),
            (
                b"[" + json.dumps(EVENT).encode() + b", {}]",
                {"content_type": "application/cloudevents-batch+json"},
                400,
                "events[1].specversion: None; send '1.0'",
            ),
            (
                json.dumps(EVENT).encode() + b"," + json.dumps(EVENT).encode(),
                {"content_type": "application/cloudevents+json"},
                400,
                "not JSON: trailing characters",
            ),
            (b"", {"ce_id": "1"}, 400, "events[0].specversion"),
            (b"", {"ce_specversion": "1.0", "ce_id": "%FF"}, 400, "header ce-id: no UTF-8"),
            (
                b"{",
                {
                    "content_type": JSON,
                    "ce_specversion": "1.0",
                    "ce_id": "1",
                    "ce_source": "s",
                    "ce_type": "t",
                },
                400,
                "not JSON",
            ),
            (
                bytes(LIMIT_BYTES + 1),
                {"content_type": "application/cloudevents+json"},
                413,
                "larger than",
            ),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_refusals(self, exporter, body, headers, status, text):
        answer = self.send(exporter, body, **headers)
        assert answer.status == status
        assert text in json.loads(answer.body)["message"]
        assert exporter.inbox.records == []

    def test_without_room_the_sender_is_asked_to_try_again(self, exporter):
        exporter.inbox.refuse = Overloaded("full")
        answer = self.send(exporter, b"[]", content_type="application/cloudevents-batch+json")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")


class TestCounters:
    def test_requests_bytes_and_what_was_left_out_are_counted(self):
        with running() as exporter:
            good = gzip.compress(body_of("/v1/traces", GOOD["/v1/traces"], PROTOBUF))
            exporter.request("/v1/traces", good, headers_of(PROTOBUF, "gzip"))
            mixed = body_of("/v1/logs", samples.logs(samples.EVENT, samples.LOG), PROTOBUF)
            exporter.request("/v1/logs", mixed, headers_of(PROTOBUF))
            exporter.request("/v1/logs", b"\xff", headers_of(PROTOBUF))
            exporter.request("/events", b"x", headers_of("text/plain"))
            snapshot = exporter.counters.snapshot()
        value = {family: {s.labels: s.value for s in snapshot[family]} for family in snapshot}
        requests = value[series.REQUESTS]
        assert requests["http", "traces", "accepted"] == 1
        assert requests["http", "logs", "partial"] == 1
        assert requests["http", "logs", "invalid"] == 1
        assert requests["http", "events", "unsupported"] == 1
        assert sum(requests.values()) == 4
        assert value[series.RECEIVED_BYTES]["http", "traces"] == len(good)
        assert value[series.RECEIVED_BYTES]["http", "logs"] == len(mixed)
        assert value[series.REJECTED_ITEMS]["logs", "no_event"] == 1

    def test_every_series_is_there_at_0_from_the_start(self):
        with running() as exporter:
            snapshot = exporter.counters.snapshot()
        assert len(snapshot[series.REQUESTS]) == 7 * 10
        for family, found in snapshot.items():
            assert {sample.value for sample in found} == {0}
            assert {len(sample.labels) for sample in found} == {len(family.labels)}


class TestStopping:
    def test_a_running_request_is_finished(self):
        entered, leave = threading.Event(), threading.Event()

        class Slow(Inbox):
            def admit(self):
                entered.set()
                assert leave.wait(20)

        with running(Slow()) as exporter, ThreadPoolExecutor(2) as pool:
            sent = pool.submit(exporter.request, "/v1/traces", b"", headers_of(PROTOBUF))
            assert entered.wait(20)
            stopped = pool.submit(exporter.web.stop, 20)
            leave.set()
            assert sent.result(20).status == 200
            stopped.result(20)
            with pytest.raises(ConnectionRefusedError):
                exporter.request("/v1/traces")

    def test_a_body_that_never_ends_is_cut(self):
        with running() as exporter:
            target = ("127.0.0.1", exporter.http_port)
            with socket.create_connection(target, timeout=20) as connection:
                head = b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
                connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # it is being read
                exporter.web.stop(0.05)
            with pytest.raises(ConnectionRefusedError):
                exporter.request("/v1/traces")


class TestListening:
    def test_a_taken_port_is_said_so(self, exporter):
        with pytest.raises(ListenError, match=r"cannot listen on 127.0.0.1:\d+: Address already"):
            ThreadedServer(lambda: None, f"127.0.0.1:{exporter.http_port}").start()

    @pytest.mark.parametrize("address", ["", "4318", ":4318", "localhost:", "x:-1", "x:70000"])
    def test_an_address_that_is_none_is_said_so(self, address):
        with pytest.raises(ListenError, match="no address like"):
            split(address)

    def test_addresses_of_version_6(self):
        assert split("[::1]:4318") == ("::1", 4318)

    def test_an_unknown_host_is_said_so(self):
        with pytest.raises(ListenError, match=r"cannot listen on 256.0.0.1:80: "):
            ThreadedServer(lambda: None, "256.0.0.1:80").start()

    def test_a_server_that_never_started_can_be_stopped(self):
        ThreadedServer(lambda: None, "127.0.0.1:0").stop(1)

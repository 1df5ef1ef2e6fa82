import json
import logging
import random
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import zstandard
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
from outcome_exporter.model import Encoding, Kind
from outcome_exporter.receive import otlp_json
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.receive.grpc import GrpcReceiver, encoding_of

SERVICES = "opentelemetry.proto.collector"
TRACES = f"/{SERVICES}.trace.v1.TraceService/Export"
LOGS = f"/{SERVICES}.logs.v1.LogsService/Export"
METRICS = f"/{SERVICES}.metrics.v1.MetricsService/Export"


@pytest.fixture(scope="module")
def servers():
    with running() as exporter:
        yield exporter


@pytest.fixture
def exporter(servers):
    servers.inbox.records.clear()
    servers.inbox.refuse = None
    return servers


@pytest.fixture
def call(exporter):
    options = [("grpc.max_send_message_length", -1)]
    target = f"127.0.0.1:{exporter.grpc_port}"
    with grpc.insecure_channel(target, options=options) as channel:

        def call(method, payload, compression=None):
            return channel.unary_unary(method)(payload, compression=compression, timeout=20)

        yield call


def payload_of(value, request):
    return otlp_json.parse(json.dumps(value).encode(), request)


SPAN_REQUEST = payload_of(samples.traces(samples.SPAN), ExportTraceServiceRequest)


@pytest.mark.parametrize(
    ("compression", "encoding"),
    [
        (None, Encoding.NONE),
        (grpc.Compression.Gzip, Encoding.GZIP),
        (grpc.Compression.Deflate, Encoding.DEFLATE),
    ],
)
def test_traces_and_events_are_taken_and_logged_as_they_came(exporter, call, compression, encoding):
    # Long enough that gRPC finds it worth compressing.
    spans = payload_of(samples.traces(*[samples.SPAN] * 50), ExportTraceServiceRequest)
    events = payload_of(samples.logs(*[samples.EVENT] * 50), ExportLogsServiceRequest)
    assert call(TRACES, spans, compression) == b""
    assert call(LOGS, events, compression) == b""
    assert [record[:2] for record in exporter.inbox.records] == [
        (Kind.TRACES, encoding),
        (Kind.LOGS, encoding),
    ]
    assert len(exporter.inbox.spans()) == len(exporter.inbox.events()) == 50
    shorter = len(exporter.inbox.records[0][2]) < len(spans)
    assert shorter == (compression is not None)


@pytest.mark.parametrize("method", [TRACES, LOGS, METRICS])
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_an_empty_request_is_accepted(exporter, call, method, compression):
    assert call(method, b"", compression) == b""
    assert exporter.inbox.records == []


@pytest.mark.parametrize("method", [TRACES, LOGS, METRICS])
def test_a_call_without_a_message_is_refused(exporter, method):
    with grpc.insecure_channel(f"127.0.0.1:{exporter.grpc_port}") as channel:
        error = refusal_of(
            lambda method, messages, _: channel.stream_unary(method)(iter(messages), timeout=20),
            method,
            [],
        )
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert re.fullmatch(r"no message came; send one Export\w+ServiceRequest", error.details())
    assert details_of(error).message == error.details()


def test_of_several_messages_in_a_call_only_the_first_is_read(exporter):
    """A known limit; see the receiver."""
    with grpc.insecure_channel(f"127.0.0.1:{exporter.grpc_port}") as channel:
        messages = iter([SPAN_REQUEST, b"not even OTLP"])
        assert channel.stream_unary(TRACES)(messages, timeout=20) == b""
    assert [payload for _, _, payload, _ in exporter.inbox.records] == [SPAN_REQUEST]


def test_what_was_left_out_is_told(exporter, call):
    spans = samples.traces(samples.SPAN, {**samples.SPAN, "traceId": "00" * 16})
    answer = call(TRACES, payload_of(spans, ExportTraceServiceRequest))
    partial = ExportTraceServiceResponse.FromString(answer).partial_success
    assert partial.rejected_spans == 1
    assert "without a valid trace id" in partial.error_message
    logs = samples.logs(samples.LOG, samples.EVENT)
    answer = call(LOGS, payload_of(logs, ExportLogsServiceRequest))
    partial = ExportLogsServiceResponse.FromString(answer).partial_success
    assert partial.rejected_log_records == 1


def test_metrics_are_kept_where_an_slo_reads_one_of_them(exporter, call):
    payload = payload_of(samples.metrics(), ExportMetricsServiceRequest)
    assert ExportMetricsServiceResponse.FromString(call(METRICS, payload)) == (
        ExportMetricsServiceResponse()
    )
    [(kind, _, logged, batch)] = exporter.inbox.records
    assert (kind, logged) == (Kind.METRICS, payload)
    assert [point.value for point in batch.points] == [5.0]


def test_metrics_that_no_slo_reads_are_accepted_and_fill_no_disk(exporter, call):
    samples_of_others = {"resourceMetrics": [{"scopeMetrics": [{"metrics": samples.METRICS[1:]}]}]}
    payload = payload_of(samples_of_others, ExportMetricsServiceRequest)
    assert ExportMetricsServiceResponse.FromString(call(METRICS, payload)) == (
        ExportMetricsServiceResponse()
    )
    assert exporter.inbox.records == []


def refusal_of(call, method, payload, compression=None):
    with pytest.raises(grpc.RpcError) as refused:
        call(method, payload, compression)
    return refused.value


def details_of(error):
    (detail,) = [v for k, v in error.trailing_metadata() if k == "grpc-status-details-bin"]
    return Status.FromString(detail)


@pytest.mark.parametrize("method", [TRACES, LOGS, METRICS])
@pytest.mark.parametrize(
    "case",
    [
        (b"\xff", None, grpc.StatusCode.INVALID_ARGUMENT, "no Export"),
        (SPAN_REQUEST[:-1], None, grpc.StatusCode.INVALID_ARGUMENT, "no Export"),
        (b"\x1f\x8bthis is no gzip", None, grpc.StatusCode.INVALID_ARGUMENT, "damaged gzip body"),
        (
            bytes(LIMIT_BYTES + 1),
            grpc.Compression.Gzip,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the decompressed request is larger than 1048576 bytes",
        ),
    ],
    ids=["no protobuf", "cut short", "no gzip", "a bomb"],
)
def test_a_refusal_has_its_code_and_a_status(exporter, call, method, case):
    payload, compression, code, text = case
    error = refusal_of(call, method, payload, compression)
    assert error.code() == code
    assert text in error.details()
    status = details_of(error)
    assert (status.code, status.message) == (code.value[0], error.details())
    assert not status.details  # without RetryInfo nobody tries again
    assert exporter.inbox.records == []


def requests_of(exporter):
    return {
        sample.labels[1:]: sample.value
        for sample in exporter.counters.snapshot()[series.REQUESTS]
        if sample.labels[0] == "grpc"
    }


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, LIMIT_BYTES * 5 // 4])
def test_a_message_above_the_limit_is_too_large_and_its_sender_is_told_the_limit(
    exporter, call, size
):
    before = requests_of(exporter)
    error = refusal_of(call, TRACES, random.Random(8).randbytes(size))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    status = details_of(error)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    assert status.message == "the request is larger than 1048576 bytes; send smaller batches"
    assert not status.details  # without RetryInfo nobody tries again
    too_large = ("traces", "too_large")
    assert requests_of(exporter) == {**before, too_large: before[too_large] + 1}
    assert exporter.inbox.records == []


def test_a_message_far_above_the_limit_is_resource_exhausted(exporter, call):
    before = requests_of(exporter)
    # To the handler about one in seven looks as if its sender had sent nothing.
    for _ in range(30):
        error = refusal_of(call, TRACES, random.Random(8).randbytes(LIMIT_BYTES * 5 // 4 + 1))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    aborted = ("traces", "aborted")
    wait_until(lambda: requests_of(exporter)[aborted] == before[aborted] + 30)
    assert {**requests_of(exporter), aborted: before[aborted]} == before


def test_a_message_above_the_usual_4_mib_fits_when_configured_so():
    receiver = GrpcReceiver(
        Inbox(max_request_bytes=8 << 20),
        ReceiverCounters(),
        address="127.0.0.1:0",
        max_request_bytes=8 << 20,
    )
    port = receiver.start()
    options = [("grpc.max_send_message_length", -1)]
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            error = refusal_of(
                lambda method, payload, _: channel.unary_unary(method)(payload, timeout=20),
                METRICS,
                b"\xff" * (6 << 20),
            )
    finally:
        receiver.stop(1)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_limit_beyond_what_grpc_can_count_is_no_error():
    receiver = GrpcReceiver(
        Inbox(), ReceiverCounters(), address="127.0.0.1:0", max_request_bytes=4 << 30
    )
    assert receiver.start()
    receiver.stop(0)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(Overloaded("full", retry_after_seconds=7), 7), (LogCorrupt("x", offset=1), 10)],
)
def test_without_room_the_sender_is_asked_to_try_again(exporter, call, error, seconds):
    exporter.inbox.refuse = error
    refused = refusal_of(call, TRACES, SPAN_REQUEST)
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    retry = RetryInfo()
    assert details_of(refused).details[0].Unpack(retry)
    assert retry.retry_delay.seconds == seconds


def test_a_defect_is_internal_and_logged_and_not_shown(exporter, call, caplog):
    exporter.inbox.refuse = ZeroDivisionError("secret")
    with caplog.at_level(logging.ERROR):
        refused = refusal_of(call, TRACES, b"")
    assert refused.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in refused.details()
    assert "secret" in caplog.text


def test_other_methods_are_unimplemented(call):
    error = refusal_of(call, f"/{SERVICES}.profiles.v1.ProfilesService/Export", b"")
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_damage_never_becomes_an_internal_error(exporter, call):
    chance = random.Random(9)
    seen = set()
    for _ in range(300):
        cut = chance.choice([len(SPAN_REQUEST), chance.randint(1, len(SPAN_REQUEST))])
        body = bytearray(SPAN_REQUEST[:cut])
        body[chance.randrange(len(body))] = chance.randrange(256)
        try:
            call(TRACES, bytes(body), chance.choice([None, grpc.Compression.Gzip]))
            seen.add(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            seen.add(error.code())
    assert seen == {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


def test_requests_are_counted(exporter, call):
    def counted():
        snapshot = exporter.counters.snapshot()
        return {
            (family.name, *sample.labels): sample.value
            for family in (series.REQUESTS, series.RECEIVED_BYTES)
            for sample in snapshot[family]
        }

    before = counted()
    call(TRACES, SPAN_REQUEST)
    refusal_of(call, TRACES, b"\xff")
    after = counted()
    assert {key: after[key] - before[key] for key in after if after[key] != before[key]} == {
        (series.REQUESTS.name, "grpc", "traces", "accepted"): 1,
        (series.REQUESTS.name, "grpc", "traces", "invalid"): 1,
        (series.RECEIVED_BYTES.name, "grpc", "traces"): len(SPAN_REQUEST),
    }


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [
        (b"", Encoding.NONE),
        (SPAN_REQUEST, Encoding.NONE),
        (b"\x78\x05", Encoding.NONE),
        (b"\x78\x01", Encoding.DEFLATE),
        (b"\x78\x9c", Encoding.DEFLATE),
        (b"\x1f\x8b\x08", Encoding.GZIP),
        (zstandard.ZstdCompressor().compress(b"x"), Encoding.ZSTD),
    ],
)
def test_the_first_bytes_tell_the_encoding(payload, encoding):
    assert encoding_of(payload) is encoding


def test_a_taken_port_is_said_so(exporter):
    address = f"127.0.0.1:{exporter.grpc_port}"
    receiver = GrpcReceiver(Inbox(), ReceiverCounters(), address=address, max_request_bytes=10)
    with pytest.raises(ListenError, match=rf"cannot listen on {address}: Address already in use"):
        receiver.start()


@pytest.mark.parametrize("address", ["[::1]:0", "::1:0", "[::]:0", "127.0.0.1:0"])
def test_addresses_of_either_version_are_listened_on(address):
    receiver = GrpcReceiver(Inbox(), ReceiverCounters(), address=address, max_request_bytes=10)
    port = receiver.start()
    try:
        host = "127.0.0.1" if "." in address else "::1"
        socket.create_connection((host, port), timeout=20).close()
    finally:
        receiver.stop(1)


def test_stopping_lets_a_running_request_finish():
    entered, leave = threading.Event(), threading.Event()

    class Slow(Inbox):
        def admit(self):
            entered.set()
            assert leave.wait(20)

    receiver = GrpcReceiver(
        Slow(), ReceiverCounters(), address="127.0.0.1:0", max_request_bytes=LIMIT_BYTES
    )
    port = receiver.start()
    with (
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ThreadPoolExecutor(2) as pool,
    ):
        answer = pool.submit(channel.unary_unary(TRACES), SPAN_REQUEST, timeout=20)
        assert entered.wait(20)
        stopped = pool.submit(receiver.stop, 20)
        leave.set()
        assert answer.result(20) == b""
        stopped.result(20)

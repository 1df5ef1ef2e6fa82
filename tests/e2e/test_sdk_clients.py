"""Real OpenTelemetry SDKs send to the receivers, over real sockets.

The receiving side is the fixture `exporter`: ports, and what arrived.
"""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import grpc
import pytest
import requests
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from google.protobuf import json_format
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import (
    OTLPLogExporter as GrpcLogExporter,
)
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import (
    OTLPLogExporter as HttpLogExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpSpanExporter,
)
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import SpanKind, StatusCode
from tests.programs import missing
from tests.receivers import running

from outcome_exporter.errors import Overloaded
from outcome_exporter.events import lookup

RESOURCE = Resource({"service.name": "shop", "service.version": "1.2.3"})
SPANS = 1_000
CACHE = Path(__file__).parents[2] / ".cache" / "otel-js"
JAVASCRIPT = Path(__file__).with_name("sdk_client.cjs")
PACKAGES = (
    "@opentelemetry/api@1.9.1",
    "@opentelemetry/api-logs@0.223.1",
    "@opentelemetry/exporter-logs-otlp-proto@0.223.1",
    "@opentelemetry/exporter-trace-otlp-http@0.223.1",
    "@opentelemetry/exporter-trace-otlp-proto@0.223.1",
    "@opentelemetry/resources@2.12.1",
    "@opentelemetry/sdk-logs@0.223.1",
    "@opentelemetry/sdk-trace-node@2.12.0",
)


@pytest.fixture
def exporter():
    with running() as running_exporter:
        yield running_exporter


class JsonSpanExporter(SpanExporter):
    """OTLP/JSON, which the Python SDK does not send itself: its own encoding, written as JSON."""

    def __init__(self, url):
        self.url = url

    def export(self, spans):
        message = json_format.MessageToDict(encode_spans(spans), use_integers_for_enums=True)
        answer = requests.post(self.url, json=hex_ids(message), timeout=20)
        assert (answer.status_code, answer.json()) == (200, {})
        return SpanExportResult.SUCCESS


def hex_ids(value):
    if isinstance(value, list):
        return [hex_ids(inner) for inner in value]
    if isinstance(value, dict):
        return {
            key: base64.b64decode(inner).hex()
            if key in ("traceId", "spanId", "parentSpanId")
            else hex_ids(inner)
            for key, inner in value.items()
        }
    return value


SPAN_CLIENTS = {
    "grpc": lambda e: GrpcSpanExporter(f"http://127.0.0.1:{e.grpc_port}", insecure=True),
    "grpc, gzip": lambda e: GrpcSpanExporter(
        f"http://127.0.0.1:{e.grpc_port}", insecure=True, compression=grpc.Compression.Gzip
    ),
    "http protobuf": lambda e: HttpSpanExporter(url(e, "/v1/traces")),
    "http protobuf, gzip": lambda e: HttpSpanExporter(
        url(e, "/v1/traces"), compression=Compression.Gzip
    ),
    "http protobuf, deflate": lambda e: HttpSpanExporter(
        url(e, "/v1/traces"), compression=Compression.Deflate
    ),
    "http json": lambda e: JsonSpanExporter(url(e, "/v1/traces")),
}
LOG_CLIENTS = {
    "grpc": lambda e: GrpcLogExporter(f"http://127.0.0.1:{e.grpc_port}", insecure=True),
    "http protobuf, gzip": lambda e: HttpLogExporter(
        url(e, "/v1/logs"), compression=Compression.Gzip
    ),
}


def url(exporter, path):
    return f"http://127.0.0.1:{exporter.http_port}{path}"


def send_spans(client):
    """Sends a thousand spans in traces of two, and returns what they were."""
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(BatchSpanProcessor(client, max_export_batch_size=100))
    tracer = provider.get_tracer("test", attributes={"scope": True})
    sent = {}
    for i in range(SPANS // 2):
        with tracer.start_as_current_span("POST /api/checkout", kind=SpanKind.SERVER) as root:
            root.set_attributes({"app.order.id": f"o{i}", "n": i, "ratio": 0.5, "tags": ["a"]})
            with tracer.start_as_current_span("charge", kind=SpanKind.CLIENT) as child:
                child.set_status(StatusCode.ERROR, "declined")
                child.add_event("retry", {"after": 1})
        for span in (root, child):
            sent[span.context.span_id] = span
    provider.force_flush()
    provider.shutdown()
    return sent


@pytest.mark.parametrize("client", SPAN_CLIENTS)
def test_every_span_of_the_python_sdk_arrives_once_and_whole(exporter, client):
    sent = send_spans(SPAN_CLIENTS[client](exporter))
    received = exporter.inbox.spans()
    assert len(received) == len(sent) == SPANS
    for span in received:
        original = sent.pop(int.from_bytes(span.span_id))
        assert int.from_bytes(span.trace_id) == original.context.trace_id
        parent = int.from_bytes(span.parent_span_id)
        assert parent == (original.parent.span_id if original.parent else 0)
        assert (span.name, span.start_time_unix_nano, span.end_time_unix_nano) == (
            original.name,
            original.start_time,
            original.end_time,
        )
        assert span.kind == original.kind.value + 1
        assert {pair.key for pair in span.attributes} == set(original.attributes)


@pytest.mark.parametrize("client", ["grpc", "http protobuf"])
def test_what_was_refused_for_want_of_room_is_sent_again_and_nothing_is_lost(exporter, client):
    exporter.inbox.refuse = Overloaded("full", retry_after_seconds=1)
    admit = exporter.inbox.admit

    def make_room_for_the_next():
        try:
            admit()
        finally:
            exporter.inbox.refuse = None

    exporter.inbox.admit = make_room_for_the_next
    assert len(send_spans(SPAN_CLIENTS[client](exporter))) == SPANS
    assert len(exporter.inbox.spans()) == SPANS
    counted = {
        sample.labels[2]: sample.value
        for samples in [exporter.counters.snapshot()]
        for family in samples
        if family.name == "outcome_exporter_requests_total"
        for sample in samples[family]
        if sample.labels[:2] == (client.partition(" ")[0], "traces")
    }
    assert counted["overloaded"] == 1


@pytest.mark.parametrize("client", LOG_CLIENTS)
def test_events_of_the_python_sdk_arrive_with_their_trace(exporter, client):
    traces = TracerProvider(resource=RESOURCE)
    logs = LoggerProvider(resource=RESOURCE)
    logs.add_log_record_processor(SimpleLogRecordProcessor(LOG_CLIENTS[client](exporter)))
    now = time.time_ns()
    with traces.get_tracer("test").start_as_current_span("checkout") as span:
        logs.get_logger("test").emit(
            LogRecord(
                timestamp=now,
                event_name="shop.order.completed",
                attributes={"order_id": "o1", "total": 19.99},
                body={"customer": {"id": "c1"}},
            )
        )
    logs.get_logger("test").emit(LogRecord(timestamp=now, body="an ordinary log record"))
    logs.shutdown()
    traces.shutdown()
    (event,) = exporter.inbox.events()
    assert (event.source, event.type, event.time_unix_nano) == (
        "shop",
        "shop.order.completed",
        now,
    )
    assert event.trace_id == span.get_span_context().trace_id.to_bytes(16)
    assert lookup("data.total")(event.fields) == 19.99
    assert lookup("data.customer.id")(event.fields) == "c1"
    assert lookup("resource.service.version")(event.fields) == "1.2.3"


@pytest.mark.parametrize("mode", [to_binary, to_structured])
def test_events_of_the_cloudevents_sdk_arrive(exporter, mode):
    event = CloudEvent(
        {"id": "order 1 €", "source": "/shop", "type": "shop.order.completed"},
        {"order_id": "o1", "total": 19.99},
    )
    message = mode(event, JSONFormat())
    answer = requests.post(
        url(exporter, "/events"), message.body, headers=message.headers, timeout=20
    )
    assert answer.status_code == 202
    (received,) = exporter.inbox.events()
    assert (received.id, received.source) == ("order 1 €", "/shop")
    assert received.time_unix_nano // 1_000 == int(event.get_time().timestamp() * 1_000_000)
    assert lookup("data.order_id")(received.fields) == "o1"


@pytest.fixture(scope="session")
def node_modules():
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("node and npm are not installed: the JavaScript SDK is not tested")
    done = CACHE / "installed.json"
    if not done.exists() or json.loads(done.read_text()) != list(PACKAGES):
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / "package.json").write_text("{}")
        options = ["--prefix", str(CACHE), "--ignore-scripts", "--no-audit", "--no-fund"]
        command = ["npm", "install", *options, *PACKAGES]
        install = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        if install.returncode:
            missing(f"npm could not install the JavaScript SDK: {install.stderr[-300:]}")
        done.write_text(json.dumps(PACKAGES))
    return CACHE / "node_modules"


@pytest.mark.parametrize("protocol", ["http", "proto"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_every_span_of_the_javascript_sdk_arrives_once(
    exporter, node_modules, protocol, compression
):
    client = subprocess.run(
        ["node", JAVASCRIPT, protocol, compression, url(exporter, "/v1/traces"), str(SPANS)],
        env={**os.environ, "NODE_PATH": str(node_modules)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert client.returncode == 0, client.stderr
    assert client.stderr == ""
    received = {(span.trace_id.hex(), span.span_id.hex()): span for span in exporter.inbox.spans()}
    sent = {(trace_id, span_id) for trace_id, span_id in json.loads(client.stdout)}
    assert len(sent) == SPANS == len(exporter.inbox.spans())
    assert set(received) == sent
    span = next(iter(received.values()))
    assert (span.name, span.kind, span.status.code) == ("POST /api/checkout", 2, 2)
    assert span.attributes[0].key == "app.order.id"
    assert span.end_time_unix_nano >= span.start_time_unix_nano > 1_600_000_000_000_000_000

"""Real receivers on ephemeral ports, in front of an intake that keeps everything in memory."""

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from google.protobuf.message import DecodeError as ProtobufError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from outcome_exporter.errors import DecodeError
from outcome_exporter.events import decode_cloudevents, decode_logs
from outcome_exporter.intake import Batch, DurableIntake
from outcome_exporter.model import (
    ATTRIBUTE,
    RESOURCE,
    SPAN,
    Accepted,
    BusinessEvent,
    Encoding,
    Kind,
    SpanBatch,
)
from outcome_exporter.points import decode_metrics
from outcome_exporter.receive.compression import decompress
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.receive.grpc import GrpcReceiver
from outcome_exporter.receive.http import app
from outcome_exporter.receive.serving import ThreadedServer

LIMIT_BYTES = 1 << 20


def decode_traces(payload: bytes) -> SpanBatch:
    """Verdict and counts of the real decoder, by the protobuf library."""
    try:
        spans = spans_of(bytes(payload))
    except ProtobufError:
        raise DecodeError("no ExportTraceServiceRequest") from None
    valid = sum(
        len(s.trace_id) == 16 and any(s.trace_id) and len(s.span_id) == 8 and any(s.span_id)
        for s in spans
    )
    return SpanBatch(
        np.frombuffer(payload, np.uint8),
        np.zeros(valid, SPAN),
        np.zeros(0, RESOURCE),
        np.zeros(0, ATTRIBUTE),
        len(spans) - valid,
    )


def spans_of(payload: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(payload)
    return [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]


@dataclass
class Inbox:
    """What was made durable, in the order of arrival."""

    records: list[tuple[Kind, Encoding, bytes, Batch]] = field(default_factory=list)
    refuse: Exception | None = None
    """Raised instead of taking anything."""
    max_request_bytes: int = LIMIT_BYTES

    def append(self, kind: Kind, encoding: Encoding, payload: bytes, decoded: Batch) -> None:
        self.records.append((kind, encoding, payload, decoded))

    def admit(self) -> None:
        if self.refuse is not None:
            raise self.refuse

    def submit(self, kind: Kind, encoding: Encoding, payload: bytes) -> Accepted:
        intake = DurableIntake(
            self.append,
            {
                Kind.TRACES: decode_traces,
                Kind.LOGS: decode_logs,
                Kind.CLOUDEVENTS: decode_cloudevents,
                Kind.METRICS: partial(decode_metrics, names={"my.counter"}),
            },
            max_request_bytes=self.max_request_bytes,
            admit=self.admit,
        )
        return intake.submit(kind, encoding, payload)

    def spans(self) -> list[Span]:
        return [
            span
            for kind, encoding, payload, _ in self.records
            if kind is Kind.TRACES
            for span in spans_of(decompress(encoding, payload, LIMIT_BYTES))
        ]

    def events(self) -> list[BusinessEvent]:
        return [
            event
            for kind, _, _, batch in self.records
            if kind in (Kind.LOGS, Kind.CLOUDEVENTS)
            for event in batch.events
        ]


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Exporter:
    """Where to send to, and what arrived."""

    inbox: Inbox
    counters: ReceiverCounters
    grpc_port: int
    http_port: int
    web: ThreadedServer

    def request(
        self, path, body=b"", headers: Mapping[str, str] = {}, *, method="POST", chunked=False
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers), encode_chunked=chunked)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()


@contextmanager
def running(inbox: Inbox | None = None, *, read_seconds: float = 20) -> Iterator[Exporter]:
    inbox = inbox or Inbox()
    counters = ReceiverCounters()
    web = ThreadedServer(
        app(inbox, counters, max_request_bytes=LIMIT_BYTES, read_seconds=read_seconds),
        "127.0.0.1:0",
    )
    rpc = GrpcReceiver(inbox, counters, address="127.0.0.1:0", max_request_bytes=LIMIT_BYTES)
    http_port = web.start()
    try:
        grpc_port = rpc.start()
        yield Exporter(inbox, counters, grpc_port, http_port, web)
    finally:
        rpc.stop(1)
        web.stop(1)


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2_000):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail("it did not become true within 10 s")

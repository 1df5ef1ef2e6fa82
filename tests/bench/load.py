"""Requests to measure with, prepared before the clock runs.

Synthetic: 8,000 spans of about 430 bytes with ten attributes a request, in traces of eight spans,
one in each of eight services, grouped by service as a Collector's batches are: the spans of a
trace stand 1,000 apart. Every 32nd trace is a checkout, and half a second later its order is
completed, a business event. One request is built with the protobuf library; those after it differ
in ids, times and order numbers, which are written over the first one's.

Recorded: a zstd stream of requests, each behind its length in 4 bytes, big-endian.
"""

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SERVICES = 8
SPANS = 8_000
TRACES = SPANS // SERVICES
CHECKOUT_EVERY = 32
OPERATIONS = 5
"""Span names of each service."""
BEGAN = 1_760_000_000_000_000_000
"""When the first request's spans began, unless said otherwise: ns since 1970."""
SECOND = 1_000_000_000
WANTED = (
    "service.name",
    "service.version",
    "http.request.method",
    "http.route",
    "http.response.status_code",
    "app.order.id",
    "app.cart.total",
    "user.id",
)


class Places(NamedTuple):
    """Where in a request the bytes stand that change from one to the next."""

    trace_ids: np.ndarray
    span_ids: np.ndarray
    """Of spans and of parents."""
    times: np.ndarray
    orders: np.ndarray


class Request(NamedTuple):
    payload: bytes
    events: bytes | None
    """The business events that belong to it: a JSON array of CloudEvents."""
    spans: int


def synthetic(count: int, *, began: int = BEGAN, apart: int = SECOND // 5) -> Iterator[Request]:
    """Requests whose spans began `apart` ns after those of the one before; the seed is fixed."""
    payload, places = _template(began)
    rng = np.random.default_rng(1)
    template = np.frombuffer(payload, np.uint8)
    times = template[places.times[:, None] + np.arange(8)].view(np.int64)
    for number in range(count):
        request = template.copy()
        for at, width in ((places.trace_ids, 16), (places.span_ids, 8)):
            # The same mask for all, so that spans of a trace, parents and children stay so.
            mask = rng.integers(0, 256, width, np.uint8)
            request[at[:, None] + np.arange(width)] ^= mask
        request[places.times[:, None] + np.arange(8)] = (times + number * apart).view(np.uint8)
        orders = rng.integers(48, 58, (places.orders.size, 12), np.uint8)
        request[places.orders[:, None] + np.arange(12)] = orders
        sent = began + number * apart + SECOND // 2
        yield Request(request.tobytes(), _events(orders, number, sent), SPANS)


def split(request: Request, spans: int) -> Iterator[Request]:
    """The request in parts of so many spans of one service; its events come with the first."""
    whole = ExportTraceServiceRequest.FromString(request.payload)
    events: bytes | None = request.events
    for resource_spans in whole.resource_spans:
        (scope_spans,) = resource_spans.scope_spans
        every = list(scope_spans.spans)
        for first in range(0, len(every), spans):
            del scope_spans.spans[:]
            scope_spans.spans.extend(every[first : first + spans])
            part = ExportTraceServiceRequest(resource_spans=[resource_spans])
            yield Request(part.SerializeToString(), events, len(scope_spans.spans))
            events = None


def of_fleets(count: int, fleets: int) -> Iterator[bytes]:
    """The synthetic requests, each behind one frontend from one of so many sets of services."""
    for number, request in enumerate(synthetic(count)):
        yield request.payload.replace(b"service-", b"svc%04d-" % (number % fleets))


def small(count: int, *, began: int) -> Iterator[bytes]:
    """Requests of the spans of one service, an eighth of the others' size."""
    for request in synthetic(count, began=began, apart=SECOND // 100):
        whole = ExportTraceServiceRequest.FromString(request.payload)
        del whole.resource_spans[1:]
        yield whole.SerializeToString()


def of_operations(count: int, *, began: int) -> Iterator[bytes]:
    """One request of so many traces of one span, each of an operation of its own."""
    (first,) = synthetic(1, began=began)
    request = ExportTraceServiceRequest.FromString(first.payload)
    del request.resource_spans[1:]
    spans = request.resource_spans[0].scope_spans[0].spans
    template = spans[0]
    del spans[:]
    for number in range(count):
        template.name = f"GET /api/page/{number}"
        template.trace_id = number.to_bytes(15) + b"\1"
        spans.append(template)
    yield request.SerializeToString()


def of_attempts(count: int, *, began: int, each: int = 5_000) -> Iterator[bytes]:
    """Checkouts whose event never comes, traces of one span; so many in each request."""
    (payload,) = of_operations(each, began=began)
    request = ExportTraceServiceRequest.FromString(payload)
    for first in range(0, count, each):
        for number, span in enumerate(request.resource_spans[0].scope_spans[0].spans, first):
            span.name = "POST /api/checkout"
            span.trace_id = number.to_bytes(15) + b"\2"
        yield request.SerializeToString()


def recorded(file: Path, count: int) -> Iterator[bytes]:
    """The first requests of a recorded stream."""
    with file.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
        for _ in range(count):
            length = stream.read(4)
            if not length:
                return
            yield stream.read(struct.unpack(">I", length)[0])


def _template(began: int) -> tuple[bytes, Places]:
    rng = random.Random(1)
    request = ExportTraceServiceRequest()
    traces = [rng.randbytes(16) for _ in range(TRACES)]
    ids = [[rng.randbytes(8) for _ in range(TRACES)] for _ in range(SERVICES)]
    for service in range(SERVICES):
        resource_spans = request.resource_spans.add()
        for key, text in (
            ("service.name", f"service-{service}" if service else "frontend"),
            ("service.version", "1.18.2"),
            ("k8s.pod.name", f"service-{service}-5d9c7bf6c9-x2x7p"),
        ):
            resource_spans.resource.attributes.add(key=key).value.string_value = text
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.name = "io.opentelemetry.http"
        for trace in range(TRACES):
            parent = ids[(service - 1) // 2][trace] if service else b""
            _add_span(scope_spans, rng, service, trace, traces[trace], ids[service][trace], parent)
            span = scope_spans.spans[-1]
            span.start_time_unix_nano = began + rng.randrange(SECOND // 10)
            span.end_time_unix_nano = span.start_time_unix_nano + rng.randrange(SECOND // 2)
    payload = request.SerializeToString()
    return payload, _places(payload, request)


def _add_span(scope_spans, rng, service, trace, trace_id, span_id, parent_id):
    checkout = trace % CHECKOUT_EVERY == 0
    operation = "checkout" if checkout else f"page-{rng.randrange(OPERATIONS - 1)}"
    span = scope_spans.spans.add(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_id,
        name=f"POST /api/{operation}",
        kind=2,
        flags=0x101,
    )
    for key, value in {
        "http.request.method": "POST",
        "http.route": f"/api/{operation}",
        "http.response.status_code": rng.choice([200] * 49 + [500]),
        "app.order.id": f"order-{rng.randrange(10**12):012d}",
        "app.cart.total": rng.random() * 100,
        "user.id": f"u-{rng.randrange(10**6)}",
        "url.scheme": "https",
        "server.address": "shop.example.com",
        "server.port": 8443,
        "user_agent.original": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
    }.items():
        attribute = span.attributes.add(key=key).value
        match value:
            case str():
                attribute.string_value = value
            case int():
                attribute.int_value = value
            case float():
                attribute.double_value = value
    span.status.code = 0


def _places(payload: bytes, request: ExportTraceServiceRequest) -> Places:
    trace_ids, span_ids, times, orders = [], [], [], []
    at = 0

    def find(tag: bytes, content: bytes) -> int:
        nonlocal at
        at = payload.index(tag + content, at) + len(tag)
        return at

    for resource_spans in request.resource_spans:
        for number, span in enumerate(resource_spans.scope_spans[0].spans):
            trace_ids.append(find(b"\x0a\x10", span.trace_id))
            span_ids.append(find(b"\x12\x08", span.span_id))
            if span.parent_span_id:
                span_ids.append(find(b"\x22\x08", span.parent_span_id))
            times.append(find(b"\x39", struct.pack("<Q", span.start_time_unix_nano)))
            times.append(find(b"\x41", struct.pack("<Q", span.end_time_unix_nano)))
            if number % CHECKOUT_EVERY == 0 and not span.parent_span_id:
                orders.append(find(b"order-", span.attributes[3].value.string_value[6:].encode()))
    return Places(*(np.array(places) for places in (trace_ids, span_ids, times, orders)))


def _events(orders: np.ndarray, number: int, time_unix_nano: int) -> bytes:
    seconds, nanoseconds = divmod(time_unix_nano, SECOND)
    time = f"{np.datetime64(seconds, 's')}.{nanoseconds:09d}Z"
    return json.dumps(
        [
            {
                "specversion": "1.0",
                "id": f"{number}-{row}",
                "source": "/shop",
                "type": "shop.order.completed",
                "time": time,
                "data": {"order_id": f"order-{order.tobytes().decode()}", "total": 20},
            }
            for row, order in enumerate(orders)
        ]
    ).encode()

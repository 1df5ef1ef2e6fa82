"""How fast trace requests are decoded, beside the protobuf library: prints one table.

    python tests/bench/bench_decode.py [FILE]

The request is one of 8,000 spans of about 430 bytes with ten attributes, of which six are wanted.
FILE is a zstd stream of requests, each behind its length in 4 bytes, big-endian; the first 25 are
measured too. Both ways run in turn in one process; medians are shown.
"""

import random
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.console import Console
from rich.table import Table

from outcome_exporter.kernels.wire import decode_spans, wanted_keys

ROUNDS = 15
SPANS = 8_000
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


def synthetic_request() -> bytes:
    rng = random.Random(1)
    request = ExportTraceServiceRequest()
    for service in range(8):
        resource_spans = request.resource_spans.add()
        for key, text in (
            ("service.name", f"service-{service}"),
            ("service.version", "1.18.2"),
            ("k8s.pod.name", f"service-{service}-5d9c7bf6c9-x2x7p"),
        ):
            resource_spans.resource.attributes.add(key=key).value.string_value = text
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.name = "io.opentelemetry.http"
        for _ in range(SPANS // 8):
            add_span(scope_spans, rng)
    return request.SerializeToString()


def add_span(scope_spans, rng):
    start = 1_760_000_000_000_000_000 + rng.randrange(10**12)
    span = scope_spans.spans.add(
        trace_id=rng.randbytes(16),
        span_id=rng.randbytes(8),
        parent_span_id=rng.randbytes(8),
        name="POST /api/checkout",
        kind=2,
        flags=0x101,
        start_time_unix_nano=start,
        end_time_unix_nano=start + rng.randrange(10**9),
    )
    for key, value in {
        "http.request.method": "POST",
        "http.route": "/api/checkout",
        "http.response.status_code": rng.choice([200, 200, 500]),
        "app.order.id": f"{rng.randrange(10**12):012d}",
        "app.cart.total": rng.random() * 100,
        "user.id": f"u-{rng.randrange(10**6)}",
        "url.scheme": "https",
        "server.address": "shop.example.com",
        "server.port": 8443,
        "network.protocol.version": "1.1",
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


def requests_of(file: Path, count: int) -> Iterator[bytes]:
    with file.open("rb") as compressed, zstandard.ZstdDecompressor().stream_reader(compressed) as f:
        for _ in range(count):
            (length,) = struct.unpack(">I", f.read(4))
            yield f.read(length)


def by_protobuf(payload: bytes) -> int:
    """Parses, and reads ten fields of each span and the wanted attributes."""
    wanted = frozenset(WANTED)
    rows = []
    for resource_spans in ExportTraceServiceRequest.FromString(payload).resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                attributes = {a.key: a.value for a in span.attributes if a.key in wanted}
                rows.append(
                    (
                        span.trace_id,
                        span.span_id,
                        span.parent_span_id,
                        span.name,
                        span.trace_state,
                        span.kind,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.status.code,
                        attributes,
                    )
                )
    return len(rows)


def compare(name: str, payloads: list[bytes], table: Table) -> None:
    wanted = wanted_keys(WANTED)
    ways: list[Callable[[bytes], int]] = [
        lambda payload: len(decode_spans(payload, wanted).spans),
        by_protobuf,
        lambda payload: bool(ExportTraceServiceRequest.FromString(payload)),
    ]
    spans = sum(map(ways[0], payloads))
    assert spans == sum(map(by_protobuf, payloads))
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, taken in zip(ways, seconds, strict=True):
            begun = time.perf_counter()
            for payload in payloads:
                way(payload)
            taken.append(time.perf_counter() - begun)
    kernel, protobuf, parse_only = map(statistics.median, seconds)
    size = sum(map(len, payloads))
    table.add_row(
        name,
        f"{spans:,}",
        f"{size / spans:.0f}",
        f"{kernel / spans * 1e9:.0f}",
        f"{protobuf / spans * 1e9:.0f}",
        f"{parse_only / spans * 1e9:.0f}",
        f"{protobuf / kernel:.1f}",
        f"{spans / kernel / 1e6:.1f}",
        f"{size / kernel / 1e9:.2f}",
    )


def main() -> None:
    begun = time.perf_counter()
    decode_spans(b"", wanted_keys(WANTED))
    table = Table(
        caption=f"first call: {time.perf_counter() - begun:.2f} s; {ROUNDS} rounds, medians"
    )
    table.add_column("request")
    for head in (
        "spans", "bytes a span", "ns a span", "protobuf: read", "parse only", "times faster",
        "million spans/s", "GB/s",
    ):  # fmt: skip
        table.add_column(head, justify="right")
    payload = synthetic_request()
    compare("one of 8,000 spans", [payload], table)
    single = ExportTraceServiceRequest.FromString(payload)
    del single.resource_spans[1:]
    del single.resource_spans[0].scope_spans[0].spans[100:]
    compare("40 of 100 spans", [single.SerializeToString()] * 40, table)
    for file in map(Path, sys.argv[1:]):
        compare("25 of the file", list(requests_of(file, 25)), table)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

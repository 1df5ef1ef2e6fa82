"""Decoding: the wire decoder beside the protobuf library, in turn in one process.

The library parses, and ten fields of each span and the wanted attributes are read from what it
made, as whoever counts spans must. Six of a synthetic span's ten attributes are wanted.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.bench import load
from tests.bench.figures import Figure
from tests.bench.load import WANTED

from outcome_exporter.kernels.otlp_values import wanted_keys
from outcome_exporter.kernels.wire import decode_spans

ROUNDS = 15


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


def _compare(what: str, payloads: list[bytes]) -> Figure:
    wanted = wanted_keys(WANTED)
    ways: list[Callable[[bytes], int]] = [
        lambda payload: len(decode_spans(payload, wanted).spans),
        by_protobuf,
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
    ours, protobuf = (statistics.median(taken) / spans for taken in seconds)
    return Figure(
        f"decode: {what}, {sum(map(len, payloads)) / spans:.0f} B a span",
        f"{1 / ours:,.0f} spans/s",
        f"protobuf library: {1 / protobuf:,.0f}",
        protobuf / ours,
    )


def figures(streams: list[Path]) -> Iterator[Figure]:
    """Synthetic requests, large and small, and recorded ones."""
    large = next(load.synthetic(1)).payload
    yield _compare("requests of 8,000 spans", [large])
    small = ExportTraceServiceRequest.FromString(large)
    del small.resource_spans[1:]
    del small.resource_spans[0].scope_spans[0].spans[100:]
    yield _compare("requests of 100 spans", [small.SerializeToString()] * 40)
    for stream in streams:
        yield _compare(f"recorded, {stream.parent.name}", list(load.recorded(stream, 25)))

"""Compiles the kernels before the first request: a small made-up run through every stage.

Compiled code is kept on disk, so this takes minutes once and a fraction of a second afterwards. The
run uses the configuration's own shape and leaves nothing behind. It includes what happens rarely:
what a table needs to grow, a checkpoint, and a start from one. Compiled when it is needed, that
would hold everything up, and where compiled code cannot be kept, after each start anew.
"""

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from outcome_exporter.config import Config
from outcome_exporter.kernels.messages import count_messages
from outcome_exporter.kernels.storage import add_rows, page_digests
from outcome_exporter.model import (
    ATTEMPT,
    CLAIM,
    SETTLED_SPAN,
    VERDICT,
    Encoding,
    Kind,
    Record,
)
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.units import HOUR, MILLIONTHS, MINUTE, SECOND

_EVERYTHING = {
    "name": "warm-up",
    "attempt": {"span": {}},
    "join": ["trace_id", {"attribute": "id", "event": "data.id"}],
    "outcome": {"event": "warm-up", "within": "1s"},
    "value": {"event": "data.value", "currency": "USD"},
    "user": {"attribute": "user.id"},
    "labels": {"label": "label"},
    "slos": [{"name": "warm-up", "objective": 99, "good": {"achieved": True}}],
}
_PLAIN = {"name": "warm-up-plain", "attempt": {"span": {}}}
_COUNTED = {
    "name": "warm-up-metric",
    "objective": 99,
    "sli": {"metric": {"name": "warm-up", "bad": {"attributes": {"warm-up": "*"}}}},
}
_SHAPE = {"journeys": [_EVERYTHING, _PLAIN], "slos": [_COUNTED]}
_EVENT = b"""[{"specversion": "1.0", "source": "warm-up", "id": "%d", "type": "warm-up",
 "traceparent": "00-%032x-0000000000000001-01", "data": {"value": 1, "id": "warm-up"}}]"""
_ARRIVAL = 1_000_000 * SECOND
_MANY = 2_000
"""Verdicts at once that the buckets in memory must grow for."""


def warm_up(config: Config) -> None:
    """Runs everything once."""
    everything = Config.model_validate(config.model_dump(include={"limits"}) | _SHAPE)
    pipeline = Pipeline(everything)
    pipeline.ingest(_record(0, Kind.TRACES, _spans()))
    pipeline.ingest(_record(1, Kind.CLOUDEVENTS, _EVENT % (1, 1)))
    Pipeline(everything).restore(*pipeline.dump(), pipeline.next_offset)  # while some wait
    pipeline.advance(_ARRIVAL + 30 * SECOND)
    pipeline.ingest(
        _record(2, Kind.CLOUDEVENTS, _EVENT % (2, 2))._replace(
            arrival_unix_nano=_ARRIVAL + 31 * SECOND
        )
    )
    pipeline.ingest(
        _record(3, Kind.METRICS, _points())._replace(arrival_unix_nano=_ARRIVAL + 32 * SECOND)
    )
    pipeline.advance(_ARRIVAL + HOUR)
    pipeline.slos.add(np.zeros(_MANY, VERDICT))
    for page in (np.zeros(8, np.uint8), np.frombuffer(bytes(8), np.uint8)):  # to write to, or not
        page_digests(page, 8)
    counts = np.zeros((1, 3), np.int64)
    add_rows(np.zeros(1, np.uint32), counts, counts.copy(), np.zeros(1, np.bool_))
    count_messages(_points(), ExportMetricsServiceRequest, 1)
    pipeline.blame.recover(np.zeros(1, ATTEMPT))
    pipeline.suspects.forget()


def warm_up_backwards() -> None:
    """Runs the stages behind assembly that take longest to compile, on rows of zeros."""
    pipeline = Pipeline(Config.model_validate(_SHAPE))
    pipeline.advance(_ARRIVAL)
    second = _ARRIVAL // SECOND
    spans, attempts, claims = (np.zeros(1, row) for row in (SETTLED_SPAN, ATTEMPT, CLAIM))
    spans["parent"] = -1
    attempts["weight"] = MILLIONTHS
    pipeline.outcomes.add_claims(claims, second)
    pipeline.outcomes.add_attempts(attempts, second)
    pipeline.blame.observe(spans, np.array([0, 1]), attempts, np.zeros(1, np.int64))
    pipeline.blame.give(attempts, second)
    pipeline.blame.advance(second + MINUTE // SECOND)


def _record(offset: int, kind: Kind, payload: bytes) -> Record:
    return Record(offset, _ARRIVAL + offset, kind, Encoding.NONE, payload)


def _points() -> bytes:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="warm-up")
    metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    metric.sum.is_monotonic = True
    metric.sum.data_points.add(as_int=1, time_unix_nano=_ARRIVAL).attributes.add(key="warm-up")
    return request.SerializeToString()


def _spans() -> bytes:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for trace in range(1, 4):
        spans.add(
            trace_id=trace.to_bytes(16),
            span_id=b"\1" * 8,
            start_time_unix_nano=_ARRIVAL - SECOND,
            end_time_unix_nano=_ARRIVAL,
            kind=Span.SPAN_KIND_SERVER,
        ).attributes.add(key="user.id").value.string_value = "warm-up"
    return request.SerializeToString()


if __name__ == "__main__":
    warm_up_backwards()

"""Compiles the kernels before the first request: a small made-up run through every stage.

Compiled code is kept on disk, so this takes seconds once and a fraction of one afterwards. The run
uses the configuration's own shape and leaves nothing behind.
"""

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from outcome_exporter.config import Config
from outcome_exporter.model import Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.units import HOUR, SECOND

_EVERYTHING = {
    "name": "warm-up",
    "attempt": {"span": {}},
    "outcome": {"event": "warm-up", "within": "1s"},
    "value": {"event": "data.value", "currency": "USD"},
    "user": {"attribute": "user.id"},
    "labels": {"label": "label"},
    "slos": [{"name": "warm-up", "objective": 99, "good": {"achieved": True}}],
}
_COUNTED = {
    "name": "warm-up-metric",
    "objective": 99,
    "sli": {"metric": {"name": "warm-up", "bad": {"attributes": {"warm-up": "*"}}}},
}
_EVENT = b"""[{"specversion": "1.0", "source": "warm-up", "id": "%d", "type": "warm-up",
 "traceparent": "00-%032x-0000000000000001-01", "data": {"value": 1}}]"""
_ARRIVAL = 1_000_000 * SECOND


def warm_up(config: Config) -> None:
    """Runs everything once."""
    pipeline = Pipeline(
        Config.model_validate(
            config.model_dump(include={"limits"}) | {"journeys": [_EVERYTHING], "slos": [_COUNTED]}
        )
    )
    pipeline.ingest(_record(0, Kind.TRACES, _spans()))
    pipeline.ingest(_record(1, Kind.CLOUDEVENTS, _EVENT % (1, 1)))
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

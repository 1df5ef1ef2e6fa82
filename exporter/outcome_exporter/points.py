"""OTLP metrics as points: what the stage that counts them reads.

State: none. Input: an ExportMetricsServiceRequest. Output: the data points of the metrics that
SLOs name, and of those that tell of resources; the others are not even looked at, and a request
without any is not logged.

A stream is told by a hash over everything that OpenTelemetry's data model makes part of its
identity: the resource's attributes, the scope, the metric's name, unit and kind, and the point's
attributes. So two pods are two streams, because their resources differ, and never look like one
counter that jumps to and fro.

Exponential histograms become explicit ones: bucket i of scale s ends at 2^((i + 1) / 2^s), its
upper bound included as in explicit ones, the negative side mirrored. What has been counted in the
zero bucket lies within the zero threshold of 0.

Source:
    OpenTelemetry specification, "Metrics Data Model", 1.38.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from hashlib import blake2b
from itertools import pairwise

from google.protobuf.message import DecodeError as ProtobufError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    DataPointFlags,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
)

from outcome_exporter.errors import DecodeError
from outcome_exporter.model import Histogram, MetricBatch, Point

UNKNOWN_SERVICE = "unknown_service"
_CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
_DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
_ENDS = DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
_TIME_END = 1 << 63
BUCKETS_MAX = 2_000_000
"""Of exponential histograms in one request; points with more are left out. One takes a byte on the
wire, and 260 while it becomes two numbers: 16 MB were 4.1 GB. A batch of the Collector's, 8,192
points, has 1,300,000 where each has as many as SDKs allow, 160."""

_AnyPoint = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint


def _none(name: str) -> bool:
    del name
    return False


def decode_metrics(
    payload: bytes, names: Collection[str], is_resource: Callable[[str], bool] = _none
) -> MetricBatch:
    """The points of some metrics, in the order of the request.

    Args:
        payload: The request.
        names: Of the metrics that are counted: what cannot be is rejected.
        is_resource: Whether a name is that of a metric that is taken where it can be.

    Raises:
        DecodeError: It is no such request.
    """
    try:
        request = ExportMetricsServiceRequest.FromString(payload)
    except ProtobufError:
        raise DecodeError("no ExportMetricsServiceRequest: the protobuf is malformed") from None
    points: list[Point] = []
    rejected = 0
    room = _Room()
    for of_resource in request.resource_metrics:
        shared = _texts(of_resource.resource.attributes)
        resource_id = _canonical(of_resource.resource.attributes)
        replica = _identity([resource_id])[0]
        for of_scope in of_resource.scope_metrics:
            scope = of_scope.scope
            scope_id = [resource_id, scope.name.encode(), scope.version.encode()]
            scope_id.append(_canonical(scope.attributes))
            for metric in of_scope.metrics:
                is_counted = metric.name in names
                if is_counted or is_resource(metric.name):
                    found = list(_points(metric, shared, scope_id, replica, room))
                    points += (point for point in found if point is not None)
                    rejected += found.count(None) if is_counted else 0
    return MetricBatch(points, rejected, names)


class _Room:
    """How many buckets of a request may still become numbers."""

    def __init__(self) -> None:
        self._left = BUCKETS_MAX

    def has(self, point: _AnyPoint) -> bool:
        """Whether a point's fit; then they are taken."""
        if not isinstance(point, ExponentialHistogramDataPoint):
            return True
        buckets = len(point.positive.bucket_counts) + len(point.negative.bucket_counts)
        if buckets > self._left:
            return False
        self._left -= buckets
        return True


def _points(
    metric: Metric, shared: dict[str, str], scope_id: list[bytes], replica: int, room: _Room
) -> Iterator[Point | None]:
    """Every point of a metric; None in place of one that cannot be counted."""
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data = getattr(metric, kind)
    temporality = 0 if kind in ("gauge", "summary") else data.aggregation_temporality
    # A sum that also falls, such as a queue's length, is a state like a gauge.
    is_gauge = kind == "gauge" or (kind == "sum" and not data.is_monotonic)
    countable = kind == "gauge" or (
        kind != "summary"
        and (temporality == _CUMULATIVE or (temporality == _DELTA and not is_gauge))
    )
    about = (metric.name.encode(), metric.unit.encode(), kind.encode(), bytes([temporality]))
    for point in data.data_points:
        if not countable or not 0 < point.time_unix_nano < _TIME_END:
            yield None
            continue
        ends = bool(point.flags & _ENDS)
        value = _value(point) if not ends and room.has(point) else None
        if value is None and not ends:
            yield None
            continue
        attributes = shared | _texts(point.attributes)
        yield Point(
            name=metric.name,
            service=shared.get("service.name", UNKNOWN_SERVICE),
            identity=_identity([*scope_id, *about, _canonical(point.attributes)]),
            attributes=attributes,
            unit=metric.unit,
            cumulative=temporality == _CUMULATIVE,
            start_time_unix_nano=min(point.start_time_unix_nano, _TIME_END - 1),
            time_unix_nano=point.time_unix_nano,
            value=value,
            is_gauge=is_gauge,
            scale=getattr(point, "scale", None),
            replica=replica,
        )


def _value(point: _AnyPoint) -> float | Histogram | None:
    """What a point says; None where that is no number or no distribution."""
    match point:
        case NumberDataPoint():
            which = point.WhichOneof("value")
            value = getattr(point, which) if which else math.nan
            return value if math.isfinite(value) else None
        case HistogramDataPoint():
            return _explicit(point)
        case _:
            return _exponential(point)


def _explicit(point: HistogramDataPoint) -> Histogram | None:
    bounds, counts = tuple(point.explicit_bounds), tuple(point.bucket_counts)
    if not counts and not bounds:
        counts = (point.count,)  # only the count and the sum are known
    ascending = all(a < b for a, b in pairwise(bounds))
    if len(counts) != len(bounds) + 1 or not ascending or sum(counts) != point.count:
        return None
    return Histogram(bounds, counts, point.sum)


def _exponential(point: ExponentialHistogramDataPoint) -> Histogram | None:
    negative = list(_buckets(point.negative.offset, point.negative.bucket_counts, point.scale))
    positive = list(_buckets(point.positive.offset, point.positive.bucket_counts, point.scale))
    # Upper bound of each bucket, ascending; the mirrored side ends where its own began.
    edges = [(-low, count) for low, _, count in reversed(negative)]
    lowest = [-high for _, high, _ in reversed(negative)]
    threshold = point.zero_threshold
    if point.zero_count or threshold:
        edges.append((threshold, point.zero_count))
        lowest.append(-threshold)
    edges += [(high, count) for _, high, count in positive]
    lowest += [low for low, _, _ in positive]
    bounds: list[float] = []
    counts: list[int] = []
    for (high, count), low in zip(edges, lowest, strict=True):
        if not bounds or low > bounds[-1]:
            bounds.append(low)  # nothing lies between here and the bucket before
            counts.append(0)
        bounds.append(max(high, low))
        counts.append(count)
    if sum(counts) != point.count or any(a > b for a, b in pairwise(bounds)):
        return None
    return Histogram(tuple(bounds), (*counts, 0), point.sum)


def _buckets(offset: int, counts: Iterable[int], scale: int) -> Iterator[tuple[float, float, int]]:
    """Lower bound, upper bound and count of each bucket that is not empty, ascending."""
    for at, count in enumerate(counts):
        if count:
            yield _power(offset + at, scale), _power(offset + at + 1, scale), count


def _power(index: int, scale: int) -> float:
    """2^(index / 2^scale), clamped to what a float holds."""
    exponent = math.ldexp(index, -min(max(scale, -64), 64))
    return math.pow(2.0, min(max(exponent, -1074.0), 1023.999))


def _texts(attributes: Iterable[KeyValue]) -> dict[str, str]:
    """Attributes that are texts, numbers or truth values, as texts."""
    found = {}
    for attribute in attributes:
        text = _text(attribute.value)
        if text is not None:
            found[attribute.key] = text
    return found


def _text(value: AnyValue) -> str | None:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return repr(value.double_value)
        case _:
            return None


def _canonical(attributes: Iterable[KeyValue]) -> bytes:
    """The same bytes for the same attributes, in whatever order they came."""
    return b"".join(
        part
        for one in sorted(a.SerializeToString(deterministic=True) for a in attributes)
        for part in (len(one).to_bytes(4), one)
    )


def _identity(parts: Iterable[bytes]) -> tuple[int, int]:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(4))
        digest.update(part)
    raw = digest.digest()
    return int.from_bytes(raw[:8]), int.from_bytes(raw[8:])

"""OTLP metrics as tests write them, and a pipeline that takes them."""

import math
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from outcome_exporter.config import Config
from outcome_exporter.model import Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import MINUTE, SECOND

CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
START = 1_600_000_020 * SECOND
"""The beginning of a minute."""

NAME = "http.server.requests"
STATUS = "http.response.status_code"
RATIO = {"name": NAME, "service": "shop", "bad": {"attributes": {STATUS: "5*"}}}


def config_of(*slis: dict[str, Any], **more: Any) -> Config:
    """An SLO for each SLI of metrics, called slo-0, slo-1 …; `more` is of all of them."""
    slos = [
        {"name": f"slo-{at}", "objective": 99, "window": "1d", "sli": {"metric": sli}, **more}
        for at, sli in enumerate(slis)
    ]
    return Config.model_validate({"slos": slos}, context={"from_file": True})


class Exporter:
    """A pipeline that began at START."""

    def __init__(self, config: Config, pipeline: Pipeline | None = None) -> None:
        self.pipeline = pipeline or Pipeline(config)
        self._put(Kind.START, b"", START)

    def _put(self, kind: Kind, payload: bytes, arrival: int) -> None:
        offset = self.pipeline.next_offset
        self.pipeline.ingest(Record(offset, arrival, kind, Encoding.NONE, payload))

    def send(self, *metrics: Metric, at: float, pod: str = "a", service: str = "shop") -> None:
        """A request that arrives `at` seconds after START."""
        self._put(Kind.METRICS, request_of(*metrics, pod=pod, service=service), moment(at))

    def events(self, slo: int = 0) -> tuple[float, float]:
        """Good and bad events since the beginning."""
        good, bad = self.pipeline.slos.totals.events[slo].tolist()
        return good / 1e6, bad / 1e6

    def buckets(self, slo: int = 0) -> dict[int, tuple[float, float]]:
        """Good and bad events by minute after START."""
        rows = self.pipeline.slos.fresh()
        return {
            int(row["minute"]) - START // MINUTE: (row["good"] / 1e6, row["bad"] / 1e6)
            for row in sorted(rows[rows["slo"] == slo], key=lambda row: row["minute"])
        }

    def refused(self, slo: int = 0) -> dict[str, int]:
        """Points that were not counted, by why."""
        family = next(
            family
            for family in snapshot(self.pipeline)
            if family.name.endswith("points_refused_total")
        )
        return {
            sample.labels[1]: int(sample.value)
            for sample in snapshot(self.pipeline)[family]
            if sample.labels[0] == f"slo-{slo}" and sample.value
        }


def request_of(*metrics: Metric, pod: str = "a", service: str = "shop") -> bytes:
    request = ExportMetricsServiceRequest()
    of_resource = request.resource_metrics.add()
    for key, value in (("service.name", service), ("service.instance.id", pod)):
        of_resource.resource.attributes.add(key=key).value.string_value = value
    of_resource.scope_metrics.add().metrics.extend(metrics)
    return request.SerializeToString()


def moment(at: float) -> int:
    return START + round(at * SECOND)


def counter(
    value: float,
    at: float,
    *,
    since: float | None = 0,
    status: str | int = "200",
    name: str = NAME,
    temporality: int = CUMULATIVE,
    monotonic: bool = True,
) -> Metric:
    """A sum with one point of a time `at`, counted since `since` (None: not said)."""
    metric = Metric(name=name)
    metric.sum.aggregation_temporality = temporality
    metric.sum.is_monotonic = monotonic
    point = metric.sum.data_points.add(
        as_double=value,
        time_unix_nano=moment(at),
        start_time_unix_nano=0 if since is None else moment(since),
    )
    key = point.attributes.add(key=STATUS).value
    if isinstance(status, int):
        key.int_value = status
    else:
        key.string_value = status
    return metric


def gauge(value: float, at: float, name: str = "queue.length") -> Metric:
    metric = Metric(name=name)
    metric.gauge.data_points.add(as_double=value, time_unix_nano=moment(at))
    return metric


def histogram(
    bounds: list[float],
    counts: list[int],
    at: float,
    *,
    since: float = 0,
    unit: str = "s",
    name: str = "latency",
) -> Metric:
    metric = Metric(name=name, unit=unit)
    metric.histogram.aggregation_temporality = CUMULATIVE
    metric.histogram.data_points.add(
        explicit_bounds=bounds,
        bucket_counts=counts,
        count=sum(counts),
        time_unix_nano=moment(at),
        start_time_unix_nano=moment(since),
    )
    return metric


def exponential(
    values: list[float], at: float, *, scale: int, since: float = 0, name: str = "latency"
) -> Metric:
    """An exponential histogram of positive values, as an SDK would send it."""
    metric = Metric(name=name, unit="s")
    metric.exponential_histogram.aggregation_temporality = CUMULATIVE
    indices = [math.ceil(math.log2(value) * 2.0**scale) - 1 for value in values]
    point = metric.exponential_histogram.data_points.add(
        count=len(values),
        scale=scale,
        time_unix_nano=moment(at),
        start_time_unix_nano=moment(since),
    )
    if values:
        point.positive.offset = min(indices)
        point.positive.bucket_counts.extend(
            indices.count(index) for index in range(min(indices), max(indices) + 1)
        )
    return metric

"""What tests send, written as plain data, and the pipeline that takes it in.

Spans and events are small objects with whole names; `records` makes the log out of them that the
receivers would have written.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from outcome_exporter import series
from outcome_exporter.config import Config
from outcome_exporter.model import BUCKET, Encoding, Kind, Record, Snapshot, Table
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND

START = 1_790_000_040 * SECOND
"""When scenarios begin: at the beginning of a minute."""


@dataclass(frozen=True)
class Span:
    """A span as a sender knows it. Ids are numbers, times nanoseconds since 1970."""

    trace: int
    id: int
    start: int
    end: int
    parent: int = 0
    service: str = "frontend"
    name: str = "POST /pay"
    kind: int = 2
    status: int = 0
    tracestate: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    resource: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """A business event as a sender knows it."""

    type: str
    id: str
    time: int | None = None
    trace: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    source: str = "shop"


class Restart:
    """The exporter started again."""


Items = Sequence[Span] | Sequence[Event] | Restart
Arrivals = Sequence[tuple[int, Items]]
"""When a request arrived, and what it held."""


def _attribute(key: str, value: Any) -> KeyValue:
    pair = KeyValue(key=key)
    match value:
        case bool():
            pair.value.bool_value = value
        case int():
            pair.value.int_value = value
        case float():
            pair.value.double_value = value
        case _:
            pair.value.string_value = value
    return pair


def trace_request(spans: Iterable[Span]) -> bytes:
    """An ExportTraceServiceRequest, a resource for each span."""
    request = ExportTraceServiceRequest()
    for span in spans:
        group = request.resource_spans.add()
        resource = {"service.name": span.service, **span.resource}
        group.resource.attributes.extend(_attribute(*pair) for pair in resource.items())
        sent = group.scope_spans.add().spans.add(
            trace_id=span.trace.to_bytes(16),
            span_id=span.id.to_bytes(8),
            parent_span_id=span.parent.to_bytes(8) if span.parent else b"",
            name=span.name,
            kind=span.kind,
            start_time_unix_nano=span.start,
            end_time_unix_nano=span.end,
            trace_state=span.tracestate,
        )
        sent.status.code = span.status
        sent.attributes.extend(_attribute(*pair) for pair in span.attributes.items())
    return request.SerializeToString()


def rfc3339(time: int) -> str:
    """A time as CloudEvents write it."""
    seconds, nanoseconds = divmod(time, SECOND)
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{whole.isoformat().removesuffix('+00:00')}.{nanoseconds:09d}Z"


def cloudevent(event: Event) -> dict[str, Any]:
    """A CloudEvent in structured mode."""
    sent: dict[str, Any] = {
        "specversion": "1.0",
        "source": event.source,
        "id": event.id,
        "type": event.type,
        "data": dict(event.data),
    }
    if event.time is not None:
        sent["time"] = rfc3339(event.time)
    if event.trace is not None:
        sent["traceparent"] = f"00-{event.trace:032x}-00000000000000aa-01"
    return sent


def record(offset: int, arrival: int, items: Items) -> Record:
    """A record of the log."""
    if isinstance(items, Restart):
        return Record(offset, arrival, Kind.START, Encoding.NONE, b"")
    if items and isinstance(items[0], Event):
        payload = json.dumps([cloudevent(event) for event in items]).encode()
        return Record(offset, arrival, Kind.CLOUDEVENTS, Encoding.NONE, payload)
    return Record(offset, arrival, Kind.TRACES, Encoding.NONE, trace_request(items))


def records(arrivals: Arrivals) -> list[Record]:
    """The log of some arrivals, each later than the one before."""
    log: list[Record] = []
    for arrival, items in arrivals:
        later = max(arrival, log[-1].arrival_unix_nano + 1 if log else arrival)
        log.append(record(len(log), later, items))
    return log


def config(*journeys: Mapping[str, Any], **sections: Any) -> Config:
    """A configuration in which a series shows its value as soon as it is born."""
    return Config.model_validate(
        {"exposition": {"birth": "0"}, "journeys": list(journeys)} | sections
    )


class MemoryStore:
    """Buckets of earlier checkpoints, in a dictionary."""

    def __init__(self) -> None:
        self.buckets: dict[tuple[int, int], np.ndarray] = {}

    def add(self, rows: Table) -> None:
        for row in rows:
            place = int(row["slo"]), int(row["minute"])
            sums = np.array([row["good"], row["bad"], row["value"]], np.int64)
            self.buckets[place] = self.buckets.get(place, 0) + sums

    def read_minute(self, minute: int) -> Table:
        return self._rows({p: s for p, s in self.buckets.items() if p[1] == minute})

    def read_minutes(self, first: int, last: int) -> Table:
        return self._rows({p: s for p, s in self.buckets.items() if first <= p[1] <= last})

    def sum_minutes(self, first: int, last: int) -> Table:
        sums: dict[tuple[int, int], np.ndarray] = {}
        for (slo, minute), counts in self.buckets.items():
            if first <= minute <= last:
                sums[slo, 0] = sums.get((slo, 0), 0) + counts
        return self._rows(sums)

    def _rows(self, buckets: Mapping[tuple[int, int], np.ndarray]) -> Table:
        rows = np.zeros(len(buckets), BUCKET)
        for row, ((slo, minute), sums) in zip(rows, buckets.items(), strict=True):
            row["slo"], row["minute"] = slo, minute
            row["good"], row["bad"], row["value"] = sums
        return rows


def run(configuration: Config, arrivals: Arrivals, until: int | None = None) -> Pipeline:
    """A pipeline that took everything in, its clock moved on to `until`."""
    pipeline = Pipeline(configuration)
    for each in records(arrivals):
        pipeline.ingest(each)
    if until is not None:
        pipeline.advance(until)
    return pipeline


def read(shown: Pipeline | Snapshot, family: series.Family) -> dict[tuple[str, ...], Any]:
    """The values of a family by their labels."""
    if isinstance(shown, Pipeline):
        shown = snapshot(shown)
    return {sample.labels: sample.value for sample in shown[family]}


def reasons(shown: Pipeline | Snapshot) -> dict[str, float]:
    """Attempts by reason, over all journeys; those that were seen."""
    counts: dict[str, float] = {}
    for labels, value in read(shown, series.ATTEMPTS).items():
        counts[labels[2]] = counts.get(labels[2], 0.0) + value
    return {reason: count for reason, count in counts.items() if count}

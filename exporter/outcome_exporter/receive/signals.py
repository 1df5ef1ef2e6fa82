"""The signals of OTLP: what each one's requests and answers are, and where it goes."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from outcome_exporter.errors import DecodeError
from outcome_exporter.model import Accepted, Encoding, Intake, Kind
from outcome_exporter.receive.compression import decompress


@dataclass(frozen=True)
class Signal:
    """One of OTLP's signals."""

    name: str
    service: str
    """Of gRPC; its one method is `Export`."""
    request: type[Message]
    response: type[Message]
    rejected: str
    """The field of `partial_success` that counts what was left out."""
    kind: Kind | None
    """What the log calls it; None where it is not kept."""

    @property
    def path(self) -> str:
        """Of HTTP."""
        return f"/v1/{self.name}"

    def submit(
        self, intake: Intake, encoding: Encoding, payload: bytes, limit_bytes: int
    ) -> Accepted:
        """Hands a request over; blocks until it is durable.

        Raises:
            InputError: See `Intake.submit`.
        """
        if self.kind is None:
            return _leave_out(decompress(encoding, payload, limit_bytes))
        return intake.submit(self.kind, encoding, payload)

    def answer(self, accepted: Accepted) -> Message:
        """`partial_success` is set only where something was left out, as OTLP demands."""
        if not accepted.rejected:
            return self.response()
        partial: dict[str, Any] = {
            self.rejected: accepted.rejected,
            "error_message": accepted.why,
        }
        return self.response(partial_success=partial)


SIGNALS = (
    Signal(
        "traces",
        "opentelemetry.proto.collector.trace.v1.TraceService",
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
        "rejected_spans",
        Kind.TRACES,
    ),
    Signal(
        "logs",
        "opentelemetry.proto.collector.logs.v1.LogsService",
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
        "rejected_log_records",
        Kind.LOGS,
    ),
    Signal(
        "metrics",
        "opentelemetry.proto.collector.metrics.v1.MetricsService",
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
        "rejected_data_points",
        None,
    ),
)


def _leave_out(payload: bytes) -> Accepted:
    """Metrics are not read yet, and the sender is told so for every data point.

    A 404 or UNIMPLEMENTED would say "wrong address": SDKs log an error a minute and the Collector
    counts a failed exporter. A success that rejects every point is never tried again, carries the
    reason, and lets the pipeline that also sends traces stay healthy. Counting costs a parse.
    """
    try:
        request = ExportMetricsServiceRequest.FromString(payload)
    except ProtobufError:
        raise DecodeError("no ExportMetricsServiceRequest: the protobuf is malformed") from None
    points = sum(
        len(getattr(metric, kind).data_points)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if (kind := metric.WhichOneof("data"))
    )
    return Accepted(points, "metrics are not read; send traces, events and logs that are events")

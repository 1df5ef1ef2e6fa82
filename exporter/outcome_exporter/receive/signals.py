"""The signals of OTLP: what each one's requests and answers are, and where it goes."""

from dataclasses import dataclass
from typing import Any

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

from outcome_exporter.model import Accepted, Kind


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
    kind: Kind
    """What the log calls it."""

    @property
    def path(self) -> str:
        """Of HTTP."""
        return f"/v1/{self.name}"

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
        Kind.METRICS,
    ),
)

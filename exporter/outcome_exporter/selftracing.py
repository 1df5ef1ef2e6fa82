"""The exporter's own traces, through the OpenTelemetry SDK; off unless configured.

Where it is off nothing is wrapped and the SDK is not imported: it costs nothing. A share of what it
does becomes spans: taking a request in, a scrape, a reload. They say kinds, sizes and the type of
an error, never what a request holds. Sending is the SDK's: in batches, from a thread of its own,
and what cannot be sent is dropped by it, for telemetry about telemetry must not block anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from outcome_exporter import __version__
from outcome_exporter.model import Accepted, Encoding, Intake, Kind

_SEND_SECONDS_MAX = 5


class SelfTracing:
    """Makes spans and sends them."""

    def __init__(self, endpoint: str, ratio: float) -> None:
        """Begins to send.

        Args:
            endpoint: Where to, as OTLP over HTTP.
            ratio: Share of traces that are kept, above 0, at most 1.
        """
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource({SERVICE_NAME: "outcome-exporter", SERVICE_VERSION: __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_SECONDS_MAX))
        )
        self._tracer = self._provider.get_tracer("outcome_exporter", __version__)

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[None]:  # noqa: ANN401 - OTel's own
        """A span around what is done inside."""
        with self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__name__)
                raise

    def traced(self, intake: Intake) -> Intake:
        """The same intake, with a span around each request."""
        return _TracedIntake(intake, self)

    def stop(self) -> None:
        """Sends what is left, within `_SEND_SECONDS_MAX`."""
        self._provider.shutdown()


class _TracedIntake:
    """An intake whose requests are traced."""

    def __init__(self, intake: Intake, tracing: SelfTracing) -> None:
        self._intake = intake
        self._tracing = tracing

    def submit(self, kind: Kind, encoding: Encoding, payload: bytes) -> Accepted:
        """See `model.Intake`."""
        with self._tracing.span(
            "submit", kind=kind.name.lower(), encoding=encoding.name.lower(), bytes=len(payload)
        ):
            return self._intake.submit(kind, encoding, payload)

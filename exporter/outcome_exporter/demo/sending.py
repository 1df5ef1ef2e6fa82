"""Live sending: spans by the SDK's own OTLP exporter, events by HTTP POST.

Each pod has a batch processor and a gRPC exporter of its own, as separate processes would. Events
go one by one over a kept-alive connection, from a thread, so that a slow receiver never holds up
the shop. A refusal that asks for another try (503, or no answer) gets one, as G4 of the exporter's
guarantees expects from a sender; anything else is a defect and ends the shop.
"""

import queue
import threading
import time
from http.client import HTTPConnection, HTTPException

from cloudevents.core.bindings.http import HTTPMessage, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

_BATCH_MILLISECONDS = 500
_TRIES_MAX = 20
_TRY_SECONDS = 0.5
_TIMEOUT_SECONDS = 10
_UNAVAILABLE = 503


class DeliveryError(Exception):
    """A business event could not be delivered."""


class LiveWire:
    """Sends to a running exporter.

    Args:
        grpc: Address of its OTLP gRPC receiver, host:port.
        http: Address of its HTTP receiver.
    """

    def __init__(self, *, grpc: str, http: str) -> None:
        self._grpc = grpc
        self._http = http
        self._events: queue.SimpleQueue[HTTPMessage | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._deliver, name="events", daemon=True)
        self._thread.start()

    def processor(self) -> SpanProcessor:
        """A batch processor with an exporter of its own."""
        exporter = OTLPSpanExporter(endpoint=f"http://{self._grpc}", insecure=True)
        return BatchSpanProcessor(exporter, schedule_delay_millis=_BATCH_MILLISECONDS)

    def post(self, event: CloudEvent) -> None:
        """Queues an event.

        Raises:
            DeliveryError: An earlier one could not be delivered.
        """
        self._events.put(to_structured_event(event))
        self._check()

    def close(self) -> None:
        """Delivers what is queued.

        Raises:
            DeliveryError: An event could not be delivered.
        """
        self._events.put(None)
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise DeliveryError(f"http://{self._http}/events: {self._failure}") from self._failure

    def _deliver(self) -> None:
        connection = HTTPConnection(self._http, timeout=_TIMEOUT_SECONDS)
        try:
            while (message := self._events.get()) is not None:
                _post(connection, message)
        except (OSError, HTTPException, DeliveryError) as error:
            self._failure = error
        finally:
            connection.close()


def _post(connection: HTTPConnection, message: HTTPMessage) -> None:
    for left in reversed(range(_TRIES_MAX)):
        try:
            connection.request("POST", "/events", message.body, message.headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException):
            connection.close()
            if not left:
                raise
        else:
            if response.status < 300:  # noqa: PLR2004 - 2xx is success, whichever
                return
            if response.status != _UNAVAILABLE or not left:
                raise DeliveryError(f"{response.status} {answer.decode(errors='replace')}")
        time.sleep(_TRY_SECONDS)

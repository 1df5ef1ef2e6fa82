"""The shop in simulated time: what it would have sent, as bytes with arrival times, in no time.

The same shop as the live one. Only the wire differs: spans are collected from the real SDK and
encoded by its own OTLP encoder, a request for each pod every half second, as a batch processor
sends them.
"""

import json
from collections.abc import Callable, Iterator, Sequence

from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.v1.event import CloudEvent
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from outcome_exporter.demo.clock import World
from outcome_exporter.demo.faults import SCRIPT, SCRIPT_SECONDS, Announcement, Fault
from outcome_exporter.demo.ledger import Ledger
from outcome_exporter.demo.traffic import Traffic
from outcome_exporter.model import Kind
from outcome_exporter.units import MILLISECOND, SECOND

START_UNIX_NANO = 1_767_614_400 * SECOND
"""Monday, 5 January 2026, 12:00 UTC."""

BATCH_NANOSECONDS = 500 * MILLISECOND

Sent = tuple[int, Kind, bytes]
"""Arrival time, kind and payload of a request."""


class Simulation:
    """What the shop sends; iterate over it once. Afterwards `ledger` holds the truth.

    Args:
        seed: Determines everything, to the byte.
        seconds: How long visitors come; what they began is brought to its end.
        faults: What breaks, and when.
        start_unix_nano: When the shop opens.
        within: How long an order may take before it counts as missed, in words.
        tell: Called with what a spectator should know, when its time has come.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        seconds: float = SCRIPT_SECONDS,
        faults: Sequence[Fault] = SCRIPT,
        start_unix_nano: int = START_UNIX_NANO,
        within: str = "a while",
        tell: Callable[[Announcement], None] = lambda _: None,
    ) -> None:
        self._world = World(start_unix_nano, seed=seed)
        self._wire = _CollectingWire()
        self._arrival = self._world.start
        self._traffic = Traffic(
            self._world,
            self._wire,
            seconds=seconds,
            faults=faults,
            within=within,
            tell=tell,
            seeded_ids=True,
        )

    @property
    def ledger(self) -> Ledger:
        """What happened up to now."""
        return self._traffic.ledger

    def __iter__(self) -> Iterator[Sent]:
        flush = self._world.start + BATCH_NANOSECONDS
        for time in self._world.steps():
            while flush <= time:
                yield from self._arrive(flush, Kind.TRACES, self._wire.take_spans())
                flush += BATCH_NANOSECONDS
            # The step before this one has sent its events by now.
            yield from self._arrive(time, Kind.CLOUDEVENTS, self._wire.take_events())
        yield from self._arrive(self._world.now, Kind.CLOUDEVENTS, self._wire.take_events())
        yield from self._arrive(flush, Kind.TRACES, self._wire.take_spans())
        self._traffic.shutdown()

    def _arrive(self, time: int, kind: Kind, payloads: list[bytes]) -> Iterator[Sent]:
        for payload in payloads:
            self._arrival = max(time, self._arrival + 1)
            yield self._arrival, kind, payload


simulate = Simulation


class _CollectingWire:
    def __init__(self) -> None:
        self._pods: list[_Collector] = []
        self._events: list[bytes] = []

    def processor(self) -> SpanProcessor:
        collector = _Collector()
        self._pods.append(collector)
        return SimpleSpanProcessor(collector)

    def post(self, event: CloudEvent) -> None:
        self._events.append(to_structured_event(event).body)

    def take_spans(self) -> list[bytes]:
        """An ExportTraceServiceRequest for each pod that has something to say."""
        return [
            encode_spans(spans).SerializeToString() for pod in self._pods if (spans := pod.take())
        ]

    def take_events(self) -> list[bytes]:
        """An array of one event for each request, as the log keeps them."""
        events = [json.dumps([json.loads(body)]).encode() for body in self._events]
        self._events.clear()
        return events


class _Collector(SpanExporter):
    """Keeps spans until they are taken."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._spans += spans
        return SpanExportResult.SUCCESS

    def take(self) -> list[ReadableSpan]:
        spans = self._spans
        self._spans = []
        return spans

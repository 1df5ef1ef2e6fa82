"""A client that keeps books: sends attempts and events, again and again until each is accepted."""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

JOURNEYS = {
    # journey: span, its event, and how attempts end: (error, seconds, whether the event comes)
    "pay": (
        "POST /pay",
        "paid",
        {
            "ok": (False, 0.1, True),
            "slow": (False, 2.0, True),
            "recovered": (True, 0.1, True),
        },
    ),
    "sign-up": (
        "POST /sign-up",
        "signed-up",
        {"missed": (False, 0.1, False), "error": (True, 0.1, False)},
    ),
    "search": (
        "GET /search",
        None,
        {"ok": (False, 0.1, False), "error": (True, 0.1, False), "slow": (False, 2.0, False)},
    ),
}
GOOD = {
    "pay-success": {("pay", "ok"), ("pay", "slow")},
    "sign-up-success": set(),
    "search-fast": {("search", "ok")},
}
SLO_OF = {"pay": "pay-success", "sign-up": "sign-up-success", "search": "search-fast"}

Send = Callable[[str, str, bytes], bool]
"""Path, content type and body; whether it was accepted."""


class Books:
    """What was accepted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.refused = 0
        self.tries = 0

    def accepted(self, attempts: Counter[tuple[str, str]]) -> None:
        with self._lock:
            self.attempts += attempts

    def tried(self, *, accepted: bool) -> None:
        with self._lock:
            self.tries += 1
            self.refused += not accepted

    def series(self) -> dict[str, float]:
        """What the exporter must show once all is settled."""
        shown: dict[str, float] = {}
        for journey, (_, _, ends) in JOURNEYS.items():
            slo = SLO_OF[journey]
            for result in ("good", "bad"):
                shown[f'slo_events_total{{result="{result}",slo="{slo}"}}'] = 0
            for reason in ends:
                count = self.attempts[journey, reason]
                outcome = "good" if reason == "ok" else "bad"
                labels = f'journey="{journey}",outcome="{outcome}",reason="{reason}"'
                shown[f"outcome_attempts_total{{{labels}}}"] = count
                result = "good" if (journey, reason) in GOOD[slo] else "bad"
                shown[f'slo_events_total{{result="{result}",slo="{slo}"}}'] += count
        return shown


class Sender(threading.Thread):
    """Sends batches until it is stopped; ends when the last one was accepted whole."""

    def __init__(
        self, seed: int, port: Callable[[], int | None], books: Books, pause_seconds: float = 0.01
    ) -> None:
        super().__init__(name=f"sender {seed}", daemon=True)
        self._random = random.Random(seed)
        self._port = port
        self._books = books
        self._pause_seconds = pause_seconds
        self._connection: http.client.HTTPConnection | None = None
        self._stopping = threading.Event()
        self._given_up = threading.Event()
        self.awake = threading.Event()
        """Cleared: no new batch is begun."""
        self.awake.set()
        self.problem: BaseException | None = None

    def stop(self) -> None:
        self._stopping.set()

    def give_up(self) -> None:
        self._given_up.set()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                if self.awake.wait(0.1):
                    self._batch()
                self._stopping.wait(self._random.random() * self._pause_seconds)
        except BaseException as problem:
            self.problem = problem
            raise
        finally:
            self._hang_up()

    def _batch(self) -> None:
        journey = self._random.choice(list(JOURNEYS))
        name, event, ends = JOURNEYS[journey]
        request = ExportTraceServiceRequest()
        spans = request.resource_spans.add().scope_spans.add().spans
        events: list[dict[str, str]] = []
        reasons: Counter[tuple[str, str]] = Counter()
        for _ in range(self._random.randint(1, 20)):
            reason = self._random.choice(list(ends))
            reasons[journey, reason] += 1
            error, seconds, comes = ends[reason]
            trace_id = self._random.randbytes(16)
            now = time.time_ns()
            root = spans.add(
                trace_id=trace_id,
                span_id=self._random.randbytes(8),
                name=name,
                kind=Span.SPAN_KIND_SERVER,
                start_time_unix_nano=now - int(seconds * 1e9),
                end_time_unix_nano=now,
            )
            if error:
                root.status.code = Status.STATUS_CODE_ERROR
            spans.add(
                trace_id=trace_id,
                span_id=self._random.randbytes(8),
                parent_span_id=root.span_id,
                name="work",
                start_time_unix_nano=root.start_time_unix_nano,
                end_time_unix_nano=now,
            )
            if comes:
                events.append(
                    {
                        "specversion": "1.0",
                        "id": trace_id.hex(),
                        "source": "shop",
                        "type": str(event),
                        "traceparent": f"00-{trace_id.hex()}-{bytes(root.span_id).hex()}-01",
                    }
                )
        parts = [("/v1/traces", "application/x-protobuf", request.SerializeToString())]
        if events:
            events += events[:1]  # one comes twice
            batch = json.dumps(events).encode()
            parts.append(("/events", "application/cloudevents-batch+json", batch))
        self._random.shuffle(parts)
        if all(self._until_accepted(*part) for part in parts):
            self._books.accepted(reasons)

    def _until_accepted(self, path: str, content_type: str, body: bytes) -> bool:
        while not self._given_up.is_set():
            accepted = self._send(path, content_type, body)
            self._books.tried(accepted=accepted)
            if accepted:
                return True
            self._given_up.wait(0.02)
        return False

    def _send(self, path: str, content_type: str, body: bytes) -> bool:
        try:
            connection = self._connected()
            if connection is None:
                return False
            connection.request("POST", path, body, {"Content-Type": content_type})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self._hang_up()
            return False
        if answer.status == 503:
            assert int(answer.headers["Retry-After"]) > 0
            return False
        assert answer.status in (200, 202), (answer.status, text)
        return True

    def _connected(self) -> http.client.HTTPConnection | None:
        port = self._port()
        if self._connection is not None and self._connection.port != port:
            self._hang_up()
        if self._connection is None and port is not None:
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        return self._connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

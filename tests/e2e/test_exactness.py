"""A client over real sockets counts what it did; the exporter must say the same, per reason."""

import base64
import gzip
import json
import random
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.scenario import Event, Span, cloudevent, trace_request

from outcome_exporter.server import Server
from outcome_exporter.units import MILLISECOND, MINUTE, SECOND

ORDERS = 200
DEADLINE_SECONDS = 120
CONFIG = """
receivers: {{otlp: {{grpc: "127.0.0.1:0", http: "127.0.0.1:0"}}}}
metrics: {{listen: "127.0.0.1:0"}}
storage: {{path: {path}}}
traces: {{quiet: 2s, max_age: 10s}}
time: {{lateness: 15s, grace: 0s}}
exposition: {{birth: "0"}}
journeys:
  - name: checkout
    attempt: {{span: {{service: frontend, name: POST /pay}}}}
    join: [trace_id, {{attribute: order, event: data.order}}]
    outcome: {{event: ordered, within: 1m}}
    slow_above: 2s
    value: {{event: data.total, attribute: total, currency: USD}}
    labels: {{tier: tier}}
    slos:
      - {{name: ordered, objective: 99, good: {{achieved: true, error: false}}}}
      - {{name: fast, objective: 95, good: {{duration_below: 1s}}}}
"""


@dataclass
class Book:
    """What the client did, as spans and events to send and as the counts that follow."""

    rng: random.Random
    now: int
    traces: list[list[Span]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    reasons: Counter = field(default_factory=Counter)
    slos: Counter = field(default_factory=Counter)
    cents: Counter = field(default_factory=Counter)

    def order(self, number: int) -> None:
        """A customer tries, maybe again, and gets the order or not."""
        tries = self.rng.choice([1, 1, 1, 2, 3])
        arrives = self.rng.random() < 0.7
        cents = self.rng.randint(1, 100_000)
        start = self.now - self.rng.randint(5, 50) * MINUTE
        for n in range(tries):
            error = n < tries - 1 or self.rng.random() < 0.2
            duration = self.rng.choice([40, 700, 1_000, 2_500]) * MILLISECOND
            # Tries share the trace of the first, or the order's id alone.
            self.attempt(number, n, start + n * 3 * SECOND, duration, error, cents)
            self.judge(error, duration, arrives, cents)
        if arrives:
            self.cents["achieved"] += cents
            trace = self.traces[-1][0].trace if tries == 1 and self.rng.random() < 0.5 else None
            data = {"total": cents / 100} | ({} if trace else {"order": f"o-{number}"})
            self.events.append(
                Event("ordered", f"e-{number}", start + 10 * SECOND, trace, data, source="orders")
            )
        else:
            self.cents["lost"] += cents

    def attempt(self, number, n, start, duration, error, cents):
        trace = number * 10 + n + 1
        attributes = {
            "order": f"o-{number}",
            "total": cents / 100,
            "tier": self.rng.choice(["gold", "basic"]),
        }
        end = start + duration
        self.traces.append(
            [
                Span(trace, 1, start, end, status=2 * error, attributes=attributes),
                Span(trace, 2, start + 1, end - 1, parent=1, service="payment", name="charge"),
                # A match below another one is part of it.
                Span(trace, 3, start + 2, end - 2, parent=1, name="POST /pay", status=2),
            ]
        )

    def judge(self, error, duration, arrives, cents):
        if arrives:
            slow = duration > 2 * SECOND
            reason = "recovered" if error else "slow" if slow else "ok"
        else:
            reason = "error" if error else "missed"
        self.reasons[reason] += 1
        self.slos["ordered", "bad" if error or not arrives else "good"] += 1
        self.slos["fast", "bad" if duration >= SECOND else "good"] += 1
        self.cents["at_risk"] += cents if reason != "ok" else 0


class Sender:
    """Sends over every way in, some things twice."""

    def __init__(self, server: Server) -> None:
        _, grpc_port, self.http_port = server.ports
        self.channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")
        self.stub = trace_service_pb2_grpc.TraceServiceStub(self.channel)

    def send(self, job) -> None:
        way, items = job
        if way == "grpc":
            self.stub.Export(ExportTraceServiceRequest.FromString(trace_request(items)))
        elif way == "protobuf":
            self.post("/v1/traces", "application/x-protobuf", gzip.compress(trace_request(items)))
        elif way == "json":
            self.post("/v1/traces", "application/json", gzip.compress(otlp_json(items)))
        else:
            body = json.dumps([cloudevent(event) for event in items]).encode()
            self.post("/events", "application/cloudevents-batch+json", gzip.compress(body))

    def post(self, path: str, content_type: str, body: bytes) -> None:
        headers = {"Content-Type": content_type, "Content-Encoding": "gzip"}
        url = f"http://127.0.0.1:{self.http_port}{path}"
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert 200 <= reply.status < 300


def otlp_json(spans) -> bytes:
    """OTLP/JSON: as protobuf's own JSON, but ids in hex and enums as numbers."""
    request = ExportTraceServiceRequest.FromString(trace_request(spans))
    document = json_format.MessageToDict(request, use_integers_for_enums=True)
    for group in document["resourceSpans"]:
        for span in group["scopeSpans"][0]["spans"]:
            for name in {"traceId", "spanId", "parentSpanId"} & span.keys():
                span[name] = base64.b64decode(span[name]).hex()
    return json.dumps(document).encode()


@pytest.fixture
def server(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(path=tmp_path / "data"))
    server = Server(path)
    server.start()
    yield server
    server.stop()


def metrics(server: Server) -> dict[tuple, float]:
    url = f"http://127.0.0.1:{server.ports[0]}/metrics"
    request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        text = reply.read().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(series: dict[tuple, float], name: str, **labels: str) -> float:
    return sum(
        value
        for (found, *pairs), value in series.items()
        if found == name and labels.items() <= dict(pairs).items()
    )


def test_counters_equal_what_the_client_counted(server):
    rng = random.Random(4711)
    book = Book(rng, time.time_ns())
    for number in range(ORDERS):
        book.order(number)
    jobs = []
    for spans in book.traces:
        # A trace in pieces, in any order, over any way, some of it again.
        pieces = [spans] if rng.random() < 0.5 else [spans[1:2], spans[::2]]
        for piece in pieces:
            way = rng.choice(["grpc", "protobuf", "json"])
            jobs += [(way, piece)] * rng.choice([1, 1, 1, 2])
    for event in book.events:
        jobs += [("event", [event])] * rng.choice([1, 1, 1, 3])
    rng.shuffle(jobs)
    sender = Sender(server)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(sender.send, jobs)) == [None] * len(jobs)
    sender.channel.close()
    attempts = sum(book.reasons.values())
    deadline = time.monotonic() + DEADLINE_SECONDS
    series = metrics(server)
    while total(series, "outcome_attempts_total") < attempts and time.monotonic() < deadline:
        threading.Event().wait(0.25)
        series = metrics(server)
    for reason in ("ok", "error", "missed", "recovered", "slow"):
        counted = total(series, "outcome_attempts_total", reason=reason)
        assert counted == book.reasons[reason] > 0, reason
    for (slo, result), count in book.slos.items():
        assert total(series, "slo_events_total", slo=slo, result=result) == count, (slo, result)
    for state, cents in book.cents.items():
        value = total(series, "outcome_value_total", state=state)
        assert round(value * 100, 6) == cents, state
    assert total(series, "outcome_pending_attempts") == 0
    assert total(series, "outcome_attempt_duration_seconds_count") == attempts
    received = Counter(isinstance(item, Span) for _, items in jobs for item in items)
    assert total(series, "outcome_exporter_received_items_total", signal="traces") == received[True]
    repeats = received[False] - len(book.events)
    assert total(series, "outcome_exporter_duplicates_total", what="event") == repeats

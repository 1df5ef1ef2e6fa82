"""One exporter in this process that eats anything, and says when something gives.

An input is bytes: the first says which way in, the second how much time passes before, the rest is
the request. Whatever it is, only errors of the tree may come out, nothing may hang, what waits
stays within its caps, and every series stays a finite number.
"""

import math
import random
import struct

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.requests import Request

from outcome_exporter import strict_json
from outcome_exporter.config import Config
from outcome_exporter.errors import InputError
from outcome_exporter.exposition import render
from outcome_exporter.intake import DurableIntake
from outcome_exporter.model import Histogram, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.receive.grpc import encoding_of
from outcome_exporter.receive.http import (
    BATCH,
    JSON,
    STRUCTURED,
    _take_events,
    _take_otlp,
)
from outcome_exporter.receive.signals import SIGNALS
from outcome_exporter.receive.turns import LARGE_BYTES, Turns
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import DAY, SECOND

LIMIT_BYTES = 1 << 20
NOW = 1_790_000_000 * SECOND
CONFIG = Config.model_validate(
    {
        "limits": {
            "pending_spans": 20_000,
            "pending_attempts": 5_000,
            "remembered": 5_000,
            "operations": 50,
            "label_values": 5,
        },
        "journeys": [
            {
                "name": "checkout",
                "attempt": {"span": {"service": "shop*", "name": "POST *"}},
                "join": ["trace_id", {"attribute": "order.id", "event": "data.order_id"}],
                "outcome": {"event": "order.completed", "within": "1m"},
                "slow_above": "2s",
                "value": {"event": "data.total", "attribute": "cart.total", "currency": "USD"},
                "user": {"attribute": "user.id", "event": "data.user"},
                "labels": {"tier": "user.tier", "region": "region"},
                "slos": [
                    {"name": "ok", "objective": 99, "good": {"achieved": True, "error": False}},
                    {"name": "fast", "objective": 95, "good": {"duration_below": "800ms"}},
                ],
            }
        ],
    }
)
WAYS = ("grpc traces", "grpc logs", "json traces", "json logs", "batch", "structured", "binary")
HTTP_HEADERS = {
    "json traces": {"content-type": JSON},
    "json logs": {"content-type": JSON},
    "batch": {"content-type": BATCH},
    "structured": {"content-type": STRUCTURED},
    "binary": {
        "content-type": JSON,
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "fuzz",
        "ce-type": "order.completed",
    },
}


class Eater:
    """Takes everything in, through what the receivers call."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(CONFIG)
        self.now = NOW
        self.accepted = self.refused = 0
        self.turns = Turns(LARGE_BYTES)
        self.intake = DurableIntake(
            self._append,
            {
                kind: lambda payload, kind=kind: self.pipeline.decode(kind, payload)
                for kind in (Kind.TRACES, Kind.LOGS, Kind.CLOUDEVENTS)
            },
            max_request_bytes=LIMIT_BYTES,
            admit=lambda: None,
        )

    def _append(self, kind, encoding, payload, decoded):
        offset = self.pipeline.next_offset
        self.pipeline.ingest(Record(offset, self.now, kind, encoding, payload, decoded))

    def eat(self, data: bytes) -> bool:
        """Whether it was accepted."""
        way = data[0] if data else 0
        self.now += (data[1] if len(data) > 1 else 0) ** 2 * SECOND // 1_000
        rest = data[2:]
        if way & 0x80:
            rest = hostile(random.Random(rest), WAYS[way % len(WAYS)], self.now)
        try:
            self._take(WAYS[way % len(WAYS)], rest)
        except InputError as error:
            self.said = str(error)
            self.refused += 1
            return False
        self.accepted += 1
        return True

    def _take(self, way: str, body: bytes) -> None:
        traces, logs, _ = SIGNALS
        if way.startswith("grpc"):
            signal = traces if way == "grpc traces" else logs
            self.intake.submit(signal.kind, encoding_of(body), body)
            return
        headers = [(k.encode(), v.encode()) for k, v in HTTP_HEADERS[way].items()]
        request = Request({"type": "http", "headers": headers})
        if way.startswith("json"):
            signal = traces if way == "json traces" else logs
            _take_otlp(self.intake, signal, LIMIT_BYTES, self.turns, request, body)
        else:
            _take_events(self.intake, LIMIT_BYTES, self.turns, request, body)

    def settle(self) -> None:
        """Lets what waits be settled: its limits are real only with `admit`."""
        self.now += 200 * SECOND
        self.pipeline.advance(self.now)

    def check(self) -> None:
        """Every series is finite, not negative where it counts, and can be rendered."""
        shown = snapshot(self.pipeline)
        for family, samples in shown.items():
            for sample in samples:
                value = sample.value
                numbers = [*value.counts, value.sum] if isinstance(value, Histogram) else [value]
                assert all(map(math.isfinite, numbers)), (family.name, sample)
                if family.type != "gauge":
                    assert min(numbers) >= 0, (family.name, sample)
        assert self.pipeline.second is None or self.pipeline.second <= self.now // SECOND
        rendered = render(shown, openmetrics=False)
        assert b"NaN" not in rendered
        assert len(rendered) < 4 << 20


TEXTS = (
    "",
    "shop",
    "POST /pay",
    "order.id",
    "user.tier",
    "\x00",
    "\udcff",
    "ä" * 300,
    "💥",
    "a" * 9000,
)
TIMES = (0, 1, 2**63 - 1, 2**63, 2**64 - 1, 7_258_118_400 * SECOND)
NUMBERS = (0, -1, 2**63 - 1, -(2**63), 5)
DOUBLES = (math.nan, math.inf, -math.inf, 1e308, -0.0, 5e-324, 12.5)


def hostile(rng: random.Random, way: str, now: int) -> bytes:
    """A request that is well formed, or nearly, and means harm."""
    if way in ("grpc traces", "json traces"):
        body = _spans(rng, now).SerializeToString()
    elif way in ("grpc logs", "json logs"):
        body = _logs(rng, now).SerializeToString()
    else:
        body = _event(rng, now, single=way != "batch")
    if way.startswith("json"):
        body = _json(rng, body)
    return damaged(rng, body) if rng.random() < 0.3 else body


def _json(rng: random.Random, body: bytes) -> bytes:
    depth = rng.choice((1, 10, 90, 200, 5_000))
    deep = b'{"arrayValue":{"values":[' * depth + b"{}" + b"]}}" * depth
    span = b'{"traceId":"%s","spanId":"%s","attributes":[{"key":"k","value":%s}]}' % (
        bytes(rng.choices(b"0123456789abcdef", k=32)),
        rng.choice((b"0000000000000001", b"AAAA", b"")),
        rng.choice((deep, b'{"doubleValue":"NaN"}', b'{"intValue":1e400}', b"null", b"[]")),
    )
    return b'{"resourceSpans":[{"scopeSpans":[{"spans":[%s]}]}]}' % span


def _time(rng: random.Random, now: int) -> int:
    if rng.random() < 0.3:
        return rng.choice(TIMES)
    return now + rng.choice((0, -SECOND, -30 * SECOND, -DAY, SECOND, DAY, -40 * DAY))


def _text(rng: random.Random) -> str:
    text = rng.choice(TEXTS) if rng.random() < 0.7 else f"x{rng.randrange(1_000_000)}"
    return text.encode("utf-8", "ignore").decode()


def _attributes(rng: random.Random, attributes) -> None:
    for key in rng.sample(("order.id", "user.id", "user.tier", "region", "cart.total", "k"), 3):
        value = attributes.add(key=key).value
        match rng.randrange(5):
            case 0:
                value.double_value = rng.choice(DOUBLES)
            case 1:
                value.int_value = rng.choice(NUMBERS)
            case 2:
                value.bytes_value = rng.randbytes(rng.randrange(40))
            case 3:
                for _ in range(rng.choice((1, 50))):
                    value = value.array_value.values.add()
            case _:
                value.string_value = _text(rng)


def _spans(rng: random.Random, now: int) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    name = resource.resource.attributes.add(key="service.name").value
    name.string_value = rng.choice(("shop", "shop2", _text(rng)))
    spans = resource.scope_spans.add().spans
    trace = rng.choice((b"", b"\0" * 16, rng.randrange(50).to_bytes(16), rng.randbytes(16)))
    ids = [rng.randrange(8).to_bytes(8) for _ in range(rng.choice((1, 3, 40)))]
    for number in ids:
        span = spans.add(
            trace_id=trace,
            span_id=number,
            parent_span_id=rng.choice((b"", number, rng.choice(ids), rng.randbytes(8))),
            name=rng.choice(("POST /pay", _text(rng))),
            start_time_unix_nano=_time(rng, now) % 2**64,
            end_time_unix_nano=_time(rng, now) % 2**64,
            kind=rng.randrange(6),
        )
        span.status.code = rng.randrange(3)
        _attributes(rng, span.attributes)
    return request


def _logs(rng: random.Random, now: int) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for _ in range(rng.choice((1, 3))):
        record = records.add(
            event_name=rng.choice(("order.completed", "", _text(rng))),
            time_unix_nano=_time(rng, now) % 2**64,
            trace_id=rng.choice((b"", b"\1", rng.randrange(50).to_bytes(16))),
        )
        _attributes(rng, record.attributes)
    return request


def _event(rng: random.Random, now: int, *, single: bool) -> bytes:
    event = {
        "specversion": rng.choice(("1.0", "0.3")),
        "id": _text(rng) or "1",
        "source": "fuzz",
        "type": rng.choice(("order.completed", _text(rng))),
        "time": rng.choice(
            ("1970-01-01T00:00:00Z", "2200-01-01T00:00:00Z", "2026-09-21T14:13:21Z", "9999-99-99")
        ),
        "data": {
            "order_id": rng.choice(("1", 1, None, [], {})),
            "total": rng.choice((12.5, -1, 1e300, "9" * 400, "1e999", "NaN", None, {"a": [[]]})),
            "user": _text(rng),
        },
    }
    return strict_json.dumps(event if single else [event] * rng.choice((0, 1, 3)))


def damaged(rng: random.Random, body: bytes) -> bytes:
    """The same with a few bytes wrong, missing or twice."""
    out = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0:
                out[at : at + 1] = rng.randbytes(1)
            case 1:
                del out[at : at + rng.randrange(1, 9)]
            case 2:
                out[at:at] = out[max(at - 9, 0) : at]
            case _:
                out[at:at] = struct.pack("<Q", rng.choice(TIMES))
    return bytes(out)

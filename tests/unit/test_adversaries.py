"""Shapes that nobody sends by accident: each is counted, and in bounded time."""

import random
import time

import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.scenario import START, Event, Span, config, read, reasons, record, run

from outcome_exporter import series
from outcome_exporter.exposition import render
from outcome_exporter.kernels.hashing import KNOWN_SEED, Seed, mix
from outcome_exporter.model import Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.plan import Plan
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import DAY, HOUR, MINUTE, SECOND
from outcome_exporter.warmup import warm_up

PAY = {
    "name": "pay",
    "attempt": {"span": {"name": "pay"}},
    "slos": [{"name": "paid", "objective": 99, "good": {"error": False}}],
}
WAITING = {
    "name": "pay",
    "attempt": {"span": {"name": "pay"}},
    "join": [{"attribute": "order", "event": "data.order"}],
    "outcome": {"event": "paid", "within": "30s"},
}
YEAR = 365 * DAY


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    """Times below are those of work, not of compiling."""
    warm_up(config(PAY))


def chain(count: int, pay_every: int = 0) -> bytes:
    """One trace, each span the parent of the next."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for n in range(1, count + 1):
        spans.add(
            trace_id=b"\1" * 16,
            span_id=n.to_bytes(8),
            parent_span_id=(n - 1).to_bytes(8) if n > 1 else b"",
            name="pay" if n == count or (pay_every and n % pay_every == 0) else "step",
            start_time_unix_nano=START + n,
            end_time_unix_nano=START + n + 1,
        )
    return request.SerializeToString()


@pytest.mark.parametrize("pay_every", [0, 1, 400])
def test_a_trace_of_200_000_spans_one_below_the_other_is_settled_in_seconds(pay_every):
    pipeline = Pipeline(config(PAY))
    payload = chain(200_000, pay_every)
    pipeline.ingest(Record(0, START, Kind.TRACES, Encoding.NONE, payload))
    began = time.monotonic()
    pipeline.advance(START + MINUTE)
    assert time.monotonic() - began < 20
    assert reasons(pipeline) == {"ok": 1}
    assert len(pipeline.traces.spans) == 0


def test_a_trace_of_100_000_attempts_side_by_side_is_settled_in_seconds():
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for n in range(1, 200_001, 2):
        for span, parent, name in ((n, 0, "pay"), (n + 1, n, "step")):
            spans.add(
                trace_id=b"\1" * 16,
                span_id=span.to_bytes(8),
                parent_span_id=parent.to_bytes(8) if parent else b"",
                name=name,
                start_time_unix_nano=START + n,
                end_time_unix_nano=START + n + 2,
            )
    pipeline = Pipeline(config(PAY))
    payload = request.SerializeToString()
    pipeline.ingest(Record(0, START, Kind.TRACES, Encoding.NONE, payload))
    began = time.monotonic()
    pipeline.advance(START + MINUTE)
    assert time.monotonic() - began < 20
    assert reasons(pipeline) == {"ok": 100_000}


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START, START),
        (START + SECOND, START),
        (0, 0),
        (1, 2),
        (START - 56 * YEAR, START),
        (START + 170 * YEAR, START + 170 * YEAR + 1),
        (1, 2**63 - 1),
        (2**63, 2**64 - 1),
        (2**64 - 1, 1),
        (START, 2**64 - 1),
    ],
)
def test_whatever_its_times_an_attempt_is_counted_once_and_judged(start, end):
    pipeline = run(config(PAY), [(START, [Span(1, 1, start, end, name="pay")])], START + HOUR)
    assert reasons(pipeline) == {"ok": 1}
    assert sum(read(pipeline, series.SLO_EVENTS).values()) == 1
    assert read(pipeline, series.ATTEMPT_DURATION)["pay",].sum >= 0
    assert b"nan" not in render(snapshot(pipeline), openmetrics=True).lower()


def test_of_spans_with_the_same_id_the_one_that_began_first_counts():
    spans = [
        Span(1, 1, START + 5, START + 6, name="pay", status=2),
        Span(1, 1, START + 1, START + 2, name="pay", status=0),
        Span(1, 1, START + 9, START + 10, name="step"),
    ]
    for order in (spans, spans[::-1]):
        assert reasons(run(config(PAY), [(START, order)], START + MINUTE)) == {"ok": 1}


def test_a_flood_of_names_is_bounded_and_every_span_is_counted():
    pipeline = Pipeline(config(PAY, limits={"operations": 500}))
    for batch in range(20):
        names = {batch * 1_000 + n: f"{batch}-{n}" for n in range(1, 1_001)}
        spans = [Span(n, 1, START, START, name=name) for n, name in names.items()]
        pipeline.ingest(record(batch, START + batch, spans))
    pipeline.advance(START + MINUTE)
    calls = read(pipeline, series.SPAN_CALLS)
    assert len(calls) <= 501
    assert sum(calls.values()) == 20_000
    assert read(pipeline, series.OVERFLOW)["text",] > 0


def test_thousands_of_attempts_under_one_key_are_achieved_by_one_event():
    count = 5_000
    spans = [
        Span(n, 1, START, START + 1, name="pay", attributes={"order": "x"})
        for n in range(1, count + 1)
    ]
    arrivals = [
        (START, spans),
        (START + 15 * SECOND, [Event("paid", "e", START, None, {"order": "x"})]),
    ]
    began = time.monotonic()
    pipeline = run(config(WAITING), arrivals, START + HOUR)
    assert reasons(pipeline) == {"ok": count}
    assert time.monotonic() - began < 60


def test_thousands_of_attempts_under_one_key_that_nobody_achieves_lose_one_value():
    journey = {**WAITING, "value": {"attribute": "total", "currency": "USD"}}
    spans = [
        Span(n, 1, START, START + 1, name="pay", attributes={"order": "x", "total": 5})
        for n in range(1, 5_001)
    ]
    pipeline = run(config(journey), [(START, spans)], START + HOUR)
    assert reasons(pipeline) == {"missed": 5_000}
    assert read(pipeline, series.VALUE)["pay", "USD", "lost"] == 5
    assert read(pipeline, series.VALUE)["pay", "USD", "at_risk"] == 25_000


def test_thousands_of_events_under_one_key_cost_an_attempt_a_bounded_look():
    arrivals = [
        (START + n, [Event("paid", f"{n}-{m}", START, None, {"order": "x"}) for m in range(500)])
        for n in range(10)
    ]
    pay = Span(1, 1, START, START + 1, name="pay", attributes={"order": "x"})
    pipeline = run(config(WAITING), [*arrivals, (START + SECOND, [pay])], START + HOUR)
    assert reasons(pipeline) == {"ok": 1}
    assert read(pipeline, series.EVENTS_UNMATCHED)["paid",] == 4_999


def seconds_of_events(count: int, *, one_key: bool, after: int) -> tuple[float, int]:
    """How long so many events take that meet as many attempts, and how many of these still wait.

    Of attempts and events the n-th has the n-th key, or all have one. Each attempt begins a
    nanosecond after the one before, each event happens one before the one before, the last of
    them `after` the latest that it could for the first attempt.
    """
    spans = ExportTraceServiceRequest()
    sent = spans.resource_spans.add().scope_spans.add().spans
    events = ExportLogsServiceRequest()
    logs = events.resource_logs.add().scope_logs.add().log_records
    for n in range(count):
        times = {"start_time_unix_nano": START + n, "end_time_unix_nano": START + n}
        key = (1 if one_key else 1 + n).to_bytes(16)
        sent.add(trace_id=key, span_id=(1 + n).to_bytes(8), name="pay", **times)
        key = (1 if one_key else count - n).to_bytes(16)
        at = START + 30 * SECOND + after + count - n
        logs.add(event_name="paid", trace_id=key, span_id=n.to_bytes(8), time_unix_nano=at)
    pipeline = Pipeline(JOINED)
    pipeline.ingest(Record(0, START, Kind.TRACES, Encoding.NONE, spans.SerializeToString()))
    pipeline.advance(START + 15 * SECOND)
    record = Record(1, START + 15 * SECOND, Kind.LOGS, Encoding.NONE, events.SerializeToString())
    began = time.process_time()
    pipeline.ingest(record)
    return time.process_time() - began, int(pipeline.outcomes.pending.sum())


@pytest.mark.parametrize("after", [MINUTE, -1])
def test_events_that_come_too_late_for_every_other_attempt_under_their_key_walk_past_none(after):
    usual = seconds_of_events(20_000, one_key=False, after=after)[0]
    took, waiting = seconds_of_events(20_000, one_key=True, after=after)
    assert waiting == (20_000 if after > 0 else 0)
    assert took < 3 * usual + 0.5


# Ids that were made to lie in one slot of a table -----------------------------------------------

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
FLOOD = 60_000
SEED = Seed.of(b"nobody knows it.")


def inverse(factor: int) -> int:
    return pow(factor, -1, 1 << 64)


def mixed(value: int) -> int:
    return int(mix(np.uint64(value)))


def unmixed(value: int) -> int:
    """What `mix` makes `value` of."""
    value ^= value >> 33
    value = value * inverse(0xC4CEB9FE1A85EC53) & WORD
    value ^= value >> 33
    value = value * inverse(0xFF51AFD7ED558CCD) & WORD
    return value ^ value >> 33


def flood_of(table: str) -> list[tuple[int, int, int]]:
    """Trace ids, in two halves, and span ids that all lie in one slot where no seed is secret."""
    rng, ids = random.Random(table), []
    salt = int(Plan(JOINED).spans.salts[0, 0])
    for n in range(1, FLOOD + 1):
        hi, lo, span_id = rng.getrandbits(64), rng.getrandbits(64), rng.getrandbits(64)
        match table:
            case "traces":
                # The product is 0, whatever the lower half is.
                hi = int(KNOWN_SEED.first)
            case "settled traces":
                # `combine(mix(hi), lo)` is a number that `mix` gives 32 zeros at the end.
                begun = (unmixed(unmixed(n << 32)) - lo) * inverse(GOLDEN) & WORD
                hi = unmixed(begun ^ mixed((lo + GOLDEN) & WORD))
            case "spans of a trace":
                hi, lo, span_id = 1, 1, unmixed(n << 32)
            case "join keys":
                # Both halves of a key are the mixed ones of the trace id, salted.
                hi = unmixed(int(KNOWN_SEED.first)) ^ salt
        ids.append((hi, lo, span_id))
    return ids


JOINED = config({**WAITING, "join": ["trace_id"]})


def seconds(ids: list[tuple[int, int, int]], *, name: str = "pay", paid: bool = False) -> float:
    """How long a pipeline takes for a span under each trace and span id, and its event."""
    spans = ExportTraceServiceRequest()
    sent = spans.resource_spans.add().scope_spans.add().spans
    events = ExportLogsServiceRequest()
    logs = events.resource_logs.add().scope_logs.add().log_records
    for hi, lo, span_id in ids:
        trace_id = hi.to_bytes(8) + lo.to_bytes(8)
        times = {"start_time_unix_nano": START, "end_time_unix_nano": START + 1}
        sent.add(trace_id=trace_id, span_id=span_id.to_bytes(8), name=name, **times)
        if paid:
            logs.add(event_name="paid", trace_id=trace_id, span_id=span_id.to_bytes(8))
    pipeline = Pipeline(JOINED, seed=SEED)
    requests = (Kind.TRACES, spans), (Kind.LOGS, events)
    records = [
        Record(n, START + n * 15 * SECOND, kind, Encoding.NONE, request.SerializeToString())
        for n, (kind, request) in enumerate(requests)
    ]
    began = time.monotonic()
    for each in records:
        pipeline.ingest(each)
    pipeline.advance(START + MINUTE)
    took = time.monotonic() - began
    if name == "pay":
        assert reasons(pipeline) == {"ok" if paid else "missed": len(ids)}
    return took


@pytest.mark.parametrize("table", ["traces", "settled traces", "spans of a trace", "join keys"])
def test_a_flood_of_ids_made_for_one_slot_costs_what_others_cost(table):
    what = {"name": "step"} if table == "spans of a trace" else {"paid": table == "join keys"}
    usual = min(seconds(flood_of("none"), **what) for _ in range(2))
    assert seconds(flood_of(table), **what) < 5 * usual + 0.5


def test_one_request_of_events_for_a_trace_of_attempts_takes_the_room_of_the_attempts():
    # A pair of each attempt and each event would be 68 GiB.
    assert seconds([(1, 1, n) for n in range(1, 20_001)], paid=True) < 20

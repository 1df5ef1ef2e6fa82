"""The stages in one process: what a span costs beside receiving it, and what makes it cost more.

CPU time of the thread that does the work; every figure is the median of rounds.
"""

import gc
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tests.bench import load
from tests.bench.end_to_end import CONFIG, journeys
from tests.bench.figures import Figure

from outcome_exporter.checkpoint import StateStore
from outcome_exporter.config import Config
from outcome_exporter.engine import Engine
from outcome_exporter.exposition import render
from outcome_exporter.log import DurableLog
from outcome_exporter.model import ATTEMPT, SETTLED_SPAN, Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot

ROUNDS = 3
REQUESTS = 60
APART = load.SECOND // 5
"""Between requests: 40,000 spans a second, 440,000 of them pending."""


def config(**changes: object) -> Config:
    """The configuration of the end-to-end run with the default times of traces."""
    return Config.model_validate(CONFIG | {"traces": {}, "time": {}} | changes)


def run(configured: Config, payloads: list[bytes], waiting: int = 0) -> float:
    """CPU seconds from bytes to settled traces, while so many attempts wait for their events."""
    pipeline = Pipeline(configured)
    if waiting:
        pipeline.advance(load.BEGAN)
        # The last one makes the tables grow, which costs what is in them, once, and not here.
        for rows in np.split(attempts(waiting), [waiting - 1]):
            pipeline.outcomes.add_attempts(rows, load.BEGAN // load.SECOND)
    arrival = 0
    begun = time.thread_time()
    for number, payload in enumerate(payloads):
        arrival = load.BEGAN + number * APART + load.SECOND
        batch = pipeline.decode(Kind.TRACES, payload)
        pipeline.ingest(Record(number, arrival, Kind.TRACES, Encoding.NONE, payload, batch))
    # Every trace is settled then, and no attempt has given up yet.
    pipeline.advance(arrival + 150 * load.SECOND)
    return time.thread_time() - begun


def attempts(count: int) -> np.ndarray:
    """Attempts of the first journey that began with the first span."""
    rng = np.random.default_rng(1)
    rows = np.zeros(count, ATTEMPT)
    rows["keys"][:, :2] = rng.integers(1, 1 << 63, (count, 2, 2), np.uint64)
    rows["identity"] = rng.integers(1, 1 << 63, count, np.uint64)
    rows["start"] = load.BEGAN
    rows["end"] = load.BEGAN + load.SECOND
    rows["weight"] = 1_000_000
    return rows


def microseconds(configured: Config, payloads: list[bytes], spans: int, waiting: int = 0) -> float:
    """CPU time of a span."""
    seconds = (run(configured, payloads, waiting) for _ in range(ROUNDS))
    return statistics.median(seconds) / spans * 1e6


def figures(streams: list[Path]) -> Iterator[Figure]:
    """Decode, assembly, settling and span metrics; and how that grows."""
    twice = [request.payload for request in load.synthetic(2 * REQUESTS)]
    payloads = twice[:REQUESTS]
    spans = REQUESTS * load.SPANS
    one = config()
    run(one, payloads[:2])
    base = microseconds(one, payloads, spans)
    yield Figure("decode, assemble, settle, span metrics", f"{base:.2f} CPU s a million spans")
    yield from by_stage(one)
    more = microseconds(one, twice, 2 * spans)
    yield Figure("growth: twice the spans", f"{more / base:.2f} times a span's cost")
    more = microseconds(one, payloads, spans, 1_000_000)
    yield Figure("growth: while a million attempts wait", f"{more / base:.2f} times a span's cost")
    for what, before, after in (
        ("100 journeys instead of 1", journeys(1), journeys(100)),
        ("1,000 SLOs instead of 20, in 20 journeys", journeys(20, 1), journeys(20, 50)),
    ):
        less, more = (
            microseconds(config(journeys=these), payloads, spans) for these in (before, after)
        )
        yield Figure(f"growth: {what}", f"{more / less:.2f} times a span's cost")
    fleets = 50
    more = microseconds(one, list(load.of_fleets(REQUESTS, fleets)), spans)
    services = fleets * (load.SERVICES - 1) + 1
    yield Figure(
        f"growth: {services} services instead of {load.SERVICES}",
        f"{more / base:.2f} times a span's cost",
    )
    usual = ("service.version", "k8s.pod.name")
    less = microseconds(config(causes={"dimensions": ()}), payloads, spans)
    for what, dimensions in (
        ("compared by version and pod, instead of not", usual),
        ("compared by a route of each span as well", (*usual, "http.route")),
    ):
        more = microseconds(config(causes={"dimensions": dimensions}), payloads, spans)
        yield Figure(f"growth: attempts {what}", f"{more / less:.2f} times a span's cost")
    for stream in streams:
        recorded = list(load.recorded(stream, 50))
        pipeline = Pipeline(one)
        count = sum(pipeline.decode(Kind.TRACES, payload).spans.size for payload in recorded)
        cost = microseconds(one, recorded, count)
        yield Figure(f"recorded, {stream.parent.name}", f"{cost:.2f} CPU s a million spans")


def by_stage(configured: Config) -> Iterator[Figure]:
    """What each stage takes of a span's cost, once as many spans settle as come."""
    pipeline = Pipeline(configured)
    taken: Counter[str] = Counter()

    def timed(stage: str, work: Callable[..., object]) -> Callable[..., object]:
        def measured(*arguments: object) -> object:
            begun = time.thread_time()
            result = work(*arguments)
            taken[stage] += time.thread_time() - begun
            return result

        return measured

    for stage, owner, name in (
        ("take spans in", pipeline.traces, "ingest"),
        ("settle traces", pipeline.traces, "_ripe"),
        ("settle traces", pipeline.traces, "_take"),
        ("span metrics", pipeline.spanmetrics, "add"),
        ("blame, learning", pipeline.blame, "observe"),
        ("judge attempts", pipeline.outcomes, "add_attempts"),
        ("events, without decoding", pipeline, "_take_events"),
    ):
        setattr(owner, name, timed(stage, getattr(owner, name)))
    rounds = []
    for number, request in enumerate(load.synthetic((1 + ROUNDS) * REQUESTS)):
        arrival = load.BEGAN + number * APART + load.SECOND
        for place, (stage, kind, payload) in enumerate(
            (
                ("decode spans", Kind.TRACES, request.payload),
                ("decode events", Kind.CLOUDEVENTS, request.events),
            )
        ):
            batch = timed(stage, pipeline.decode)(kind, payload)
            pipeline.ingest(
                Record(2 * number + place, arrival + place, kind, Encoding.NONE, payload, batch)
            )
        if (number + 1) % REQUESTS == 0:
            rounds.append(dict(taken))
            taken.clear()
    for stage in rounds[-1]:
        cost = statistics.median(each[stage] for each in rounds[1:]) / REQUESTS / load.SPANS
        yield Figure(f"steady: {stage}", f"{cost * 1e6:.3f} CPU s a million spans")


def resident_bytes() -> int:
    """Memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def memory() -> Iterator[Figure]:
    """What a pending span holds, in a process that holds nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        size = fresh.submit(pending_span_bytes).result()
    yield Figure("memory of a pending span, its trace included", f"{size:.0f} bytes")
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        by_minute = fresh.submit(steady_bytes).result()
    for minute in (20, 40, 60):
        yield Figure(
            f"memory after {minute} minutes of {STEADY_SPANS:,} spans a second",
            f"{by_minute[minute] >> 20} MB, {by_minute[minute] / by_minute[10]:.3f} times that"
            " after 10",
        )


STEADY_SPANS = 2_000
"""A second."""


def steady_bytes() -> dict[int, int]:
    """Memory that this process holds after every ten minutes of an hour; its clock runs ahead."""
    apart = load.SPANS * load.SECOND // STEADY_SPANS
    now = load.BEGAN
    held = {}
    with tempfile.TemporaryDirectory() as home:
        log = DurableLog(Path(home), max_bytes=1 << 30, keep_nanoseconds=0, now=lambda: now)
        store = StateStore(Path(home))
        engine = Engine(config(), log, store, lambda: now)
        engine.start()
        minutes = range(10, 70, 10)
        for request in load.synthetic(60 * 60 * load.SECOND // apart, apart=apart):
            now += apart
            for kind, payload in (
                (Kind.TRACES, request.payload),
                (Kind.CLOUDEVENTS, request.events),
            ):
                log.append(kind, Encoding.NONE, payload, engine.decode(kind, payload))
            while engine.behind():
                time.sleep(0.001)
            assert engine.failure is None
            for minute in minutes:
                if minute not in held and now >= load.BEGAN + minute * 60 * load.SECOND:
                    gc.collect()
                    held[minute] = resident_bytes()
        engine.stop()
        log.close()
        store.close()
    return held


def pending_span_bytes() -> float:
    """Growth of this process while a million more spans become pending, beside a million."""
    pipeline = Pipeline(config(limits={"pending_spans": 5_000_000}))
    before = held = 0
    for number, request in enumerate(load.synthetic(250, apart=load.SECOND // 1000)):
        if number == 125:
            gc.collect()
            before, held = resident_bytes(), len(pipeline.traces.spans)
        batch = pipeline.decode(Kind.TRACES, request.payload)
        arrival = load.BEGAN + load.SECOND + number
        pipeline.ingest(Record(number, arrival, Kind.TRACES, Encoding.NONE, request.payload, batch))
    gc.collect()
    return (resident_bytes() - before) / (len(pipeline.traces.spans) - held)


def scrape() -> Iterator[Figure]:
    """Time of a scrape, and how long of it the pipeline waits."""
    for series in (10_000, 100_000):
        operations = series // 20
        pipeline = Pipeline(config(limits={"operations": operations + 100}))
        code = pipeline.traces.texts.code
        spans = np.zeros(operations, SETTLED_SPAN)
        spans["service"] = code("frontend")
        spans["operation"] = [code(f"GET /api/page/{number}") for number in range(operations)]
        spans["end"] = 1_000_000
        pipeline.spanmetrics.add(spans, 0)
        pipeline.advance(load.BEGAN)
        held = [_seconds(partial(snapshot, pipeline)) for _ in range(ROUNDS)]
        shown = snapshot(pipeline)
        written = [_seconds(partial(render, shown, openmetrics=True)) for _ in range(ROUNDS)]
        lines = render(shown, openmetrics=True).count(b"\n")
        yield Figure(
            f"/metrics, {lines:,} lines",
            f"{statistics.median(held) + statistics.median(written):.2f} s, "
            f"the pipeline waits for {statistics.median(held) * 1000:.0f} ms",
        )


def _seconds(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun

"""Assembly: which spans make a trace, when it settles, and which of them are attempts."""

import numpy as np
from tests.scenario import START, Span, config, read, reasons, record, run

from outcome_exporter import series
from outcome_exporter.model import Kind
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.units import MINUTE, SECOND

PAY = {"name": "pay", "attempt": {"span": {"name": "pay"}}}


def span(number: int, parent: int = 0, name: str = "step", trace: int = 1, **more) -> Span:
    time = more.pop("start", START + number)
    more.setdefault("end", time + SECOND)
    return Span(trace=trace, id=number, parent=parent, start=time, name=name, **more)


def late(pipeline) -> float:
    return read(pipeline, series.LATE_SPANS)[()]


def test_a_span_is_late_as_long_as_its_trace_is_remembered_and_no_longer():
    for after, expected in ((100, 1), (200, 0)):
        arrivals = [(START, [span(1)]), (START + after * SECOND, [span(2)])]
        assert late(run(config(PAY), arrivals)) == expected


def test_parents_in_a_circle_lose_no_attempt_and_hide_no_other():
    spans = [
        span(1, 2, "pay"),
        span(2, 1, "pay"),
        span(3, 3, "pay"),  # its own parent
        span(4, 1, "step"),
        span(5, 6),
        span(6, 5),
        span(7, 5),
        span(8, 0, "pay"),
        span(9, 8, "pay"),  # below 8, whatever the circles cost
    ]
    pipeline = run(config(PAY), [(START, spans)], START + MINUTE)
    assert reasons(pipeline) == {"ok": 3}  # one of 1 and 2, 3, and 8


def test_settled_parents_are_a_forest():
    rng = np.random.default_rng(7)
    pipeline = Pipeline(config(PAY))
    for trace in range(1, 60):
        size = int(rng.integers(2, 60))
        spans = [
            span(n, int(rng.integers(0, size)), trace=trace, start=START + int(rng.integers(50)))
            for n in range(1, size)
        ]
        pipeline.traces.ingest(pipeline.decode(Kind.TRACES, payload(spans)), START)
    for settled in settle_all(pipeline):
        for first, end in zip(settled.starts, settled.starts[1:], strict=False):
            parents = settled.spans["parent"][first:end].tolist()
            for place in range(end - first):
                steps = 0
                while place >= 0:
                    place = parents[place]  # noqa: PLW2901
                    steps += 1
                    assert steps <= end - first


def payload(spans) -> bytes:
    return record(0, START, spans).payload


def settle_all(pipeline: Pipeline):
    for second in range(START // SECOND, START // SECOND + 200):
        yield from pipeline.traces.settle(second)


def test_names_that_differ_only_behind_what_is_kept_of_them_are_matched_apart():
    journey = {"name": "pay", "attempt": {"span": {"name": "*/pay"}}}
    long = "x" * 250
    spans = [
        span(n, trace=n, name=long + end, end=START + n)
        for n, end in enumerate(["/look", "/pay", "/look", "/pay"], start=1)
    ]
    assert reasons(run(config(journey), [(START, spans)], START + MINUTE)) == {"ok": 2}


def restored(pipeline: Pipeline, configuration=None) -> Pipeline:
    fresh = Pipeline(configuration or pipeline.config)
    fresh.restore(*pipeline.dump(), pipeline.next_offset)
    return fresh


def test_a_trace_that_waits_for_its_root_settles_at_its_age_after_a_restart_too():
    pipeline = run(config(PAY), [(START, [span(1, 99, "pay")])], START + 60 * SECOND)
    for each in (pipeline, restored(pipeline)):
        each.advance(START + 120 * SECOND)
        assert reasons(each) == {}
        each.advance(START + 122 * SECOND)
        assert reasons(each) == {"ok": 1}


def test_a_trace_that_is_never_quiet_settles_at_its_age_after_a_restart_too():
    arrivals = [(START + n * 5 * SECOND, [span(n + 1, n)]) for n in range(24)]
    arrivals[0] = (START, [span(1, 0, "pay")])
    pipeline = run(config(PAY), arrivals)
    for each in (pipeline, restored(pipeline)):
        each.advance(START + 122 * SECOND)
        assert reasons(each) == {"ok": 1}


def test_a_trace_without_a_quiet_time_settles_too():
    traces = {"quiet": "0", "max_age": "2m"}
    arrivals = [(START, [span(2, 1)]), (START + 3 * SECOND, [span(1, 0, "pay")])]
    pipeline = run(config(PAY, traces=traces), arrivals, START + 6 * SECOND)
    assert reasons(pipeline) == {"ok": 1}


def test_a_limit_above_all_memory_is_one_that_is_never_reached():
    limits = {"pending_spans": 1_000_000_000}
    pipeline = run(config(PAY, limits=limits), [(START, [span(1, 0, "pay")])], START + MINUTE)
    assert reasons(pipeline) == {"ok": 1}

"""Span metrics: what is counted under which name, within the limit."""

from tests.scenario import START, Span, config, read, record, run

from outcome_exporter import series
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.units import MILLISECOND, MINUTE

CONFIG = config(limits={"operations": 10})


def spans(names, first=1):
    return [
        Span(n, 1, START, START + 7 * MILLISECOND, name=name) for n, name in enumerate(names, first)
    ]


def calls(pipeline) -> dict[str, float]:
    return {labels[1]: value for labels, value in read(pipeline, series.SPAN_CALLS).items()}


def test_every_operation_has_its_calls_and_its_durations():
    pipeline = run(CONFIG, [(START, spans(["a", "b", "a"]))], START + MINUTE)
    assert calls(pipeline) == {"a": 2, "b": 1}
    histogram = read(pipeline, series.SPAN_DURATION)[
        "frontend", "a", "SPAN_KIND_SERVER", "STATUS_CODE_UNSET"
    ]
    assert histogram.sum == 0.014
    assert histogram.counts[histogram.bounds.index(0.008)] == 2


def test_operations_beyond_the_limit_are_other_and_every_call_is_counted():
    pipeline = run(CONFIG, [(START, spans([f"op{n}" for n in range(50)]))], START + MINUTE)
    shown = calls(pipeline)
    assert sum(shown.values()) == 50
    assert len(shown) <= 11
    assert shown["other"] == 50 - (len(shown) - 1)


def test_the_limit_is_the_same_after_any_number_of_restarts():
    pipeline = run(CONFIG, [(START, spans([f"op{n}" for n in range(5)]))], START + MINUTE)
    for _ in range(3):
        again = Pipeline(CONFIG)
        again.restore(*pipeline.dump(), pipeline.next_offset)
        pipeline = again
    more = spans([f"more{n}" for n in range(50)], first=100)
    pipeline.ingest(record(5, START + 2 * MINUTE, more))
    pipeline.advance(START + 3 * MINUTE)
    shown = calls(pipeline)
    assert sum(shown.values()) == 55
    assert len(shown) <= 11

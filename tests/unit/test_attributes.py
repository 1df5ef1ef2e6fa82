"""Attributes as keys, money and weights, and the sums they go into."""

from itertools import pairwise

import numpy as np
import pytest
from tests.scenario import START, Span, config, read, record, run

from outcome_exporter import series
from outcome_exporter.kernels.attributes import adjusted_count, decimal
from outcome_exporter.model import NO_VALUE
from outcome_exporter.units import HOUR, MILLIONTHS, SECOND

JOURNEY = {
    "name": "pay",
    "attempt": {"span": {}},
    "value": {"attribute": "total", "currency": "USD"},
    "slos": [{"name": "paid", "objective": 99, "good": {"error": False}}],
}


def over(function, text: str) -> int:
    source = np.frombuffer(text.encode() or b" ", np.uint8)
    return function(source, 0, len(text.encode()))


@pytest.mark.parametrize(
    ("tracestate", "attempts"),
    [
        ("", 1),
        ("ot=th:0", 1),
        ("ot=th:8", 2),
        ("ot=th:c", 4),
        ("ot=th:e", 8),
        ("ot=rv:1234;th:c", 4),
        ("vendor=th:c,ot=th:8", 2),
        (" a=b ,\t ot=th:8 , c=d", 2),
        ("ot=th:fff", 4096),
        ("ot=th:ffffffffffffff", 1 << 20),  # 2^56 of them: nobody samples so
    ],
)
def test_a_span_stands_for_as_many_attempts_as_its_threshold_says(tracestate, attempts):
    assert over(adjusted_count, tracestate) == attempts * MILLIONTHS


@pytest.mark.parametrize(
    "tracestate",
    ["ot=th:", "ot=th:C", "ot=th:xyz", "ot=th:8z", "ot=th:800000000000000", "bot=th:8", "ot=p:8"],
)
def test_a_threshold_that_is_none_counts_as_absent(tracestate):
    assert over(adjusted_count, tracestate) == MILLIONTHS


@pytest.mark.parametrize(
    ("text", "millionths"),
    [
        ("12", 12_000_000),
        ("12.50", 12_500_000),
        (".5", 500_000),
        ("7.", 7_000_000),
        ("0.0000019", 1),
        ("1000000000000", 10**18),
        ("1000000000001", NO_VALUE),
        ("-1", NO_VALUE),
        ("1e3", NO_VALUE),
        ("1.2.3", NO_VALUE),
        (".", NO_VALUE),
        ("", NO_VALUE),
        ("12 USD", NO_VALUE),
    ],
)
def test_money_is_read_exactly_or_not_at_all(text, millionths):
    assert over(decimal, text) == millionths


def test_no_sum_ever_turns_back_whatever_senders_make_up():
    pipeline = run(config(JOURNEY), [])
    shown = []
    for n in range(1, 40):
        time = START + n * 20 * SECOND
        span = Span(
            trace=n,
            id=1,
            start=1,
            end=time,
            tracestate="ot=th:ffffffffffffff",
            attributes={"total": "1000000000000"},
        )
        pipeline = pipeline_with(pipeline, n, time, span)
        shown.append(
            (
                read(pipeline, series.VALUE)["pay", "USD", "achieved"],
                read(pipeline, series.SLO_EVENTS)["paid", "good"],
                read(pipeline, series.ATTEMPT_DURATION)["pay",].sum,
                *(each.sum for each in read(pipeline, series.SPAN_DURATION).values()),
            )
        )
    for before, after in pairwise(shown):
        assert all(a <= b for a, b in zip(before, after, strict=True)), (before, after)
    assert min(shown[-1]) > 0


def pipeline_with(pipeline, offset, time, span):
    pipeline.ingest(record(offset, time, [span]))
    pipeline.advance(time + 15 * SECOND)
    return pipeline


def test_a_span_without_a_start_or_an_end_has_no_duration():
    spans = [Span(trace=1, id=1, start=0, end=START), Span(trace=2, id=1, start=START, end=0)]
    pipeline = run(config(JOURNEY), [(START, spans)], START + HOUR)
    assert read(pipeline, series.ATTEMPT_DURATION)["pay",].sum == 0
    assert read(pipeline, series.SLO_WINDOW_EVENTS)["paid", "2h", "good"] == 2

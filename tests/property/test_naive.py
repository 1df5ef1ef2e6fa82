"""The compiled stages count what the naive ones count, to the last millionth."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.naive import ONE, Naive
from tests.property import scenarios
from tests.scenario import START, read, records

from outcome_exporter import series
from outcome_exporter.kernels import assembly, joining
from outcome_exporter.model import REASONS
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.units import SECOND
from outcome_exporter.users import WINDOWS

LEAPS = st.sampled_from([0, 7, 35, 61, 300, 3_600, 90_000, 4_000_000])
"""Seconds after the last arrival at which everything is compared once more."""


def compare(naive: Naive, pipeline: Pipeline) -> None:
    journeys = {journey.name: journey for journey in pipeline.plan.journeys}
    attempts = defaultdict(int)
    for row in pipeline.outcomes.combinations:
        name = pipeline.plan.journeys[row["journey"]].name
        labels = pipeline.traces.label_values(row["journey"], int(row["labels"]))
        for reason, count in zip(REASONS, row["counts"].tolist(), strict=True):
            attempts[name, labels, reason] += count
    assert {k: v for k, v in attempts.items() if v} == {k: v for k, v in naive.reasons.items() if v}
    shown = read(pipeline, series.VALUE)
    for (name, _, state), value in shown.items():
        assert value == naive.value[name, state] / ONE, (name, state)
    assert read(pipeline, series.SLO_EVENTS) == {
        (slo.name, result): naive.slo_events[slo.name, result] / ONE
        for _, slo in pipeline.plan.slos
        for result in ("good", "bad")
    }
    windows = pipeline.slos
    for i, (_, slo) in enumerate(pipeline.plan.slos):
        for length, good, bad in windows.window_events(i):
            expected = naive.window(slo, length)
            assert (good, bad) == (expected[0] / ONE, expected[1] / ONE), (slo.name, length)
    waiting = defaultdict(int)
    for attempt in naive.attempts:
        waiting[attempt.journey.name,] += 1
    assert read(pipeline, series.PENDING_ATTEMPTS) == {(n,): waiting[n,] for n in journeys}
    for (event_type,), count in read(pipeline, series.EVENTS_UNMATCHED).items():
        assert count == naive.unmatched[event_type], event_type
    for (name,), histogram in read(pipeline, series.ATTEMPT_DURATION).items():
        weights = naive.durations[name]
        assert sum(histogram.counts) == sum(weight for _, weight in weights) / ONE
        below = sum(w for d, w in weights if d <= 10**9) / ONE  # bounds include themselves
        assert sum(histogram.counts[: histogram.bounds.index(1.0) + 1]) == below
        total = sum(duration // 1000 * weight // ONE for duration, weight in weights)
        assert histogram.sum == total / 10**6
    calls = {
        (service, name, f"SPAN_KIND_{kinds(kind)}", f"STATUS_CODE_{statuses(status)}"): count
        for (service, name, kind, status), count in naive.calls.items()
    }
    assert read(pipeline, series.SPAN_CALLS) == calls
    for (journey, outcome, window), count in read(pipeline, series.USERS).items():
        _, length, slices = next(each for each in WINDOWS if each[0] == window)
        assert count == naive.distinct_users(journey, outcome, length, slices), (journey, outcome)
    counts = pipeline.traces.counts
    assert counts[assembly.DUPLICATES] == naive.duplicates["span"]
    assert counts[assembly.LATE] == naive.late
    assert counts[assembly.AHEAD] == naive.ahead
    assert pipeline.outcomes.counts[joining.DUPLICATE_ATTEMPTS] == naive.duplicates["attempt"]
    assert pipeline.outcomes.counts[joining.DUPLICATE_EVENTS] == naive.duplicates["event"]
    assert pipeline.slos.totals.too_old[0] == naive.too_old


def kinds(kind: int) -> str:
    return ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT")[kind]


def statuses(status: int) -> str:
    return ("UNSET", "OK", "ERROR")[status]


@settings(max_examples=80)
@given(scenarios.arrivals(), st.lists(st.sampled_from([1, 7, 35, 61, 300, 3_600]), max_size=3))
def test_every_count_is_that_of_the_naive_pipeline(arrivals, pauses):
    naive, pipeline = Naive(scenarios.CONFIG), Pipeline(scenarios.CONFIG)
    now = START
    for record, (_, items) in zip(records(arrivals), arrivals, strict=True):
        naive.take(record.arrival_unix_nano, items)
        pipeline.ingest(record)
        now = record.arrival_unix_nano
    compare_when_begun(naive, pipeline)
    for pause in pauses:
        now += pause * SECOND
        naive.advance(now)
        pipeline.advance(now)
        compare_when_begun(naive, pipeline)


def compare_when_begun(naive: Naive, pipeline: Pipeline) -> None:
    if naive.second is not None:
        compare(naive, pipeline)

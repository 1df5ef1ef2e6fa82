"""Budgets against a slow, obvious reference that keeps every event."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outcome_exporter import budgets, slo
from outcome_exporter.config import Config
from outcome_exporter.config.slos import Budgeting, Calendar
from outcome_exporter.model import BUCKET, VERDICT
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.units import DAY, HOUR, MILLIONTHS, MINUTE, SECOND

NOW = 1_711_850_400 // 60
"""Sunday 31 March 2024, 04:00 in Berlin: an hour after its clocks went forward."""

EVENTS = st.lists(
    st.tuples(st.integers(0, 3_000), st.booleans(), st.integers(1, 9)), min_size=1, max_size=60
)
"""Minutes ago, whether it was bad, how many."""
METHODS = st.sampled_from(["occurrences", "timeslices", "ratio_timeslices"])
SLICES = st.sampled_from([1, 5, 10, 60])


class Store:
    """What a checkpoint would have stored."""

    def __init__(self):
        self.rows = np.empty(0, BUCKET)

    def read_minute(self, minute):
        return self.rows[self.rows["minute"] == minute]

    def read_minutes(self, first, last):
        return self.rows[(self.rows["minute"] >= first) & (self.rows["minute"] <= last)]

    def sum_minutes(self, first, last):
        mine = self.rows[(self.rows["minute"] >= first) & (self.rows["minute"] <= last)]
        sums = np.zeros(np.unique(mine["slo"]).size, BUCKET)
        for row, number in zip(sums, np.unique(mine["slo"]), strict=True):
            row["slo"] = number
            for name in ("good", "bad", "value"):
                row[name] = mine[name][mine["slo"] == number].sum()
        return sums


def config_of(*slos, **more):
    defaults = {"objective": 99, "window": "2d"}
    selector = {"prometheus": {"bad": "b", "total": "t"}}
    return Config.model_validate(
        {
            "prometheus": {"url": "http://p"},
            "slos": [
                {**({} if "calendar" in each else defaults), "objective": 99, "sli": selector}
                | {"name": f"s{at}"}
                | each
                for at, each in enumerate(slos)
            ],
            **more,
        },
        context={"from_file": True},
    )


def verdicts(events, number=0):
    rows = np.zeros(len(events), VERDICT)
    for row, (ago, bad, count) in zip(rows, events, strict=True):
        row["slo"], row["bad"], row["weight"] = number, bad, count * MILLIONTHS
        row["time"] = (NOW - ago) * MINUTE + 7 * SECOND
    return rows


def pipeline_of(config, *events, chunks=1):
    """A pipeline that has seen the events of each SLO, some of them through a checkpoint."""
    store = Store()
    pipeline = Pipeline(config, store)
    # Begin early, so that the clock passes the minutes; all arrive late, at the end.
    pipeline.advance((NOW - 100) * MINUTE)
    pipeline.advance(NOW * MINUTE + 30 * SECOND)
    for number, of in enumerate(events):
        for chunk in np.array_split(verdicts(of, number), chunks):
            pipeline.slos.add(chunk)
    return pipeline, store


def reloaded(config, pipeline, store):
    """The same after a restart."""
    store.rows = np.concatenate([store.rows, pipeline.slos.fresh().copy()])
    pipeline.slos.flushed()
    other = Pipeline(config, store)
    meta, arrays = pipeline.dump()
    other.restore(meta, {name: array.copy() for name, array in arrays.items()}, 1)
    return other


def window(pipeline, number, length):
    return next(
        (good, bad) for each, good, bad in pipeline.slos.window_events(number) if each == length
    )


def reference(events, first, last, budgeting, slices, corrected=()):
    """Good and bad of the minutes first to last."""
    kept = [
        ((NOW - ago), bad, count)
        for ago, bad, count in events
        if first <= NOW - ago <= last and not any(a <= NOW - ago < b for a, b in corrected)
    ]
    if budgeting.method == "occurrences":
        return (
            sum(count for _, bad, count in kept if not bad),
            sum(count for _, bad, count in kept if bad),
        )
    length = budgeting.slice // MINUTE
    by_slice = {}
    for minute, bad, count in kept:
        pair = by_slice.setdefault(minute // length, [0, 0])
        pair[bad] += count
    if not by_slice:
        return 0, 0
    if budgeting.method == "timeslices":
        bad_slices = sum(
            100 * good < float(budgeting.target) * (good + bad) for good, bad in by_slice.values()
        )
        return slices - bad_slices, bad_slices
    shares = [good / (good + bad) for good, bad in by_slice.values()]
    return sum(shares), sum(1 - share for share in shares)


@settings(max_examples=60)
@given(events=EVENTS, method=METHODS, each=SLICES, target=st.sampled_from([50, 90, 99.5]))
def test_every_method_counts_what_a_list_of_events_says(events, method, each, target):
    spec = {"method": method, "slice": f"{each}m", "target": target}
    config = config_of({"budgeting": spec})
    pipeline, store = pipeline_of(config, events, chunks=3)
    budgeting = Budgeting.model_validate(spec, context={"from_file": True})
    for shown in (pipeline, reloaded(config, pipeline, store)):
        for length in config.standalone[0].windows:
            first, slices = NOW - length // MINUTE + 1, 0
            if method != "occurrences":
                slices = max(length // MINUTE // each, 1)
                first = (NOW // each - slices + 1) * each
            expected = reference(events, first, NOW, budgeting, slices)
            assert window(shown, 0, length) == pytest.approx(expected), length


@settings(max_examples=40)
@given(
    events=EVENTS,
    times=st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 500)), min_size=1, max_size=3),
)
def test_a_correction_takes_its_minutes_out_also_in_hindsight(events, times):
    spans = [(NOW - ago, NOW - ago + length) for ago, length in times]
    corrections = [
        {"slos": ["s*"], "start": iso(first), "end": iso(end), "reason": "moved house"}
        for first, end in spans
    ]
    before = config_of({})
    after = config_of({}, corrections=corrections)
    pipeline, store = pipeline_of(before, events)
    shown = reloaded(after, pipeline, store)
    for length in after.standalone[0].windows:
        first = NOW - length // MINUTE + 1
        expected = reference(events, first, NOW, Budgeting(), 0, spans)
        assert window(shown, 0, length) == pytest.approx(expected)
    whole = reference(events, NOW - 2 * 1440 + 1, NOW, Budgeting(), 0)
    left = window(shown, 0, 2 * DAY)
    taken = shown.slos.corrected_events(0)
    assert [a + b for a, b in zip(left, taken, strict=True)] == pytest.approx(list(whole))


def iso(minute):
    return datetime.fromtimestamp(minute * 60, UTC).isoformat()


@settings(max_examples=40)
@given(
    one=EVENTS,
    other=EVENTS,
    weights=st.tuples(st.sampled_from([0.1, 1, 2, 5]), st.sampled_from([0.2, 1, 3])),
)
@example(one=[(1, 0, 1)], other=[(1, 0, 6)], weights=(0.1, 0.2))
def test_a_composite_is_the_weighted_mean_of_its_parts(one, other, weights):
    parts = [{"slo": f"s{at}", "weight": weight} for at, weight in enumerate(weights)]
    config = config_of({}, {}, {"sli": {"composite": parts}, "window": "1d"})
    pipeline, _ = pipeline_of(config, one, other)
    for length in config.standalone[2].windows:
        first = NOW - length // MINUTE + 1
        pairs = [reference(events, first, NOW, Budgeting(), 0) for events in (one, other)]
        busy = [(g / (g + b), w) for (g, b), w in zip(pairs, weights, strict=True) if g + b]
        good, bad = window(pipeline, 2, length)
        assert good + bad == pytest.approx(sum(map(sum, pairs)))
        assert [good != 0, bad != 0] == [any(of) for of in zip(*pairs, strict=True)]
        if busy:
            mean = sum(share * weight for share, weight in busy) / sum(w for _, w in busy)
            assert slo.sli(good, bad) == pytest.approx(mean)
    assert sum(pipeline.slos.events(2)) == sum(count for _, _, count in one + other)


def test_a_correction_of_a_composite_takes_its_minutes_out_of_its_parts_there_alone():
    maintenance = {"start": iso(NOW - 30), "end": iso(NOW - 19)}
    correction = {"slos": ["s1"], **maintenance}
    composite = {"sli": {"composite": [{"slo": "s0"}]}}
    config = config_of({}, composite, corrections=[correction])
    pipeline, _ = pipeline_of(config, [(20, 1, 7), (40, 0, 3)])
    assert window(pipeline, 0, HOUR) == (3, 7)
    assert window(pipeline, 1, HOUR) == (3, 0)
    assert pipeline.slos.corrected_events(0) == (0, 0)
    assert pipeline.slos.corrected_events(1) == (0, 7)


ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
)


@given(
    minute=st.integers(0, 4_000_000_000 // 60),
    name=st.sampled_from(["week", "month", "quarter", "year"]),
    zone=ZONES,
)
def test_a_period_holds_its_minute_and_begins_at_a_midnight(minute, name, zone):
    span = budgets.period(Calendar(period=name, time_zone=zone), minute)
    assert span.first <= minute < span.end
    longest = {"week": 7, "month": 31, "quarter": 92, "year": 366}[name]
    assert span.end - span.first <= longest * 1440 + 60
    for edge in (span.first, span.end):
        local = datetime.fromtimestamp(edge * 60, ZoneInfo(zone))
        assert (local.hour, local.minute) == (0, 0)
        assert local.weekday() == 0 if name == "week" else local.day == 1
    assert budgets.period(Calendar(period=name, time_zone=zone), span.end).first == span.end


def test_a_month_with_a_change_to_summer_time_is_an_hour_shorter():
    berlin = budgets.period(Calendar(period="month", time_zone="Europe/Berlin"), NOW)
    utc = budgets.period(Calendar(period="month"), NOW)
    assert utc.end - utc.first == 31 * 1440
    assert berlin.end - berlin.first == 31 * 1440 - 60
    day = timedelta(minutes=NOW - berlin.first) - timedelta(days=30)
    assert day == timedelta(hours=3), "four o'clock, three hours after midnight"


@settings(max_examples=30)
@given(events=EVENTS, method=METHODS)
def test_a_calendar_window_holds_its_period_so_far(events, method):
    calendar = {"period": "week", "time_zone": "Europe/Berlin"}
    config = config_of({"calendar": calendar, "budgeting": {"method": method}})
    pipeline, _ = pipeline_of(config, events)
    span = budgets.period(Calendar(**calendar), NOW)
    slices = span.end - span.first
    assert slices == 7 * 1440 - 60
    expected = reference(events, span.first, NOW, Budgeting(method=method), slices)
    assert window(pipeline, 0, 7 * DAY) == pytest.approx(expected)


def test_a_new_period_begins_with_a_whole_budget():
    config = config_of({"calendar": {"period": "week"}})
    pipeline, _ = pipeline_of(config, [(5, True, 10)])
    assert window(pipeline, 0, 7 * DAY) == (0, 10)
    pipeline.advance((NOW + 1440) * MINUTE)
    assert window(pipeline, 0, 7 * DAY) == (0, 0)
    assert window(pipeline, 0, DAY) == (0, 0)
    assert window(pipeline, 0, 3 * DAY) == (0, 10)


@settings(max_examples=40)
@given(events=EVENTS, steps=st.lists(st.integers(1, 900), max_size=4))
def test_as_time_goes_on_minutes_leave_the_window(events, steps):
    """An SLO that keeps its minutes reads as one that keeps sums."""
    config = config_of(
        {},
        {},
        corrections=[
            {"slos": ["s1"], "start": "2001-01-01T00:00:00Z", "end": "2001-01-02T00:00:00Z"}
        ],
    )
    pipeline, _ = pipeline_of(config, events, events)
    now = NOW
    for step in [0, *steps]:
        now += step
        pipeline.advance(now * MINUTE)
        assert pipeline.slos.window_events(0) == pipeline.slos.window_events(1)


@given(good=st.integers(0, 10**9), bad=st.integers(0, 10**9))
def test_the_interval_holds_the_sli_and_narrows_with_events(good, bad):
    lower, upper = slo.wilson(good, bad)
    assert 0 <= lower <= slo.sli(good, bad) + 1e-12
    assert slo.sli(good, bad) - 1e-12 <= upper <= 1
    if good + bad:
        wide, narrow = upper - lower, np.subtract(*slo.wilson(100 * good, 100 * bad)[::-1])
        assert narrow < wide


def test_the_interval_of_a_known_case():
    # 9 of 10: (0.5958, 0.9821), as tables have it.
    assert slo.wilson(9, 1) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert slo.wilson(0, 0) == (0, 1)

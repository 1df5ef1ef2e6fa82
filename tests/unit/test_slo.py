"""Windows and budgets: exact sums by event time, as time goes by."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scenario import START, MemoryStore, config, read

from outcome_exporter import check, page, series, slo
from outcome_exporter.config import Config
from outcome_exporter.kernels import buckets
from outcome_exporter.model import BUCKET, VERDICT
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import DAY, MILLIONTHS, MINUTE, SECOND

MIDNIGHT = START // DAY * DAY


def promised(objective: float = 99.9, window: str = "28d"):
    promise = {"name": "slo", "objective": objective, "window": window, "good": {"error": False}}
    return config({"name": "journey", "attempt": {"span": {}}, "slos": [promise]})


class Watch:
    """A pipeline that is given verdicts straight away."""

    def __init__(self, store=None, **promise) -> None:
        self.pipeline = Pipeline(promised(**promise), store)
        self.pipeline.advance(MIDNIGHT)

    def count(self, time: int, good: int = 0, bad: int = 0) -> None:
        """Good and bad events, in millionths."""
        verdicts = np.zeros(2, VERDICT)
        verdicts["time"] = time
        verdicts["weight"] = good, bad
        verdicts["bad"] = 0, 1
        self.pipeline.slos.add(verdicts[verdicts["weight"] > 0])

    def minutes(self, counts) -> None:
        """Good and bad events of one minute after the other."""
        for good, bad in counts:
            self.pipeline.advance(self.now + MINUTE)
            self.count(self.now, good * MILLIONTHS, bad * MILLIONTHS)

    def pass_(self, duration: int) -> None:
        self.pipeline.advance(self.now + duration)

    @property
    def now(self) -> int:
        return self.pipeline.second * SECOND

    def one(self, family) -> float:
        return read(self.pipeline, family)["slo",]

    @property
    def budget_left(self) -> float:
        return self.one(series.SLO_BUDGET_REMAINING)

    @property
    def traffic(self) -> str:
        states = read(self.pipeline, series.SLO_TRAFFIC_STATE)
        (state,) = [labels[1] for labels, value in states.items() if value]
        return state

    def window(self, name: str) -> tuple[float, float]:
        events = read(self.pipeline, series.SLO_WINDOW_EVENTS)
        return events["slo", name, "good"], events["slo", name, "bad"]


def day_of(busy: int, quiet: int, *, bad_share_busy: float, bad_share_quiet: float) -> list:
    """A day with one hour that differs from the others, in events a minute."""

    def counts(events, share):
        bad = round(events * share)
        return [(events - bad, bad)] * 60

    return counts(busy, bad_share_busy) + counts(quiet, bad_share_quiet) * 23


# What is true of these days at an objective of 99.9, worked out from their counts alone ---------


def truth(days: list) -> float:
    good = sum(g for g, _ in days)
    bad = sum(b for _, b in days)
    return float(1 - Fraction(bad, good + bad) / Fraction(1, 1000))


def test_half_of_a_quiet_hour_a_day_costs_what_its_few_events_weigh():
    # One hour a day with ten events in all, five of which fail; 507 a minute in the others.
    hour = [(1, 1)] * 5 + [(0, 0)] * 55
    day = hour + [(507, 0)] * (23 * 60)
    watch = Watch()
    for _ in range(3):
        watch.minutes(day)
    assert watch.budget_left == pytest.approx(truth(day), abs=1e-9)
    assert abs(watch.budget_left - 0.993) < 0.001


def test_one_percent_of_the_one_busy_hour_overspends_the_budget_nine_times():
    day = day_of(10_000, 3, bad_share_busy=0.01, bad_share_quiet=0)
    watch = Watch()
    for _ in range(3):
        watch.minutes(day)
    assert watch.budget_left == pytest.approx(truth(day), abs=1e-9)
    assert abs(watch.budget_left + 8.92) < 0.02
    assert watch.one(series.SLO_BUDGET_EXHAUSTION) == 0


def test_ten_idle_minutes_change_no_budget_and_are_no_traffic():
    watch = Watch()
    watch.minutes([(100, 0)] * 90 + [(0, 0)] * 10)
    assert watch.budget_left == 1
    assert watch.traffic == "none"
    assert read(watch.pipeline, series.SLO_SLI)["slo", "5m"] == 1
    assert read(watch.pipeline, series.SLO_BURN_RATE)["slo", "5m"] == 0
    assert watch.window("2h") == (9_000, 0)


def test_a_first_event_that_fails_is_counted():
    watch = Watch()
    watch.minutes([(0, 1)])
    assert watch.budget_left == pytest.approx(-999)
    assert read(watch.pipeline, series.SLO_EVENTS) == {("slo", "good"): 0, ("slo", "bad"): 1}
    assert read(watch.pipeline, series.SLO_SLI)["slo", "5m"] == 0


def test_no_failure_ever_leaves_all_of_the_budget():
    watch = Watch()
    assert watch.budget_left == 1  # present before the first event
    for _ in range(3):
        watch.minutes(day_of(100, 10, bad_share_busy=0, bad_share_quiet=0))
        assert watch.budget_left == 1
    assert read(watch.pipeline, series.SLO_EVENTS)["slo", "bad"] == 0
    assert watch.one(series.SLO_BUDGET_EXHAUSTION) == 28 * DAY / SECOND


# States and times -------------------------------------------------------------------------------


def test_traffic_is_low_while_a_single_failure_would_page():
    watch = Watch()  # pages at a burn rate of 13.44: one of 74.4 events
    watch.minutes([(74, 0)])
    assert watch.traffic == "low"
    watch.minutes([(1, 0)])
    assert watch.traffic == "normal"
    watch.pass_(5 * MINUTE)
    assert watch.traffic == "none"


def test_the_budget_is_exhausted_when_the_rate_of_six_hours_has_spent_what_is_left():
    watch = Watch(window="7d")
    watch.minutes([(1_000, 0)] * 24 * 60)
    watch.minutes([(998, 2)] * 6 * 60)
    good, bad = watch.window("7d")
    left = 1 - bad / (good + bad) / 0.001
    assert watch.budget_left == pytest.approx(left)
    # Twice as fast as allowed, so what is left of a week's budget lasts half its share of a week.
    assert watch.one(series.SLO_BUDGET_EXHAUSTION) == pytest.approx(left * 7 * 86_400 / 2)


@pytest.mark.parametrize(
    ("name", "minutes"), [("5m", 5), ("30m", 30), ("1h", 60), ("6h", 360), ("1d", 1_440)]
)
def test_an_event_enters_a_window_with_its_minute_and_leaves_when_that_is_over(name, minutes):
    watch = Watch()
    watch.count(watch.now, bad=MILLIONTHS)
    watch.pass_((minutes - 1) * MINUTE + 59 * SECOND)
    assert watch.window(name) == (0, 1)
    watch.pass_(SECOND)
    assert watch.window(name) == (0, 0)


def test_an_event_ahead_of_the_clock_enters_when_its_minute_comes():
    watch = Watch()
    watch.count(watch.now + 3 * MINUTE, good=MILLIONTHS)
    assert watch.window("5m") == (0, 0)
    watch.pass_(3 * MINUTE)
    assert watch.window("5m") == (1, 0)


def test_what_is_older_than_every_window_is_counted_but_in_no_window():
    watch = Watch()
    watch.count(watch.now - 29 * DAY, bad=MILLIONTHS)
    assert watch.window("28d") == (0, 0)
    assert read(watch.pipeline, series.SLO_EVENTS)["slo", "bad"] == 1
    assert read(watch.pipeline, series.SKEWED_TIMES)["outcome_too_old",] == 1


STEPS = st.sampled_from([0, 1, 30, 60, 299, 3_600, 3 * 3_600 + 60, 86_400, 3 * 86_400])


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(STEPS, st.integers(-4_000, 12), st.integers(0, 10**9), st.booleans()),
        max_size=12,
    ),
    st.lists(st.integers(0, 11), max_size=3),
)
def test_windows_are_the_sums_of_their_minutes_however_time_passes(steps, checkpoints):
    store = MemoryStore()
    watch = Watch(store, window="2d")
    counted = []
    for n, (pause, ahead, weight, bad) in enumerate(steps):
        watch.pass_(pause * SECOND)
        time = watch.now + ahead * MINUTE
        if weight:
            watch.count(time, **{"bad" if bad else "good": weight})
            counted.append((time // MINUTE, weight, bad))
        if n in checkpoints:
            store.add(watch.pipeline.slos.fresh())
            watch.pipeline.slos.flushed()
        minute = watch.now // MINUTE
        for length, *sums in watch.pipeline.slos.window_events(0):
            expected = [
                sum(
                    w
                    for m, w, was_bad in counted
                    if was_bad == bad_ and minute - length // MINUTE < m <= minute
                )
                / MILLIONTHS
                for bad_ in (False, True)
            ]
            # What came too late for every window stays out for good.
            assert sums == expected, length


def test_a_minute_that_begins_brings_its_buckets_and_takes_what_is_as_old_as_a_window():
    windows = buckets.Windows(
        first=np.array([0, 2, 3]),
        minutes=np.array([5, 30, 5]),
        sums=np.full((3, 3), 1_000),
    )
    now = MIDNIGHT // MINUTE
    rows = np.array(
        [
            (0, now, 1, 2, 3),
            (0, now - 5, 10, 20, 30),
            (1, now - 30, 100, 100, 100),  # that SLO has no such window
            (1, now - 5, 4, 5, 6),
            (0, now - 4, 100, 100, 100),
            (0, now + 1, 100, 100, 100),
        ],
        BUCKET,
    )
    buckets.move_on(windows, rows, now)
    assert windows.sums.tolist() == [[991, 982, 973], [1_001, 1_002, 1_003], [996, 995, 994]]


def test_a_window_that_is_new_is_summed_from_the_buckets():
    store = MemoryStore()
    watch = Watch(store)
    watch.minutes([(10, 1)] * 120)
    store.add(watch.pipeline.slos.fresh())
    watch.pipeline.slos.flushed()
    moved = Pipeline(promised(window="100m"), store)
    moved.restore(*watch.pipeline.dump(), 0)
    events = read(moved, series.SLO_WINDOW_EVENTS)
    assert events["slo", "1h40m", "good"] == 1_000
    assert events["slo", "2h", "bad"] == 120


def test_formulas_at_their_edges():
    (_, promise), *_ = promised().slos
    assert slo.sli(0, 0) == 1
    assert slo.burn_rate(promise, 0, 0) == 0
    assert slo.burn_rate(promise, 999, 1) == pytest.approx(1)
    assert slo.budget_remaining(promise, 999, 1) == pytest.approx(0)
    assert slo.exhaustion_seconds(promise, 1, 0) == 28 * DAY / SECOND
    assert slo.exhaustion_seconds(promise, 0.5, 1e-9) == 28 * DAY / SECOND
    assert slo.exhaustion_seconds(promise, -3, 0) == 0
    assert slo.exhaustion_seconds(promise, 0.5, 14) == 28 * 86_400 / 28


def test_what_a_budget_counts_is_called_by_its_name_in_series_page_and_check():
    def of(method, **more):
        return {"method": method, **more}

    span = {"attempt": {"span": {"service": "shop"}}}
    source = {"prometheus": {"bad": "errors_total", "total": "requests_total"}}
    slos = [
        {"budgeting": budgeting} if budgeting else {}
        for budgeting in (None, of("timeslices"), of("ratio_timeslices", slice="5m"))
    ]
    alone = [
        {"sli": source},
        {"sli": source, "budgeting": of("timeslices", slice="1h", target=99.5)},
        {"sli": {"composite": [{"slo": "slo-0"}]}},
    ]
    common = {"objective": 99}
    made = Config.model_validate(
        {
            "journeys": [
                {
                    "name": "shop",
                    **span,
                    "slos": [
                        {"name": f"slo-{n}", "good": {"error": False}} | common | slo
                        for n, slo in enumerate(slos)
                    ],
                }
            ],
            "slos": [{"name": f"slo-{n}"} | common | slo for n, slo in enumerate(alone, 3)],
        },
        context={"from_file": True},
    )
    pipeline = Pipeline(made)
    pipeline.advance(MIDNIGHT)
    units = [
        "attempts",
        "minutes",
        "slices of 5m (each by its bad share)",
        "events",
        "hours",
        "events of its parts (weighted)",
    ]
    shown = snapshot(pipeline)
    assert [sample.labels[-1] for sample in shown[series.SLO_INFO]] == units
    verdicts = np.zeros(6, VERDICT)
    verdicts["slo"], verdicts["bad"] = range(6), 1
    verdicts["time"], verdicts["weight"] = MIDNIGHT, MILLIONTHS
    pipeline.slos.add(verdicts[:5])
    html = page.render_page(made, snapshot(pipeline), MIDNIGHT).replace("\u00a0", " ")
    for total, unit in zip((1, 40_320, 1, 1, 672, 1), units, strict=True):
        assert f"1 bad of {total:,} {unit}" in html
    goals = (
        "99 % have no error",
        "99 % of minutes: at least 95 % of attempts have no error",
        "99 % have no error, all slices of 5m alike",
        "99 % of hours: at least 99.5 % of events are good",
    )
    told = "\n".join(check.summary(made, file="f"))
    for goal in goals:
        assert f">{goal}<" in html
    assert "slo-1: 99 % of minutes with at least 95 % without error over 28d" in told
    assert "slo-2: 99 % without error over 28d, all slices of 5m alike" in told
    assert "slo-4: 99 % of hours with at least 99.5 % of requests_total in Prometheus" in told

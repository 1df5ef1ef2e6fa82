"""SLIs from OTLP metrics, from the request to the bucket."""

import pytest
from tests.otlp_metrics import (
    DELTA,
    NAME,
    RATIO,
    START,
    Exporter,
    config_of,
    counter,
    exponential,
    gauge,
    histogram,
    moment,
    request_of,
)

from outcome_exporter import page
from outcome_exporter.metrics import REFUSALS, STARTS_MAX
from outcome_exporter.model import Encoding, Kind, Record, Sample
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.points import BUCKETS_MAX, decode_metrics
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import DAY, MINUTE, SECOND

FAST = {"name": "latency", "good": {"below": "300ms"}}


@pytest.fixture
def ratio():
    return Exporter(config_of(RATIO))


# Counters


def test_start_times_without_end_are_refused_and_cost_no_other_stream_anything(ratio):
    for n in range(STARTS_MAX + 2):
        ratio.send(counter(1, n + 1.5, since=n + 1), at=n + 2)
    ratio.send(counter(5, STARTS_MAX + 30, since=STARTS_MAX), at=STARTS_MAX + 31, pod="b")
    assert ratio.refused() == {"too_many_streams": 2}
    assert sum(ratio.events()) == STARTS_MAX + 5


def test_an_increase_counts_in_the_minute_in_which_it_happened(ratio):
    ratio.send(counter(10, 60), counter(1, 60, status="503"), at=61)
    ratio.send(counter(30, 120), counter(1, 120, status="503"), at=121)
    assert ratio.buckets() == {0: (10, 1), 1: (20, 0)}


def test_four_pods_whose_first_point_is_already_1_are_four_events(ratio):
    for pod in "abcd":
        ratio.send(counter(1, 45, since=30, status="500"), at=46, pod=pod)
    assert ratio.events() == (0, 4)


def test_what_a_process_counted_before_anyone_watched_is_not_counted(ratio):
    ratio.send(counter(1_000_000, 10, since=-3600), at=11)
    ratio.send(counter(1_000_007, 70, since=-3600), at=71)
    assert ratio.events() == (7, 0)


@pytest.mark.parametrize("since", [None, 10])
def test_a_stream_that_does_not_say_when_it_began_counts_from_its_first_point_on(ratio, since):
    ratio.send(counter(500, 10, since=since), at=11)
    ratio.send(counter(507, 70, since=since), at=71)
    assert ratio.events() == (7, 0)


def test_a_restart_begins_a_new_count_and_loses_nothing(ratio):
    ratio.send(counter(10, 60), at=61)
    ratio.send(counter(4, 120, since=90), at=121)
    ratio.send(counter(6, 180, since=90), at=181)
    assert ratio.buckets() == {0: (10, 0), 1: (4, 0), 2: (2, 0)}


def test_a_restart_that_counts_higher_than_before_is_seen_by_its_start_time(ratio):
    ratio.send(counter(10, 60), at=61)
    ratio.send(counter(25, 120, since=90), at=121)
    assert ratio.events() == (35, 0)


def test_a_fall_without_start_times_is_a_reset(ratio):
    for value, at in ((10, 10), (15, 70), (3, 130)):
        ratio.send(counter(value, at, since=None), at=at)
    assert ratio.events() == (8, 0)


def test_replicas_that_interleave_are_no_resets(ratio):
    for minute in range(1, 6):
        ratio.send(counter(100 * minute, 60 * minute), at=60 * minute, pod="a")
        ratio.send(counter(minute, 60 * minute), at=60 * minute, pod="b")
    assert ratio.events() == (505, 0)
    assert ratio.refused() == {}


def test_writers_that_share_a_stream_are_said_and_never_counted_twice(ratio):
    for at in (60, 120):
        ratio.send(counter(10 * at, at, since=1), at=at)
        ratio.send(counter(20 * at, at, since=2), at=at)
    assert ratio.events() == (600 + 600 + 1200, 0)
    assert ratio.refused() == {"overlapping_writer": 1}


def test_a_point_that_comes_again_or_late_adds_nothing(ratio):
    ratio.send(counter(10, 60), at=61)
    ratio.send(counter(30, 120), at=121)
    for value, at in ((10, 60), (30, 120)):
        ratio.send(counter(value, at), at=130)
    assert ratio.events() == (30, 0)
    assert ratio.pipeline.metrics.duplicates == 2


def test_the_increase_over_an_outage_is_spread_over_it_in_whole_events(ratio):
    ratio.send(counter(10, 60), at=61)
    ratio.send(counter(15, 240), at=241)
    assert ratio.buckets() == {0: (10, 0), 1: (1, 0), 2: (2, 0), 3: (2, 0)}


def test_deltas_add_up_in_any_order_and_once(ratio):
    for began, value in ((60, 7), (0, 5), (60, 7), (120, 1)):
        ratio.send(counter(value, began + 60, since=began, temporality=DELTA), at=200)
    assert ratio.buckets() == {0: (5, 0), 1: (7, 0), 2: (1, 0)}
    assert ratio.pipeline.metrics.duplicates == 1


def test_other_services_and_metrics_are_not_counted(ratio):
    ratio.send(counter(5, 60), at=61, service="mail")
    ratio.send(counter(5, 60, name="other"), at=61)
    assert ratio.events() == (0, 0)
    assert ratio.pipeline.received["metrics"] == 1


def test_numbers_match_as_text(ratio):
    ratio.send(counter(5, 60, status=503), at=61)
    assert ratio.events() == (0, 5)


def test_a_time_too_far_ahead_is_taken_as_the_arrivals(ratio):
    ratio.send(counter(5, 7200), at=61)
    assert ratio.buckets() == {0: (4, 0), 1: (1, 0)}
    assert ratio.pipeline.metrics.skewed == 1


@pytest.mark.parametrize("value", [-1.0, 1e13])
def test_counts_that_cannot_be_are_refused(ratio, value):
    ratio.send(counter(value, 60), at=61)
    assert ratio.events() == (0, 0)
    assert ratio.refused() == {"impossible": 1}


def test_a_sum_that_may_fall_is_no_counter(ratio):
    ratio.send(counter(5, 60, monotonic=False), at=61)
    assert ratio.refused() == {"wrong_type": 1}


def test_streams_above_the_limit_are_refused_and_those_known_go_on():
    config = config_of(RATIO)
    limits = config.limits.model_copy(update={"metric_streams": 2})
    exporter = Exporter(config.model_copy(update={"limits": limits}))
    for at in (60, 120):
        for pod in "abc":
            exporter.send(counter(at, at), at=at, pod=pod)
    assert exporter.events() == (240, 0)
    assert exporter.refused() == {"too_many_streams": 2}


def test_a_stream_that_was_silent_for_a_day_is_forgotten(ratio):
    ratio.send(counter(5, 60), at=61)
    ratio.send(counter(5, 60), at=90_000, pod="b")
    assert ratio.pipeline.metrics.dump()["streams"].size == 1


# Two metrics

ERRORS = {"name": NAME, "service": "shop", "bad": {"name": "errors"}}


def test_two_metrics_are_good_and_bad_once_both_have_come():
    exporter = Exporter(config_of(ERRORS))
    exporter.send(counter(10, 60), at=61)
    exporter.send(counter(3, 60, name="errors"), at=65)
    exporter.pipeline.advance(moment(74))
    assert exporter.events() == (0, 0)
    exporter.pipeline.advance(moment(76))
    assert exporter.buckets() == {0: (7, 3)}


def test_what_comes_late_of_two_metrics_never_takes_back_what_was_counted():
    exporter = Exporter(config_of(ERRORS))
    exporter.send(counter(10, 60), at=61)
    exporter.pipeline.advance(moment(100))
    exporter.send(counter(3, 60, name="errors"), at=101)
    exporter.send(counter(5, 60), at=102, pod="b")
    exporter.pipeline.advance(moment(200))
    assert exporter.events() == (12, 3)


def test_more_of_a_part_than_of_its_total_is_held_back_and_said():
    exporter = Exporter(config_of(ERRORS))
    exporter.send(counter(3, 60, name="errors"), at=61)
    exporter.pipeline.advance(moment(4000))
    assert exporter.events() == (0, 0)
    assert exporter.refused() == {"part_without_total": 1}


def test_minutes_without_end_are_refused_and_those_known_go_on(monkeypatch):
    monkeypatch.setattr("outcome_exporter.metrics.MINUTES_MAX", 3)
    exporter = Exporter(config_of(ERRORS))
    for minute in range(1, 6):
        said = {"since": 60 * minute - 30, "temporality": DELTA}
        exporter.send(counter(10, 60 * minute, **said), at=301)
        exporter.send(counter(1, 60 * minute, name="errors", **said), at=301)
    assert len(exporter.pipeline.metrics.dump()["minutes"]) == 3
    exporter.pipeline.advance(moment(400))
    assert exporter.events() == (27, 3)
    assert exporter.refused() == {"too_many_minutes": 4}
    exporter.pipeline.advance(moment(4_000))
    exporter.send(counter(10, 3_960, since=3_930, temporality=DELTA), at=4_001)
    exporter.pipeline.advance(moment(4_100))
    assert sum(exporter.events()) == 40


# Histograms

BOUNDS = [0.1, 0.3, 1.0]


def test_a_bound_at_a_buckets_edge_is_exact():
    exporter = Exporter(config_of(FAST))
    exporter.send(histogram(BOUNDS, [5, 3, 2, 1], 60), at=61)
    exporter.send(histogram(BOUNDS, [5, 4, 2, 3], 120), at=121)
    assert exporter.buckets() == {0: (8, 3), 1: (1, 2)}


def test_a_duration_fits_the_metrics_unit():
    exporter = Exporter(config_of(FAST))
    exporter.send(histogram([100.0, 300.0], [1, 2, 4], 60, unit="ms"), at=61)
    assert exporter.events() == (3, 4)
    exporter.send(histogram([100.0, 300.0], [1, 2, 4], 60, unit="By"), at=61)
    assert exporter.refused() == {"wrong_unit": 1}


def test_a_bound_between_edges_is_refused_rather_than_guessed():
    exporter = Exporter(config_of({**FAST, "good": {"below": "250ms"}}))
    exporter.send(histogram(BOUNDS, [5, 0, 2, 1], 60), at=61)
    assert exporter.events() == (0, 0)
    assert exporter.refused() == {"bound_between_buckets": 1}


@pytest.mark.parametrize(
    ("between", "events"), [("bad", (5, 7)), ("good", (9, 3)), ("split", (8, 4))]
)
def test_a_policy_judges_the_events_around_the_bound_and_says_how_many(between, events):
    exporter = Exporter(config_of({**FAST, "good": {"below": "250ms"}, "between": between}))
    exporter.send(histogram(BOUNDS, [5, 4, 2, 1], 60), at=61)
    assert exporter.events() == events
    assert exporter.pipeline.metrics.uncertain.tolist() == [4_000_000]


def test_bad_above_is_the_same_as_good_below():
    exporter = Exporter(config_of(FAST, {"name": "latency", "bad": {"above": "300ms"}}))
    exporter.send(histogram(BOUNDS, [5, 3, 2, 1], 60), at=61)
    assert exporter.events(0) == exporter.events(1) == (8, 3)


def test_a_histogram_without_buckets_has_no_share_below_a_bound():
    exporter = Exporter(config_of(FAST))
    metric = histogram([], [], 60)
    metric.histogram.data_points[0].count = 4
    exporter.send(metric, at=61)
    assert exporter.refused() == {"bound_between_buckets": 1}


def test_a_histogram_whose_count_is_not_its_buckets_sum_is_rejected():
    exporter = Exporter(config_of(FAST))
    metric = histogram(BOUNDS, [1, 1, 1, 1], 60)
    metric.histogram.data_points[0].count = 5
    batch = exporter.pipeline.decode(Kind.METRICS, request_of(metric))
    assert (len(batch.points), batch.rejected) == (0, 1)


def test_an_exponential_histogram_is_exact_where_a_bucket_ends():
    exporter = Exporter(config_of({**FAST, "good": {"below": 0.5}}))
    exporter.send(exponential([0.1, 0.4, 0.5, 0.51, 3], 60, scale=3), at=61)
    assert exporter.events() == (3, 2)


def test_buckets_without_end_are_left_out_and_cost_no_other_point_anything():
    metric = exponential([0.1, 0.4], 60, scale=3)
    points = metric.exponential_histogram.data_points
    points.extend([*exponential([0.1], 60, scale=3).exponential_histogram.data_points] * 2)
    vast = points[1]
    vast.positive.bucket_counts[:] = [1] * (BUCKETS_MAX - 16)
    vast.count = BUCKETS_MAX - 16
    batch = decode_metrics(request_of(metric), {"latency"})
    assert (len(batch.points), batch.rejected) == (2, 1)


def test_an_exponential_histogram_refuses_other_bounds_even_where_nothing_is_near():
    exporter = Exporter(config_of(FAST))
    exporter.send(exponential([0.01, 5], 60, scale=3), at=61)
    assert exporter.refused() == {"bound_between_buckets": 1}


def test_a_histogram_that_is_scaled_down_takes_nothing_back():
    exporter = Exporter(config_of({**FAST, "between": "bad"}))
    values = [0.1, 0.2, 0.27, 0.4]
    exporter.send(exponential(values, 60, scale=4), at=61)
    assert exporter.events() == (3, 1)
    exporter.send(exponential([*values, 0.9], 120, scale=0), at=121)
    assert exporter.events() == (3, 2)


# Gauges

SHORT_QUEUE = {"name": "queue.length", "good": {"below": 10}, "hold": "2m"}


def test_a_gauge_counts_the_minutes_it_spends_in_each_state():
    exporter = Exporter(config_of(SHORT_QUEUE))
    for value, at in ((5, 0), (50, 90), (10, 120), (11, 180)):
        exporter.send(gauge(value, at), at=at)
    assert exporter.buckets() == {0: (1, 0), 1: (0.5, 0.5), 2: (1, 0)}


def test_the_state_of_a_silent_gauge_is_unknown_after_a_while():
    exporter = Exporter(config_of(SHORT_QUEUE))
    exporter.send(gauge(5, 0), at=0)
    exporter.send(gauge(5, 600), at=600)
    assert exporter.events() == (2, 0)


def test_minutes_cut_into_pieces_are_whole_again():
    exporter = Exporter(config_of(SHORT_QUEUE))
    for third in range(31):
        exporter.send(gauge(third % 2 * 20, third * 7), at=third * 7)
    good, bad = exporter.events()
    assert good + bad == pytest.approx(210 / 60, abs=1e-6)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_stream_that_an_old_process_begins_counts_since_that_process_spoke_last(restarted):
    """SDKs date it back to the start of the process, as if errors had come all the time."""
    exporter = Exporter(config_of(RATIO, {"name": NAME, "bad": {"name": "errors"}}))
    for minute in range(1, 301):
        exporter.send(counter(100 * minute, 60 * minute), at=60 * minute)
    if restarted:
        pipeline = Pipeline(exporter.pipeline.config)
        pipeline.restore(*exporter.pipeline.dump(), exporter.pipeline.next_offset)
        exporter.pipeline = pipeline
    exporter.send(
        counter(30_095, 18_060),
        counter(5, 18_060, status="500"),
        counter(5, 18_060, name="errors"),
        at=18_060,
    )
    exporter.pipeline.advance(START + 18_100 * SECOND)
    assert exporter.buckets(0)[300] == (95, 5)
    assert exporter.buckets(1)[300] == (95, 5)


@pytest.mark.parametrize("sli", [RATIO, {"name": NAME, "bad": {"name": "errors"}}])
def test_a_start_in_another_unit_becomes_no_millions_of_minutes(sli):
    exporter = Exporter(config_of(sli))
    since = 1_600_000_020 / 1_000 - START / SECOND  # microseconds, read as nanoseconds
    exporter.send(counter(3_000, 60, since=since, temporality=DELTA), at=61)
    assert len(exporter.pipeline.metrics.dump()["minutes"]) <= DAY // MINUTE
    exporter.pipeline.advance(START + 100 * SECOND)
    assert exporter.events() == (3_000, 0)
    assert sum(good for good, _ in exporter.buckets().values()) == pytest.approx(3_000)


# Across restarts and reloads


def test_a_checkpoint_keeps_streams_minutes_and_duplicates():
    config = config_of(RATIO, ERRORS)
    one = Exporter(config)
    one.send(counter(10, 60), counter(2, 60, name="errors"), at=61)
    one.send(counter(3, 60, since=0, temporality=DELTA), at=61, pod="d")
    pipeline = Pipeline(config)
    meta, arrays = one.pipeline.dump()
    pipeline.restore(meta, {name: array.copy() for name, array in arrays.items()}, 3)
    other = Exporter(config, pipeline)
    for exporter in (one, other):
        exporter.send(counter(14, 120), at=121)
        exporter.send(counter(3, 60, since=0, temporality=DELTA), at=121, pod="d")
        exporter.pipeline.advance(moment(300))
    assert one.events(0) == other.events(0) == (17, 0)
    assert one.events(1) == other.events(1) == (15, 2)
    assert dict(snapshot(other.pipeline)).keys() == dict(snapshot(one.pipeline)).keys()
    assert other.pipeline.metrics.duplicates == one.pipeline.metrics.duplicates == 2


def test_an_slo_that_reads_something_else_after_a_reload_begins_anew():
    one = Exporter(config_of(RATIO))
    one.send(counter(10, 60), at=61)
    pipeline = Pipeline(config_of({**RATIO, "service": "s*"}))
    pipeline.restore(*one.pipeline.dump(), 2)
    other = Exporter(pipeline.config, pipeline)
    other.send(counter(14, 120), at=121)
    assert other.events() == (10, 0)
    other.send(counter(15, 180), at=181)
    assert other.events() == (11, 0)


def test_payloads_read_back_from_the_log_count_as_those_decoded_by_the_receiver():
    config = config_of(RATIO)
    exporter = Exporter(config)
    payload = request_of(counter(4, 60))
    pipeline = exporter.pipeline
    decoded = pipeline.decode(Kind.METRICS, payload)
    record = Record(1, START + 2 * MINUTE, Kind.METRICS, Encoding.NONE, payload, decoded)
    pipeline.ingest(record)
    assert pipeline.received["metrics"] == len(decoded.points) == 1
    assert pipeline.second == (START + 2 * MINUTE) // SECOND


# What is shown


def test_an_slo_without_a_journey_has_all_its_series_from_the_start(ratio):
    shown = {family.name: samples for family, samples in snapshot(ratio.pipeline).items()}
    info = ("slo-0", "", "unowned", "slo-0", "", "1d", "events")
    assert shown["slo_info"] == [Sample(info, 1.0)]
    assert shown["slo_events_total"] == [
        Sample(("slo-0", "good"), 0.0),
        Sample(("slo-0", "bad"), 0.0),
    ]
    assert shown["slo_uncertain_events_total"] == [Sample(("slo-0",), 0.0)]
    assert len(shown["outcome_exporter_metric_points_refused_total"]) == len(REFUSALS)


def test_the_page_speaks_of_events_where_there_are_no_attempts(ratio):
    ratio.send(counter(5, 60, status=500), counter(5, 60), at=61)
    html = page.render_page(ratio.pipeline.config, snapshot(ratio.pipeline), START)
    assert "50\u00a0% of events are bad" in html
    assert "99\u00a0% are good" in html

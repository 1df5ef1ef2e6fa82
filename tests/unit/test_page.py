"""The status page's words, state by state."""

import re

import pytest
from tests import snapshots
from tests.scenario import START, config

from outcome_exporter import series
from outcome_exporter.config import Config
from outcome_exporter.page import render_page
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.snapshot import snapshot

STANDALONE = Config.model_validate(
    {
        "slos": [
            {
                "name": "search-fast",
                "objective": 99,
                "sli": {"metric": {"name": "http.duration", "good": {"below": "300ms"}}},
            }
        ]
    }
)


def text(configuration, shown):
    """What stands on the page, without its tags."""
    html = render_page(configuration, shown, snapshots.NOW).partition("<body>")[2]
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html))


@pytest.mark.parametrize("received", [0, 5])
def test_where_no_journey_is_configured_nobody_waits_for_an_attempt(received):
    pipeline = Pipeline(STANDALONE)
    pipeline.advance(START)
    pipeline.received["metrics"] = received
    page = text(STANDALONE, snapshot(pipeline))
    assert "Waiting for the first event." in page
    assert "attempt" not in page.partition("Promises")[0]


@pytest.mark.parametrize(("signal", "came"), [("traces", True), ("metrics", False)])
def test_points_of_metrics_are_not_taken_for_spans_that_begin_no_attempt(signal, came):
    journey = {"name": "buy", "attempt": {"span": {"service": "shop"}}}
    pipeline = Pipeline(config(journey))
    pipeline.advance(START)
    pipeline.received[signal] = 5
    page = text(pipeline.config, snapshot(pipeline))
    assert "Waiting for the first attempt." in page
    assert ("5 spans and events came, yet none began an attempt." in page) == came


def test_without_traffic_it_says_for_how_long_it_looked():
    shown = dict(snapshots.healthy().snapshot)
    shown[series.SLO_TRAFFIC_STATE] = [
        sample._replace(value=float(sample.labels[1] == "none"))
        for sample in shown[series.SLO_TRAFFIC_STATE]
    ]
    assert "No traffic in the last 5 minutes." in text(snapshots.CONFIG, shown)
    lately = [s.value for s in shown[series.SLO_WINDOW_EVENTS] if s.labels[1] == "1h"]
    assert any(lately)


def test_a_request_of_which_something_was_left_out_was_not_refused():
    counters = ReceiverCounters()
    counters.accepted("grpc", "traces", body_bytes=1, rejected=3)
    counters.refused("grpc", "traces", "overloaded")
    shown = {**snapshots.healthy().snapshot, **counters.snapshot()}
    assert "refused requests 1 left out 3 " in text(snapshots.CONFIG, shown)

"""Every query of every dashboard, against a real Prometheus: it answers, with data, without NaN."""

import dataclasses
import json
import math
from typing import Any, NamedTuple

import pytest
from tests.dashboards import fleet, shop
from tests.dashboards.grafana import Prometheus, Range, filled_in, queries
from tests.dashboards.tsdb import JOB, History, prometheus
from tests.programs import require

from outcome_exporter import dashboards
from outcome_exporter.dashboards.promql import grown
from outcome_exporter.demo.faults import CULPRITS, script
from outcome_exporter.model import Sample
from outcome_exporter.rules import burning
from outcome_exporter.series import (
    ATTEMPTS,
    BUILD_INFO,
    CHECKPOINT_AGE,
    SLO_BUDGET_EXHAUSTION,
    SLO_BUDGET_REMAINING,
    SLO_BURN_RATE,
    SLO_INFO,
    VALUE,
)

SECONDS = 540
"""The demo at half its speed: blame learns for five minutes what is usual."""
FAULTS = {fault.kind: fault for fault in script(SECONDS)}
GENERIC = {name: json.loads(text) for name, text in dashboards.generate(None).items()}
EVERY = pytest.mark.parametrize("name", GENERIC)

NOTHING_WENT_WRONG = {
    "Which events wait in vain? (per minute) [A]": "every event found its attempt",
    "What was unusable? (per minute) [A]": "everything could be used",
    "Which times cannot be? (per minute) [A]": "all clocks are right",
    "Which limits were hit? (per minute) [A]": "no limit was hit",
}
EMPTY_IN_THE_DEMO = NOTHING_WENT_WRONG | {
    "Do they run out of CPU? [A]": "the shop runs in no container",
    "Do they run out of memory? [A]": "the shop runs in no container",
    "Who calls me? [A]": "the shop has no Collector with a servicegraph connector",
}
CHOSEN = {
    "outcome-journey.json": {"journey": "checkout", "slo": "checkout-success"},
    "outcome-service.json": {"service": "inventory"},
}


class Seen(NamedTuple):
    """A Prometheus with what it scraped, the range to look at, and the dashboards."""

    prometheus: Prometheus
    looked: Range
    boards: dict[str, Any]

    def at(self, seconds):
        """So many seconds after the first scrape."""
        end = self.looked.start + seconds
        return self._replace(looked=dataclasses.replace(self.looked, end=end))


@pytest.fixture(scope="module")
def programs():
    require("prometheus")
    require("promtool")


def boards_of(config):
    return {name: json.loads(text) for name, text in dashboards.generate(config).items()}


@pytest.fixture(scope="module")
def demo(programs, tmp_path_factory):
    history = shop.run(seconds=SECONDS, every=5)
    with prometheus(history, tmp_path_factory.mktemp("demo"), every=5) as found:
        looked = Range(history.start, history.end, scrape=5)
        yield Seen(found, looked, boards_of(shop.CONFIG))


@pytest.fixture(scope="module")
def large(programs, tmp_path_factory):
    history = History()
    for minute in range(1, 9):
        at = fleet.START + 60 * minute
        history.scrape(at, fleet.scraped(at), more="".join(fleet.containers(at)))
    with prometheus(history, tmp_path_factory.mktemp("large"), every=60) as found:
        looked = Range(history.start, history.end, scrape=60)
        yield Seen(found, looked, boards_of(fleet.CONFIG))


def answers(seen: Seen, name: str, **chosen: str):
    board = seen.boards[name]
    values = seen.prometheus.variables(board, seen.looked, **chosen)
    assert all(values.values()), values
    return {a.where: seen.prometheus.ask(a, values, seen.looked) for a in queries(board)}


def assert_numbers(answer, where):
    for series in answer:
        for _, value in series.get("values") or [series["value"]]:
            assert math.isfinite(float(value)), where
            # Floating point noise around nothing, which a panel would show as -0 or -6.1e-12.
            assert float(value) == 0 or abs(float(value)) > 1e-9, (where, value)


def test_a_configuration_changes_words_and_no_query():
    for board, known in zip(GENERIC.values(), boards_of(shop.CONFIG).values(), strict=True):
        assert [a.expr for a in queries(board)] == [a.expr for a in queries(known)]


@EVERY
def test_every_query_has_data_from_a_run_of_the_demo(demo, name):
    found = answers(demo, name, **CHOSEN.get(name, {}))
    empty = {where for where, answer in found.items() if not answer}
    assert empty == EMPTY_IN_THE_DEMO.keys() & found.keys()
    for where, answer in found.items():
        assert_numbers(answer, where)


@pytest.mark.slow
@EVERY
def test_every_query_has_data_from_two_hundred_journeys(large, name):
    chosen = {"outcome-journey.json": {"journey": "journey-004"}}
    found = answers(large, name, **chosen.get(name, {}))
    empty = {where for where, answer in found.items() if not answer}
    assert empty == NOTHING_WENT_WRONG.keys() & found.keys()
    for where, answer in found.items():
        assert_numbers(answer, where)


def value(series):
    return float(series["value"][1])


def one(answer):
    (series,) = answer
    return value(series)


def test_what_the_outcomes_say_of_the_demo_is_what_the_shop_knows(demo):
    found = answers(demo, "outcome-outcomes.json")
    states = {
        series["metric"]["journey"]: value(series)
        for series in found["Which journey needs somebody? [A]"]
    }
    assert states == {"checkout": 3, "search": 2, "signup": 0}
    counts = [(s["metric"]["state"], value(s)) for s in found["How many journeys are fine? [A]"]]
    assert counts == [
        ("burning", 1), ("budget spent", 1), ("smouldering", 0), ("fine", 1), ("no traffic", 0),
    ]  # fmt: skip
    worst = {
        series["metric"]["journey"]: series["metric"]["slo"]
        for series in found["Which journey needs somebody? [D]"]
    }
    assert worst["checkout"] == "checkout-success"


CULPRIT = pytest.mark.parametrize(
    ("kind", "culprit"), [(kind, c) for kind, found in CULPRITS.items() for c in found]
)
TOLD_AFTER_SECONDS = 25
"""Verdicts take the time an order may take, then what is born is shown at 0 first."""


def when(kind):
    return FAULTS[kind].end + TOLD_AFTER_SECONDS


@CULPRIT
def test_the_outcomes_name_the_culprit_that_an_alert_names(demo, kind, culprit):
    found = answers(demo.at(when(kind)), "outcome-outcomes.json")
    named = {
        tuple(series["metric"].get(f"cause_{label}", "") for label in CAUSE)
        for series in found[f"Which journey needs somebody? [{top_cause_ref(demo)}]"]
        if series["metric"]["journey"] == culprit.journey
    }
    assert named == {(culprit.service, culprit.operation, culprit.version, culprit.cause_kind)}


CAUSE = ("service", "operation", "version", "kind")


def top_cause_ref(seen):
    board = seen.boards["outcome-outcomes.json"]
    (ref,) = (a.ref for a in queries(board) if "outcome_cause_share" in a.expr)
    return ref


@CULPRIT
def test_the_service_of_a_culprit_sees_whom_it_hurts_and_what_it_costs(demo, kind, culprit):
    found = answers(demo.at(when(kind)), "outcome-service.json", service=culprit.service)
    journeys = {s["metric"]["journey"]: value(s) for s in found["Which journeys? [A]"]}
    assert journeys[culprit.journey] > 0
    debts = {
        tuple(series["metric"][f"cause_{label}"] for label in CAUSE[1:]): value(series)
        for series in found["Which of my operations cost customers most? [A]"]
    }
    assert debts[culprit.operation, culprit.version, culprit.cause_kind] > 0
    assert sum(debts.values()) == one(found["How many bad outcomes? [A]"])
    assert value(found["What were they worth? [A]"][0]) > 0


def test_what_grew_outlives_a_pod_that_is_replaced(programs, tmp_path):
    """On Kubernetes each restart gives the exporter another address; its counters go on."""
    history = History()
    for scrape in range(40):
        lost = Sample(("checkout", "USD", "lost"), 1_000.0 + 10 * scrape)
        tried = [
            Sample(("checkout", "bad", "error", tier), float(scrape * n), extra=("tier",))
            for n, tier in enumerate(("free", "gold"), 1)
        ]
        at = fleet.START + 15 * scrape
        # Both are there for a moment: Prometheus has not noticed yet that one has gone.
        for instance in {f"10.0.0.{1 + (scrape > 20)}:9464", f"10.0.0.{1 + (scrape > 21)}:9464"}:
            snapshot = {VALUE: [lost], ATTEMPTS: tried}
            history.scrape(at, snapshot, instance=instance)
    with prometheus(history, tmp_path, every=15) as found:
        for end, scrapes in ((history.end, 39), (fleet.START + 15 * 21, 21)):
            looked = Range(history.start, end)
            for expr, each in (
                (grown(VALUE, "currency", state="lost"), 10),
                (grown(ATTEMPTS, "journey", outcome="bad"), 3),
            ):
                query = filled_in(expr, {"job": [JOB]}, looked, looked.scrape)
                answer = found.get("query", query=query, time=str(end))["result"]
                assert one(answer) == each * scrapes, query


def test_a_budget_that_lasts_as_long_as_its_window_is_not_about_to_be_gone(programs, tmp_path):
    """That of a window of 12 hours lasts 43,200 s when nothing burns. Each has 90 % left."""
    window, left, rates = 43_200, 0.9, {"ends": 18.0, "calm": 0.1, "idle": 0.0}
    lasts = {
        slo: min(left * window / rate, window) if rate else window for slo, rate in rates.items()
    }
    panels = (
        "Budgets gone within a day?",
        "How many budgets run out soon?",
        "How old is the last checkpoint?",
        "How much error budget is left, and in a day?",
    )
    history = History()
    for at in (fleet.START, fleet.START + 15):
        snapshot = {
            SLO_INFO: [Sample((slo, "buy", "me", "", "", "12h", "attempts"), 1.0) for slo in rates],
            SLO_BUDGET_REMAINING: [Sample((slo,), left) for slo in rates],
            SLO_BUDGET_EXHAUSTION: [Sample((slo,), each) for slo, each in lasts.items()],
            SLO_BURN_RATE: [Sample((slo, "6h"), rate) for slo, rate in rates.items()],
            BUILD_INFO: [Sample(("1",), 1.0)],
            CHECKPOINT_AGE: [Sample((), 0.0)],
        }
        history.scrape(at, snapshot)
    with prometheus(history, tmp_path, every=15) as found:
        looked = Range(history.start, history.end)
        shown = {}
        values = {"job": [JOB], "slos": [*rates], "owner": [".*"], "journey": [".*"]}
        for asked in (asked for board in GENERIC.values() for asked in queries(board)):
            if asked.where.startswith(panels):
                shown[asked.where] = found.ask(asked, values, looked)
    assert one(shown["Budgets gone within a day? [A]"]) == 1
    assert [one(shown[f"How many budgets run out soon? [{ref}]"]) for ref in "AB"] == [1, 1]
    assert shown["How old is the last checkpoint? [A]"] == []
    in_a_day = {
        line["metric"]["slo"]: float(line["values"][-1][1])
        for line in shown["How much error budget is left, and in a day? [B]"]
    }
    assert in_a_day == pytest.approx({slo: left - min(2 * rate, 10) for slo, rate in rates.items()})


def alerting_over_time(seen):
    """Highest burn rate of the tiers that fire by SLO, severity and time: the board's and the
    rules'."""
    board = seen.boards["outcome-budgets.json"]
    values = seen.prometheus.variables(board, seen.looked)
    (asked,) = (a for a in queries(board) if a.where == "What alerts now? [A]")
    step = seen.looked.scrape

    def over_time(expr):
        found: dict[tuple[str, str], dict[float, float]] = {}
        answer = seen.prometheus.get(
            "query_range",
            query=expr,
            start=str(seen.looked.start),
            end=str(seen.looked.end),
            step=str(step),
        )
        for series in answer["result"]:
            of = found.setdefault((series["metric"]["slo"], series["metric"]["severity"]), {})
            for at, burn in series["values"]:
                of[at] = max(of.get(at, 0.0), float(burn))
        return found

    shown = over_time(filled_in(asked.expr, values, seen.looked, step))
    return shown, over_time(burning.generic())


def test_what_alerts_on_the_board_is_what_the_rules_say(demo):
    shown, told = alerting_over_time(demo)
    assert shown == told
    assert {slo for slo, _ in shown} >= {"checkout-success", "checkout-fast", "search-fast"}


@pytest.mark.slow
def test_too_few_bad_events_alert_neither_on_the_board_nor_by_the_rules(large):
    shown, told = alerting_over_time(large)
    assert shown == told
    alerting = {slo.split("-slo-")[0] for slo, severity in shown if severity == "page"}
    assert {journey[-1] for journey in alerting} == {"3"}
    near = answers(large, "outcome-budgets.json", journey="journey-006")
    shares = near["How near is each alert? (the 20 nearest) [A]"]
    # It burns as fast as needed, with two of three bad events.
    assert max(map(value, shares)) == 0.67


@pytest.mark.slow
def test_a_journey_that_nobody_tries_is_not_fine(large):
    found = answers(large, "outcome-outcomes.json")
    states = {
        series["metric"]["journey"]: value(series)
        for series in found["Which journey needs somebody? [A]"]
    }
    assert len(states) == fleet.JOURNEYS
    assert {state for journey, state in states.items() if journey.endswith("9")} == {-1}
    assert {state for journey, state in states.items() if journey.endswith("3")} == {3}
    assert {state for journey, state in states.items() if journey.endswith("0")} == {0}
    assert {state for journey, state in states.items() if journey.endswith("6")} == {2}


@pytest.mark.slow
def test_over_time_no_panel_draws_two_hundred_lines(large):
    for name in ("outcome-outcomes.json", "outcome-budgets.json", "outcome-exporter.json"):
        for where, answer in answers(large, name).items():
            if answer and "values" in answer[0] and "annotation" not in where:
                assert len(answer) <= 40, where

"""Every query of every dashboard, against a real Prometheus: it answers, with data, without NaN."""

import json
import math

import pytest
from tests.dashboards import fleet, shop
from tests.dashboards.grafana import Prometheus, Range, queries
from tests.dashboards.tsdb import History, prometheus
from tests.programs import require

from outcome_exporter import dashboards

BOARDS = {
    name: json.loads(text)
    for config in (None,)
    for name, text in dashboards.generate(config).items()
}
EVERY = pytest.mark.parametrize("name", BOARDS)

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


@pytest.fixture(scope="module")
def programs():
    require("prometheus")
    require("promtool")


@pytest.fixture(scope="module")
def demo(programs, tmp_path_factory):
    history = shop.run(seconds=270, every=5)
    with prometheus(history, tmp_path_factory.mktemp("demo")) as found:
        yield found, Range(history.start, history.end, scrape=5)


@pytest.fixture(scope="module")
def large(programs, tmp_path_factory):
    history = History()
    for minute in range(1, 9):
        at = fleet.START + 60 * minute
        history.scrape(at, fleet.scraped(at), more="".join(fleet.containers(at)))
    with prometheus(history, tmp_path_factory.mktemp("large")) as found:
        yield found, Range(history.start, history.end, scrape=60)


def answers(found: Prometheus, looked: Range, name: str, **chosen: str):
    board = BOARDS[name]
    values = found.variables(board, looked, **chosen)
    assert all(values.values()), values
    return {asked.where: found.ask(asked, values, looked) for asked in queries(board)}


def assert_numbers(answer, where):
    for series in answer:
        for _, value in series.get("values") or [series["value"]]:
            assert math.isfinite(float(value)), where
            # Floating point noise around nothing, which a panel would show as -0 or -6.1e-12.
            assert float(value) == 0 or abs(float(value)) > 1e-9, (where, value)


@EVERY
def test_every_query_has_data_from_a_run_of_the_demo(demo, name):
    found = answers(*demo, name, **CHOSEN.get(name, {}))
    empty = {where for where, answer in found.items() if not answer}
    assert empty == EMPTY_IN_THE_DEMO.keys() & found.keys()
    for where, answer in found.items():
        assert_numbers(answer, where)


@pytest.mark.slow
@EVERY
def test_every_query_has_data_from_two_hundred_journeys(large, name):
    chosen = {"outcome-journey.json": {"journey": "journey-004"}}
    found = answers(*large, name, **chosen.get(name, {}))
    empty = {where for where, answer in found.items() if not answer}
    assert empty == NOTHING_WENT_WRONG.keys() & found.keys()
    for where, answer in found.items():
        assert_numbers(answer, where)


def one(answer):
    (series,) = answer
    return float(series["value"][1])


def test_what_the_outcomes_say_of_the_demo_is_what_the_shop_knows(demo):
    found = answers(*demo, "outcome-outcomes.json")
    states = {
        series["metric"]["journey"]: float(series["value"][1])
        for series in found["Which journey needs somebody? [A]"]
    }
    assert states == {"checkout": 3, "search": 2, "signup": 0}
    assert [one(found[f"How many journeys are fine? [{ref}]"]) for ref in "ABCDE"] == [
        1, 1, 0, 1, 0,
    ]  # fmt: skip
    worst = {
        series["metric"]["journey"]: series["metric"]["slo"]
        for series in found["Which journey needs somebody? [D]"]
    }
    assert worst["checkout"] == "checkout-success"


@pytest.mark.slow
def test_a_journey_that_nobody_tries_is_not_fine(large):
    found = answers(*large, "outcome-outcomes.json")
    states = {
        series["metric"]["journey"]: float(series["value"][1])
        for series in found["Which journey needs somebody? [A]"]
    }
    assert len(states) == fleet.JOURNEYS
    assert {state for journey, state in states.items() if journey.endswith("9")} == {-1}
    assert {state for journey, state in states.items() if journey.endswith("3")} == {3}
    assert {state for journey, state in states.items() if journey.endswith("0")} == {0}


@pytest.mark.slow
def test_over_time_no_panel_draws_two_hundred_lines(large):
    for name in ("outcome-outcomes.json", "outcome-budgets.json", "outcome-exporter.json"):
        for where, answer in answers(*large, name).items():
            if answer and "values" in answer[0] and "annotation" not in where:
                assert len(answer) <= 40, where

"""The simulation of the burn alerts agrees with the real rules, minute by minute."""

from pathlib import Path

import numpy as np
import pytest
from tests.programs import require
from tests.rules import detection, timeline
from tests.rules.promtool import verify

from outcome_exporter import config
from outcome_exporter.config import Config
from outcome_exporter.rules import files
from outcome_exporter.units import MINUTE

ROOT = Path(__file__).parents[2]
CONFIG = config.load(ROOT / "examples" / "checkout.yaml")
JOURNEY, SLO = CONFIG.slos[0]
RULES = files.rules(CONFIG)["outcomes.yaml"]


@pytest.fixture(scope="module")
def promtool():
    return require("promtool")


@pytest.mark.parametrize(("traffic", "errors"), [(2, 1.0), (30, 0.3), (1000, 0.08), (1000, 1.0)])
def test_the_real_rules_fire_in_the_minutes_that_the_simulation_says(
    promtool, tmp_path, traffic, errors
):
    rng = np.random.default_rng(1)
    month, shown = SLO.window // MINUTE, 240
    rate = np.zeros(month + shown)
    rate[month + 20 : month + 140] = errors
    bad = rng.poisson(rate * traffic).astype(float)
    good = rng.poisson((1 - rate) * traffic).astype(float)
    gauges = timeline.gauges(CONFIG, JOURNEY, SLO, good, bad, shown=shown)
    series = {name: timeline.values(numbers) for name, numbers in gauges.items()}
    queries = {}
    for severity in detection.SEVERITIES:
        simulated = detection.fires(SLO, good, bad, severity, 3)[-shown:]
        expr = f'count(slo:alert_burn_rate:max{{severity="{severity}"}}) or vector(0)'
        queries |= {(f"{m}m", expr): {"{}": int(simulated[m])} for m in range(shown)}
    assert len({value for found in queries.values() for value in found.values()}) == 2
    verify(promtool, tmp_path, RULES, series, {}, queries=queries)


def slo(objective, window="30d"):
    journey = {
        "name": "search",
        "attempt": {"span": {"service": "search"}},
        "slos": [
            {
                "name": "search-success",
                "objective": objective,
                "window": window,
                "good": {"error": False},
            }
        ],
    }
    return Config.model_validate({"journeys": [journey]}).slos[0][1]


def test_detection_times_are_the_workbooks():
    # Workbook, chapter 5: time = (1 - SLO) / error rate * long window * burn rate.
    promise = slo(99.9)
    for rate, minutes in ((1.0, 0.864), (0.1, 8.64), (0.02, 43.2)):
        found = detection.detect(promise, rate, "page")
        assert minutes < found.minutes <= minutes + 1
        assert found.spent == pytest.approx(0.02, abs=rate / (43_200 * 0.001))


def test_errors_within_the_budget_are_never_detected():
    assert detection.detect(slo(99.9), 0.0009, "ticket").minutes == np.inf
    assert detection.detect(slo(99.9), 0.005, "page").minutes == np.inf


def test_a_single_error_in_a_quiet_hour_pages_only_without_the_gate():
    promise = slo(99.9)
    assert detection.false_alerts(promise, 0.2, "page", min_bad=1, months=6) > 1
    assert detection.false_alerts(promise, 0.2, "page", min_bad=3, months=6) < 0.2

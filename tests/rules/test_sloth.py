"""Sloth's names and labels, from our exact numbers: what its dashboards read."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.programs import require
from tests.rules import timeline
from tests.rules.promtool import verify

from outcome_exporter import config
from outcome_exporter.config import Config
from outcome_exporter.rules import files, sloth
from outcome_exporter.units import DAY

ROOT = Path(__file__).parents[2]
CONFIG = config.load(ROOT / "examples" / "checkout.yaml")
JOURNEY, SLO = CONFIG.slos[0]
OURS = files.rules(CONFIG)["sloth.yaml"]
IDS = (
    'job="outcome-exporter",owner="payments",slo="checkout-success",'
    'sloth_id="checkout-checkout-success",sloth_service="checkout",sloth_slo="checkout-success"'
)


@pytest.fixture(scope="module")
def promtool():
    return require("promtool")


@pytest.fixture(scope="module")
def slo_generator():
    return require("sloth")


def test_the_numbers_are_exact_where_an_hour_is_quiet(promtool, tmp_path):
    # 50 % of errors in one quiet minute of a month: true budget left is 99.3 %.
    minutes = SLO.window // 60_000_000_000
    good, bad = np.full(minutes, 100.0), np.zeros(minutes)
    good[-40], bad[-40] = 71.0, 141.0
    series = {
        name: timeline.values(numbers)
        for name, numbers in timeline.gauges(CONFIG, JOURNEY, SLO, good, bad, shown=5).items()
    }
    valid = 100.0 * (minutes - 1) + 212
    ratio, hour = 141 / valid, 141 / (59 * 100 + 212)

    def one(name, value, labels=""):
        return {f"{name}{{{','.join(sorted([*IDS.split(','), *labels.split(',')]))}}}": value}

    queries = {
        "slo:sli_error:ratio_rate1h": one(
            "slo:sli_error:ratio_rate1h", 1 - (1 - hour), 'sloth_window="1h"'
        ),
        "slo:sli_error:ratio_rate4w": one(
            "slo:sli_error:ratio_rate4w", 1 - (1 - ratio), 'sloth_window="4w"'
        ),
        "slo:objective:ratio": one("slo:objective:ratio", 0.995),
        "slo:error_budget:ratio": one("slo:error_budget:ratio", 0.005),
        "slo:time_period:days": one("slo:time_period:days", 28),
        "slo:current_burn_rate:ratio": one("slo:current_burn_rate:ratio", 0),
        "slo:period_burn_rate:ratio": one("slo:period_burn_rate:ratio", 1 - (1 - ratio / 0.005)),
        "slo:period_error_budget_remaining:ratio": one(
            "slo:period_error_budget_remaining:ratio", 1 - ratio / 0.005
        ),
        "sloth_slo_info": one(
            "sloth_slo_info",
            1,
            'sloth_mode="outcome-exporter",sloth_spec="outcome-exporter/v1",sloth_objective="99.5"',
        ),
    }
    queries = {
        ("4m", expr): {s.replace(",}", "}").replace("{,", "{"): v for s, v in found.items()}
        for expr, found in queries.items()
    }
    verify(promtool, tmp_path, OURS, series, {}, queries=queries)


@pytest.mark.slow  # built with Go, which takes minutes the first time
def test_names_and_labels_are_those_that_sloth_itself_writes(slo_generator, tmp_path):
    spec = {
        "version": "prometheus/v1",
        "service": "checkout",
        "slos": [
            {
                "name": SLO.name,
                "objective": float(SLO.objective),
                "sli": {
                    "events": {
                        "error_query": "sum(rate(errors[{{.window}}]))",
                        "total_query": "sum(rate(requests[{{.window}}]))",
                    }
                },
                "alerting": {
                    "page_alert": {"disable": True},
                    "ticket_alert": {"disable": True},
                },
            }
        ],
    }
    file, out = tmp_path / "spec.yaml", tmp_path / "out.yaml"
    file.write_text(yaml.safe_dump(spec))
    command = [slo_generator, "generate", "-i", str(file), "-o", str(out)]
    subprocess.run(
        [*command, "--default-slo-period=28d"], check=True, capture_output=True, timeout=60
    )
    theirs = recordings(out.read_text())
    ours = recordings(OURS)
    assert set(theirs) <= set(ours)
    ids = {"sloth_id", "sloth_service", "sloth_slo"}
    for record, labels in theirs.items():
        # The ids come from the expression; the rest stands at the rule.
        assert ids <= set(labels) or record == "slo:sli_error:ratio_rate4w"
        assert ours[record].get("sloth_window") == labels.get("sloth_window"), record


def recordings(text):
    groups = yaml.safe_load(text)["groups"]
    return {
        rule["record"]: rule.get("labels", {})
        for group in groups
        for rule in group["rules"]
        if "record" in rule
    }


@pytest.mark.parametrize(("days", "text"), [(28, "4w"), (30, "30d"), (7, "1w"), (1, "1d")])
def test_whole_weeks_are_written_as_such(days, text):
    assert sloth.sloth_window(days * DAY) == text


def test_a_window_that_every_slo_has_gets_one_rule():
    values = {
        "journeys": [
            {
                "name": "search",
                "attempt": {"span": {"service": "search"}},
                "slos": [
                    {
                        "name": "search-success",
                        "objective": 99,
                        "window": "3d",
                        "good": {"error": False},
                    }
                ],
            }
        ]
    }
    records = [r.record for r in sloth.recordings(Config.model_validate(values))]
    assert len(records) == len(set(records))
    assert "slo:sli_error:ratio_rate3d" in records

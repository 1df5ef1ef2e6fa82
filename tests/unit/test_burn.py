"""Alert tiers give the thresholds of the SRE Workbook."""

from fractions import Fraction

import pytest

from outcome_exporter import burn
from outcome_exporter.config import Config
from outcome_exporter.units import DAY, HOUR, MINUTE


@pytest.mark.parametrize(
    ("window", "thresholds"),
    [
        (30 * DAY, [14.4, 6, 3, 1]),  # Workbook, chapter 5, table 5-8; 3 is practice's
        (28 * DAY, [13.44, 5.6, 2.8, 1]),  # 0.93 would keep the budget
        (7 * DAY, [3.36, 1.4, 1, 1]),
        (HOUR, [1, 1, 1, 1]),
    ],
)
def test_thresholds_follow_from_the_share_of_the_budget(window, thresholds):
    assert [tier.threshold(window) for tier in burn.TIERS] == thresholds


def test_short_windows_are_a_twelfth_of_the_long_ones():
    assert all(tier.long_window == 12 * tier.short_window for tier in burn.TIERS)


def test_tiers_use_windows_that_every_slo_shows():
    windows = {window for tier in burn.TIERS for window in (tier.long_window, tier.short_window)}
    assert windows <= set(burn.WINDOWS)
    assert list(burn.WINDOWS) == sorted(burn.WINDOWS)


def test_a_burn_at_the_threshold_spends_the_share_of_the_budget():
    # Burning at rate 1 for the whole window spends all of it.
    for tier in burn.TIERS:
        spent = tier.threshold(30 * DAY) * tier.long_window / (30 * DAY)
        assert spent == pytest.approx(float(tier.budget_share), rel=1e-15)


def test_an_slo_may_have_tiers_and_a_gate_of_its_own():
    tier = {"severity": "page", "long_window": "10m", "short_window": "2m", "budget": 0.5}
    alerts = {"min_bad_events": 7, "min_events": 0, "tiers": [tier]}
    slos = [
        {"name": "own", "objective": 99, "good": {"error": False}, "alerts": alerts},
        {"name": "usual", "objective": 99, "good": {"error": False}},
    ]
    journey = {"name": "search", "attempt": {"span": {"service": "search"}}, "slos": slos}
    gates = {"min_bad_events": 4, "min_events": 20}
    config = Config.model_validate({"alerts": gates, "journeys": [journey]})
    own, usual = (slo for _, slo in config.slos)
    assert own.tiers == (burn.Tier("page", 10 * MINUTE, 2 * MINUTE, Fraction(5, 1000)),)
    assert own.tiers[0].threshold(own.window) == 20.16
    assert {2 * MINUTE, 10 * MINUTE} <= set(own.windows)
    assert usual.tiers == burn.TIERS
    assert [config.min_bad_events(slo) for slo in (own, usual)] == [7, 4]
    assert [config.min_events(slo) for slo in (own, usual)] == [0, 20]

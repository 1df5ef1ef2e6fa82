"""Alert tiers give the thresholds of the SRE Workbook."""

import pytest

from outcome_exporter import burn
from outcome_exporter.units import DAY, HOUR


@pytest.mark.parametrize(
    ("window", "thresholds"),
    [
        (30 * DAY, [14.4, 6, 3, 1]),  # Workbook, chapter 5, table 5-8; 3 is practice's
        (28 * DAY, [13.44, 5.6, 2.8, 28 / 30]),
        (7 * DAY, [3.36, 1.4, 0.7, 7 / 30]),
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
    assert burn.TIERS[0].threshold(HOUR) == 0.02

"""When burn alerts fire, by the same arithmetic as the rules and the exporter.

Compared with promtool on the real rules in test_detection.py; the benchmark prints the table.
"""

from typing import NamedTuple

import numpy as np
from tests.rules import timeline

from outcome_exporter import burn
from outcome_exporter.config.slos import Slo
from outcome_exporter.units import MINUTE

SEVERITIES: tuple[burn.Severity, ...] = ("page", "ticket")


def fires(slo: Slo, good: np.ndarray, bad: np.ndarray, severity: str, min_bad: int) -> np.ndarray:
    """Whether any tier of a severity fires, at the end of each minute."""
    sums = timeline.windows(slo, good, bad, shown=len(good))
    found = np.zeros(len(good), bool)
    for tier in slo.tiers:
        if tier.severity == severity:
            above = tier.threshold(slo.window)
            found |= (
                (sums.burn_rate(slo, tier.long_window) > above)
                & (sums.burn_rate(slo, tier.short_window) > above)
                & (sums.bad[tier.long_window] >= min_bad)
            )
    return found


class Detection(NamedTuple):
    """What happens when errors begin, all at once and at one rate."""

    minutes: float
    """Until it fires; infinite if it never does within the SLO's window."""
    spent: float
    """Share of the error budget that is gone by then."""
    reset: float
    """Minutes from the end of the errors until it no longer fires, had they ended then."""


def detect(
    slo: Slo, error_rate: float, severity: str, *, per_minute: float = 10_000, min_bad: int = 3
) -> Detection:
    """Errors at a rate from one minute on, after a window without any."""
    before = slo.window // MINUTE
    bad = np.concatenate([np.zeros(before), np.full(before, error_rate * per_minute)])
    fired = np.flatnonzero(fires(slo, per_minute - bad, bad, severity, min_bad)[before:])
    if not fired.size:
        return Detection(np.inf, np.nan, np.nan)
    minutes = int(fired[0]) + 1
    bad[before + minutes :] = 0
    after = fires(slo, per_minute - bad, bad, severity, min_bad)[before + minutes - 1 :]
    spent = minutes * error_rate / (before * slo.budget_ratio)
    return Detection(minutes, spent, int(np.flatnonzero(~after)[0]))


def false_alerts(
    slo: Slo, per_minute: float, severity: str, *, min_bad: int, months: int, seed: int = 1
) -> float:
    """Alerts a month that errors by chance raise, though the SLO is met: half its budget is spent.

    Requests and errors come independently of each other, as Poisson processes.
    """
    rng = np.random.default_rng(seed)
    month = slo.window // MINUTE
    expected = per_minute * slo.budget_ratio / 2
    bad = rng.poisson(expected, (months + 1) * month).astype(float)
    good = rng.poisson(per_minute - expected, (months + 1) * month).astype(float)
    fired = fires(slo, good, bad, severity, min_bad)[month:]
    return int(np.count_nonzero(fired[1:] & ~fired[:-1])) / months

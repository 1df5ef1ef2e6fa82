"""Burn rates and error budgets: the formulas, and the alert tiers as data.

    burn_rate        = (bad / valid) / (1 - objective)
    budget remaining = 1 - burn_rate over the SLO's own window

An alert tier fires when a share of the whole budget is spent within a long window, and still
being spent in a short one. On an SLO window W that is a burn rate of `budget_share * W / long`,
yet never below 1: a slower burn keeps the budget, however short W is.

Source:
    Google, The Site Reliability Workbook, chapter 5, "Alerting on SLOs", table 5-8: 2 % in 1 h,
    5 % in 6 h, 10 % in 3 d of a 30-day budget, i.e. 14.4, 6 and 1. The tier of 1 d / 2 h at 3,
    which practice adds between them, spends 10 % of it as well.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from outcome_exporter.units import DAY, HOUR, MINUTE

Severity = Literal["page", "ticket"]


@dataclass(frozen=True, slots=True)
class Tier:
    """One pair of windows that must both burn for an alert to fire."""

    severity: Severity
    long_window: int
    """Nanoseconds."""
    short_window: int
    """Nanoseconds; a twelfth of the long one in `TIERS`."""
    budget_share: Fraction
    """Share of the whole error budget that the long window may spend."""

    def burn_rate(self, window: int) -> Fraction:
        """That spends the share within the long window, for an SLO over `window` nanoseconds."""
        return self.budget_share * window / self.long_window

    def threshold(self, window: int) -> float:
        """Burn rate above which the tier fires for an SLO over `window` nanoseconds."""
        return float(max(self.burn_rate(window), Fraction(1)))


TIERS = (
    Tier("page", HOUR, 5 * MINUTE, Fraction(2, 100)),
    Tier("page", 6 * HOUR, 30 * MINUTE, Fraction(5, 100)),
    Tier("ticket", DAY, 2 * HOUR, Fraction(10, 100)),
    Tier("ticket", 3 * DAY, 6 * HOUR, Fraction(10, 100)),
)

WINDOWS = (5 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR, DAY, 3 * DAY)
"""Windows that every SLO shows, in nanoseconds, beside its own and its tiers'."""

"""What the exporter would show over time, from good and bad events per minute.

The slow and obvious way: every window is a difference of running sums. As the exporter has it, a
window of n minutes ends with the current minute and holds that one.
"""

from typing import NamedTuple

import numpy as np

from outcome_exporter.config import Config
from outcome_exporter.config.journeys import Journey, Promised
from outcome_exporter.config.slos import Slo
from outcome_exporter.units import HOUR, MINUTE, SECOND, format_duration

TARGET = 'job="outcome-exporter",instance="exporter:9464"'


class Windows(NamedTuple):
    """Of one SLO at the end of each minute that is shown: good and bad events by window."""

    good: dict[int, np.ndarray]
    bad: dict[int, np.ndarray]

    def burn_rate(self, slo: Slo, window: int) -> np.ndarray:
        good, bad = self.good[window], self.bad[window]
        valid = good + bad
        return np.where(valid > 0, bad / np.maximum(valid, 1), 0) / slo.budget_ratio


def windows(slo: Slo, good: np.ndarray, bad: np.ndarray, *, shown: int) -> Windows:
    """Sums over every window of the SLO, for the last `shown` of the minutes given."""
    return Windows(
        {window: _sums(good, window // MINUTE)[-shown:] for window in slo.windows},
        {window: _sums(bad, window // MINUTE)[-shown:] for window in slo.windows},
    )


def _sums(events: np.ndarray, minutes: int) -> np.ndarray:
    running = np.concatenate([[0], np.cumsum(events)])
    ends = np.arange(1, len(events) + 1)
    return running[ends] - running[np.maximum(ends - minutes, 0)]


def gauges(
    config: Config, journey: Journey, slo: Slo, good: np.ndarray, bad: np.ndarray, *, shown: int
) -> dict[str, np.ndarray]:
    """Series of one SLO by their name and labels, a value for each minute that is shown."""
    sums = windows(slo, good, bad, shown=shown)
    title, owner = slo.title or journey.title or journey.name, slo.owner or journey.owner
    about = {
        "slo": slo.name,
        "journey": journey.name,
        "owner": owner,
        "title": title,
        "runbook_url": slo.runbook or journey.runbook,
        "window": format_duration(slo.window),
        "unit": Promised(journey, slo).unit,
    }
    constant = np.ones(shown)
    found = {
        series("slo_info", **about): constant,
        series("slo_objective_ratio", slo=slo.name): slo.objective_ratio * constant,
        series("slo_alert_min_bad_events", slo=slo.name): config.min_bad_events(slo) * constant,
        series("slo_alert_min_events", slo=slo.name): config.min_events(slo) * constant,
    }
    for tier in slo.tiers:
        labels = {
            "severity": tier.severity,
            "long_window": format_duration(tier.long_window),
            "short_window": format_duration(tier.short_window),
        }
        name = series("slo_alert_burn_rate_threshold", slo=slo.name, **labels)
        found[name] = tier.threshold(slo.window) * constant
    for window in slo.windows:
        labels = {"slo": slo.name, "window": format_duration(window)}
        rate = sums.burn_rate(slo, window)
        found[series("slo_burn_rate", **labels)] = rate
        found[series("slo_sli_ratio", **labels)] = 1 - rate * slo.budget_ratio
        for result, counts in (("good", sums.good), ("bad", sums.bad)):
            found[series("slo_window_events", **labels, result=result)] = counts[window]
    remaining = 1 - sums.burn_rate(slo, slo.window)
    whole, rate = slo.window / SECOND, sums.burn_rate(slo, 6 * HOUR)
    left = np.maximum(remaining, 0) * whole
    gone = np.where(rate > 0, np.minimum(left / np.maximum(rate, 1e-12), whole), whole)
    found[series("slo_error_budget_remaining_ratio", slo=slo.name)] = remaining
    found[series("slo_error_budget_exhaustion_seconds", slo=slo.name)] = np.where(
        remaining > 0, gone, 0
    )
    return found


def series(name: str, **labels: str) -> str:
    """A series as PromQL writes it, of the one target that tests have."""
    matchers = [TARGET, *(f'{label}="{value}"' for label, value in labels.items())]
    return f"{name}{{{','.join(matchers)}}}"


def values(numbers: np.ndarray) -> str:
    """Numbers as promtool's notation has them, runs of equal ones shortened."""
    ends = [*np.flatnonzero(np.diff(numbers)), len(numbers) - 1]
    parts, start = [], 0
    for end in ends:
        parts.append(f"{numbers[start]!r}".removeprefix("np.float64(").removesuffix(")"))
        if end > start:
            parts[-1] += f"+0x{end - start}"
        start = end + 1
    return " ".join(parts)

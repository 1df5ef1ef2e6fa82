"""When an error budget burns: one recording rule, from which the burn alerts read.

    slo:alert_burn_rate:max{slo, severity, journey, owner}
        = highest burn rate of the long windows whose tier fires

When a tier fires says `alerting`. Recording the highest of them makes tiers inhibit each other:
when a problem moves from the 1-hour tier to that of 6 hours it stays the same alert, and `unless`
on the page keeps the ticket silent. Doing that in Alertmanager's configuration alone was
discarded: not everybody's has it.

Known limit: the ticket may follow once the page has ended, because its longer windows still burn;
the budget is spent faster than planned, and somebody should look in working hours.
"""

from outcome_exporter import alerting, burn
from outcome_exporter.config import Config
from outcome_exporter.config.slos import Slo
from outcome_exporter.series import Family
from outcome_exporter.units import format_duration

RECORD = "slo:alert_burn_rate:max"
KEPT = "cluster, namespace, job"
"""Labels that tell exporters apart. `instance` and `pod` are not among them: a restart in another
place must not make a new alert."""
TARGET = f"{KEPT}, instance, slo"
"""Labels that tell an SLO of one exporter from all others."""


def select(family: Family, **matchers: str) -> str:
    """A selector of a series: of every exporter."""
    pairs = ",".join(f'{label}="{value}"' for label, value in matchers.items())
    return f"{family.name}{{{pairs}}}" if pairs else family.name


def generic() -> str:
    """For every SLO that is shown, with the thresholds that are shown."""
    fires = alerting.firing(select, TARGET)
    return with_info(f"max by ({KEPT}, slo, severity) (\n{fires})\n")


def with_info(expr: str) -> str:
    """An expression with the journey and the owner of its SLO."""
    return f"""\
{expr}* on ({KEPT}, slo) group_left (journey, owner)
  max by ({KEPT}, slo, journey, owner) (slo_info)
"""


def explicit(config: Config, slo: Slo, severity: burn.Severity) -> str:
    """For one SLO by name, its thresholds written out; empty where no tier can fire."""
    tiers = [_tier(config, slo, tier) for tier in slo.tiers if tier.severity == severity]
    inner = "\n  or\n".join(tiers)
    return f"max by ({KEPT}) (\n{inner}\n)\n" if tiers else ""


def _tier(config: Config, slo: Slo, tier: burn.Tier) -> str:
    long, short = format_duration(tier.long_window), format_duration(tier.short_window)
    threshold = repr(tier.threshold(slo.window))
    least = config.min_events(slo)
    unless = f"""
      unless on ({TARGET})
        sum by ({TARGET}) (slo_window_events{{slo="{slo.name}",window="{long}"}}) < {least}"""
    return f"""\
    (
        slo_burn_rate{{slo="{slo.name}",window="{long}"}} > {threshold}
      and on ({TARGET})
        slo_burn_rate{{slo="{slo.name}",window="{short}"}} > {threshold}
      and on ({TARGET})
        slo_window_events{{slo="{slo.name}",window="{long}",result="bad"}} >= \
{config.min_bad_events(slo)}{unless if least else ""}
    )"""

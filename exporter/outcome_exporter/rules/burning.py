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
    return f"""\
max by ({KEPT}, slo, severity) (
{fires})
* on ({KEPT}, slo) group_left (journey, owner)
  max by ({KEPT}, slo, journey, owner) (slo_info)
"""


def spent() -> str:
    """Which SLOs have no budget left, by enough events of their own window."""
    own = f"""\
    (slo_error_budget_remaining_ratio <= 0)
  * on ({TARGET}) group_left (journey, owner, window)
    slo_info
"""
    enough = alerting.with_enough_events(select, TARGET)
    return f"max by ({KEPT}, slo, journey, owner) (\n{own}{enough})\n"


def explicit_spent(config: Config, slo: Slo) -> str:
    """The same of one SLO by name, with its gates written out."""
    window = format_duration(slo.window)
    return f"""\
max by ({KEPT}, slo) (
        slo_error_budget_remaining_ratio{{slo="{slo.name}"}} <= 0
{_enough(config, slo, window)}
)"""


def explicit(config: Config, slo: Slo, severity: burn.Severity) -> str:
    """For one SLO by name, its thresholds written out; empty where no tier can fire."""
    tiers = [_tier(config, slo, tier) for tier in slo.tiers if tier.severity == severity]
    inner = "\n  or\n".join(tiers)
    return f"max by ({KEPT}) (\n{inner}\n)\n" if tiers else ""


def _tier(config: Config, slo: Slo, tier: burn.Tier) -> str:
    long, short = format_duration(tier.long_window), format_duration(tier.short_window)
    threshold = repr(tier.threshold(slo.window))
    return f"""\
    (
        slo_burn_rate{{slo="{slo.name}",window="{long}"}} > {threshold}
      and on ({TARGET})
        slo_burn_rate{{slo="{slo.name}",window="{short}"}} > {threshold}
{_enough(config, slo, long)}
    )"""


def _enough(config: Config, slo: Slo, window: str) -> str:
    """What keeps an alert of one SLO silent while a window holds too few events, or bad ones."""
    events, least = f'slo_window_events{{slo="{slo.name}",window="{window}"', config.min_events(slo)
    unless = f"""
      unless on ({TARGET})
        sum by ({TARGET}) ({events}}}) < {least}"""
    return f"""\
      and on ({TARGET})
        {events},result="bad"}} >= {config.min_bad_events(slo)}{unless if least else ""}"""

"""Recording rules that give Sloth's names and labels to our exact numbers.

So dashboards that people have for Sloth go on to work (grafana.com 14348 and 14643), and show
correct numbers: Sloth's own number for the period is an unweighted mean of 5-minute ratios.

Differences: where there is no traffic Sloth's series are NaN or missing and ours read as no
errors; labels `slo` and `owner` are there in addition.

Source:
    github.com/slok/sloth, examples/_gen/getting-started.yml; `sloth_objective` and the period in
    weeks (`ratio_rate4w`) as version 0.12 and later write them.
"""

from collections.abc import Iterator
from typing import NamedTuple

from outcome_exporter import burn
from outcome_exporter.config import Config
from outcome_exporter.rules.burning import KEPT
from outcome_exporter.units import DAY, WEEK, format_duration

PERIODS = (7 * DAY, 14 * DAY, 28 * DAY, 30 * DAY, 90 * DAY)
"""Windows of SLOs that have rules whatever the configuration says."""

_IDS = "sloth_id, sloth_service, sloth_slo"
_ON = f"on ({KEPT}, slo)"


class Recording(NamedTuple):
    """One recording rule."""

    record: str
    expr: str
    labels: dict[str, str]


def recordings(config: Config) -> Iterator[Recording]:
    """All of them, in the order in which they read each other."""
    periods = sorted({*PERIODS, *(slo.window for _, slo in config.slos)})
    yield Recording(
        "sloth_slo_info",
        _info(),
        {"sloth_mode": "outcome-exporter", "sloth_spec": "outcome-exporter/v1"},
    )
    for window in burn.WINDOWS:
        text = format_duration(window)
        yield Recording(
            f"slo:sli_error:ratio_rate{text}",
            _labelled(f'1 - max by ({KEPT}, slo) (slo_sli_ratio{{window="{text}"}})'),
            {"sloth_window": text},
        )
    for period in periods:
        if period in burn.WINDOWS:
            continue  # has its name above already
        text, own = format_duration(period), sloth_window(period)
        yield Recording(
            f"slo:sli_error:ratio_rate{own}",
            _labelled(
                f'1 - max by ({KEPT}, slo) (slo_sli_ratio{{window="{text}"}} '
                f'and on ({KEPT}, instance, slo) slo_info{{window="{text}"}})'
            ),
            {"sloth_window": own},
        )
    objective = f"max by ({KEPT}, slo) (slo_objective_ratio)"
    yield Recording("slo:objective:ratio", _labelled(objective), {})
    # Rounded to billionths, or one would read 0.0009999999999999432.
    yield Recording(
        "slo:error_budget:ratio", _labelled(f"round((1 - {objective}) * 1e9) / 1e9"), {}
    )
    yield Recording("slo:time_period:days", _labelled(_days(periods)), {})
    yield Recording(
        "slo:current_burn_rate:ratio",
        _labelled(f'max by ({KEPT}, slo) (slo_burn_rate{{window="5m"}})'),
        {},
    )
    remaining = f"max by ({KEPT}, slo) (slo_error_budget_remaining_ratio)"
    yield Recording("slo:period_burn_rate:ratio", _labelled(f"1 - {remaining}"), {})
    yield Recording("slo:period_error_budget_remaining:ratio", _labelled(remaining), {})


def sloth_window(window: int) -> str:
    """A period as Sloth writes it: whole weeks as such, ``4w``."""
    return format_duration(window) if window % WEEK else f"{window // WEEK}w"


def _labelled(expr: str) -> str:
    return f"""\
({expr})
* {_ON} group_left ({_IDS}, owner)
  sloth_slo_info
"""


def _info() -> str:
    return f"""\
max by ({KEPT}, slo, owner, {_IDS}, sloth_objective) (
    label_join(
      label_replace(
        label_replace(slo_info, "sloth_service", "$1", "journey", "(.+)"),
        "sloth_slo", "$1", "slo", "(.+)"
      ),
      "sloth_id", "-", "journey", "slo"
    )
  * {_ON} group_left (sloth_objective)
    count_values by ({KEPT}, slo) (
      "sloth_objective", round(max by ({KEPT}, slo) (slo_objective_ratio) * 1e6) / 1e4
    )
)
"""


def _days(periods: list[int]) -> str:
    """PromQL cannot read a number from a label: each period has its own term."""
    return " or ".join(
        f"{period / DAY:.12g} * max by ({KEPT}, slo) "
        f'(slo_info{{window="{format_duration(period)}"}})'
        for period in periods
    )

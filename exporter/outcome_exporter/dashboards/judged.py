"""How SLOs and journeys stand, in PromQL: one number that sorts worst last, and its words.

The same states and words as on the exporter's own page. Thresholds are those of the alerts: they
are read from `slo_alert_burn_rate_threshold`, so that a panel and a page agree.
"""

from outcome_exporter import burn, series
from outcome_exporter.dashboards.promql import gauge, renamed, select
from outcome_exporter.dashboards.style import BAD, FINE, IDLE, SMOULDERING, SPENT, WARN, Meaning
from outcome_exporter.units import format_duration

_BURNING, _BUDGET_SPENT, _SMOULDERING, _KEPT, _NO_TRAFFIC = 3, 2, 1, 0, -1

STATES = {
    _BURNING: Meaning("burning", BAD),
    _BUDGET_SPENT: Meaning("budget spent", SPENT),
    _SMOULDERING: Meaning("smouldering", SMOULDERING),
    _KEPT: Meaning("fine", FINE),
    _NO_TRAFFIC: Meaning("no traffic", IDLE),
}
STATES_EXPLAINED = (
    "burning: customers are failing fast enough to page. budget spent: more failed in the window "
    "than promised. smouldering: slow damage, worth a ticket. no traffic: nobody tried for five "
    "minutes, so nothing is known; that is not the same as fine."
)

CAREFUL_BELOW = 0.25
"""Share of the budget below which the policy asks for care; at 0 it freezes releases."""
LASTS = {0: Meaning("spent", BAD)}
"""In place of no time left."""
_PAGING = [tier for tier in burn.TIERS if tier.severity == "page"]
_LONG = "=~" + "|".join(format_duration(tier.long_window) for tier in _PAGING)
_SHORT = "=~" + "|".join(format_duration(tier.short_window) for tier in _PAGING)
POLICY = {
    2: Meaning("freeze", BAD),
    1: Meaning("careful", WARN),
    0: Meaning("ship", FINE),
}


def of_journey(expr: str, labels: str = "journey", *, at_end: bool = False) -> str:
    """SLOs' values with labels of what they are about."""
    return f"({expr}) * on (slo) group_left ({labels}) {gauge(series.SLO_INFO, at_end=at_end)}"


def in_own_window(family: series.Family) -> str:
    """What an SLO's own window says, by SLO."""
    return f"{gauge(family)} and on (slo, window) {gauge(series.SLO_INFO)}"


def budget_left(*, at_end: bool = False, slo: str = "") -> str:
    """Error budget left by SLO; rounded, since what is spent to the last event is 0."""
    only = {"slo": slo} if slo else {}
    remaining = gauge(series.SLO_BUDGET_REMAINING, at_end=at_end, **only)
    return f"round({remaining}, 0.0001)"


def firing(severity: str) -> str:
    """Alert tiers whose both windows burn, as their thresholds."""
    return f"({burning('long_window', severity)} and {burning('short_window', severity)})"


def burning(window: str, severity: str) -> str:
    """Alert tiers of which one window, the long or the short one, burns: as their thresholds."""
    # The label goes to the thresholds, of which there are fewer than of burn rates.
    threshold = renamed(gauge(series.SLO_ALERT_THRESHOLD, severity=severity), window, "window")
    tier = ", ".join(series.SLO_ALERT_THRESHOLD.labels)
    burn = gauge(series.SLO_BURN_RATE)
    return f"max by ({tier}) ({threshold} < on (slo, window) group_left () {burn})"


def burn_of(window: str) -> str:
    """Burn rates of one window of each alert tier, the long or the short one."""
    threshold = renamed(gauge(series.SLO_ALERT_THRESHOLD), window, "window")
    tier = ", ".join(series.SLO_ALERT_THRESHOLD.labels)
    return (
        f"sum by ({tier}) ({threshold} * 0 + on (slo, window) group_left () "
        f"{gauge(series.SLO_BURN_RATE)})"
    )


def slo_state() -> str:
    """The state of each SLO as a number."""
    remaining = gauge(series.SLO_BUDGET_REMAINING)
    nobody = f"{gauge(series.SLO_TRAFFIC_STATE, state='none')} == 1"
    return " or ".join(
        (
            f"max by (slo) ({firing('page')}) * 0 + {_BURNING}",
            f"max by (slo) ({remaining} <= 0) * 0 + {_BUDGET_SPENT}",
            f"max by (slo) ({firing('ticket')}) * 0 + {_SMOULDERING}",
            f"max by (slo) ({nobody}) * 0 - {-_NO_TRAFFIC}",
            f"{remaining} * 0 + {_KEPT}",
        )
    )


def journey_state() -> str:
    """The state of each journey: that of its worst SLO."""
    return f"max by (journey) ({of_journey(slo_state())})"


def states_over_time(journeys_max: int) -> str:
    """The states of the journeys with the least budget at the end of the range, without tickets.

    Over time a state must be cheap: 1,000 SLOs have 8,000 burn rates at each of the points. So
    the worst journeys are found first, which Prometheus does once since all of it is `@ end()`,
    and everything else is worked out for their SLOs alone.
    """
    left = of_journey(budget_left(at_end=True), at_end=True)
    worst = (
        f"({gauge(series.SLO_INFO, at_end=True)} and on (journey) "
        f"bottomk({journeys_max}, min by (journey) ({left})))"
    )

    def of_worst(family: series.Family, **matchers: str) -> str:
        by = ", ".join(family.labels)
        return f"max by ({by}) ({select(family, **matchers)} and on (slo) {worst})"

    threshold = gauge(series.SLO_ALERT_THRESHOLD, at_end=True, severity="page")
    tier = ", ".join(series.SLO_ALERT_THRESHOLD.labels)
    burns = " and ".join(
        f"max by ({tier}) ({renamed(threshold, window, 'window')} < on (slo, window) "
        f"group_left () {of_worst(series.SLO_BURN_RATE, window=windows)})"
        for window, windows in (("long_window", _LONG), ("short_window", _SHORT))
    )
    remaining = of_worst(series.SLO_BUDGET_REMAINING)
    nobody = f"max by (slo) ({of_worst(series.SLO_TRAFFIC_STATE, state='none')} == 1)"
    states = " or ".join(
        (
            f"max by (slo) ({burns}) * 0 + {_BURNING}",
            f"({remaining} <= 0) * 0 + {_BUDGET_SPENT}",
            f"{nobody} * 0 - {-_NO_TRAFFIC}",
            f"{remaining} * 0 + {_KEPT}",
        )
    )
    return f"max by (journey) ({of_journey(states, at_end=True)})"


def worst_slo() -> str:
    """The SLO of each journey with the least budget left, as that share."""
    return f"bottomk by (journey) (1, {of_journey(budget_left())})"


def policy() -> str:
    """What the error budget policy says of each SLO."""
    left = budget_left()
    return f"({left} <= bool 0) + ({left} < bool {CAREFUL_BELOW})"

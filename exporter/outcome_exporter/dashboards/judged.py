"""How SLOs and journeys stand, in PromQL: one number that sorts worst last, and its words.

The same states and words as on the exporter's own page. Whether an alert fires is asked as the
rules ask it; see `alerting`.
"""

from outcome_exporter import alerting, series
from outcome_exporter.dashboards.promql import gauge, renamed
from outcome_exporter.dashboards.style import BAD, FINE, IDLE, SMOULDERING, SPENT, WARN, Meaning
from outcome_exporter.series import Family
from outcome_exporter.units import DAY, SECOND

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
TIER = ", ".join(series.SLO_ALERT_THRESHOLD.labels)
"""Labels of an alert tier of an SLO."""
POLICY = {
    2: Meaning("freeze", BAD),
    1: Meaning("careful", WARN),
    0: Meaning("ship", FINE),
}


def of_journey(expr: str, labels: str = "journey", **which: str) -> str:
    """SLOs' values with labels of what they are about; those that belong to a journey."""
    info = gauge(series.SLO_INFO, journey="!=", **which)
    return f"({expr}) * on (slo) group_left ({labels}) {info}"


def in_own_window(family: series.Family) -> str:
    """What an SLO's own window says, by SLO."""
    return f"{gauge(family)} and on (slo, window) {gauge(series.SLO_INFO)}"


def budget_left(**which: str) -> str:
    """Error budget left by SLO; rounded, since what is spent to the last event is 0."""
    return f"round({gauge(series.SLO_BUDGET_REMAINING, **which)}, 0.0001)"


def gone_within(days: int) -> str:
    """How long budgets last that will be spent so soon, by SLO, if the last 6 hours go on.

    What lasts is said to last as long as its window, which may be shorter: it is told from what
    ends by its burn rate, which must be above the share that is left.
    """
    lasts = gauge(series.SLO_BUDGET_EXHAUSTION)
    burns = gauge(series.SLO_BURN_RATE, window="6h")
    ends = f"{gauge(series.SLO_BUDGET_REMAINING)} < on (slo) {burns}"
    return f"({lasts} < {days * DAY // SECOND}) > 0 and on (slo) ({ends})"


def firing(severity: str = "", **which: str) -> str:
    """Alert tiers that fire, of one severity or all, as the burn rates of their long windows."""

    def read(family: Family, **matchers: str) -> str:
        if severity and family is series.SLO_ALERT_THRESHOLD:
            matchers["severity"] = severity
        return gauge(family, **matchers, **which)

    return f"max by ({TIER}) (\n{alerting.firing(read, 'slo')})"


def nearness(**which: str) -> str:
    """How near each alert tier is to firing, 1 where it fires: what is furthest from it counts."""
    bad = gauge(series.SLO_WINDOW_EVENTS, result="bad", **which)
    events = f"sum by (slo, window) ({gauge(series.SLO_WINDOW_EVENTS, **which)})"
    burns = gauge(series.SLO_BURN_RATE, **which)
    threshold = gauge(series.SLO_ALERT_THRESHOLD, **which)
    enough_bad = f"{bad} / on (slo) group_left () ({gauge(series.SLO_ALERT_MIN_BAD)} > 0)"
    # Most SLOs ask for no least number of events: then there is nothing to be far from.
    enough = f"{events} / on (slo) group_left () ({gauge(series.SLO_ALERT_MIN)} > 0)"
    shares = (
        _of_tiers("long_window", enough_bad),
        _of_tiers("long_window", enough),
        f"{_of_tiers('long_window', burns)} / {threshold}",
        f"{_of_tiers('short_window', burns)} / {threshold}",
    )
    every = " or ".join(
        f'label_replace({share}, "part", "{part}", "", "")' for part, share in enumerate(shares)
    )
    return f"min by ({TIER}) ({every})"


def burn_now() -> str:
    """Burn rates of the short window of each alert tier."""
    return _of_tiers("short_window", gauge(series.SLO_BURN_RATE))


def _of_tiers(which: str, expr: str) -> str:
    """What an expression says of one window of each alert tier, the long or the short one."""
    threshold = renamed(gauge(series.SLO_ALERT_THRESHOLD), which, "window")
    return f"sum by ({TIER}) ({threshold} * 0 + on (slo, window) group_left () ({expr}))"


def slo_state(**which: str) -> str:
    """The state of each SLO as a number."""
    remaining = gauge(series.SLO_BUDGET_REMAINING, **which)
    nobody = f"{gauge(series.SLO_TRAFFIC_STATE, state='none', **which)} == 1"
    severities = " or ".join(
        f'label_replace(vector({state}), "severity", "{severity}", "", "")'
        for severity, state in (("page", _BURNING), ("ticket", _SMOULDERING))
    )
    alerts = f"{firing(**which)} * 0 + on (severity) group_left () ({severities})"
    return " or ".join(
        (
            f"max by (slo) (({alerts}) or ({remaining} <= 0) * 0 + {_BUDGET_SPENT})",
            f"max by (slo) ({nobody}) * 0 - {-_NO_TRAFFIC}",
            f"{remaining} * 0 + {_KEPT}",
        )
    )


def journey_state(**which: str) -> str:
    """The state of each journey: that of its worst SLO."""
    return f"max by (journey) ({of_journey(slo_state(**which), **which)})"


def journeys_counted() -> str:
    """How many journeys are in each state, worst first, also where none is."""
    counted = f'count_values("state", {journey_state()})'
    zeros = []
    for number, meaning in sorted(STATES.items(), reverse=True):
        counted = f'label_replace({counted}, "state", "{meaning.text}", "state", "{number}")'
        zeros.append(f'label_replace(vector(0), "state", "{meaning.text}", "", "")')
    every = " or ".join(zeros)
    # What stands on the left gives the order.
    return f"({every}) + on (state) ({counted} or {every})"


def worst_slos(journeys_max: int) -> str:
    """All SLOs of the journeys with the least budget left."""
    left = of_journey(budget_left())
    worst = f"bottomk({journeys_max}, min by (journey) ({left}))"
    return f"max by (slo) ({gauge(series.SLO_INFO, journey='!=')} and on (journey) {worst})"


def worst_slo() -> str:
    """The SLO of each journey with the least budget left, as that share."""
    return f"bottomk by (journey) (1, {of_journey(budget_left())})"


def top_cause() -> str:
    """Who is blamed most on each journey now, as the share of its bad outcomes."""
    cause = ", ".join(("journey", *series.CAUSE))
    return f"topk by (journey) (1, sum by ({cause}) ({alerting.causes(gauge)}) > 0)"


def policy() -> str:
    """What the error budget policy says of each SLO."""
    left = budget_left()
    return f"({left} <= bool 0) + ({left} < bool {CAREFUL_BELOW})"

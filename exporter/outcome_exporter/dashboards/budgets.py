"""Error budgets: every promise, what is left of it, what alerts, and what the policy says."""

from outcome_exporter import burn, series
from outcome_exporter.dashboards import judged, style, uids
from outcome_exporter.dashboards.knowledge import Knowledge
from outcome_exporter.dashboards.panels import (
    Column,
    Query,
    Row,
    assemble,
    datasource_variables,
    lines,
    matrix,
    rows,
    slos_found,
    stats,
    url,
    variable,
)
from outcome_exporter.dashboards.promql import cut, gauge
from outcome_exporter.dashboards.sdk import dashboard
from outcome_exporter.units import DAY, SECOND, format_duration

_SHOWN_MAX = 20
_POLICY_EXPLAINED = (
    f"The policy: ship while there is budget; be careful below {judged.CAREFUL_BELOW:.0%}; freeze "
    "releases, and mend, once it is spent."
)


def build(known: Knowledge) -> dashboard.Dashboard:
    """The dashboard."""
    del known
    return assemble(
        uids.BUDGETS,
        "Error budgets",
        "All promises (SLOs): what was promised, what is left of the budget for bad outcomes, how "
        "fast it burns, what alerts, and whether to ship.",
        variables=[
            *datasource_variables(),
            # All of them includes SLOs without an owner, or without a journey.
            variable("owner", "Owner", series.SLO_INFO, "owner", multi=True, everything=".*"),
            variable(
                "journey",
                "Journey",
                series.SLO_INFO,
                "journey",
                multi=True,
                everything=".*",
                owner="=~$owner",
            ),
            slos_found("worst", "SLOs with the least budget", _worst()),
            slos_found("nearest", "SLOs nearest to an alert", _nearest()),
        ],
        since="now-7d",
        rows_=[
            Row("May we ship?", _numbers()),
            Row("", [_promises()]),
            Row("What alerts, and what is about to?", [_alerts(), _nearness()]),
            Row("Where did the budgets go?", [_course(), _burn()]),
        ],
    )


def _mine(expr: str, labels: str = "") -> str:
    """SLOs' values, of the chosen owners and journeys alone."""
    info = gauge(series.SLO_INFO, owner="=~$owner", journey="=~$journey")
    return f"({expr}) * on (slo) group_left ({labels}) {info}"


def _numbers() -> list[dashboard.Panel]:
    policy = _mine(judged.policy())
    return [
        stats(
            "How many promises may ship?",
            f"Number of SLOs by what the error budget policy says. {_POLICY_EXPLAINED}",
            [
                Query(f"count({policy} == {number}) or vector(0)", meaning.text)
                for number, meaning in judged.POLICY.items()
            ],
            width=10,
            decimals=0,
            colours={
                meaning.text: (style.IDLE, (style.Step(meaning.colour, 1),))
                for meaning in judged.POLICY.values()
            },
        ),
        stats(
            "How many alert now?",
            "SLOs for which both windows of an alert tier burn faster than its threshold. page: "
            "somebody is woken. ticket: for working hours.",
            [
                Query(
                    f"count(max by (slo) ({_mine(judged.firing(severity))})) or vector(0)",
                    severity,
                )
                for severity in ("page", "ticket")
            ],
            width=7,
            decimals=0,
            colours={"page": style.ANY_IS_BAD, "ticket": style.ANY_IS_A_WARNING},
        ),
        stats(
            "How many budgets run out soon?",
            "SLOs that still have budget, yet not for longer than this if the last 6 hours go on.",
            [
                Query(
                    f"count({_mine(judged.gone_within(days))}) or vector(0)",
                    f"within {days} day" + ("s" if days > 1 else ""),
                )
                for days in (1, 3)
            ],
            width=7,
            decimals=0,
            thresholds=style.ANY_IS_A_WARNING,
        ),
    ]


def _promises() -> dashboard.Panel:
    labels = "journey, owner, window, runbook_url"
    burns = {
        window: f"round({_mine(gauge(series.SLO_BURN_RATE, window=window))}, 0.01)"
        for window in ("1h", "6h", "1d", "3d")
    }
    faster = (style.PLAIN, (style.Step(style.WARN, 1),))
    return rows(
        "Which promises are kept?",
        "All SLOs, the one with the least budget first. Burn: how many times faster than allowed "
        "the budget went in the window; orange from 1 on, which would not last. "
        f"{judged.STATES_EXPLAINED} {_POLICY_EXPLAINED}",
        [
            Column("SLO", label="slo", width=180),
            Column(
                "Journey",
                label="journey",
                link=url(uids.JOURNEY, journey="${__value.raw}"),
                link_title="From pain to cause",
                width=110,
            ),
            Column("Owner", label="owner", width=90),
            Column("State", expr=_mine(judged.slo_state()), meanings=judged.STATES, width=110),
            Column("Policy", expr=_mine(judged.policy()), meanings=judged.POLICY, width=80),
            Column(
                "Budget left",
                expr=_mine(judged.budget_left(), labels),
                unit=style.PERCENT,
                decimals=0,
                thresholds=style.below(1e-9, judged.CAREFUL_BELOW),
                width=100,
            ),
            Column(
                "Lasts for",
                expr=_mine(gauge(series.SLO_BUDGET_EXHAUSTION)),
                unit=style.SECONDS,
                decimals=0,
                thresholds=style.below(DAY // SECOND, 3 * DAY // SECOND),
                meanings=judged.LASTS,
                width=95,
            ),
            Column(
                "Kept",
                expr=cut(f"sum by (slo) ({_mine(judged.in_own_window(series.SLO_SLI))})", 0.00001),
                unit=style.PERCENT,
                decimals=2,
                width=90,
            ),
            Column(
                "Promised",
                expr=_mine(gauge(series.SLO_OBJECTIVE)),
                unit=style.PERCENT,
                decimals=2,
                width=90,
            ),
            Column("Window", label="window", width=75),
            *(
                Column(
                    f"Burn {window}",
                    expr=f"sum by (slo) ({expr})",
                    unit=style.TIMES,
                    decimals=1,
                    thresholds=faster,
                    width=80,
                )
                for window, expr in burns.items()
            ),
            Column(
                "Runbook",
                label="runbook_url",
                link="${__value.raw}",
                link_title="What to do",
            ),
        ],
        sort="Budget left",
        descending=False,
        height=10,
    )


def _alerts() -> dashboard.Panel:
    now = f"{judged.burn_now()} and on ({judged.TIER}) {_firing()}"
    threshold = f"{gauge(series.SLO_ALERT_THRESHOLD)} and on ({judged.TIER}) {_firing()}"
    return rows(
        "What alerts now?",
        "Alert tiers whose two windows both burn faster than the threshold, and whose long one "
        "holds enough events, and enough bad ones. What fires here is silent only where "
        "Alertmanager says so, or as a ticket beside a page.",
        [
            Column("SLO", label="slo"),
            Column("Severity", label="severity", width=80),
            Column("Long window", label="long_window", width=105),
            Column("burns", expr=_firing(), unit=style.TIMES, decimals=1, width=75),
            Column("Short window", label="short_window", width=110),
            Column("burns now", expr=now, unit=style.TIMES, decimals=1, width=95),
            Column(
                "Threshold",
                expr=threshold,
                unit=style.TIMES,
                decimals=1,
                width=90,
            ),
        ],
        sort="burns",
        descending=True,
        width=12,
        height=9,
        nothing="nothing alerts",
    )


def _firing() -> str:
    """Tiers of all severities that fire, of the chosen SLOs."""
    return _mine(judged.firing())


def _nearest() -> str:
    """The chosen SLOs with the alert that is nearest."""
    return f"topk({_SHOWN_MAX}, max by (slo) ({_mine(judged.nearness())}))"


def _nearness() -> dashboard.Panel:
    near = f"max by (slo, long_window) ({judged.nearness(slo='=~$nearest')})"
    return matrix(
        f"How near is each alert? (the {_SHOWN_MAX} nearest)",
        "By the long window of the alert tier: from 100 % on it fires. What is furthest from it "
        "counts, since all must be there: the burn rates of both windows as a share of the "
        "threshold, and events, bad and in all, as a share of how many an alert needs.",
        Query(f"round({near}, 0.01)"),
        row="slo",
        column="long_window",
        columns=[format_duration(tier.long_window) for tier in burn.TIERS],
        unit=style.PERCENT,
        decimals=0,
        thresholds=("transparent", (style.Step(style.WARN, 0.5), style.Step(style.BAD, 1))),
        width=12,
        height=9,
    )


def _worst() -> str:
    """The chosen SLOs with the least budget left."""
    info = gauge(series.SLO_INFO, owner="=~$owner", journey="=~$journey")
    return f"bottomk({_SHOWN_MAX}, {judged.budget_left()} and on (slo) {info})"


def _course() -> dashboard.Panel:
    return lines(
        f"How did the budgets go? (the {_SHOWN_MAX} worst)",
        "Error budget left in the SLO's window over time: 100 % is untouched, 0 % spent, below "
        "that more failed than was promised. Falling steeply: an incident. Rising: old bad "
        "outcomes leave the window.",
        [
            Query(judged.budget_left(slo="=~$worst"), "{{slo}}"),
        ],
        width=12,
        height=9,
        unit=style.PERCENT,
        decimals=0,
        thresholds=(style.PLAIN, (style.Step(style.BAD, 0),)),
        most=1,
        points_max=300,
    )


def _burn() -> dashboard.Panel:
    rate = gauge(series.SLO_BURN_RATE, window="6h", slo="=~$worst")
    return lines(
        f"How fast do they burn? (6 hours, the {_SHOWN_MAX} worst)",
        "Burn rate over the 6 hours before each moment, of the SLOs with the least budget now: "
        "how many times faster than allowed. At 1, the line, a budget lasts just as long as it "
        "must.",
        [
            Query(f"round({rate}, 0.01)", "{{slo}}"),
        ],
        width=12,
        height=9,
        unit=style.TIMES,
        decimals=1,
        thresholds=(style.PLAIN, (style.Step(style.WARN, 1),)),
        points_max=300,
    )

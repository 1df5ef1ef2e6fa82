"""Journey: from pain to cause, read from top to bottom."""

from outcome_exporter import series
from outcome_exporter.dashboards import foreign, judged, style, uids
from outcome_exporter.dashboards.health import SERVED, health
from outcome_exporter.dashboards.knowledge import Knowledge
from outcome_exporter.dashboards.panels import (
    Column,
    Query,
    Row,
    assemble,
    changes,
    datasource_variables,
    lines,
    ranking,
    rows,
    stats,
    url,
    variable,
)
from outcome_exporter.dashboards.promql import gauge, grown, quantile, rate, ratio
from outcome_exporter.dashboards.sdk import dashboard
from outcome_exporter.units import DAY, SECOND

_HERE = "$journey"
_CAUSE = ", ".join(series.CAUSE)
_CAUSE_LEGEND = "{{cause_service}} {{cause_operation}} {{cause_version}} {{cause_kind}}"
_SLOS = "=~$slos"
"""All SLOs of the journey: a hidden variable, so that no query reads those of other journeys."""


def build(known: Knowledge) -> dashboard.Dashboard:
    """The dashboard."""
    return assemble(
        uids.JOURNEY,
        "Journey",
        "One journey, from pain to cause: what customers got, whether the promise is kept, who is "
        "to blame, what differs, and traces of failed attempts.",
        variables=[
            *datasource_variables(),
            variable("journey", "Journey", series.PENDING_ATTEMPTS, "journey", multi=False),
            variable("slo", "SLO", series.SLO_INFO, "slo", multi=False, journey=_HERE),
            variable(
                "slos",
                "All SLOs",
                series.SLO_INFO,
                "slo",
                multi=True,
                hidden=True,
                journey=_HERE,
            ),
            variable(
                "service",
                "Blamed services",
                series.BLAME,
                "cause_service",
                multi=True,
                journey=_HERE,
                cause_service="!=",
            ),
        ],
        annotations=[changes("=~.+")],
        since="now-6h",
        rows_=[
            Row("How bad is it for customers?", _impact(known)),
            Row("Is the promise kept?", _promise()),
            Row("How fast does the budget of $slo burn?", _burn()),
            Row("What did customers get?", _outcomes(known)),
            Row("Who is to blame?", _blame(known)),
            Row("What do bad attempts have in common?", [_suspects()]),
            Row("How are the blamed services?", [*_health(), *_resources()]),
        ],
    )


def _impact(known: Knowledge) -> list[dashboard.Panel]:
    money = style.money_unit(known.currencies)
    return [
        stats(
            "How is it now?",
            f"That of the journey's worst promise (SLO). {judged.STATES_EXPLAINED}",
            [Query(judged.journey_state(slo=_SLOS), "state")],
            width=4,
            meanings=judged.STATES,
        ),
        stats(
            "How many users were hurt?",
            "Distinct users with a bad outcome. Estimated with an error of 1.6 %.",
            [
                Query(
                    f"max by (window) ({gauge(series.USERS, journey=_HERE, outcome='bad')})",
                    "last {{window}}",
                )
            ],
            width=5,
            decimals=0,
            nothing="the journey names no user",
        ),
        stats(
            "Attempts that went badly?",
            "Share of the attempts of this time range whose outcome was bad, for whatever reason.",
            [
                Query(
                    ratio(
                        grown(series.ATTEMPTS, "journey", journey=_HERE, outcome="bad"),
                        grown(series.ATTEMPTS, "journey", journey=_HERE),
                    ),
                    "bad",
                ),
            ],
            width=4,
            unit=style.PERCENT,
            decimals=2,
            thresholds=style.ANY_IS_A_WARNING,
            nothing="no attempts",
        ),
        stats(
            "What is at stake?",
            "Money of this time range. At risk: of bad outcomes. Lost: of those that no retry "
            "saved; a part of at risk.",
            [
                Query(_money_of("at_risk"), style.money_legend(known.currencies, "at risk")),
                Query(_money_of("lost"), style.money_legend(known.currencies, "lost")),
            ],
            width=7,
            unit=money,
            thresholds=style.ANY_IS_A_WARNING,
            nothing="the journey names no value",
        ),
        stats(
            "How many wait for a verdict?",
            "Attempts that still wait for their business event or for the end of their trace.",
            [Query(f"max({gauge(series.PENDING_ATTEMPTS, journey=_HERE)})", "attempts")],
            width=4,
            decimals=0,
        ),
    ]


def _money_of(state: str) -> str:
    return f"round({grown(series.VALUE, 'currency', journey=_HERE, state=state)}, 0.01)"


def _promise() -> list[dashboard.Panel]:
    left = judged.budget_left(slo=_SLOS)
    lasts = f"({gauge(series.SLO_BUDGET_EXHAUSTION, slo=_SLOS)} > 0)"
    burns = f"sum by (slo) ({gauge(series.SLO_BURN_RATE, slo=_SLOS, window='6h')})"
    # What is left goes in the time that it lasts. If that is the window, it lasts longer still:
    # then the burn rate says how much goes in a window.
    goes = f"({burns} < {left} or {left})"
    in_a_day = f"{left} - clamp_max({goes} * {DAY // SECOND} / {lasts}, 10)"
    return [
        lines(
            "Do customers get what was promised?",
            "Share of good attempts in the hour before each moment (SLI), and as a dashed line "
            "what was promised (objective). Marks show deployments and flag changes.",
            [
                Query(gauge(series.SLO_SLI, slo=_SLOS, window="1h"), "{{slo}}"),
                Query(gauge(series.SLO_OBJECTIVE, slo=_SLOS), "{{slo}} promised"),
            ],
            width=12,
            unit=style.PERCENT,
            decimals=2,
            dashed={"/ promised$/": ""},
            least=None,
            most=1,
        ),
        lines(
            "How much error budget is left, and in a day?",
            "The error budget is how many bad outcomes the promise still allows in its window: "
            "100 % is untouched, at 0 % it is spent, below that more failed than was promised. "
            "Dashed: what is left in 24 hours if the last 6 hours go on.",
            [
                Query(left, "{{slo}}"),
                Query(in_a_day, "{{slo}} in a day"),
            ],
            width=12,
            unit=style.PERCENT,
            decimals=0,
            thresholds=(style.PLAIN, (style.Step(style.BAD, 0),)),
            dashed={"/ in a day$/": ""},
            least=0,
            most=1,
        ),
    ]


def _burn() -> list[dashboard.Panel]:
    return [
        lines(
            "When does it alert?",
            "Burn rate by window: how many times faster than allowed the budget is spent. At 1 "
            "it lasts exactly as long as promised. Dashed: thresholds; an alert fires while its "
            "long and its short window are above its line, once the long one holds enough bad "
            "outcomes. Windows without a bad one are left out; the scale is logarithmic.",
            [
                Query(f"{gauge(series.SLO_BURN_RATE, slo='$slo')} > 0", "{{window}}"),
                Query(
                    gauge(series.SLO_ALERT_THRESHOLD, slo="$slo"),
                    "{{severity}} above, {{long_window}} and {{short_window}}",
                ),
            ],
            width=16,
            unit=style.TIMES,
            decimals=1,
            dashed={"/^page above/": style.BAD, "/^ticket above/": style.WARN},
            least=None,
            log=True,
        ),
        stats(
            "How long does the budget last?",
            "Time until the error budget is spent if the last 6 hours go on; at most the SLO's "
            "window, which also stands for a budget that does not burn. 0: it is spent.",
            [Query(gauge(series.SLO_BUDGET_EXHAUSTION, slo="$slo"), "{{slo}}")],
            width=8,
            height=8,
            unit=style.SECONDS,
            decimals=1,
            thresholds=style.below(DAY // SECOND, 3 * DAY // SECOND),
            meanings=judged.LASTS,
        ),
    ]


def _outcomes(known: Knowledge) -> list[dashboard.Panel]:
    reasons = (
        "ok: it worked. recovered: it failed, then a retry worked. slow: it worked, too slowly. "
        "error: it failed. missed: every request succeeded, yet the business event never came, "
        "a silent failure that no error rate shows."
    )
    return [
        lines(
            "How do attempts end? (per minute)",
            f"All attempts by their final verdict, stacked. {reasons}",
            [Query(f"60 * {rate(series.ATTEMPTS, 'reason', journey=_HERE)}", "{{reason}}")],
            width=8,
            decimals=1,
            stacked=True,
            colours=style.REASONS,
        ),
        lines(
            "Which attempts fail? (per minute, with traces)",
            f"Bad outcomes alone, by reason; a point leads to the trace of one. {reasons}",
            [
                Query(
                    f"60 * {rate(series.ATTEMPTS, 'reason', journey=_HERE, outcome='bad')}",
                    "{{reason}}",
                    exemplars=True,
                )
            ],
            width=8,
            decimals=1,
            stacked=True,
            colours=style.REASONS,
            trace_url=known.trace_url,
        ),
        lines(
            "How long do attempts take?",
            "Half of all attempts are faster than the lower line, nineteen of twenty than the "
            "upper one. Empty for journeys that begin with a business event.",
            [
                Query(quantile(0.95, series.ATTEMPT_DURATION, "", journey=_HERE), "95 of 100"),
                Query(quantile(0.5, series.ATTEMPT_DURATION, "", journey=_HERE), "half"),
            ],
            width=8,
            unit=style.SECONDS,
            nothing="begins with a business event",
        ),
    ]


def _blame(known: Knowledge) -> list[dashboard.Panel]:
    blamed = grown(series.BLAME, _CAUSE, journey=_HERE)
    everything = f"scalar(sum({blamed}) > 0)"
    money = style.money_unit(known.currencies)
    return [
        lines(
            "Who burns the budget? (bad outcomes per minute, with traces)",
            "Bad outcomes by what is held responsible for them: service, operation, version and "
            "how (error, latency, missing: it never delivered). unattributed: nothing stood out.",
            [
                Query(
                    f"60 * {rate(series.BLAME, _CAUSE, journey=_HERE)} > 0",
                    _CAUSE_LEGEND,
                    exemplars=True,
                )
            ],
            width=10,
            decimals=1,
            stacked=True,
            height=9,
            trace_url=known.trace_url,
            nothing="no bad outcomes",
        ),
        rows(
            "Which causes cost most?",
            "Causes of this time range, costliest first. Share: of the bad outcomes of the "
            "journey, so of what burns its budget; what is unattributed says how much is not "
            "certain. Since: how long the cause has been hurting.",
            [
                Column(
                    "Service",
                    label="cause_service",
                    link=url(uids.SERVICE, service="${__value.raw}"),
                    link_title="What else does it hurt?",
                ),
                Column("Operation", label="cause_operation"),
                Column("Version", label="cause_version", width=80),
                Column("How", label="cause_kind", width=95),
                Column("Bad", expr=f"round({blamed}) > 0", decimals=0, width=60),
                Column(
                    "Share",
                    expr=f"({blamed} > 0) / {everything}",
                    unit=style.PERCENT,
                    decimals=0,
                    bar=True,
                    width=130,
                ),
                Column(
                    "Money",
                    expr=f"round({grown(series.BLAME_VALUE, _CAUSE, journey=_HERE)}, 0.01) > 0",
                    unit=money,
                    width=90,
                ),
                Column(
                    "Since",
                    expr=f"max by ({_CAUSE}) ({gauge(series.CAUSE_SINCE, journey=_HERE)})",
                    unit=style.SECONDS,
                    decimals=0,
                    width=80,
                ),
            ],
            sort="Bad",
            descending=True,
            width=14,
            nothing="no bad outcomes",
        ),
    ]


def _suspects() -> dashboard.Panel:
    return ranking(
        "What differs between bad and good attempts?",
        "Attribute values that bad attempts have more often than good ones, as the difference of "
        "the two shares: 100 % is in every bad attempt and in no good one. A hint, no proof.",
        Query(
            f"sort_desc(topk(10, {gauge(series.SUSPECT_SCORE, journey=_HERE)} > 0.01))",
            "{{dimension}} = {{value}}",
        ),
        width=24,
        height=5,
        unit=style.PERCENT,
        decimals=0,
        thresholds=(style.IDLE, (style.Step(style.WARN, 0.3), style.Step(style.BAD, 0.6))),
        most=1,
        nothing="nothing differs",
    )


def _health() -> list[dashboard.Panel]:
    return health(
        SERVED,
        "=~$service",
        by="service_name",
        titles=(
            "How many requests do they serve?",
            "Which share of them fails?",
            "How long do they take?",
        ),
        note="Services are those that were blamed for this journey; choose others above.",
    )


def _resources() -> list[dashboard.Panel]:
    needs = "Read from cAdvisor, where containers are named as their services; empty without."
    return [
        lines(
            "Do they run out of CPU?",
            f"Processor cores that the services use. {needs}",
            [
                Query(
                    f"sum by (container) (rate({foreign.CONTAINER_CPU.name}"
                    '{container=~"$service"}[$__rate_interval]))',
                    "{{container}}",
                )
            ],
            width=12,
            unit="cores",
            height=6,
            nothing="no cAdvisor",
        ),
        lines(
            "Do they run out of memory?",
            f"Memory that the services hold and cannot give back. {needs}",
            [
                Query(
                    f"sum by (container) ({foreign.CONTAINER_MEMORY.name}"
                    '{container=~"$service"})',
                    "{{container}}",
                )
            ],
            width=12,
            unit=style.BYTES,
            height=6,
            nothing="no cAdvisor",
        ),
    ]

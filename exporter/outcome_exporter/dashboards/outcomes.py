"""Outcomes: the one page for everyone. Do customers get what they came for, and at what cost?"""

from outcome_exporter import series
from outcome_exporter.dashboards import judged, style, uids
from outcome_exporter.dashboards.knowledge import Knowledge
from outcome_exporter.dashboards.panels import (
    Column,
    Query,
    Row,
    assemble,
    changes,
    datasource_variables,
    lines,
    rows,
    slos_found,
    stats,
    timeline,
    url,
)
from outcome_exporter.dashboards.promql import cut, gauge, grown, rate
from outcome_exporter.dashboards.sdk import dashboard
from outcome_exporter.units import DAY, SECOND

_SHOWN_MAX = 20
"""Journeys in panels over time: the worst ones. The table has them all."""


def build(known: Knowledge) -> dashboard.Dashboard:
    """The dashboard."""
    return assemble(
        uids.OUTCOMES,
        "Outcomes",
        "Do customers get what they came for, what does it cost when they do not, and where does "
        "one look? Every journey, the worst one first.",
        variables=[
            *datasource_variables(),
            slos_found("worst", "SLOs of the worst journeys", judged.worst_slos(_SHOWN_MAX)),
        ],
        annotations=[changes("=~.+")],
        since="now-24h",
        rows_=[
            Row("Are customers getting what they came for?", [*_numbers(known)]),
            Row("", [_journeys(known)]),
            Row("Since when?", [_states(), *_money(known)]),
        ],
    )


def _numbers(known: Knowledge) -> list[dashboard.Panel]:
    return [
        stats(
            "How many journeys are fine?",
            "A journey is something that users try to get done. It is as well as the worst of its "
            f"promises (SLOs). {judged.STATES_EXPLAINED}",
            [Query(judged.journeys_counted(), "{{state}}")],
            width=10,
            decimals=0,
            colours={
                meaning.text: (style.IDLE, (style.Step(meaning.colour, 1),))
                for meaning in judged.STATES.values()
            },
        ),
        stats(
            "What went wrong, in money?",
            "Value of what customers tried to get in this time range. At risk: their outcome was "
            "bad, though a retry may have saved it. Lost: no retry did, too.",
            [
                Query(_money_of("at_risk"), style.money_legend(known.currencies, "at risk")),
                Query(_money_of("lost"), style.money_legend(known.currencies, "lost")),
            ],
            width=6,
            unit=style.money_unit(known.currencies),
            thresholds=style.ANY_IS_A_WARNING,
            nothing="no journey names a value",
        ),
        stats(
            "Budgets gone within a day?",
            "Promises that still have error budget, yet at the speed of the last 6 hours will have "
            "none in 24 hours. Spent ones are counted as such among the journeys.",
            [
                Query(f"count({judged.gone_within(1)}) or vector(0)", "SLOs"),
            ],
            width=4,
            decimals=0,
            thresholds=style.ANY_IS_BAD,
        ),
        stats(
            "Users hurt today?",
            "Distinct users with at least one bad outcome in the last 24 hours, the largest "
            "number of any journey; one user may be hurt on several. Estimated, error 1.6 %.",
            [
                Query(f"max({gauge(series.USERS, outcome='bad', window='1d')})", "users"),
            ],
            width=4,
            decimals=0,
            thresholds=style.ANY_IS_A_WARNING,
            nothing="no journey names a user",
        ),
    ]


def _money_of(state: str) -> str:
    return f"round({grown(series.VALUE, 'currency', state=state)}, 0.01)"


def _journeys(known: Knowledge) -> dashboard.Panel:
    worst = judged.worst_slo()

    def of_worst(expr: str) -> str:
        """A value by SLO, of each journey's worst SLO alone."""
        return f"max by (journey) (({judged.of_journey(expr)}) and on (slo, journey) {worst})"

    money = style.money_unit(known.currencies)
    return rows(
        "Which journey needs somebody?",
        "Worst first. A row is a journey; SLI, budget and time are those of its SLO with the "
        "least budget left, over that SLO's own window. Blamed is who explains most of the bad "
        "outcomes of the last 5 minutes, else of the last hour, as in alerts. A click on the "
        f"journey leads from there to the cause. {judged.STATES_EXPLAINED}",
        [
            Column(
                "Journey",
                label="journey",
                texts=known.titles,
                link=url(uids.JOURNEY, journey="${__value.raw}"),
                link_title="Why?",
                width=230 if known.titles else 170,
            ),
            Column(
                "State",
                expr=judged.journey_state(),
                meanings=judged.STATES,
                width=110,
            ),
            Column("Worst promise", label="slo", width=170),
            Column(
                "Kept",
                expr=cut(of_worst(judged.in_own_window(series.SLO_SLI)), 0.00001),
                unit=style.PERCENT,
                decimals=2,
                width=90,
            ),
            Column(
                "Promised",
                expr=of_worst(gauge(series.SLO_OBJECTIVE)),
                unit=style.PERCENT,
                decimals=2,
                width=90,
            ),
            Column(
                "Budget left",
                expr=f"max by (journey, slo) ({worst})",
                unit=style.PERCENT,
                decimals=0,
                thresholds=style.below(1e-9, judged.CAREFUL_BELOW),
                width=100,
            ),
            Column(
                "Lasts for",
                expr=of_worst(gauge(series.SLO_BUDGET_EXHAUSTION)),
                unit=style.SECONDS,
                decimals=0,
                thresholds=style.below(DAY // SECOND, 3 * DAY // SECOND),
                meanings=judged.LASTS,
                width=100,
            ),
            Column(
                "Users hurt, 1 h",
                expr=f"max by (journey) ({gauge(series.USERS, outcome='bad', window='1h')})",
                decimals=0,
                width=110,
            ),
            Column(
                "At risk",
                expr=f"round({grown(series.VALUE, 'journey', state='at_risk')}, 0.01)",
                unit=money,
                width=100,
            ),
            Column(
                "Lost",
                expr=f"round({grown(series.VALUE, 'journey', state='lost')}, 0.01)",
                unit=money,
                thresholds=(style.PLAIN, (style.Step(style.BAD, 0.01),)),
                width=100,
            ),
            Column(
                "Blamed service",
                label="cause_service",
                link=url(uids.SERVICE, service="${__value.raw}"),
                link_title="What else does it hurt?",
            ),
            Column("Operation", label="cause_operation"),
            Column("Its share", expr=judged.top_cause(), unit=style.PERCENT, decimals=0, width=110),
            Column("Version", label="cause_version", width=80),
            Column("How", label="cause_kind", width=80),
        ],
        sort="State",
        descending=True,
        height=9,
    )


def _states() -> dashboard.Panel:
    return timeline(
        f"How has it been? (the {_SHOWN_MAX} worst)",
        "State of each journey over time, of those that have least budget left at its end. "
        "Over long ranges an incident of minutes may fall between two points; zoom in to see it. "
        f"{judged.STATES_EXPLAINED}",
        Query(judged.journey_state(slo="=~$worst"), "{{journey}}"),
        judged.STATES,
        width=12,
        height=9,
        # In 28 days one each 12 hours, on one day one each 20 minutes.
        points_max=60,
    )


def _money(known: Knowledge) -> list[dashboard.Panel]:
    unit = style.money_unit(known.currencies)
    return [
        lines(
            "What is it worth? (per minute)",
            "Money of attempts per minute: achieved is what customers got. At risk is the value "
            "of bad outcomes, lost that of those that no retry saved; lost is a part of at risk.",
            [
                Query(
                    f"60 * {rate(series.VALUE, 'state, currency')}",
                    style.money_legend(known.currencies, "{{state}}"),
                )
            ],
            width=12,
            height=9,
            unit=unit,
            colours={
                name if len(known.currencies) == 1 else f"{name} {currency}": colour
                for name, colour in style.MONEY.items()
                for currency in sorted(known.currencies)
            },
            nothing="no journey names a value",
            points_max=300,
        ),
    ]

"""Service: for its owner. Whom do I hurt, what does it cost, and how am I?"""

from outcome_exporter import series
from outcome_exporter.dashboards import foreign, style, uids
from outcome_exporter.dashboards.health import SENT, SERVED, health
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
    stats,
    url,
    variable,
)
from outcome_exporter.dashboards.promql import gauge, grown, rate
from outcome_exporter.dashboards.sdk import dashboard

_HERE = "$service"
_WHAT = "cause_operation, cause_version, cause_kind"


def build(known: Knowledge) -> dashboard.Dashboard:
    """The dashboard."""
    return assemble(
        uids.SERVICE,
        "Service",
        "For the owner of a service: which journeys do I hurt, what does it cost customers, and "
        "how are my operations?",
        variables=[
            *datasource_variables(),
            variable("service", "Service", series.SPAN_CALLS, "service_name", multi=False),
        ],
        annotations=[changes(_HERE)],
        since="now-24h",
        rows_=[
            Row("Whom does $service hurt?", [*_cost(known), _journeys(known)]),
            Row("What should be mended first?", [_debts(known), *_blame(known)]),
            Row("How is $service?", _health()),
            Row("Who calls, and who is called?", _neighbours()),
        ],
    )


def _cost(known: Knowledge) -> list[dashboard.Panel]:
    return [
        stats(
            "How many bad outcomes?",
            "Bad outcomes of customers in this time range for which this service is held "
            "responsible, and on how many journeys.",
            [
                Query(f"round({_blamed('')}) or vector(0)", "bad outcomes"),
                Query(f"count({_blamed('journey')} > 0) or vector(0)", "journeys"),
            ],
            width=6,
            height=6,
            decimals=0,
            thresholds=style.ANY_IS_A_WARNING,
        ),
        stats(
            "What were they worth?",
            "Money of those outcomes; a retry may have saved some of it.",
            [Query(f"round({_blamed_value('currency')}, 0.01)", "{{currency}}")],
            width=6,
            height=6,
            unit=style.money_unit(known.currencies),
            thresholds=style.ANY_IS_A_WARNING,
            nothing="not blamed for money",
        ),
    ]


def _blamed(by: str) -> str:
    return grown(series.BLAME, by, cause_service=_HERE)


def _blamed_value(by: str) -> str:
    return grown(series.BLAME_VALUE, by, cause_service=_HERE)


def _journeys(known: Knowledge) -> dashboard.Panel:
    bad = grown(series.ATTEMPTS, "journey", outcome="bad")
    return rows(
        "Which journeys?",
        "Journeys with bad outcomes in this time range that this service is held responsible "
        "for. Share: of all bad outcomes of the journey, so of what burns its budget.",
        [
            Column(
                "Journey",
                label="journey",
                link=url(uids.JOURNEY, journey="${__value.raw}"),
                link_title="From pain to cause",
            ),
            Column("Bad", expr=f"round({_blamed('journey')}) > 0", decimals=0, width=80),
            Column(
                "Share",
                expr=f"clamp_max(({_blamed('journey')} > 0) / ({bad} > 0), 1)",
                unit=style.PERCENT,
                decimals=0,
                bar=True,
                width=160,
            ),
            Column(
                "Money",
                expr=f"round({_blamed_value('journey')}, 0.01) > 0",
                unit=style.money_unit(known.currencies),
                width=110,
            ),
        ],
        sort="Bad",
        descending=True,
        width=12,
        height=6,
        nothing="not blamed for anything",
    )


def _debts(known: Knowledge) -> dashboard.Panel:
    return rows(
        "Which of my operations cost customers most?",
        "A register of technical debt that ranks itself by what customers lost in this time "
        "range. Each row is one cause: an operation in a version, and how it hurts.",
        [
            Column("Operation", label="cause_operation"),
            Column("Version", label="cause_version", width=90),
            Column("How", label="cause_kind", width=95),
            Column("Bad", expr=f"round({_blamed(_WHAT)}) > 0", decimals=0, width=80),
            Column(
                "Money",
                expr=f"round({_blamed_value(_WHAT)}, 0.01) > 0",
                unit=style.money_unit(known.currencies),
                width=110,
            ),
            Column(
                "Since",
                expr=f"max by ({_WHAT}) ({gauge(series.CAUSE_SINCE, cause_service=_HERE)})",
                unit=style.SECONDS,
                decimals=0,
                width=90,
            ),
        ],
        sort="Bad",
        descending=True,
        width=12,
        height=8,
        nothing="not blamed for anything",
    )


def _blame(known: Knowledge) -> list[dashboard.Panel]:
    here = {"cause_service": _HERE}
    return [
        lines(
            "Which version hurts? (bad outcomes per minute)",
            "Bad outcomes that this service is held responsible for, by its version: a new one "
            "that rises beside the old one is a release to roll back. With traces.",
            [
                Query(
                    f"60 * {rate(series.BLAME, 'cause_version, cause_kind', **here)}",
                    "{{cause_version}} {{cause_kind}}",
                    exemplars=True,
                )
            ],
            width=12,
            height=8,
            decimals=1,
            stacked=True,
            trace_url=known.trace_url,
            nothing="not blamed for anything",
        ),
    ]


def _health() -> list[dashboard.Panel]:
    return health(
        SERVED,
        _HERE,
        by="span_name",
        titles=(
            "How many requests do I serve?",
            "Which share of them fails?",
            "How long do they take?",
        ),
    )


def _neighbours() -> list[dashboard.Panel]:
    graph = foreign.SERVICE_GRAPH_REQUESTS.name
    return [
        lines(
            "Who calls me?",
            "Requests per second by the service that sends them. Read from the Collector's "
            "servicegraph connector; empty without it.",
            [
                Query(
                    f'sum by (client) (rate({graph}{{server="$service"}}[$__rate_interval]))',
                    "{{client}}",
                )
            ],
            width=6,
            unit=style.REQUESTS_PER_SECOND,
            nothing="no servicegraph connector",
        ),
        *health(
            SENT,
            _HERE,
            by="span_name",
            titles=(
                "Whom do I call?",
                "Which share of my calls fails?",
                "How long do my calls take?",
            ),
            widths=(6, 6, 6),
            nothing="calls nobody",
        ),
    ]

"""Exporter: can these numbers be trusted?"""

from outcome_exporter import series
from outcome_exporter.dashboards import style, uids
from outcome_exporter.dashboards.knowledge import Knowledge
from outcome_exporter.dashboards.panels import (
    Query,
    Row,
    assemble,
    datasource_variables,
    lines,
    stats,
)
from outcome_exporter.dashboards.promql import (
    gauge,
    grown,
    increased,
    quantile,
    rate,
    ratio,
    select,
)
from outcome_exporter.dashboards.sdk import dashboard
from outcome_exporter.dashboards.style import Meaning

_REFUSED = "!~accepted|partial"


def build(known: Knowledge) -> dashboard.Dashboard:
    """The dashboard."""
    del known
    return assemble(
        uids.EXPORTER,
        "Exporter",
        "Can these numbers be trusted? What comes in, what was refused or left out, how far "
        "behind the exporter is, and what it costs to run.",
        variables=datasource_variables(),
        since="now-6h",
        rows_=[
            Row("Can these numbers be trusted?", _trust()),
            Row("What comes in, and what does not?", _intake()),
            Row("Is it up to date?", _lag()),
            Row("Do traces and business events find each other?", _join()),
            Row("Is anything left out?", _left_out()),
            Row("Is it safe, and what does it cost?", _running()),
        ],
    )


def _trust() -> list[dashboard.Panel]:
    events = grown(series.RECEIVED_ITEMS, "", signal="events")
    return [
        stats(
            "Is it ready?",
            "Ready once it has read its log again after a start, and takes data.",
            [Query(gauge(series.READY), "exporter")],
            width=4,
            meanings={1: Meaning("ready", style.FINE), 0: Meaning("not ready", style.BAD)},
        ),
        stats(
            "Is its configuration the file's?",
            "Whether the file that was loaded last works; if not, the one before it runs on.",
            [Query(gauge(series.CONFIG_RELOAD_OK), "configuration")],
            width=4,
            meanings={1: Meaning("yes", style.FINE), 0: Meaning("no", style.BAD)},
        ),
        stats(
            "How far behind is it?",
            "Age of the oldest data that is acknowledged but not counted yet. Nothing is lost, "
            "but what one sees is that old.",
            [Query(f"max({gauge(series.LOG_LAG_SECONDS)})", "lag")],
            width=4,
            unit=style.SECONDS,
            decimals=0,
            thresholds=style.above(10, 60),
        ),
        stats(
            "Requests refused?",
            "Share of the requests of this time range that were refused. Senders try again what "
            "was refused for want of room; what was invalid is lost to them.",
            [
                Query(
                    ratio(
                        increased(series.REQUESTS, "", result=_REFUSED),
                        increased(series.REQUESTS, ""),
                    ),
                    "refused",
                )
            ],
            width=4,
            unit=style.PERCENT,
            decimals=2,
            thresholds=style.above(1e-9, 0.01),
            nothing="no requests",
        ),
        stats(
            "Events that found an attempt?",
            "Share of the business events of this time range that were not in vain: an attempt "
            "was waiting or came. Far below 100 %: the join keys of sender and configuration "
            "differ.",
            [
                Query(
                    f"clamp(1 - {grown(series.EVENTS_UNMATCHED, '')} / ({events} > 0), 0, 1)",
                    "joined",
                )
            ],
            width=4,
            unit=style.PERCENT,
            decimals=1,
            thresholds=style.below(0.9, 0.99),
            nothing="no events",
        ),
        stats(
            "How old is the last checkpoint?",
            "Time since the state was last written. After a crash so much of the log is read "
            "again; nothing is lost.",
            [Query(f"clamp_min(time() - max({gauge(series.CHECKPOINT_AGE)} > 0), 0)", "age")],
            width=4,
            unit=style.SECONDS,
            decimals=0,
            thresholds=style.above(60, 300),
            nothing="none yet",
        ),
    ]


def _intake() -> list[dashboard.Panel]:
    return [
        lines(
            "How much comes in?",
            "Spans (traces) and business events counted per second.",
            [Query(rate(series.RECEIVED_ITEMS, "signal"), "{{signal}}")],
            width=8,
            unit=style.PER_SECOND,
        ),
        lines(
            "What becomes of requests? (per second)",
            "Requests by receiver and result. accepted: durable and acknowledged. overloaded: "
            "asked to try again. Everything else is the sender's mistake.",
            [Query(f"{rate(series.REQUESTS, 'receiver, result')} > 0", "{{receiver}} {{result}}")],
            width=8,
            unit=style.REQUESTS_PER_SECOND,
        ),
        lines(
            "How many bytes?",
            "Request bodies as they were sent, mostly compressed, by receiver and signal.",
            [
                Query(
                    f"{rate(series.RECEIVED_BYTES, 'receiver, signal')} > 0",
                    "{{receiver}} {{signal}}",
                )
            ],
            width=8,
            unit="Bps",
        ),
    ]


def _lag() -> list[dashboard.Panel]:
    return [
        lines(
            "How far behind?",
            "Age of the oldest data not counted yet. A hill after a restart is normal.",
            [Query(f"max({gauge(series.LOG_LAG_SECONDS)})", "lag")],
            width=6,
            unit=style.SECONDS,
            thresholds=style.above(10, 60),
        ),
        lines(
            "When do verdicts come?",
            "From the end of an attempt to its verdict. Those that wait for a business event "
            "wait for it as long as the journey says.",
            [
                Query(quantile(0.95, series.SETTLE_LATENCY, ""), "95 of 100"),
                Query(quantile(0.5, series.SETTLE_LATENCY, ""), "half"),
            ],
            width=6,
            unit=style.SECONDS,
        ),
        lines(
            "How old is the watermark?",
            "Everything that arrived before the watermark is counted. With data coming in it "
            "stays seconds old.",
            [Query(f"clamp_min(time() - max({gauge(series.WATERMARK)}), 0)", "age")],
            width=6,
            unit=style.SECONDS,
            thresholds=style.above(30, 120),
        ),
        lines(
            "What waits?",
            "Spans and traces that are not complete yet, attempts without a final verdict. "
            "Above its limit the exporter asks senders to wait.",
            [
                Query(f"max({gauge(series.PENDING_SPANS)})", "spans"),
                Query(f"max({gauge(series.PENDING_TRACES)})", "traces"),
                Query(f"sum({gauge(series.PENDING_ATTEMPTS)})", "attempts"),
            ],
            width=6,
        ),
    ]


def _join() -> list[dashboard.Panel]:
    return [
        lines(
            "Which events wait in vain? (per minute)",
            "Business events for which no attempt came in time, by type: the attempt began "
            "without a trace, the trace was sampled away, or the join keys differ.",
            [Query(f"60 * {rate(series.EVENTS_UNMATCHED, 'type')} > 0", "{{type}}")],
            width=12,
            decimals=1,
            nothing="no event waits in vain",
        ),
        lines(
            "Which attempts wait for their verdict?",
            "Attempts that are not final yet, by journey (the 20 with most).",
            [Query(f"topk(20, {gauge(series.PENDING_ATTEMPTS)})", "{{journey}}")],
            width=12,
        ),
    ]


def _left_out() -> list[dashboard.Panel]:
    late = f"60 * {rate(series.LATE_SPANS, '')}"
    return [
        lines(
            "What was unusable? (per minute)",
            "Spans and events of accepted requests that were left out, by why; senders were told.",
            [Query(f"60 * {rate(series.REJECTED_ITEMS, 'signal, why')} > 0", "{{signal}} {{why}}")],
            width=6,
            decimals=1,
            nothing="everything could be used",
        ),
        lines(
            "What came late or twice? (per minute)",
            "Late: spans whose trace was settled before; their attempts still count. Twice: "
            "counted once, as it should be.",
            [
                Query(late, "late span"),
                Query(f"60 * {rate(series.DUPLICATES, 'what')}", "{{what}} twice"),
            ],
            width=6,
            decimals=1,
        ),
        lines(
            "Which times cannot be? (per minute)",
            "Times ahead of their arrival, which count as of their arrival, and times older than "
            "every window, which are in none. A clock is wrong somewhere.",
            [Query(f"60 * {rate(series.SKEWED_TIMES, 'what')} > 0", "{{what}}")],
            width=6,
            decimals=1,
            nothing="all times can be",
        ),
        lines(
            "Which limits were hit? (per minute)",
            "Label values that became `other`, and what was forgotten to keep memory bounded. "
            "Raise the limit in the configuration, or send fewer distinct values.",
            [Query(f"60 * {rate(series.OVERFLOW, 'what')} > 0", "{{what}}")],
            width=6,
            decimals=1,
            nothing="no limit was hit",
        ),
    ]


def _running() -> list[dashboard.Panel]:
    cpu = f"sum(rate({select(series.PROCESS_CPU)}[$__rate_interval]))"
    return [
        lines(
            "How full is the log?",
            "Payload that is kept until a checkpoint accounts for it. At its limit senders are "
            "asked to wait.",
            [
                Query(f"max({gauge(series.LOG_SIZE)})", "in the log"),
                Query(f"max({gauge(series.LOG_LAG)})", "not counted yet"),
            ],
            width=5,
            unit=style.BYTES,
        ),
        lines(
            "How long does a checkpoint take?",
            "Duration of the last checkpoint, in which the exporter writes down what it knows.",
            [Query(f"max({gauge(series.CHECKPOINT_DURATION)})", "duration")],
            width=5,
            unit=style.SECONDS,
        ),
        lines(
            "Do checkpoints fail?",
            "Failures per minute. After one, the log grows until the next succeeds; a full disk is "
            "the usual cause.",
            [Query(f"60 * {rate(series.CHECKPOINT_FAILURES, '')}", "failures")],
            width=4,
            decimals=1,
            thresholds=style.ANY_IS_BAD,
        ),
        lines(
            "How much memory?",
            "Memory that the exporter's process holds.",
            [Query(f"max({gauge(series.PROCESS_MEMORY)})", "resident")],
            width=5,
            unit=style.BYTES,
        ),
        lines(
            "What does a span cost?",
            "Processor time of the exporter divided by the spans and events it counted: all of "
            "it, receiving and serving included.",
            [Query(f"{cpu} / (sum({rate(series.RECEIVED_ITEMS, '')}) > 0)", "CPU time")],
            width=5,
            unit=style.SECONDS,
            nothing="nothing comes in",
        ),
    ]

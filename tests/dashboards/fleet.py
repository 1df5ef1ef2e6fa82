"""A large installation: 200 journeys with 1,000 SLOs, worked out rather than lived through.

Its series have exactly the labels of the contract; its numbers follow from the formulas of `burn`
and `slo`, for journeys of which most are well, some burn and some have no traffic.
"""

import math
from collections.abc import Iterator

from outcome_exporter import series, slo
from outcome_exporter.config import Config
from outcome_exporter.config.journeys import Journey
from outcome_exporter.config.slos import Slo
from outcome_exporter.model import REASONS, Histogram, Sample, Snapshot
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.series import Family
from outcome_exporter.units import DAY, HOUR, SECOND, format_duration

JOURNEYS = 200
SLOS_EACH = 5
SERVICES = 40
START = 1_767_614_400.0

CONFIG = Config.model_validate(
    {
        "journeys": [
            {
                "name": f"journey-{number:03}",
                "title": f"A customer does thing {number}",
                "owner": f"team-{number % 12}",
                "runbook": f"https://runbooks.example.com/{number}",
                "attempt": {"span": {"service": f"service-{number % SERVICES:02}"}},
                "outcome": {"event": f"done.{number}", "within": "5m"},
                "slow_above": "2s",
                "value": {"event": "data.total", "currency": "USD" if number % 4 else "EUR"},
                "user": {"attribute": "user.id"},
                "slos": [
                    {
                        "name": f"journey-{number:03}-slo-{place}",
                        "objective": (99, 99.5, 99.9, 95, 90)[place],
                        "window": "28d",
                        "good": {"achieved": True},
                    }
                    for place in range(SLOS_EACH)
                ],
            }
            for number in range(JOURNEYS)
        ]
    }
)

_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SHARES = (0.1, 0.2, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02)
_BAD = tuple(reason for reason in REASONS if reason != "ok")


def badness(journey: int, place: int, at: float, window_seconds: float) -> float:
    """Share of bad events in a window that ends at a time, as a share of the budget: burn rate."""
    if journey % 10 == 3 or is_tried_seldom(journey):
        return 20.0 if window_seconds <= 6 * 3600 else 3.0
    if journey % 10 == 7:
        return 1.4
    wave = math.sin(at / 40_000 + journey + place)
    return 0.3 + 0.25 * wave


def is_tried_seldom(journey: int) -> bool:
    """One in ten fails as much as another that alerts, yet too seldom to say so."""
    return journey % 10 == 6


def has_traffic(journey: int) -> bool:
    """One in ten journeys is tried by nobody."""
    return journey % 10 != 9


def scraped(at: float) -> Snapshot:
    """Every series at a time, in Unix seconds."""
    families: dict[Family, list[Sample]] = {family: [] for family in series.ALL}
    for number, journey in enumerate(CONFIG.journeys):
        _add_journey(families, number, journey, at)
        for place, promise in enumerate(journey.slos):
            _add_slo(families, (number, place), journey, promise, at)
    for number in range(SERVICES):
        _add_service(families, number, at)
    _add_exporter(families, at)
    return {family: samples for family, samples in families.items() if samples}


def _add_journey(
    families: dict[Family, list[Sample]], number: int, journey: Journey, at: float
) -> None:
    name = journey.name
    count = (at - START) * (1 + number % 7) if has_traffic(number) else 0.0
    bad = round(count * 0.004 * (1 + number % 5))
    assert journey.value is not None
    currency = journey.value.currency
    cause = (f"service-{number % SERVICES:02}", f"GET /{number % 5}", "1.2.3", "error")
    families[series.ATTEMPTS] += [
        Sample((name, "good", "ok"), round(count) - bad),
        *(Sample((name, "bad", reason), float(bad // len(_BAD))) for reason in _BAD),
    ]
    families[series.ATTEMPT_DURATION].append(Sample((name,), _histogram(count)))
    families[series.VALUE] += [
        Sample((name, currency, state), round(count * 40 * share, 2))
        for state, share in (("achieved", 0.99), ("at_risk", 0.01), ("lost", 0.004))
    ]
    families[series.USERS] += [
        Sample((name, outcome, window), float(round(min(count, 500) * share)))
        for window in ("1h", "1d")
        for outcome, share in (("bad", 0.01), ("any", 1))
    ]
    families[series.PENDING_ATTEMPTS].append(Sample((name,), float(number % 9)))
    families[series.EVENTS_UNMATCHED].append(Sample((f"done.{number}",), 0.0))
    if bad:
        families[series.BLAME].append(Sample((name, *cause), float(bad)))
        families[series.BLAME_VALUE].append(Sample((name, currency, *cause), bad * 40.0))
        families[series.CAUSE_SHARE].append(Sample((name, "1h", *cause), 0.8))
        families[series.CAUSE_SINCE].append(Sample((name, *cause), at - START))
        families[series.SUSPECT_SCORE].append(Sample((name, "service.version", "1.2.3"), 0.4))


def _add_slo(
    families: dict[Family, list[Sample]],
    place: tuple[int, int],
    journey: Journey,
    promise: Slo,
    at: float,
) -> None:
    name = promise.name
    traffic = has_traffic(place[0])
    about = (journey.owner, journey.title or "", journey.runbook, "28d", "attempts")
    info = (name, journey.name, *about)
    families[series.SLO_INFO].append(Sample(info, 1.0))
    families[series.SLO_OBJECTIVE].append(Sample((name,), promise.objective_ratio))
    for family, least in (
        (series.SLO_ALERT_MIN_BAD, CONFIG.min_bad_events(promise)),
        (series.SLO_ALERT_MIN, CONFIG.min_events(promise)),
    ):
        families[family].append(Sample((name,), float(least)))
    rates = {}
    for length in promise.windows:
        window = format_duration(length)
        rate = badness(*place, at, length / SECOND) if traffic else 0.0
        rate = min(rate, 1 / promise.budget_ratio)
        rates[length] = rate
        families[series.SLO_BURN_RATE].append(Sample((name, window), rate))
        sli = 1 - rate * promise.budget_ratio
        families[series.SLO_SLI].append(Sample((name, window), sli))
        events = 3.0 * length / SECOND if traffic else 0.0
        if is_tried_seldom(place[0]):
            events = 2.0
        families[series.SLO_WINDOW_EVENTS] += [
            Sample((name, window, result), float(round(events * share)))
            for result, share in (("good", sli), ("bad", 1 - sli))
        ]
    remaining = 1 - rates[promise.window]
    families[series.SLO_BUDGET_REMAINING].append(Sample((name,), remaining))
    lasts = slo.exhaustion_seconds(promise, remaining, rates[6 * HOUR])
    families[series.SLO_BUDGET_EXHAUSTION].append(Sample((name,), lasts))
    families[series.SLO_ALERT_THRESHOLD] += [
        Sample(
            (
                name,
                tier.severity,
                format_duration(tier.long_window),
                format_duration(tier.short_window),
            ),
            tier.threshold(promise.window),
        )
        for tier in promise.tiers
    ]
    state = "normal" if traffic else "none"
    families[series.SLO_TRAFFIC_STATE] += [
        Sample((name, one), float(one == state)) for one in ("normal", "low", "none")
    ]


def _add_service(families: dict[Family, list[Sample]], number: int, at: float) -> None:
    service = f"service-{number:02}"
    for operation in range(5):
        for kind in ("SERVER", "CLIENT"):
            for status, share in (("UNSET", 0.99), ("ERROR", 0.01)):
                count = round((at - START) * 5 * share)
                labels = (
                    service,
                    f"GET /{operation}",
                    f"SPAN_KIND_{kind}",
                    f"STATUS_CODE_{status}",
                )
                families[series.SPAN_CALLS].append(Sample(labels, float(count)))
                families[series.SPAN_DURATION].append(Sample(labels, _histogram(count)))
    if at > START + 120:
        change = (service, "version", "1.2.3", "1.2.2")
        families[series.CHANGE_INFO].append(Sample(change, START + 120))


def _histogram(count: float) -> Histogram:
    counts = tuple(float(round(count * share)) for share in _SHARES)
    return Histogram(_BOUNDS, counts, count * 0.4)


def _add_exporter(families: dict[Family, list[Sample]], at: float) -> None:
    elapsed = at - START
    counters = ReceiverCounters()
    counters.accepted("grpc", "traces", body_bytes=round(elapsed * 1e6), rejected=0)
    for family, samples in counters.snapshot().items():
        families[family] += [
            Sample(sample.labels, float(sample.value) * (elapsed if sample.value == 1 else 1))
            for sample in samples
        ]
    families[series.RECEIVED_ITEMS] += [
        Sample((signal,), float(round(elapsed * rate)))
        for signal, rate in (("traces", 50_000), ("events", 700))
    ]
    for family, label in (
        (series.DUPLICATES, "span"),
        (series.SKEWED_TIMES, "span_ahead"),
        (series.OVERFLOW, "text"),
    ):
        families[family].append(Sample((label,), 0.0))
    families[series.BUILD_INFO].append(Sample(("0.1.0",), 1.0))
    for family, value in {
        series.READY: 1,
        series.LATE_SPANS: 0,
        series.LOG_SIZE: 1e8,
        series.LOG_LAG: 1e5,
        series.LOG_LAG_SECONDS: 0.4,
        series.WATERMARK: at - 1,
        series.PENDING_SPANS: 4e5,
        series.PENDING_TRACES: 3e4,
        series.CHECKPOINT_AGE: at - 4,
        series.CHECKPOINT_DURATION: 0.2,
        series.CHECKPOINT_FAILURES: 0,
        series.CONFIG_RELOAD_OK: 1,
        series.PROCESS_CPU: elapsed * 0.4,
        series.PROCESS_MEMORY: 9e8,
    }.items():
        families[family].append(Sample((), float(value)))
    families[series.SETTLE_LATENCY].append(Sample((), _histogram(elapsed * 100)))


def containers(at: float) -> Iterator[str]:
    """What cAdvisor and a servicegraph connector would add, in OpenMetrics."""
    elapsed = at - START
    yield "# TYPE container_cpu_usage_seconds counter\n"
    for number in range(SERVICES):
        yield (
            f'container_cpu_usage_seconds_total{{job="cadvisor",container="service-{number:02}"}}'
            f" {elapsed * 0.3}\n"
        )
    yield "# TYPE container_memory_working_set_bytes gauge\n"
    for number in range(SERVICES):
        yield (
            f'container_memory_working_set_bytes{{job="cadvisor",container="service-{number:02}"}}'
            " 3e8\n"
        )
    yield "# TYPE traces_service_graph_request counter\n"
    for number in range(SERVICES):
        yield (
            f'traces_service_graph_request_total{{job="collector",client="service-{number:02}",'
            f'server="service-{(number + 1) % SERVICES:02}"}} {elapsed}\n'
        )


LONGEST = 28 * DAY // SECOND

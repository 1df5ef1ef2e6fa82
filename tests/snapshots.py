"""Whole expositions of a small shop to test with: healthy, burning, behind, fresh, unconfigured.

Shares, burn rates and budgets are worked out from counts, with the formulas of `burn.py`, so that
what a page says can be checked against the counts.
"""

from collections.abc import Mapping
from typing import NamedTuple

from outcome_exporter import burn, series
from outcome_exporter.config import Config
from outcome_exporter.config.journeys import Journey
from outcome_exporter.config.slos import Slo
from outcome_exporter.model import Exemplar, Histogram, Sample, Snapshot
from outcome_exporter.series import Family
from outcome_exporter.units import DAY, HOUR, MINUTE, SECOND, format_duration

NOW = 1_790_000_000 * SECOND
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"

CONFIG = Config.model_validate(
    {
        "journeys": [
            {
                "name": "search",
                "title": "A visitor finds a product",
                "owner": "discovery",
                "attempt": {"span": {"service": "search", "name": "GET /search"}},
                "slow_above": "1s",
                "slos": [
                    {
                        "name": "search-fast",
                        "objective": 99,
                        "window": "7d",
                        "good": {"error": False, "duration_below": "300ms"},
                    }
                ],
            },
            {
                "name": "checkout",
                "title": "A customer pays for the cart",
                "owner": "payments",
                "runbook": "https://runbooks.example.com/checkout",
                "attempt": {"span": {"service": "frontend", "name": "POST /api/checkout"}},
                "join": ["trace_id", {"attribute": "app.order.id", "event": "data.order_id"}],
                "outcome": {"event": "shop.order.completed", "within": "5m"},
                "slow_above": "2s",
                "value": {"event": "data.total", "currency": "USD"},
                "user": {"attribute": "user.id"},
                "labels": {"tier": "app.user.tier"},
                "slos": [
                    {
                        "name": "checkout-success",
                        "objective": 99.5,
                        "window": "28d",
                        "good": {"achieved": True, "error": False},
                    },
                    {
                        "name": "checkout-fast",
                        "objective": 95,
                        "window": "28d",
                        "good": {"duration_below": "800ms"},
                    },
                ],
            },
            {
                "name": "onboarding",
                "title": "A new customer creates the first wish list",
                "attempt": {"event": "shop.customer.registered"},
                "outcome": {"event": "shop.wishlist.created", "within": "7d"},
                "join": [{"attribute": "data.customer_id", "event": "data.customer_id"}],
                "slos": [
                    {
                        "name": "onboarding-in-a-week",
                        "title": "Most newcomers have a wish list within a week",
                        "objective": 60,
                        "window": "30d",
                        "good": {"within": "7d"},
                    }
                ],
            },
        ]
    }
)
UNCONFIGURED = Config()

_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Traffic(NamedTuple):
    """What one SLO saw."""

    per_minute: float
    """Events a minute, all along."""
    bad: Mapping[int, float]
    """Bad events by window in nanoseconds; a window between two has as many as the longer one."""

    def counts(self, window: int) -> tuple[float, float]:
        """Good and bad events in a window."""
        longest = max(self.bad, default=0)
        known = min((w for w in self.bad if w >= window), default=longest)
        bad = float(self.bad.get(known, 0.0))
        valid = float(round(self.per_minute * window / MINUTE))
        return max(valid - bad, 0.0), bad


_FINE_SEARCH = Traffic(420, {5 * MINUTE: 4, HOUR: 91, 6 * HOUR: 560, DAY: 2_240, 7 * DAY: 15_902})
_HEALTHY = {
    "search-fast": _FINE_SEARCH,
    "checkout-success": Traffic(
        35, {5 * MINUTE: 0, HOUR: 2, 6 * HOUR: 31, DAY: 92, 28 * DAY: 2_417}
    ),
    "checkout-fast": Traffic(
        35, {5 * MINUTE: 3, HOUR: 40, 6 * HOUR: 260, DAY: 1_022, 28 * DAY: 28_004}
    ),
    "onboarding-in-a-week": Traffic(
        0.4, {5 * MINUTE: 1, HOUR: 5, 6 * HOUR: 40, DAY: 201, 30 * DAY: 6_104}
    ),
}
_BURNING = {
    "search-fast": _FINE_SEARCH,
    "checkout-success": Traffic(
        35, {5 * MINUTE: 38, 30 * MINUTE: 131, HOUR: 160, 6 * HOUR: 190, DAY: 251, 28 * DAY: 5_966}
    ),
    "checkout-fast": Traffic(
        35, {5 * MINUTE: 3, HOUR: 40, 6 * HOUR: 190, DAY: 1_022, 28 * DAY: 73_904}
    ),
    "onboarding-in-a-week": Traffic(0, {}),
}
_NOTHING = {slo.name: Traffic(0, {}) for _, slo in CONFIG.slos}


class Shop(NamedTuple):
    """A configuration, and what the exporter shows under it."""

    config: Config
    snapshot: Snapshot


def healthy() -> Shop:
    """All is well, and there is traffic."""
    return Shop(
        CONFIG,
        {
            **_promises(_HEALTHY),
            **_outcomes(ok=1_402_118, error=1_020, missed=88, recovered=1_211, slow=4_007),
            **_health(),
        },
    )


def burning() -> Shop:
    """Payment fails since a new version, and onboarding has no traffic. Holds every family."""
    return Shop(
        CONFIG,
        {
            **_promises(_BURNING),
            **_outcomes(ok=1_398_002, error=4_318, missed=733, recovered=2_004, slow=4_110),
            **_causes(),
            **_spans(),
            **_health(refused=1_204, lag_seconds=4.25),
        },
    )


def behind() -> Shop:
    """A healthy shop whose exporter is not: it lags, and refused its new configuration."""
    shop = healthy()
    return Shop(
        shop.config,
        {
            **shop.snapshot,
            series.LOG_LAG: [Sample((), 812_000_000.0)],
            series.LOG_LAG_SECONDS: [Sample((), 424.0)],
            series.CONFIG_RELOAD_OK: [Sample((), 0.0)],
            series.CHECKPOINT_FAILURES: [Sample((), 3.0)],
        },
    )


def fresh() -> Shop:
    """Started a moment ago: every counter is there, at 0."""
    return Shop(CONFIG, {**_promises(_NOTHING), **_outcomes(), **_health(received=0)})


def unconfigured() -> Shop:
    """A file without journeys."""
    return Shop(UNCONFIGURED, _health(received=0))


def _promises(traffic: Mapping[str, Traffic]) -> dict[Family, list[Sample]]:
    families: dict[Family, list[Sample]] = {
        family: [] for family in series.ALL if family.name.startswith("slo_")
    }
    for journey, slo in CONFIG.slos:
        for family, samples in _promise(journey, slo, traffic[slo.name]).items():
            families[family] += samples
    return families


def _promise(journey: Journey, slo: Slo, traffic: Traffic) -> dict[Family, list[Sample]]:
    name = slo.name
    counts = {window: traffic.counts(window) for window in slo.windows}
    sli = {w: good / (good + bad) if good + bad else 1.0 for w, (good, bad) in counts.items()}
    burn_rate = {w: (1 - share) / slo.budget_ratio for w, share in sli.items()}
    remaining = 1 - burn_rate[slo.window]
    window_seconds = slo.window / SECOND
    rate = burn_rate[6 * HOUR]
    left = max(0.0, remaining) * window_seconds
    state = "normal" if traffic.per_minute else "none"
    good, bad = counts[slo.window]
    info = (
        name,
        journey.name,
        slo.owner or journey.owner,
        slo.title or journey.title or journey.name,
        slo.runbook or journey.runbook,
        format_duration(slo.window),
        "attempts",
    )
    return {
        series.SLO_INFO: [Sample(info, 1.0)],
        series.SLO_OBJECTIVE: [Sample((name,), slo.objective_ratio)],
        series.SLO_EVENTS: [
            Sample((name, "good"), good),
            Sample((name, "bad"), bad, _exemplar(1.0) if bad else None),
        ],
        series.SLO_WINDOW_EVENTS: [
            Sample((name, format_duration(window), result), count)
            for window, pair in counts.items()
            for result, count in zip(("good", "bad"), pair, strict=True)
        ],
        series.SLO_SLI: [Sample((name, format_duration(w)), share) for w, share in sli.items()],
        series.SLO_BURN_RATE: [
            Sample((name, format_duration(w)), rate) for w, rate in burn_rate.items()
        ],
        series.SLO_BUDGET_REMAINING: [Sample((name,), remaining)],
        series.SLO_BUDGET_EXHAUSTION: [
            Sample((name,), min(window_seconds, left / rate) if rate else window_seconds)
        ],
        series.SLO_ALERT_THRESHOLD: [
            Sample(
                (
                    name,
                    tier.severity,
                    format_duration(tier.long_window),
                    format_duration(tier.short_window),
                ),
                tier.threshold(slo.window),
            )
            for tier in burn.TIERS
        ],
        series.SLO_ALERT_MIN_BAD: [Sample((name,), 3.0)],
        series.SLO_TRAFFIC_STATE: [
            Sample((name, each), float(each == state)) for each in ("normal", "low", "none")
        ],
    }


def _exemplar(value: float) -> Exemplar:
    return Exemplar(TRACE_ID, value, NOW - 12 * SECOND)


def _outcomes(
    *, ok: float = 0, error: float = 0, missed: float = 0, recovered: float = 0, slow: float = 0
) -> dict[Family, list[Sample]]:
    """Outcomes of the checkout as given, and fixed ones for the other journeys if there are any."""
    scale = 1.0 if ok else 0.0
    reasons = {"ok": ok, "error": error, "missed": missed, "recovered": recovered, "slow": slow}
    checkout = [
        Sample(
            ("checkout", "good" if reason == "ok" else "bad", reason, tier),
            float(round(count * share)),
            _exemplar(1.0) if count and reason != "ok" else None,
            ("tier",),
        )
        for reason, count in reasons.items()
        for tier, share in (("free", 0.75), ("gold", 0.25))
    ]
    others = [
        Sample(("search", "good", "ok"), 8_120_411 * scale),
        Sample(("search", "bad", "error"), 1_402 * scale),
        Sample(("search", "bad", "slow"), 12_004 * scale),
        Sample(("onboarding", "good", "ok"), 10_877 * scale),
        Sample(("onboarding", "bad", "missed"), 6_104 * scale),
        Sample(("onboarding", "bad", "error"), 0.0),
    ]
    durations = (900.0, 12_000.0, 300_500.0, 90_000.0, 4_000.0, 1_200.0, 33.0, 2.0)
    users = {("bad", "1h"): 148, ("any", "1h"): 1_990, ("bad", "1d"): 402, ("any", "1d"): 21_777}
    return {
        series.ATTEMPTS: checkout + others,
        series.ATTEMPT_DURATION: [
            Sample(
                (name,),
                Histogram(_BOUNDS, tuple(count * scale for count in durations), 131_072.25 * scale),
                _exemplar(1.75) if scale and name == "checkout" else None,
            )
            for name in ("search", "checkout", "onboarding")
        ],
        series.VALUE: [
            Sample(("checkout", "USD", "achieved"), 88_123_456.78 * scale),
            Sample(("checkout", "USD", "at_risk"), (error + missed + recovered + slow) * 62.875),
            Sample(("checkout", "USD", "lost"), (error + missed) * 62.875),
        ],
        series.USERS: [
            Sample(("checkout", outcome, window), count * scale)
            for (outcome, window), count in users.items()
        ],
        series.JOURNEY_INFO: [
            Sample((j.name, j.owner, j.title or j.name, j.runbook), 1.0) for j in CONFIG.journeys
        ],
        series.VALUE_THRESHOLD: [Sample(("checkout", "USD"), 10_000.0)],
        series.PENDING_ATTEMPTS: [
            Sample(("search",), 12 * scale),
            Sample(("checkout",), 173 * scale),
            Sample(("onboarding",), 2_804 * scale),
        ],
        series.EVENTS_UNMATCHED: [
            Sample(("shop.order.completed",), 4 * scale),
            Sample(("shop.wishlist.created",), 0.0),
        ],
    }


_GATEWAY = ("payment", "POST /charge", "2.14.0", "error")
_STOCK = ("inventory", "reserve", "1.9.3", "latency")
_VANISHED = ("email", "order confirmation", "", "missing")
_UNKNOWN = ("", "", "", "unattributed")


def _causes() -> dict[Family, list[Sample]]:
    counts = {_GATEWAY: 3_811.0, _STOCK: 2_107.0, _VANISHED: 733.0, _UNKNOWN: 12.0}
    return {
        series.BLAME: [
            Sample(("checkout", *cause), count, _exemplar(1.0)) for cause, count in counts.items()
        ],
        series.BLAME_VALUE: [
            Sample(("checkout", "USD", *cause), count * 62.5) for cause, count in counts.items()
        ],
        series.SUSPECT_SCORE: [
            Sample(("checkout", "service.version", "2.14.0"), 0.83),
            Sample(("checkout", "app.user.tier", "gold"), -0.02),
        ],
        series.CAUSE_SHARE: [
            Sample(("checkout", "1h", *_GATEWAY), 0.81),
            Sample(("checkout", "1h", *_STOCK), 0.12),
        ],
        series.CAUSE_SINCE: [
            Sample(("checkout", *_GATEWAY), 1_620.0),
            Sample(("checkout", *_STOCK), 93_600.0),
        ],
        series.CAUSE_RESOURCE_RATIO: [
            Sample((_GATEWAY[0], "cpu", "now"), 0.97),
            Sample((_GATEWAY[0], "cpu", "usual"), 0.31),
        ],
        series.CAUSE_RESOURCE_AMOUNT: [
            Sample((_STOCK[0], "queue", "now"), 1_420.0),
            Sample((_STOCK[0], "queue", "usual"), 2.5),
        ],
        series.CHANGE_INFO: [
            Sample(("payment", "version", "2.14.0", "2.13.2"), NOW / SECOND - 1_680.0),
        ],
    }


def _spans() -> dict[Family, list[Sample]]:
    calls = {
        ("frontend", "POST /api/checkout", "SPAN_KIND_SERVER", "STATUS_CODE_UNSET"): 1_402_118.0,
        ("payment", 'POST /charge "now"\\\n', "SPAN_KIND_SERVER", "STATUS_CODE_ERROR"): 4_711.5,
        ("búsqueda", "検索", "SPAN_KIND_CLIENT", "STATUS_CODE_OK"): 3.0,
    }
    return {
        series.SPAN_CALLS: [Sample(labels, count) for labels, count in calls.items()],
        series.SPAN_DURATION: [
            Sample(labels, Histogram(_BOUNDS, (0.1, 0.2, 0, 0, 7, 0, 0, 1), 12.5))
            for labels in calls
        ],
    }


def _health(
    *, received: int = 61_402_118, refused: int = 0, lag_seconds: float = 0.0
) -> dict[Family, list[Sample]]:
    def one(value: float) -> list[Sample]:
        return [Sample((), float(value))]

    return {
        series.BUILD_INFO: [Sample(("0.1.0",), 1.0)],
        series.READY: one(1),
        series.REQUESTS: [
            Sample(("grpc", "traces", "accepted"), float(received // 500)),
            Sample(("grpc", "traces", "overloaded"), float(refused)),
            Sample(("http", "events", "accepted"), float(received // 10_000)),
            Sample(("http", "events", "invalid"), float(refused // 4)),
        ],
        series.RECEIVED_BYTES: [Sample(("grpc", "traces"), received * 91.0)],
        series.RECEIVED_ITEMS: [
            Sample(("traces",), float(received)),
            Sample(("events",), float(received // 44)),
        ],
        series.REJECTED_ITEMS: [Sample(("traces", "invalid_id"), 0.0)],
        series.DUPLICATES: [Sample(("spans",), float(received // 900)), Sample(("events",), 0.0)],
        series.LATE_SPANS: one(received // 100_000),
        series.SKEWED_TIMES: [Sample(("future",), 0.0), Sample(("too_old",), 0.0)],
        series.OVERFLOW: [Sample(("label:tier",), 0.0)],
        series.POINTS_REFUSED: [Sample(("checkout-fast", "wrong_type"), 0.0)],
        series.SOURCE_POLLS: [Sample(("prometheus", "ok"), 0.0)],
        series.SOURCE_TIME: [Sample(("checkout-fast",), 0.0)],
        series.LOG_SIZE: one(18_874_368 if received else 0),
        series.LOG_LAG: one(lag_seconds * 200_000),
        series.LOG_LAG_SECONDS: one(lag_seconds),
        series.WATERMARK: one(NOW / SECOND - 1 - lag_seconds),
        series.PENDING_SPANS: one(received // 10_000),
        series.PENDING_TRACES: one(received // 100_000),
        series.SETTLE_LATENCY: [
            Sample((), Histogram(_BOUNDS, (0, 0, 0, 0, 0, 0, 0, received // 50), received / 4))
        ],
        series.CHECKPOINT_AGE: one(NOW / SECOND - 6.5),
        series.CHECKPOINT_DURATION: one(0.0625),
        series.CHECKPOINT_FAILURES: one(0),
        series.CONFIG_RELOAD_OK: one(1),
        series.CONNECTIONS: [Sample(("metrics",), 2.0)],
        series.CONNECTIONS_CUT: [Sample(("metrics", "slow_headers"), 0.0)],
        series.CREDENTIALS_OK: [Sample(("metrics",), 1.0)],
        series.CLOCK_AHEAD: one(0),
        series.PROCESS_CPU: one(1_204.25),
        series.PROCESS_MEMORY: one(201 << 20),
    }

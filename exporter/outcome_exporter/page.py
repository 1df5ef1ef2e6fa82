"""The status page: one HTML document that says in words how the customers' journeys stand.

State: none. Inputs: the configuration, for texts, and a snapshot, for every number; so the page
and /metrics never disagree. Output: HTML without scripts, external files or inline style, so that
its Content-Security-Policy can forbid all but its own style sheet, and so that a saved copy still
reads. It loads itself anew every 30 seconds, unless asked not to.

The order is that of need: a sentence on how it stands, the promises (SLOs) worst first, then what
happened on each journey, to whom, at what cost, and what causes it; at last the exporter's health.

A promise is
    burning    a paging tier fires: both windows burn above its threshold, with enough events
    spent      its budget is gone, though it burns no faster than allowed now
    smoulders  a ticket tier fires
    kept       none of these
    idle       kept, and without traffic for five minutes: says nothing, so it is not green
"""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import cache
from hashlib import sha256
from importlib.resources import files
from math import inf
from typing import Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from outcome_exporter import series, words
from outcome_exporter.changes import followed
from outcome_exporter.config import Config
from outcome_exporter.config.journeys import Journey, JourneySlo, Promised
from outcome_exporter.config.slos import Slo
from outcome_exporter.model import Histogram, Sample, Snapshot
from outcome_exporter.series import Family
from outcome_exporter.units import HOUR, MINUTE, SECOND, format_duration, parse_duration

REFRESH_SECONDS = 30

_STYLE = files("outcome_exporter").joinpath("templates/page.css").read_text(encoding="utf-8")
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_BEHIND_SECONDS = 60.0
"""A lag from which the page warns that its numbers are old."""
_CAUSES_MAX = 5
_SUSPECTS_MAX = 3

Tone = Literal["good", "warn", "bad", "idle"]


class State(IntEnum):
    """How a promise stands, worst first."""

    BURNING = 0
    SPENT = 1
    SMOULDERS = 2
    KEPT = 3
    IDLE = 4


_TONES: dict[State, Tone] = {
    State.BURNING: "bad",
    State.SPENT: "bad",
    State.SMOULDERS: "warn",
    State.KEPT: "good",
    State.IDLE: "idle",
}
_STATE_WORDS = {
    State.BURNING: "burning",
    State.SPENT: "budget spent",
    State.SMOULDERS: "smouldering",
    State.KEPT: "fine",
    State.IDLE: "no traffic",
}


class Reason(NamedTuple):
    """A reason of outcomes in words."""

    words: str
    meaning: str
    tone: Tone


class Trace(NamedTuple):
    """An example."""

    id: str
    url: str
    """Where it is found; empty where nobody said."""


_REASONS = {
    "ok": Reason("fine", "The user got what they came for, without pain.", "good"),
    "error": Reason("failed", "A technical error, and the business event never came.", "bad"),
    "missed": Reason(
        "failed silently",
        "Technically fine, yet the business event never came. No error says so elsewhere.",
        "bad",
    ),
    "recovered": Reason(
        "failed, then recovered",
        "A technical error, yet the business event came: a retry saved it.",
        "warn",
    ),
    "slow": Reason("too slow", "No error, and it worked, but above the journey's limit.", "warn"),
}
_KINDS = {
    "error": "fails",
    "latency": "is slow",
    "missing": "never delivers",
    "unattributed": "not attributed",
}
_MONEY = {
    "achieved": ("achieved", "Value of attempts that reached their business event."),
    "at_risk": ("at risk", "Value of bad outcomes, recovered and slow ones included."),
    "lost": ("lost", "Value of bad outcomes that no retry achieved."),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of an error budget."""

    percent_left: float
    """0 to 100, for the bar."""
    left: str
    exhaustion: str


@dataclass(frozen=True, slots=True)
class Burn:
    """The burn rate of one window."""

    window: str
    rate: str
    verdict: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Promise:
    """An SLO as the page shows it."""

    name: str
    journey: str
    """Empty where it has none."""
    title: str
    goal: str
    runbook: str
    state: State
    state_words: str
    tone: Tone
    sli: str
    objective: str
    window: str
    events: str
    budget: Budget
    remaining: float
    burns: Sequence[Burn]
    little_traffic: bool
    telling_window: str
    """The window that says best how it stands now."""
    bad_now: str
    """Share of bad attempts in it."""


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """Attempts with one reason."""

    reason: Reason
    count: str
    share: str
    percent: float
    trace: Trace | None
    """The last attempt that ended so, if it was bad."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What is held responsible for bad outcomes."""

    what: str
    kind: str
    now: str
    """How much of the last hour it explains; empty where that is not known."""
    changes: Sequence[str]
    """What changed there."""
    facts: Sequence[str]
    percent: float
    """Length of its bar."""
    trace: Trace | None


@dataclass(frozen=True, slots=True)
class JourneyCard:
    """What happened on one journey."""

    name: str
    title: str
    owner: str
    runbook: str
    outcomes: Sequence[OutcomeRow]
    money: Sequence[tuple[str, str, str]]
    """State, amount, meaning."""
    users: Sequence[str]
    pending: str
    causes: Sequence[Cause]
    in_common: Sequence[str]
    """Attribute values that bad attempts have more often than good ones."""


@dataclass(frozen=True, slots=True)
class Headline:
    """How it stands, in a sentence."""

    tone: Tone
    text: str
    more: Sequence[str]


def render_page(
    config: Config,
    snapshot: Snapshot,
    now_unix_nano: int,
    *,
    not_ready: str | None = None,
    refresh: bool = True,
) -> str:
    """The page as HTML.

    Args:
        config: The running configuration.
        snapshot: Every series, as /metrics shows them now.
        now_unix_nano: Nanoseconds since 1970.
        not_ready: Why the exporter is not ready yet, and how far it has come.
        refresh: Whether a browser loads the page anew by itself.
    """
    read = _Reader(snapshot)
    promises = sorted(
        (_promise(promised, read) for promised in config.slos),
        key=lambda promise: (promise.state, promise.remaining),
    )
    journeys = [
        _journey(journey, read, now_unix_nano, config.trace_url)
        for journey in _in_need(config, promises)
    ]
    return _template().render(
        style=Markup(_STYLE),  # noqa: S704 our own file
        refresh_seconds=REFRESH_SECONDS if refresh else None,
        headline=_headline(config, promises, journeys, read),
        warnings=_warnings(read, not_ready),
        promises=promises,
        journeys=journeys,
        reasons=_REASONS.values(),
        money_words=_MONEY.values(),
        health=_health(read, now_unix_nano),
        version=", ".join(labels[0] for labels in read.table(series.BUILD_INFO)),
        moment=datetime.fromtimestamp(now_unix_nano // SECOND, UTC),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("outcome_exporter"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


class _Reader:
    """Numbers of a snapshot by labels; what is not there is 0."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._tables: dict[Family, dict[tuple[str, ...], float]] = {}
        self._samples: dict[Family, dict[str, list[Sample]]] = {}
        self._rows: dict[Family, dict[str, dict[tuple[str, ...], float]]] = {}

    def samples(self, family: Family, whose: str) -> Sequence[Sample]:
        """Those whose first label, a journey or an SLO for instance, is `whose`."""
        if family not in self._samples:
            # All at once: to look through all of them for each journey takes seconds.
            found: dict[str, list[Sample]] = defaultdict(list)
            for sample in self._snapshot.get(family, ()):
                found[sample.labels[0]].append(sample)
            self._samples[family] = found
        return self._samples[family].get(whose, ())

    def rows(self, family: Family, whose: str) -> Mapping[tuple[str, ...], float]:
        """Those of the table whose first label is `whose`."""
        if family not in self._rows:
            found: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
            for labels, value in self.table(family).items():
                found[labels[0]][labels] = value
            self._rows[family] = found
        return self._rows[family].get(whose, {})

    def table(self, family: Family) -> Mapping[tuple[str, ...], float]:
        """Values by the family's own labels, summed over a journey's labels."""
        if family not in self._tables:
            table: dict[tuple[str, ...], float] = {}
            for sample in self._snapshot.get(family, ()):
                assert not isinstance(sample.value, Histogram)
                labels = sample.labels[: len(family.labels)]
                table[labels] = table.get(labels, 0.0) + sample.value
            self._tables[family] = table
        return self._tables[family]

    def value(self, family: Family, *labels: str, default: float = 0.0) -> float:
        return self.table(family).get(labels, default)

    def total(self, family: Family) -> float:
        return sum(self.table(family).values())


# Promises ---------------------------------------------------------------------------------------


def _promise(promised: Promised, read: _Reader) -> Promise:
    journey, slo = promised
    window = format_duration(slo.window)
    good = read.value(series.SLO_WINDOW_EVENTS, slo.name, window, "good")
    bad = read.value(series.SLO_WINDOW_EVENTS, slo.name, window, "bad")
    remaining = read.value(series.SLO_BUDGET_REMAINING, slo.name, default=1.0)
    state, telling_window = _state(slo, remaining, read)
    decimals = words.decimals_of(slo.objective) + 1
    sli = read.value(series.SLO_SLI, slo.name, window, default=1.0)
    bad_now = 1 - read.value(series.SLO_SLI, slo.name, telling_window, default=1.0)
    return Promise(
        name=slo.name,
        journey=journey.name if journey else "",
        title=promised.title,
        goal=_goal(promised),
        runbook=_link(promised.runbook),
        state=state,
        state_words=_STATE_WORDS[state],
        tone=_TONES[state],
        sli=words.share(sli, decimals=decimals) if good + bad else f"no {promised.events}",
        objective=words.objective(slo.objective),
        window=_length(slo.window),
        events=f"{words.count(bad)} bad of {words.count(good + bad)} {promised.unit}",
        budget=_budget(slo, remaining, read),
        remaining=remaining,
        burns=[_burn(slo, each, read) for each in (5 * MINUTE, HOUR)],
        little_traffic=bool(read.value(series.SLO_TRAFFIC_STATE, slo.name, "low")),
        telling_window=_length(parse_duration(telling_window)),
        bad_now=f"{words.small_share(bad_now)} of {promised.unit} {_pain(slo)}",
    )


def _state(slo: Slo, remaining: float, read: _Reader) -> tuple[State, str]:
    """How an SLO stands, and the short window of the tier that says so, else its own window."""
    firing: dict[str, str] = {}
    tiers = read.rows(series.SLO_ALERT_THRESHOLD, slo.name)
    for (name, severity, long, short), threshold in tiers.items():
        if _fires(name, threshold, long, short, read):
            shortest = min(firing.get(severity, short), short, key=parse_duration)
            firing[severity] = shortest
    own = format_duration(slo.window)
    if "page" in firing:
        return State.BURNING, firing["page"]
    if remaining <= 0:
        return State.SPENT, own
    if "ticket" in firing:
        return State.SMOULDERS, firing["ticket"]
    if read.value(series.SLO_TRAFFIC_STATE, slo.name, "none"):
        return State.IDLE, own
    return State.KEPT, own


def _fires(slo: str, threshold: float, long: str, short: str, read: _Reader) -> bool:
    """Whether an alert tier fires, as `alerting.firing` asks it."""
    good, bad = (
        read.value(series.SLO_WINDOW_EVENTS, slo, long, result) for result in ("good", "bad")
    )
    return (
        all(read.value(series.SLO_BURN_RATE, slo, w) > threshold for w in (long, short))
        and bad >= read.value(series.SLO_ALERT_MIN_BAD, slo)
        and good + bad >= read.value(series.SLO_ALERT_MIN, slo)
    )


def _goal(promised: Promised) -> str:
    slo = promised.slo
    share, budgeting, aim = words.objective(slo.objective), slo.budgeting, _aim(slo)
    if budgeting.method == "timeslices":
        least = words.objective(budgeting.target)
        return f"{share} of {budgeting.slices}: at least {least} of {promised.events} {aim}"
    alike = f", all {budgeting.slices} alike" if budgeting.method == "ratio_timeslices" else ""
    return f"{share} {aim}{alike}"


def _aim(slo: Slo) -> str:
    if not isinstance(slo, JourneySlo):
        return "are good"
    good = slo.good
    parts = []
    if good.within is not None:
        parts.append(f"succeed within {_length(good.within)}")
    elif good.achieved:
        parts.append("succeed")
    if good.error is False:
        parts[-1:] = [f"{parts[-1]} without an error"] if parts else ["have no error"]
    if good.duration_below is not None:
        parts.append(f"take less than {_length(good.duration_below)}")
    return " and ".join(parts)


def _pain(slo: Slo) -> str:
    if not isinstance(slo, JourneySlo) or slo.budgeting.method != "occurrences":
        return "are bad"
    good = slo.good
    parts = []
    if good.achieved or good.error is False:
        parts.append("fail")
    if good.within is not None:
        parts.append("do not succeed in time")
    if good.duration_below is not None:
        parts.append("are too slow")
    return " or ".join(parts)


def _budget(slo: Slo, remaining: float, read: _Reader) -> Budget:
    window_seconds = slo.window / SECOND
    seconds = read.value(series.SLO_BUDGET_EXHAUSTION, slo.name, default=window_seconds)
    if remaining <= 0:
        left = f"overspent by {words.small_share(-remaining)}" if remaining else "none left"
        exhaustion = "spent"
    else:
        left = f"{words.small_share(remaining)} left"
        # At a burn of 1 or less what is spent is also earned back as the window moves on.
        lasts = seconds >= window_seconds or read.value(series.SLO_BURN_RATE, slo.name, "6h") <= 1
        exhaustion = "lasts" if lasts else f"gone in {words.span(seconds)}"
    return Budget(min(1.0, max(0.0, remaining)) * 100, left, exhaustion)


def _burn(slo: Slo, window: int, read: _Reader) -> Burn:
    rate = read.value(series.SLO_BURN_RATE, slo.name, format_duration(window))
    pages = (tier.threshold(slo.window) for tier in slo.wanted_tiers if tier.severity == "page")
    page = min(pages, default=inf)
    verdict: str
    tone: Tone
    if rate <= 0:
        verdict, tone = "not burning", "idle"
    elif rate <= 1:
        verdict, tone = "sustainable", "good"
    elif rate <= page:
        verdict, tone = "too fast", "warn"
    else:
        verdict, tone = "far too fast", "bad"
    return Burn(_length(window), words.times(rate), verdict, tone)


def _length(nanoseconds: int) -> str:
    return words.span(nanoseconds / SECOND)


def _link(url: str) -> str:
    """A URL that is safe to follow, else nothing: a link may hold a script."""
    return url if url.startswith(("https://", "http://")) else ""


# The sentence on top ----------------------------------------------------------------------------


def _headline(
    config: Config, promises: Sequence[Promise], journeys: Sequence[JourneyCard], read: _Reader
) -> Headline:
    if not config.journeys and not config.standalone:
        return Headline(
            "idle",
            "Nothing is watched yet.",
            ["The configuration names no journey: add one under journeys, and reload."],
        )
    if not read.total(series.ATTEMPTS) and not read.total(series.SLO_EVENTS):
        return _waiting(config, read)
    if not promises:
        return Headline("idle", "Attempts are counted.", ["No journey promises anything yet."])
    worst = promises[0]
    if worst.state < State.KEPT:
        return Headline(worst.tone, _trouble(worst), _details(promises, journeys))
    return _calm(promises)


def _calm(promises: Sequence[Promise]) -> Headline:
    idle = [promise.title for promise in promises if promise.state is State.IDLE]
    if not idle:
        return Headline("good", "All journeys are fine.", [])
    if len(idle) == len(promises):
        return Headline("idle", "No traffic in the last 5 minutes.", [])
    return Headline(
        "good", "All journeys with traffic are fine.", [f"No traffic: {', '.join(idle)}."]
    )


def _details(promises: Sequence[Promise], journeys: Sequence[JourneyCard]) -> list[str]:
    """What to know beside the headline: whom it hurts, what causes it, and what else is wrong."""
    worst = promises[0]
    card = next((card for card in journeys if card.name == worst.journey), None)
    lines = []
    if worst.state is not State.SPENT:
        whom = f"; users hurt: {card.users[0]}" if card and card.users else ""
        lines.append(f"Measured over the last {worst.telling_window}{whom}.")
    if card and card.causes and card.causes[0].now:
        cause = card.causes[0]
        facts = "; ".join([cause.now, *cause.changes])
        lines.append(f"Cause: {cause.what} {cause.kind} ({facts}).")
    if card and card.in_common:
        lines.append(f"More often in bad attempts: {', '.join(card.in_common)}.")
    others = sum(promise.state < State.KEPT for promise in promises) - 1
    if others:
        lines.append(f"{others} more in danger: see below.")
    return lines


def _trouble(promise: Promise) -> str:
    if promise.state is State.SPENT:
        return (
            f"{promise.title}: promise broken, {promise.sli} instead of {promise.objective} "
            f"over {promise.window}"
        )
    budget = {
        "spent": "budget is spent",
        "lasts": f"{promise.budget.left} of the budget",
    }.get(promise.budget.exhaustion, f"budget {promise.budget.exhaustion}")
    return f"{promise.title}: {promise.bad_now}, {budget}"


def _waiting(config: Config, read: _Reader) -> Headline:
    if not config.journeys:
        return Headline(
            "idle",
            "Waiting for the first event.",
            [
                "No SLO has counted one yet.",
                "Compare the sli of each with what is sent, or with what its Prometheus holds.",
            ],
        )
    received = sum(read.value(series.RECEIVED_ITEMS, signal) for signal in ("traces", "events"))
    if received:
        return Headline(
            "idle",
            "Waiting for the first attempt.",
            [
                f"{words.count(received)} spans and events came, yet none began an attempt.",
                "Compare their names with the attempt of each journey in the configuration.",
            ],
        )
    grpc, http = (
        address.rpartition(":")[2]
        for address in (config.receivers.otlp.grpc.listen, config.receivers.otlp.http.listen)
    )
    return Headline(
        "idle",
        "Waiting for the first attempt.",
        [
            f"Send OTLP to port {grpc} (gRPC) or {http} (HTTP).",
            f"Send business events to port {http}, path /events.",
        ],
    )


# Journeys ---------------------------------------------------------------------------------------


def _in_need(config: Config, promises: Sequence[Promise]) -> list[Journey]:
    """Journeys in the order of their worst promise; those without one last."""
    rank = {promise.name: at for at, promise in enumerate(promises)}
    return sorted(
        config.journeys,
        key=lambda journey: min((rank[slo.name] for slo in journey.slos), default=len(rank)),
    )


def _journey(
    journey: Journey, read: _Reader, now_unix_nano: int, trace_url: str | None
) -> JourneyCard:
    pending = read.value(series.PENDING_ATTEMPTS, journey.name)
    currency = journey.value.currency if journey.value else ""
    return JourneyCard(
        name=journey.name,
        title=journey.title or journey.name,
        owner=journey.owner,
        runbook=_link(journey.runbook),
        outcomes=_outcomes(journey, read, trace_url),
        money=[
            (
                state,
                words.money(read.value(series.VALUE, journey.name, currency, name), currency),
                meaning,
            )
            for name, (state, meaning) in _MONEY.items()
            if currency
        ],
        users=_users(journey, read) if journey.user else [],
        pending=words.count(pending),
        causes=_causes(journey, currency, read, now_unix_nano, trace_url),
        in_common=_in_common(journey, read),
    )


def _outcomes(journey: Journey, read: _Reader, trace_url: str | None) -> list[OutcomeRow]:
    counts = dict.fromkeys(_REASONS, 0.0)
    for (_, _, reason), value in read.rows(series.ATTEMPTS, journey.name).items():
        counts[reason] += value
    if journey.outcome is None:
        counts = {reason: counts[reason] for reason in ("ok", "error", "slow")}
    total = sum(counts.values())
    examples: dict[str, Sample] = {}
    for sample in read.samples(series.ATTEMPTS, journey.name):
        if sample.exemplar is not None:
            last = examples.get(sample.labels[2], sample).exemplar
            if last is not None and sample.exemplar.time_unix_nano >= last.time_unix_nano:
                examples[sample.labels[2]] = sample
    worst = max((count for reason, count in counts.items() if reason != "ok"), default=0.0)
    return [
        OutcomeRow(
            _REASONS[reason],
            words.count(count),
            words.fine_share(count / total) if total else "",
            # Bars compare the bad reasons with each other: beside what is fine none would show.
            100 * count / worst if worst and reason != "ok" else 0.0,
            _trace(examples[reason], trace_url) if reason in examples else None,
        )
        for reason, count in counts.items()
    ]


def _users(journey: Journey, read: _Reader) -> list[str]:
    return [
        f"{words.count(read.value(series.USERS, journey.name, 'bad', window))} of "
        f"{words.count(read.value(series.USERS, journey.name, 'any', window))} in the last {name}"
        for window, name in (("1h", "hour"), ("1d", "day"))
    ]


def _trace(sample: Sample, trace_url: str | None) -> Trace | None:
    if sample.exemplar is None:
        return None
    trace_id = sample.exemplar.trace_id
    return Trace(trace_id, (trace_url or "").replace("{trace_id}", trace_id))


def _causes(
    journey: Journey, currency: str, read: _Reader, now_unix_nano: int, trace_url: str | None
) -> list[Cause]:
    """The causes that explain most now, where that is known, then those with most on record."""
    blamed = {
        sample.labels[1:]: sample
        for sample in read.samples(series.BLAME, journey.name)
        if sample.value
    }
    shares, when = _shares(journey, read)
    order = sorted(
        blamed,
        key=lambda cause: (
            -shares.get(cause, 0.0),
            -read.value(series.BLAME, journey.name, *cause),
            cause,
        ),
    )
    total = sum(read.value(series.BLAME, journey.name, *cause) for cause in blamed)
    causes = []
    for cause in order[:_CAUSES_MAX]:
        service, operation, version, kind = cause
        on_record = read.value(series.BLAME, journey.name, *cause) / total
        share = shares.get(cause, 0.0)
        causes.append(
            Cause(
                what=" ".join(part for part in (service, operation, version) if part) or "unknown",
                kind=_KINDS.get(kind, kind),
                now=f"{words.small_share(share)} of bad outcomes in the last {when}"
                if share
                else "",
                changes=_changes(journey, cause, read, now_unix_nano),
                facts=_facts(journey, currency, cause, read),
                percent=100 * (share if shares else on_record),
                trace=_trace(blamed[cause], trace_url),
            )
        )
    return causes


def _facts(journey: Journey, currency: str, cause: tuple[str, ...], read: _Reader) -> list[str]:
    facts = [f"{words.count(read.value(series.BLAME, journey.name, *cause))} in all"]
    if currency:
        value = read.value(series.BLAME_VALUE, journey.name, currency, *cause)
        facts.append(words.money(value, currency))
    since = read.value(series.CAUSE_SINCE, journey.name, *cause)
    if since:
        facts.append(f"for {words.span(since)}")
    return facts + _resources(cause[0], read)


def _resources(service: str, read: _Reader) -> list[str]:
    """What the resources of a cause's service speak for it."""
    return [
        words.resource(name, now, read.value(family, whose, name, "usual"), limited=limited)
        for family, limited in (
            (series.CAUSE_RESOURCE_RATIO, True),
            (series.CAUSE_RESOURCE_AMOUNT, False),
        )
        for (whose, name, state), now in read.rows(family, service).items()
        if state == "now"
    ]


def _shares(journey: Journey, read: _Reader) -> tuple[dict[tuple[str, ...], float], str]:
    """Who is blamed, and over which time: now, as in an alert; if nobody is, in the last hour."""

    def over(window: str) -> dict[tuple[str, ...], float]:
        return {
            labels[2:]: share
            for labels, share in read.rows(series.CAUSE_SHARE, journey.name).items()
            if labels[1] == window
        }

    now = over("5m")
    return (now, "5 minutes") if now else (over("1h"), "hour")


def _changes(
    journey: Journey, cause: tuple[str, ...], read: _Reader, now_unix_nano: int
) -> list[str]:
    """What changed at a cause's service: its version, or what was told before the pain began."""
    service, _, version, _ = cause
    now = now_unix_nano / SECOND
    began = now - read.value(series.CAUSE_SINCE, journey.name, *cause, default=inf)
    return [
        f"{kind} {to} came {words.span(now - at)} ago" + (f", after {before}" if before else "")
        for (_, kind, to, before), at in read.rows(series.CHANGE_INFO, service).items()
        if (to == version and version) or (kind != "version" and followed(at, began))
    ]


def _in_common(journey: Journey, read: _Reader) -> list[str]:
    scores = {
        labels[1:]: score
        for labels, score in read.rows(series.SUSPECT_SCORE, journey.name).items()
        if score > 0
    }
    top = sorted(scores, key=lambda value: (-scores[value], value))[:_SUSPECTS_MAX]
    return [
        f"{dimension} {value} (by {words.small_share(scores[dimension, value])})"
        for dimension, value in top
    ]


# The exporter itself ----------------------------------------------------------------------------


def _warnings(read: _Reader, not_ready: str | None) -> list[str]:
    warnings = []
    if not_ready is not None:
        warnings.append(f"Not ready, numbers are incomplete: {not_ready}")
    lag = read.value(series.LOG_LAG_SECONDS)
    if lag > _BEHIND_SECONDS:
        warnings.append(
            f"The exporter is {words.span(lag)} behind: what happened since is missing."
        )
    if not read.value(series.CONFIG_RELOAD_OK, default=1.0):
        warnings.append("The configuration file was changed and cannot work; the old one runs.")
    if read.value(series.CHECKPOINT_FAILURES):
        failures = words.count(read.value(series.CHECKPOINT_FAILURES))
        warnings.append(f"Checkpoints failed ({failures}); see the exporter's log.")
    return warnings


def _health(read: _Reader, now_unix_nano: int) -> list[tuple[str, str]]:
    """Facts about the exporter: name and value."""
    now = now_unix_nano / SECOND
    refused = sum(
        value
        for (_, _, result), value in read.table(series.REQUESTS).items()
        if result not in {"accepted", "partial"}
    )
    lag = read.value(series.LOG_LAG_SECONDS)
    facts = [
        (
            "received",
            f"{words.count(read.total(series.RECEIVED_ITEMS))} spans, events and data points",
        ),
        ("refused requests", words.count(refused)),
        ("left out", words.count(read.total(series.REJECTED_ITEMS))),
        ("duplicates", words.count(read.total(series.DUPLICATES))),
        ("late spans", words.count(read.total(series.LATE_SPANS))),
        ("overflows", words.count(read.total(series.OVERFLOW))),
        ("behind", f"{words.span(lag)}, {words.size(read.value(series.LOG_LAG))}"),
        ("log", words.size(read.value(series.LOG_SIZE))),
    ]
    for name, family in (
        ("settled up to", series.WATERMARK),
        ("checkpoint", series.CHECKPOINT_AGE),
    ):
        at = read.value(family)
        facts.append((name, f"{words.span(now - at)} ago" if at else "not yet"))
    return facts

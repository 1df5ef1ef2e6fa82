"""The pipeline written down slowly: plain objects, lists and sums, straight from the design.

The reference that the compiled stages are compared with. Nothing here is clever: every second
looks at everything that waits, windows are summed anew whenever they are asked for, and keys are
the texts themselves. It shares no code with the exporter but the configuration.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction

from tests.scenario import Event, Items, Restart, Span

from outcome_exporter.config import Config
from outcome_exporter.config.journeys import Journey
from outcome_exporter.config.slos import Slo

SECOND = 10**9
MINUTE = 60 * SECOND
ONE = 10**6
"""One attempt, or one unit of a currency, in millionths."""


def seconds(duration: int) -> int:
    return -(-duration // SECOND)


def text(value: object) -> str:
    """A value as a key or label; empty where it has no exact text."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return str(int(value)) if value.is_integer() else ""
        case int() | str():
            return str(value)
    return ""


def money(value: object) -> int | None:
    """A value in millionths; None where it is no number at least 0."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = Fraction(str(value))
    except ValueError:
        return None
    if number < 0:
        return None
    return round(number * ONE) if isinstance(value, float) else math.floor(number * ONE)


def weight(tracestate: str) -> int:
    """Attempts that a span stands for, in millionths."""
    for member in tracestate.split(","):
        key, _, value = member.strip().partition("=")
        for part in value.split(";") if key == "ot" else ():
            name, _, threshold = part.partition(":")
            if name == "th":
                rejected = int(threshold.ljust(14, "0"), 16)
                return round(Fraction(ONE * 2**56, 2**56 - rejected))
    return ONE


@dataclass
class Attempt:
    """One try at a journey."""

    journey: Journey
    identity: tuple[object, ...]
    keys: set[tuple[int, str]]
    start: int
    end: int
    error: bool
    weight: int
    said: int | None
    """Its own value."""
    user: str
    labels: tuple[str, ...]
    value: int = 0
    known: int = 0
    pending: set[str] = field(default_factory=set)
    told: bool = False

    @property
    def duration(self) -> int:
        return self.end - self.start

    @property
    def slow(self) -> bool:
        above = self.journey.slow_above
        return above is not None and self.duration > above


@dataclass
class Claim:
    """What an event means to a journey."""

    journey: Journey
    event: "Seen"
    keys: set[tuple[int, str]]
    time: int
    value: int | None
    user: str
    until: int
    achieved: bool = False


@dataclass
class Seen:
    """An event that came."""

    type: str
    used: bool = False
    waiting: int = 0


@dataclass
class Trace:
    first: int
    last: int
    late: bool
    spans: list[Span] = field(default_factory=list)


class Naive:
    """Everything that the exporter knows, in lists."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.second: int | None = None
        self.grace = 0
        self.traces: dict[int, Trace] = {}
        self.settled: dict[int, int] = {}
        self.attempts: list[Attempt] = []
        self.claims: list[Claim] = []
        self.counted: dict[tuple[object, ...], int] = {}
        self.events: dict[tuple[str, str], int] = {}
        self.label_values: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.mean: dict[str, int] = defaultdict(int)
        # What is shown, in millionths
        self.reasons: dict[tuple[object, ...], int] = defaultdict(int)
        self.value: dict[tuple[str, str], int] = defaultdict(int)
        self.slo_events: dict[tuple[str, str], int] = defaultdict(int)
        self.buckets: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
        self.durations: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.calls: dict[tuple[object, ...], int] = defaultdict(int)
        self.users: dict[tuple[str, str], set[tuple[int, str]]] = defaultdict(set)
        self.unmatched: dict[str, int] = defaultdict(int)
        self.duplicates: dict[str, int] = defaultdict(int)
        self.late = 0
        self.ahead = 0
        self.too_old = 0

    # What arrives

    def take(self, arrival: int, items: Items) -> None:
        if isinstance(items, Restart):
            if self.second is not None:
                now = max(arrival // SECOND, self.second)
                self.grace = now + self.config.time.grace // SECOND
                for trace in self.traces.values():
                    trace.first = trace.last = now + 1
            self.advance(arrival)
            return
        self.advance(arrival)
        events = [item for item in items if isinstance(item, Event)]
        for item in items:
            if isinstance(item, Span):
                self.take_span(arrival, item)
        new = [(event, seen) for event in events if (seen := self.new_event(event))]
        times = [self.event_time(arrival, event) for event, _ in new]
        for (event, _), time in zip(new, times, strict=True):
            self.begin(event, time)
        for (event, seen), time in zip(new, times, strict=True):
            self.claim(event, seen, time)

    def take_span(self, arrival: int, span: Span) -> None:
        last = arrival // SECOND + 1
        trace = self.traces.get(span.trace)
        if trace is None:
            late = self.settled.get(span.trace, 0) > self.second
            trace = self.traces[span.trace] = Trace(last, last, late)
        trace.last = last
        self.late += trace.late
        duration = max(span.end - span.start, 0)
        start = span.start
        if start + duration > arrival + self.config.time.future:
            self.ahead += 1
            start = arrival - duration
        status = span.attributes.get("http.response.status_code", 0)
        code = 2 if isinstance(status, int) and status >= 500 else span.status
        span = Span(**{**vars(span), "start": start, "end": start + duration, "status": code})
        trace.spans.append(span)
        for journey in self.config.journeys:
            if self.matches(journey, span):
                self.labels(journey, span.attributes)

    def new_event(self, event: Event) -> Seen | None:
        assert self.second is not None
        if event.type not in {
            type_
            for journey in self.config.journeys
            for type_ in (journey.attempt.event, journey.outcome and journey.outcome.event)
        }:
            return None
        if self.events.get((event.source, event.id), 0) > self.second:
            self.duplicates["event"] += 1
            return None
        self.events[event.source, event.id] = self.second + seconds(self.config.traces.dedupe)
        return Seen(event.type)

    def event_time(self, arrival: int, event: Event) -> int:
        if event.time is None or event.time > arrival + self.config.time.future:
            return arrival
        return event.time

    def matches(self, journey: Journey, span: Span) -> bool:
        wanted = journey.attempt.span
        return (
            wanted is not None
            and fnmatchcase(span.service, wanted.service)
            and fnmatchcase(span.name, wanted.name)
            and wanted.kind in {None, {1: "internal", 2: "server", 3: "client"}.get(span.kind)}
            and all(
                key in span.attributes and fnmatchcase(text(span.attributes[key]), glob)
                for key, glob in wanted.attributes.items()
            )
        )

    def labels(self, journey: Journey, values: "dict[str, object]") -> tuple[str, ...]:
        """Values of a journey's labels; new ones above the limit are `other`."""
        shown = []
        for label, attribute in journey.labels.items():
            value = text(values.get(attribute, ""))
            known = self.label_values[journey.name, label]
            if value and value not in known:
                if len(known) < self.config.limits.label_values:
                    known.append(value)
                else:
                    value = "other"
            shown.append(value)
        return tuple(shown)

    # Traces

    def settle(self) -> None:
        quiet = seconds(self.config.traces.quiet)
        age = seconds(self.config.traces.max_age)
        for trace_id, trace in list(self.traces.items()):
            due = trace.first + age
            if trace.late or any(span.parent == 0 for span in trace.spans):
                due = min(due, trace.last + quiet)
            if due <= self.second:
                del self.traces[trace_id]
                self.settle_trace(trace)
                if self.settled.get(trace_id, 0) <= self.second:
                    self.settled[trace_id] = self.second + age

    def settle_trace(self, trace: Trace) -> None:
        spans: dict[int, Span] = {}
        for span in sorted(trace.spans, key=lambda span: span.start):
            if span.id in spans:
                self.duplicates["span"] += 1
            else:
                spans[span.id] = span
        for span in spans.values():
            self.calls[span.service, span.name, span.kind, span.status] += 1
        self.take_attempts(
            [
                self.attempt_of_span(journey, span)
                for span in spans.values()
                for journey in reversed(self.config.journeys)
                if self.matches(journey, span)
                and not any(self.matches(journey, above) for above in self.ancestors(spans, span))
            ]
        )

    def ancestors(self, spans: dict[int, Span], span: Span) -> Iterable[Span]:
        while span.parent in spans:
            span = spans[span.parent]
            yield span

    def attempt_of_span(self, journey: Journey, span: Span) -> Attempt:
        keys = set()
        for k, rule in enumerate(journey.join):
            if rule == "trace_id":
                keys.add((k, f"trace {span.trace}"))
            elif text(span.attributes.get(rule.attribute, "")):
                keys.add((k, text(span.attributes[rule.attribute])))
        user = journey.user.attribute if journey.user else None
        value = journey.value.attribute if journey.value else None
        return Attempt(
            journey=journey,
            identity=(journey.name, span.trace, span.id),
            keys=keys,
            start=span.start,
            end=span.end,
            error=span.status == 2,
            weight=weight(span.tracestate),
            said=money(span.attributes.get(value)) if value else None,
            user=text(span.attributes.get(user, "")) if user else "",
            labels=self.labels(journey, span.attributes),
        )

    # Attempts and events

    def begin(self, event: Event, time: int) -> None:
        attempts = []
        for journey in self.config.journeys:
            if journey.attempt.event == event.type:
                user = journey.user.attribute if journey.user else None
                value = journey.value.attribute if journey.value else None
                attempts.append(
                    Attempt(
                        journey=journey,
                        identity=(journey.name, event.source, event.id),
                        keys=self.keys(journey, event, "attribute"),
                        start=time,
                        end=time,
                        error=False,
                        weight=ONE,
                        said=money(self.field(event, value)) if value else None,
                        user=text(self.field(event, user)) if user else "",
                        labels=self.labels(
                            journey, {f"data.{k}": v for k, v in event.data.items()}
                        ),
                    )
                )
        self.take_attempts(attempts)

    def claim(self, event: Event, seen: Seen, time: int) -> None:
        assert self.second is not None
        traces, limit = self.config.traces, self.config.time
        for journey in self.config.journeys:
            if journey.outcome is None or journey.outcome.event != event.type:
                continue
            until_known = (traces.max_age + traces.quiet + limit.lateness) // SECOND
            value = journey.value.event if journey.value else None
            user = journey.user.event if journey.user else None
            claim = Claim(
                journey=journey,
                event=seen,
                keys=self.keys(journey, event, "event"),
                time=time,
                value=money(self.field(event, value)) if value else None,
                user=text(self.field(event, user)) if user else "",
                until=self.second + journey.outcome.within // SECOND + until_known + 1,
            )
            seen.waiting += 1
            self.claims.append(claim)
            for attempt in list(self.attempts):
                if attempt.journey is journey and attempt.keys & claim.keys:
                    if time > attempt.start + journey.outcome.within:
                        continue
                    self.attempts.remove(attempt)
                    self.achieve(attempt, claim)

    def keys(self, journey: Journey, event: Event, side: str) -> set[tuple[int, str]]:
        keys = set()
        for k, rule in enumerate(journey.join):
            if rule == "trace_id":
                if event.trace is not None:
                    keys.add((k, f"trace {event.trace}"))
            elif text(self.field(event, getattr(rule, side))):
                keys.add((k, text(self.field(event, getattr(rule, side)))))
        return keys

    def field(self, event: Event, path: str) -> object:
        return event.data.get(path.removeprefix("data."))

    def take_attempts(self, attempts: Sequence[Attempt]) -> None:
        assert self.second is not None
        for attempt in attempts:
            journey = attempt.journey
            self.see_user("any", attempt, attempt.end)
            if self.counted.get(attempt.identity, 0) > self.second:
                self.duplicates["attempt"] += 1
                continue
            self.counted[attempt.identity] = self.second + seconds(self.config.traces.dedupe)
            attempt.known = self.second
            attempt.pending = {slo.name for slo in journey.slos}
            self.durations[journey.name].append((attempt.duration, attempt.weight))
            claim = self.claim_for(attempt)
            if journey.value is not None:
                value = attempt.said
                if value is not None:
                    self.learn(journey, value)
                elif claim is not None:
                    value = claim.value
                attempt.value = self.mean[journey.name] if value is None else value
            if attempt.error or attempt.slow:
                self.tell_bad(attempt, attempt.end)
            if journey.outcome is None:
                self.judge(attempt, None)
                reason = "error" if attempt.error else "slow" if attempt.slow else "ok"
                self.finish(attempt, reason)
                self.add_value(attempt, "lost" if attempt.error else "achieved", attempt.value)
            elif claim is not None:
                self.achieve(attempt, claim)
            else:
                self.attempts.append(attempt)
                self.judge(attempt, None)

    def claim_for(self, attempt: Attempt) -> Claim | None:
        outcome = attempt.journey.outcome
        fitting = [
            claim
            for claim in self.claims
            if outcome is not None
            and claim.journey is attempt.journey
            and claim.keys & attempt.keys
            and claim.time <= attempt.start + outcome.within
        ]
        return min(fitting, key=lambda claim: claim.time, default=None)

    def achieve(self, attempt: Attempt, claim: Claim) -> None:
        journey = attempt.journey
        claim.event.used = True
        if not attempt.user:
            attempt.user = claim.user
            self.see_user("any", attempt, attempt.end)
            if attempt.told:
                self.see_user("bad", attempt, attempt.end)
        self.judge(attempt, claim.time)
        if attempt.error:
            self.finish(attempt, "recovered")
        else:
            self.finish(attempt, "slow" if attempt.slow else "ok")
        if not claim.achieved and journey.value is not None:
            if claim.value is not None:
                self.learn(journey, claim.value)
            value = attempt.value if claim.value is None else claim.value
            self.add_value(attempt, "achieved", value)
        claim.achieved = True

    def learn(self, journey: Journey, value: int) -> None:
        mean = self.mean[journey.name]
        self.mean[journey.name] = value if mean == 0 else mean + (value - mean) // 16

    def due(self, attempt: Attempt, within: int) -> int:
        """Second from which the attempt's event is missed."""
        late = max(attempt.start + within, attempt.known * SECOND) + self.config.time.lateness
        return max(late // SECOND + 1, self.grace)

    def judge(self, attempt: Attempt, event: int | None) -> None:
        """Gives the verdicts that are certain; `event` is the time of the attempt's event."""
        for slo in attempt.journey.slos:
            if slo.name in attempt.pending:
                verdict = self.verdict(attempt, slo, event)
                if verdict is not None:
                    attempt.pending.discard(slo.name)
                    self.count(attempt, slo, good=verdict[0], time=verdict[1])

    def verdict(self, attempt: Attempt, slo: Slo, event: int | None) -> tuple[bool, int] | None:
        """(good, outcome time), or None while it is not certain."""
        good = slo.good
        if good.error is False and attempt.error:
            return False, attempt.end
        if good.duration_below is not None and attempt.duration >= good.duration_below:
            return False, attempt.end
        outcome = attempt.journey.outcome
        if outcome is None or not (good.achieved or good.within is not None):
            return True, attempt.end
        within = outcome.within if good.within is None else good.within
        if event is not None and event <= attempt.start + within:
            return True, max(event, attempt.end)
        if event is not None or self.due(attempt, within) <= self.second:
            return False, attempt.start + within
        return None

    def count(self, attempt: Attempt, slo: Slo, *, good: bool, time: int) -> None:
        self.slo_events[slo.name, "good" if good else "bad"] += attempt.weight
        minute = time // MINUTE
        if minute <= self.second // 60 - max(slo.windows) // MINUTE:
            self.too_old += 1
        self.buckets[slo.name, minute][not good] += attempt.weight

    def expire(self) -> None:
        for attempt in list(self.attempts):
            self.judge(attempt, None)
            within = attempt.journey.outcome.within
            if self.due(attempt, within) > self.second:
                continue
            self.attempts.remove(attempt)
            if not attempt.told:
                self.tell_bad(attempt, attempt.start + within)
            self.finish(attempt, "error" if attempt.error else "missed")
            # The last retry with the same key answers for the money.
            if not any(
                other.journey is attempt.journey and other.keys & attempt.keys
                for other in self.attempts
            ):
                self.add_value(attempt, "lost", attempt.value)
        for claim in list(self.claims):
            if max(claim.until, self.grace) <= self.second:
                self.claims.remove(claim)
                claim.event.waiting -= 1
                if claim.event.waiting == 0 and not claim.event.used:
                    self.unmatched[claim.event.type] += 1

    # Counting

    def finish(self, attempt: Attempt, reason: str) -> None:
        self.reasons[attempt.journey.name, attempt.labels, reason] += attempt.weight

    def tell_bad(self, attempt: Attempt, time: int) -> None:
        attempt.told = True
        self.see_user("any", attempt, time)
        self.see_user("bad", attempt, time)
        self.add_value(attempt, "at_risk", attempt.value)

    def see_user(self, outcome: str, attempt: Attempt, time: int) -> None:
        if attempt.user and attempt.journey.user is not None:
            time = min(time, self.second * SECOND)
            self.users[attempt.journey.name, outcome].add((time, attempt.user))

    def add_value(self, attempt: Attempt, state: str, value: int) -> None:
        if attempt.journey.value is not None:
            self.value[attempt.journey.name, state] += value * attempt.weight // ONE

    # The clock

    def advance(self, now: int) -> None:
        target = now // SECOND
        if self.second is None:
            self.second = target
        while self.second < target:
            self.second += 1
            self.settle()
            self.expire()

    # What is shown

    def window(self, slo: Slo, length: int) -> tuple[int, int]:
        """Good and bad events of a window that ends with this minute."""
        now = self.second // 60
        sums = [0, 0]
        for (name, minute), counts in self.buckets.items():
            if name == slo.name and now - length // MINUTE < minute <= now:
                sums[0] += counts[0]
                sums[1] += counts[1]
        return sums[0], sums[1]

    def distinct_users(self, journey: str, outcome: str, slice_length: int, slices: int) -> int:
        now = self.second * SECOND // slice_length
        return len(
            {
                user
                for time, user in self.users[journey, outcome]
                if now - slices < time // slice_length <= now
            }
        )

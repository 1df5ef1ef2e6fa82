"""The pipeline's state as series: what `/metrics` and the page show.

Configured things are shown from the start, at 0. What is born later (a value of a label, an
operation) shows 0 for `exposition.birth` before it shows its value, so that PromQL's `increase()`
sees its first event. Cost: O(series), and it copies what it shows.
"""

from collections.abc import Iterator, Sequence

from outcome_exporter import blame, series, slo
from outcome_exporter.changes import Change
from outcome_exporter.kernels import assembly, joining
from outcome_exporter.kernels.operations import BOUNDS_MS, KINDS, STATUSES
from outcome_exporter.kernels.steps import KINDS as CAUSE_KINDS
from outcome_exporter.metrics import REFUSALS
from outcome_exporter.model import OK, REASONS, Exemplar, Histogram, Row, Sample, Snapshot
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.units import HOUR, MICROSECOND, MILLIONTHS, SECOND, format_duration
from outcome_exporter.users import OUTCOMES as USER_OUTCOMES
from outcome_exporter.users import WINDOWS as USER_WINDOWS

STATES = ("achieved", "at_risk", "lost")
TRAFFIC_STATES = ("normal", "low", "none")
RESULTS = ("good", "bad")

_DURATION_BOUNDS = tuple(bound / 1000 for bound in joining.DURATION_BOUNDS_MS)
_SPAN_BOUNDS = tuple(bound / 1000 for bound in BOUNDS_MS)
_LATENCY_BOUNDS = tuple(float(bound) for bound in joining.LATENCY_BOUNDS_SECONDS)


def snapshot(pipeline: Pipeline) -> Snapshot:
    """Every series of the pipeline at this moment."""
    return {
        series.ATTEMPTS: list(_attempts(pipeline)),
        series.ATTEMPT_DURATION: list(_durations(pipeline)),
        series.VALUE: list(_values(pipeline)),
        series.USERS: list(_users(pipeline)),
        series.JOURNEY_INFO: [
            Sample((j.name, j.owner, j.title or j.name, j.runbook), 1.0)
            for j in pipeline.plan.journeys
        ],
        series.VALUE_THRESHOLD: list(_value_thresholds(pipeline)),
        series.PENDING_ATTEMPTS: [
            Sample((journey.name,), float(pipeline.outcomes.pending[j]))
            for j, journey in enumerate(pipeline.plan.journeys)
        ],
        series.EVENTS_UNMATCHED: [
            Sample((name,), float(pipeline.outcomes.unmatched[i]))
            for i, name in enumerate(pipeline.plan.event_types)
        ],
        **_blame_families(pipeline),
        series.SUSPECT_SCORE: list(_suspects(pipeline)),
        **_slo_families(pipeline),
        **_metric_families(pipeline),
        series.SPAN_CALLS: list(_span_calls(pipeline)),
        series.SPAN_DURATION: list(_span_durations(pipeline)),
        **_self_families(pipeline),
    }


def _exemplar(hi: int, lo: int, time: int) -> Exemplar | None:
    return Exemplar(f"{hi:016x}{lo:016x}", 1.0, time) if hi or lo else None


# Outcomes


def _attempts(pipeline: Pipeline) -> Iterator[Sample]:
    for row in pipeline.outcomes.combinations:
        j = int(row["journey"])
        journey = pipeline.plan.journeys[j]
        shown = pipeline.shows(int(row["born"]))
        texts = pipeline.traces.label_values(j, int(row["labels"]))
        for reason, name in enumerate(REASONS):
            outcome = "good" if reason == OK else "bad"
            exemplar = None
            if reason != OK and shown:
                trace = (int(row[field][reason]) for field in ("trace_hi", "trace_lo", "time"))
                exemplar = _exemplar(*trace)
            yield Sample(
                (journey.name, outcome, name, *texts),
                int(row["counts"][reason]) / MILLIONTHS if shown else 0.0,
                exemplar,
                tuple(journey.labels),
            )


def _durations(pipeline: Pipeline) -> Iterator[Sample]:
    for j, journey in enumerate(pipeline.plan.journeys):
        if journey.attempt.event is None:
            yield Sample(
                (journey.name,),
                Histogram(
                    _DURATION_BOUNDS,
                    tuple(count / MILLIONTHS for count in pipeline.outcomes.durations[j].tolist()),
                    int(pipeline.outcomes.duration_sum[j]) * MICROSECOND / SECOND,
                ),
            )


def _values(pipeline: Pipeline) -> Iterator[Sample]:
    for j, journey in enumerate(pipeline.plan.journeys):
        if journey.value is not None:
            for state, name in enumerate(STATES):
                yield Sample(
                    (journey.name, journey.value.currency, name),
                    int(pipeline.outcomes.value[j, state]) / MILLIONTHS,
                )


def _value_thresholds(pipeline: Pipeline) -> Iterator[Sample]:
    thresholds = pipeline.config.alerts.value_at_risk
    for journey in pipeline.plan.journeys:
        if journey.value is not None and journey.value.currency in thresholds:
            currency = journey.value.currency
            yield Sample((journey.name, currency), float(thresholds[currency]))


def _users(pipeline: Pipeline) -> Iterator[Sample]:
    for j, journey in enumerate(pipeline.plan.journeys):
        if journey.user is not None:
            for outcome, outcome_name in enumerate(USER_OUTCOMES):
                for window, (window_name, *_) in enumerate(USER_WINDOWS):
                    count = pipeline.users.estimate(j, outcome, window, pipeline.second or 0)
                    yield Sample((journey.name, outcome_name, window_name), count)


# Blame


def _blame_families(pipeline: Pipeline) -> dict[series.Family, Sequence[Sample]]:
    counts: list[Sample] = []
    values: list[Sample] = []
    for row in pipeline.blame.causes:
        journey = pipeline.plan.journeys[int(row["journey"])]
        cause = _cause(pipeline, *(int(row[name]) for name in _CAUSE_FIELDS))
        shown = pipeline.shows(int(row["born"]))
        trace = (int(row[name]) for name in ("trace_hi", "trace_lo", "time"))
        exemplar = _exemplar(*trace) if shown else None
        count = int(row["count"]) / MILLIONTHS if shown else 0.0
        counts.append(Sample((journey.name, *cause), count, exemplar))
        if journey.value is not None:
            value = int(row["value"]) / MILLIONTHS if shown else 0.0
            values.append(Sample((journey.name, journey.value.currency, *cause), value))
    shares: list[Sample] = []
    since: list[Sample] = []
    services: set[str] = set()
    for j, journey in enumerate(pipeline.plan.journeys):
        hurting: dict[tuple[str, ...], float] = {}
        for window in blame.WINDOWS:
            for finding in pipeline.blame.findings(j, window):
                cause = _cause(pipeline, *finding[:4])
                labels = (journey.name, format_duration(window), *cause)
                shares.append(Sample(labels, finding.share))
                services.add(cause[0])
                began = pipeline.blame.since(j, finding)
                if began is not None:
                    hurting[cause] = max((pipeline.second or 0) - began / SECOND, 0.0)
        since += [Sample((journey.name, *cause), seconds) for cause, seconds in hurting.items()]
    return {
        series.BLAME: counts,
        series.BLAME_VALUE: values,
        series.CAUSE_SHARE: shares,
        series.CAUSE_SINCE: since,
        **_resource_families(pipeline, services),
        series.CHANGE_INFO: [
            Sample(tuple(change[:4]), change.time / SECOND) for change in changes(pipeline)
        ],
    }


def changes(pipeline: Pipeline) -> list[Change]:
    """What changed in the last day, told by events or seen in spans; each version once."""
    text = pipeline.traces.texts.text
    seen = [
        Change(
            text(new.service), "version", text(new.version), text(new.previous), new.second * SECOND
        )
        for new in pipeline.blame.changes()
    ]
    # Events seldom say what was there before; spans do.
    before = {(change.service, change.version): change.previous for change in seen}
    told = [
        change._replace(
            previous=change.previous or before.get((change.service, change.version), "")
        )
        for change in pipeline.changes.changes((pipeline.second or 0) * SECOND)
    ]
    known = {(change.service, change.version) for change in told}
    found: dict[tuple[object, ...], Change] = {}
    for change in [*told, *(each for each in seen if (each.service, each.version) not in known)]:
        # Two flags may read alike, since a key or a variant may hold `=`: they are one series.
        found.setdefault(change[:4], change)
    return list(found.values())


def _suspects(pipeline: Pipeline) -> Iterator[Sample]:
    dimensions = pipeline.config.causes.dimensions
    for j, journey in enumerate(pipeline.plan.journeys):
        scores: dict[tuple[str, str], float] = {}
        for suspect in pipeline.suspects.suspects(j):
            # A value at several services is one series: that of where it differs most, the first.
            value = dimensions[suspect.dimension], pipeline.traces.traits.value(suspect.trait)
            scores.setdefault(value, suspect.score)
        yield from (Sample((journey.name, *value), score) for value, score in scores.items())


def _resource_families(
    pipeline: Pipeline, services: set[str]
) -> dict[series.Family, Sequence[Sample]]:
    """What resources of the services that are causes speak for it."""
    ratios: list[Sample] = []
    amounts: list[Sample] = []
    minute = (pipeline.second or 0) // 60 - 1
    for service in sorted(services):
        for one in pipeline.resources.evidence(service, minute):
            if one.corroborates:
                samples = ratios if one.resource.limited else amounts
                labels = (service, one.resource.name)
                samples += [
                    Sample((*labels, "now"), one.now),
                    Sample((*labels, "usual"), one.usual),
                ]
    return {series.CAUSE_RESOURCE_RATIO: ratios, series.CAUSE_RESOURCE_AMOUNT: amounts}


_CAUSE_FIELDS = ("service", "operation", "version", "kind")


def _cause(
    pipeline: Pipeline, service: int, operation: int, version: int, kind: int
) -> tuple[str, str, str, str]:
    texts = pipeline.traces.texts
    return texts.text(service), texts.text(operation), texts.text(version), CAUSE_KINDS[kind]


# SLOs


def _slo_families(pipeline: Pipeline) -> dict[series.Family, Sequence[Sample]]:
    families: dict[series.Family, list[Sample]] = {
        family: []
        for family in (
            series.SLO_INFO,
            series.SLO_OBJECTIVE,
            series.SLO_EVENTS,
            series.SLO_WINDOW_EVENTS,
            series.SLO_SLI,
            series.SLO_INTERVAL,
            series.SLO_CORRECTED,
            series.SLO_BURN_RATE,
            series.SLO_BUDGET_REMAINING,
            series.SLO_BUDGET_EXHAUSTION,
            series.SLO_ALERT_THRESHOLD,
            series.SLO_ALERT_MIN_BAD,
            series.SLO_ALERT_MIN,
            series.SLO_TRAFFIC_STATE,
        )
    }
    for i in range(len(pipeline.plan.slos)):
        _add_promise(families, pipeline, i)
        _add_windows(families, pipeline, i)
    return dict(families)


def _add_promise(families: dict[series.Family, list[Sample]], pipeline: Pipeline, i: int) -> None:
    """What was promised, and what was counted since the beginning."""
    promised = pipeline.plan.slos[i]
    journey, promise = promised
    families[series.SLO_INFO].append(
        Sample(
            (
                promise.name,
                journey.name if journey else "",
                promised.owner,
                promised.title,
                promised.runbook,
                format_duration(promise.window),
                promised.unit,
            ),
            1.0,
        )
    )
    families[series.SLO_OBJECTIVE].append(Sample((promise.name,), promise.objective_ratio))
    families[series.SLO_ALERT_MIN_BAD].append(
        Sample((promise.name,), float(pipeline.config.min_bad_events(promise)))
    )
    families[series.SLO_ALERT_MIN].append(
        Sample((promise.name,), float(pipeline.config.min_events(promise)))
    )
    totals = pipeline.slos.totals
    for result, name in enumerate(RESULTS):
        hi, lo = totals.trace[i].tolist()
        exemplar = _exemplar(hi, lo, int(totals.time[i])) if result else None
        families[series.SLO_EVENTS].append(
            Sample((promise.name, name), pipeline.slos.events(i)[result], exemplar)
        )
    for tier in promise.tiers:
        long, short = format_duration(tier.long_window), format_duration(tier.short_window)
        families[series.SLO_ALERT_THRESHOLD].append(
            Sample((promise.name, tier.severity, long, short), tier.threshold(promise.window))
        )


def _add_windows(families: dict[series.Family, list[Sample]], pipeline: Pipeline, i: int) -> None:
    """What the windows hold, and what follows for the budget."""
    _, promise = pipeline.plan.slos[i]
    windows: dict[int, tuple[float, float]] = {}
    for length, good, bad in pipeline.slos.window_events(i):
        windows[length] = good, bad
        window = format_duration(length)
        for result, count in zip(RESULTS, (good, bad), strict=True):
            families[series.SLO_WINDOW_EVENTS].append(Sample((promise.name, window, result), count))
        families[series.SLO_SLI].append(Sample((promise.name, window), slo.sli(good, bad)))
        for bound, share in zip(("lower", "upper"), slo.wilson(good, bad), strict=True):
            families[series.SLO_INTERVAL].append(Sample((promise.name, window, bound), share))
        families[series.SLO_BURN_RATE].append(
            Sample((promise.name, window), slo.burn_rate(promise, good, bad))
        )
    for result, count in zip(RESULTS, pipeline.slos.corrected_events(i), strict=True):
        families[series.SLO_CORRECTED].append(Sample((promise.name, result), count))
    remaining = slo.budget_remaining(promise, *windows[promise.window])
    rate = slo.burn_rate(promise, *windows[6 * HOUR])
    state = slo.traffic_state(promise, windows)
    families[series.SLO_BUDGET_REMAINING].append(Sample((promise.name,), remaining))
    families[series.SLO_BUDGET_EXHAUSTION].append(
        Sample((promise.name,), slo.exhaustion_seconds(promise, remaining, rate))
    )
    families[series.SLO_TRAFFIC_STATE] += [
        Sample((promise.name, name), float(name == state)) for name in TRAFFIC_STATES
    ]


def _metric_families(pipeline: Pipeline) -> dict[series.Family, Sequence[Sample]]:
    """What is to know about SLOs that read metrics."""
    metrics, polled, slos = pipeline.metrics, pipeline.polled, pipeline.plan.slos
    return {
        series.SLO_UNCERTAIN: [
            Sample((slos[i].slo.name,), int(metrics.uncertain[i]) / MILLIONTHS)
            for i in metrics.slos
        ],
        series.POINTS_REFUSED: [
            Sample((slos[i].slo.name, why), float(metrics.refused[i, at]))
            for i in metrics.slos
            for at, why in enumerate(REFUSALS)
        ]
        + [
            Sample((slo.name, "birth_above_limit"), float(polled.births[i]))
            for i, slo in polled.slos
        ],
        series.SOURCE_TIME: [
            Sample((slo.name,), (polled.covered(i) or (0, 0))[1] * 60.0) for i, slo in polled.slos
        ],
    }


# Spans


def _span_labels(pipeline: Pipeline, row: Row) -> tuple[str, str, str, str]:
    texts = pipeline.traces.texts
    return (
        texts.text(int(row["service"])),
        texts.text(int(row["name"])),
        f"SPAN_KIND_{KINDS[row['kind']]}",
        f"STATUS_CODE_{STATUSES[row['status']]}",
    )


def _span_calls(pipeline: Pipeline) -> Iterator[Sample]:
    for row in pipeline.spanmetrics.rows:
        count = int(row["counts"].sum()) if pipeline.shows(int(row["born"])) else 0
        yield Sample(_span_labels(pipeline, row), float(count))


def _span_durations(pipeline: Pipeline) -> Iterator[Sample]:
    nothing = (0.0,) * (len(BOUNDS_MS) + 1)
    for row in pipeline.spanmetrics.rows:
        shown = pipeline.shows(int(row["born"]))
        counts = tuple(float(count) for count in row["counts"]) if shown else nothing
        total = int(row["sum"]) / SECOND if shown else 0.0
        yield Sample(_span_labels(pipeline, row), Histogram(_SPAN_BOUNDS, counts, total))


# The exporter itself


def _self_families(pipeline: Pipeline) -> dict[series.Family, Sequence[Sample]]:
    traces, outcomes = pipeline.traces, pipeline.outcomes
    latency = Histogram(
        _LATENCY_BOUNDS,
        tuple(float(count) for count in outcomes.latency),
        float(outcomes.latency_sum[0]),
    )
    duplicates = {
        "span": traces.counts[assembly.DUPLICATES],
        "attempt": outcomes.counts[joining.DUPLICATE_ATTEMPTS],
        "event": outcomes.counts[joining.DUPLICATE_EVENTS],
        "data_point": pipeline.metrics.duplicates,
        "poll": pipeline.polled.duplicates,
    }
    skewed = {
        "span_ahead": traces.counts[assembly.AHEAD],
        "event_ahead": pipeline.skewed_events,
        "data_point_ahead": pipeline.metrics.skewed,
        "outcome_too_old": pipeline.slos.totals.too_old[0],
    }
    overflow = {
        "text": traces.texts.overflow,
        "label_value": traces.counts[assembly.LABELS_OVERFLOW],
        "operation": pipeline.spanmetrics.overflow,
        "remembered_traces": traces.settled.overflow,
        **outcomes.overflow,
        **pipeline.blame.overflow,
        **pipeline.suspects.overflow,
        "change": pipeline.changes.overflow,
        **pipeline.resources.overflow,
    }
    return {
        series.RECEIVED_ITEMS: _by_name(pipeline.received),
        series.DUPLICATES: _by_name(duplicates),
        series.LATE_SPANS: [Sample((), float(traces.counts[assembly.LATE]))],
        series.SKEWED_TIMES: _by_name(skewed),
        series.OVERFLOW: _by_name(overflow),
        series.WATERMARK: [Sample((), float(pipeline.second or 0))],
        series.PENDING_SPANS: [Sample((), float(len(traces.spans)))],
        series.PENDING_TRACES: [Sample((), float(len(traces.traces)))],
        series.SETTLE_LATENCY: [Sample((), latency)],
    }


def _by_name(values: dict[str, int]) -> list[Sample]:
    return [Sample((name,), float(value)) for name, value in values.items()]

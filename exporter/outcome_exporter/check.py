"""What cannot work although it is well formed, and what works but hardly as meant.

Errors keep the exporter from starting; warnings are told and nothing else. Two rules need their
reason:

**Alert tiers.** A tier fires above a burn rate (`burn.Tier.threshold`), and an SLO's burn rate
cannot exceed `1 / budget_ratio`, that of 100 % errors: at 90 % over 28 days it ends at 10, and
the tier of 13.44 would never fire. Such a tier is not shown (`Slo.tiers`), and a warning says so,
since the others still alert. Where no page tier is left nobody would be woken even by a total
outage: that is an error. The same goes for tiers whose long window exceeds the SLO's own.

**Events have no duration and no status.** A journey that begins with an event can be judged by
its outcome only, so criteria about errors and durations would hold always.
"""

from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from outcome_exporter import burn, config, document, promql, series
from outcome_exporter.config import Config
from outcome_exporter.config.journeys import Journey, JourneySlo, SpanSelector
from outcome_exporter.config.scalars import format_size
from outcome_exporter.config.slos import MetricSli, PrometheusSli, Sli, Slo, StandaloneSlo
from outcome_exporter.errors import ConfigError, Problem
from outcome_exporter.model import LABELS_MAX, SLOS_MAX
from outcome_exporter.units import DAY, HOUR, MINUTE, format_duration

SERIES_MANY = 10_000
"""Series of one journey's labels above which a warning is due."""
WINDOW_MAX = 366 * DAY

_RESERVED_LABELS = {*series.ATTEMPTS.labels, "le", "quantile", "__name__"}
_SCRAPE_LABELS = {"job", "instance", "pod"}
_EXPORTER_LABELS = {"cluster", "namespace"}
"""By which the rules tell exporters apart, where a scrape or its Prometheus sets them."""
_THIS_MACHINE = {"127.0.0.1", "[::1]", "localhost"}
_ANY_HOST = {"0.0.0.0", "[::]", "*"}  # noqa: S104  # compared with, not bound


class Checked(NamedTuple):
    """A configuration that can work."""

    config: Config
    warnings: tuple[Problem, ...]


def load(path: Path) -> Checked:
    """The configuration in a file, if it can work.

    Raises:
        ConfigError: It cannot be read, is not well formed, or cannot work; with every problem
            found, in file order.
    """
    found = document.read(path)
    configuration = config.validate(found, file=str(path))
    problems = sorted(
        (problem.at_line(found.line(problem.path)) for problem in check(configuration)),
        key=lambda problem: problem.line,
    )
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(str(path), problems)
    return Checked(configuration, tuple(problems))


def check(configuration: Config) -> list[Problem]:
    """Errors and warnings about a well-formed configuration, without lines."""
    return [
        *_listeners(configuration),
        *_sizes_and_times(configuration),
        *_names(configuration),
        *(
            problem
            for index, journey in enumerate(configuration.journeys)
            for problem in _journey(journey, f"journeys[{index}]", configuration)
        ),
        *(
            problem
            for index, slo in enumerate(configuration.standalone)
            for problem in _standalone(slo, f"slos[{index}]", configuration)
        ),
        *_corrections(configuration),
        *_retention(configuration),
        *_value_at_risk(configuration),
    ]


def _warning(path: str, problem: str, remedy: str) -> Problem:
    return Problem(path, problem, remedy, "warning")


def _listeners(configuration: Config) -> Iterator[Problem]:
    addresses = {
        "receivers.otlp.grpc": configuration.receivers.otlp.grpc.listen,
        "receivers.otlp.http": configuration.receivers.otlp.http.listen,
        "metrics.listen": configuration.metrics.listen,
    }
    yield from _access(configuration)
    taken: dict[str, list[tuple[str, str]]] = {}
    for path, address in addresses.items():
        host, _, port = address.rpartition(":")
        for other_path, other_host in taken.get(port, []):
            same = host == other_host or _ANY_HOST & {host, other_host}
            if same and int(port):
                yield Problem(path, f"port {port} is taken by {other_path}", "use another port")
                break
        taken.setdefault(port, []).append((path, host))


def _access(configuration: Config) -> Iterator[Problem]:
    otlp = configuration.receivers.otlp
    listeners = {
        "receivers.otlp.grpc": otlp.grpc,
        "receivers.otlp.http": otlp.http,
        "metrics": configuration.metrics,
    }
    for path, listener in listeners.items():
        host = listener.listen.rpartition(":")[0]
        if listener.tokens and listener.tls is None and host not in _THIS_MACHINE:
            problem = "are sent in the clear, for everyone on the way to read"
            yield _warning(f"{path}.tokens", problem, "add tls, or listen on 127.0.0.1")
    tracing = configuration.self_tracing
    if tracing is not None and urlsplit(tracing.endpoint).password:
        problem = "holds a password, which the page would show"
        yield Problem("self_tracing.endpoint", problem, "send to a collector that asks for none")


def _sizes_and_times(configuration: Config) -> Iterator[Problem]:
    storage, traces = configuration.storage, configuration.traces
    if storage.max_log < configuration.receivers.otlp.max_request:
        yield Problem(
            "storage.max_log",
            "is smaller than the largest request, which would never fit",
            f"use at least {format_size(configuration.receivers.otlp.max_request)}",
        )
    source = configuration.prometheus
    if source is not None and source.every < MINUTE:
        problem = "minutes are read once they have closed"
        yield Problem("prometheus.every", problem, "use at least 1m")
    if source is not None and source.lookback < MINUTE:
        problem = "every series would be new at each poll"
        yield Problem("prometheus.lookback", problem, "use 1h")
    if not storage.checkpoint:
        yield Problem("storage.checkpoint", "leaves no time between checkpoints", "use 30s")
    if traces.max_age < traces.quiet:
        yield Problem(
            "traces.max_age",
            "is shorter than traces.quiet: no trace would be quiet for so long",
            f"use at least {format_duration(traces.quiet)}",
        )


def _names(configuration: Config) -> Iterator[Problem]:
    if not configuration.journeys and not configuration.standalone:
        yield _warning("journeys", "there are none: nothing will be judged", "describe one")
    names = []
    for index, journey in enumerate(configuration.journeys):
        path = f"journeys[{index}]"
        names.append(("journey", journey.name, path))
        names += [("SLO", slo.name, f"{path}.slos[{i}]") for i, slo in enumerate(journey.slos)]
    names += [("SLO", slo.name, f"slos[{i}]") for i, slo in enumerate(configuration.standalone)]
    first: dict[tuple[str, str], str] = {}
    for kind, name, place in names:
        other = first.setdefault((kind, name), place)
        if other != place:
            problem = f"another {kind}, {other}, is called {name!r} as well"
            yield Problem(f"{place}.name", problem, "names tell their series apart; change one")


def _journey(journey: Journey, path: str, configuration: Config) -> Iterator[Problem]:
    yield from _attempt(journey, path)
    yield from _outcome(journey, path)
    yield from _value_and_user(journey, path)
    yield from _labels(journey, path, configuration.limits.label_values)
    if len(journey.slos) > SLOS_MAX:
        problem = f"{len(journey.slos)} SLOs are more than a journey can have"
        yield Problem(f"{path}.slos", problem, f"keep {SLOS_MAX}, or describe it twice")
    for index, slo in enumerate(journey.slos):
        yield from _good(slo, journey, f"{path}.slos[{index}].good")
        yield from _slo(slo, f"{path}.slos[{index}]")


def _attempt(journey: Journey, path: str) -> Iterator[Problem]:
    span = journey.attempt.span
    if span is not None and span == SpanSelector():
        yield _warning(
            f"{path}.attempt.span",
            "matches every span, so that every trace is an attempt",
            "name a service or a span",
        )
    if journey.attempt.event is None:
        return
    if journey.outcome is None:
        problem = "an attempt that begins with an event is good only by another one"
        yield Problem(f"{path}.outcome", problem, "add `outcome: {event: …, within: …}`")
    elif journey.outcome.event == journey.attempt.event:
        problem = "the event that begins an attempt cannot also decide it"
        yield Problem(f"{path}.outcome.event", problem, "name the event that means success")
    if journey.slow_above is not None:
        problem = "an attempt that begins with an event has no duration"
        yield Problem(f"{path}.slow_above", problem, "remove it")


def _outcome(journey: Journey, path: str) -> Iterator[Problem]:
    for key in ("slow_above", "outcome.within"):
        holder, _, name = key.rpartition(".")
        value = getattr(journey.outcome if holder else journey, name, None)
        if value == 0:
            yield Problem(f"{path}.{key}", "no attempt takes no time at all", "use a longer one")
    if journey.outcome is None:
        if journey.attempt.span is not None and "join" in journey.model_fields_set:
            problem = "has no effect: without an outcome no event is joined"
            yield _warning(f"{path}.join", problem, "add an outcome, or remove it")
    elif journey.slos and not any(slo.good.achieved or slo.good.within for slo in journey.slos):
        yield _warning(
            f"{path}.slos",
            "none asks for `achieved` or `within`: silent failures spend no budget",
            "add `achieved: true` to what is good",
        )


def _value_and_user(journey: Journey, path: str) -> Iterator[Problem]:
    for key, source in (("value", journey.value), ("user", journey.user)):
        if source is None:
            continue
        if source.event is None and source.attribute is None:
            problem = "says neither attribute nor event to read it from"
            yield Problem(f"{path}.{key}", problem, "add one of them")
        if source.event is not None and journey.outcome is None:
            problem = "there is no event to read it from"
            yield Problem(f"{path}.{key}.event", problem, "add an outcome, or use attribute")


def _labels(journey: Journey, path: str, values_max: int) -> Iterator[Problem]:
    if len(journey.labels) > LABELS_MAX:
        problem = f"{len(journey.labels)} labels are more than a journey can have"
        yield Problem(f"{path}.labels", problem, f"keep {LABELS_MAX}")
    for label in journey.labels:
        if label in _RESERVED_LABELS or label.startswith("__"):
            problem = "the name is taken by the series themselves"
            yield Problem(f"{path}.labels.{label}", problem, "call it something else")
        elif label in _SCRAPE_LABELS:
            problem = f"Prometheus sets it at the scrape and renames this one exported_{label}"
            yield _warning(f"{path}.labels.{label}", problem, "call it something else")
        elif label in _EXPORTER_LABELS:
            problem = "alerts tell exporters apart by it: those on silent failures would not fire"
            yield _warning(f"{path}.labels.{label}", problem, f"call it app_{label}")
    combinations = (values_max + 1) ** len(journey.labels)
    if len(journey.labels) <= LABELS_MAX and combinations > SERIES_MANY:
        yield _warning(
            f"{path}.labels",
            f"up to {combinations} combinations of values, each of them several series",
            "keep fewer labels, or lower limits.label_values",
        )


def _slo(slo: Slo, path: str) -> Iterator[Problem]:
    each = slo.budgeting.slice
    if not each or each % MINUTE or HOUR % each:
        problem = f"{format_duration(each)} does not divide an hour into whole minutes"
        yield Problem(f"{path}.budgeting.slice", problem, "use 1m, 5m or 10m")
    if not slo.window or slo.window % MINUTE:
        yield Problem(
            f"{path}.window",
            f"{format_duration(slo.window)} is no whole number of minutes",
            "events are counted by the minute; use 28d or 30d",
        )
    elif slo.window > WINDOW_MAX:
        problem = f"{format_duration(slo.window)} is longer than a year"
        yield Problem(f"{path}.window", problem, f"use at most {format_duration(WINDOW_MAX)}")
    else:
        yield from _tiers(slo, path)


def _standalone(slo: StandaloneSlo, path: str, configuration: Config) -> Iterator[Problem]:
    if slo.sli.metric is not None:
        yield from _metric(slo.sli.metric, f"{path}.sli.metric")
    if slo.sli.prometheus is not None:
        yield from _prometheus(slo.sli.prometheus, f"{path}.sli.prometheus", configuration)
    if slo.sli.composite is not None:
        yield from _composite(slo, f"{path}.sli.composite", configuration)
    yield from _slo(slo, path)


def _composite(slo: StandaloneSlo, path: str, configuration: Config) -> Iterator[Problem]:
    others = {promised.slo.name: promised.slo for promised in configuration.slos}
    parts = slo.sli.composite or ()
    for index, part in enumerate(parts):
        place = f"{path}[{index}].slo"
        other = others.get(part.slo)
        if other is None:
            yield Problem(place, f"there is no SLO called {part.slo!r}", "name one of this file")
        elif isinstance(other, StandaloneSlo) and other.sli.composite:
            yield Problem(place, "is a composite itself", "name what it is made of")
        elif part.slo in [before.slo for before in parts[:index]]:
            yield Problem(place, f"{part.slo!r} stands here twice", "give it one weight")
    if slo.calendar is not None or slo.budgeting.method != "occurrences":
        problem = "a composite's parts have their own calendar and budgeting"
        yield Problem(path, problem, "set them there")


def _corrections(configuration: Config) -> Iterator[Problem]:
    for index, correction in enumerate(configuration.corrections):
        path = f"corrections[{index}]"
        if correction.end <= correction.start:
            yield Problem(f"{path}.end", "is not after its start", "swap them")
        if not any(correction.corrects(promised.slo.name) for promised in configuration.slos):
            yield _warning(f"{path}.slos", "match no SLO", "write names or globs of this file's")


def _prometheus(sli: PrometheusSli, path: str, configuration: Config) -> Iterator[Problem]:
    if configuration.prometheus is None:
        problem = "no Prometheus is configured to read it from"
        yield Problem(path, problem, "add `prometheus: {url: http://prometheus:9090}`")
    if sli.part == sli.total:
        problem = f"is the same as `total`: every event would be {sli.verdict}"
        yield Problem(f"{path}.{sli.verdict}", problem, "select some of them")
    for key in ("good", "bad", "total"):
        query = getattr(sli, key)
        if query is None:
            continue
        if "[" in query and promql.is_selector(query.partition("[")[0]):
            problem = "selects a range: samples are read minute by minute anyway"
            yield Problem(f"{path}.{key}", problem, "remove the brackets")
        elif not promql.is_selector(query):
            yield _warning(
                f"{path}.{key}",
                "is an expression: Prometheus extrapolates, and misses each series' first sample",
                'a selector of counters, like http_requests_total{job="shop"}, is read exactly',
            )
        elif promql.counts_every_bucket(query):
            yield _warning(
                f"{path}.{key}",
                "selects every bucket of a histogram: each holds the events of those below it, "
                "too, so that one event counts many times",
                'select one bucket, as le="0.5", or the histogram\'s _count',
            )


def _metric(sli: MetricSli, path: str) -> Iterator[Problem]:
    part = sli.part
    place = f"{path}.{sli.verdict}"
    if part.bound == 0 and isinstance(part.bound, int):
        key = "below" if part.below is not None else "above"
        yield Problem(f"{place}.{key}", "nothing takes no time at all", "use a longer one")
    if part.name == sli.name:
        problem = "is the metric that counts all events"
        yield Problem(f"{place}.name", problem, "leave it out, and tell them by attributes")
    if part.bound is None and sli.between != "refuse":
        problem = "has no effect: there is no bound"
        yield _warning(f"{path}.between", problem, "add below or above, or remove it")
    if not sli.hold:
        problem = "a gauge would never be in any state"
        yield Problem(f"{path}.hold", problem, "use at least twice the interval of its points")


def _good(slo: JourneySlo, journey: Journey, path: str) -> Iterator[Problem]:
    good, outcome = slo.good, journey.outcome
    for key in ("duration_below", "within"):
        if getattr(good, key) == 0:
            yield Problem(f"{path}.{key}", "no attempt takes no time at all", "use a longer one")
    if outcome is None and journey.attempt.span is not None:
        for key in ("achieved", "within"):
            if getattr(good, key) is not None:
                problem = "the journey names no event that achieves it"
                yield Problem(f"{path}.{key}", problem, "add `outcome: {event: …, within: …}`")
    if outcome is not None and good.within is not None and good.within > outcome.within:
        yield Problem(
            f"{path}.within",
            f"events are awaited for {format_duration(outcome.within)} only",
            "use at most that, or raise the outcome's within",
        )
    if journey.attempt.event is not None:
        for key, what in (("error", "status"), ("duration_below", "duration")):
            if getattr(good, key) is not None:
                problem = f"an attempt that begins with an event has no {what}"
                yield Problem(f"{path}.{key}", problem, "use achieved or within")


def _tiers(slo: Slo, path: str) -> Iterator[Problem]:
    if slo.alerts.tiers:
        yield from _own_tiers(slo, f"{path}.alerts.tiers")
        return
    if not any(tier.severity == "page" for tier in slo.tiers):
        yield _no_page(slo, path)
        return
    window, highest = format_duration(slo.window), float(1 / slo.budget)
    for tier in burn.TIERS:
        threshold, name = tier.threshold(slo.window), _tier_name(tier)
        if tier.long_window > slo.window:
            problem = f"the {name} looks back further than {window} and is left out"
            yield _warning(f"{path}.window", problem, "use 28d or 30d")
        elif tier not in slo.tiers:
            yield _warning(
                f"{path}.objective",
                f"the {name} is left out: it fires at a burn rate of {threshold:.4g}, and errors "
                f"of 100 % reach {highest:.4g}",
                f"an objective of {_objective_for(tier, slo)} has it",
            )


def _own_tiers(slo: Slo, path: str) -> Iterator[Problem]:
    """Problems of tiers that somebody chose."""
    seen: set[tuple[str, int, int]] = set()
    for index, tier in enumerate(slo.wanted_tiers):
        place = f"{path}[{index}]"
        yield from _own_tier(tier, slo, place)
        windows = (tier.severity, tier.long_window, tier.short_window)
        if windows in seen:
            yield Problem(place, f"the {_tier_name(tier)} stands here twice", "keep one of them")
        seen.add(windows)
    if not any(tier.severity == "page" for tier in slo.wanted_tiers):
        problem = "none of them pages: nobody is woken, even by a total outage"
        yield _warning(path, problem, "add one")


def _own_tier(tier: burn.Tier, slo: Slo, place: str) -> Iterator[Problem]:
    """Problems of one of them: that it cannot fire is a mistake, no matter which."""
    for key in ("long_window", "short_window"):
        length = getattr(tier, key)
        if not length or length % MINUTE:
            problem = f"{format_duration(length)} is no whole number of minutes"
            yield Problem(f"{place}.{key}", problem, "use 1h, or 5m")
    if not tier.long_window:
        return
    if tier.short_window >= tier.long_window:
        problem = "is no shorter than the long window, so that it says nothing new"
        yield Problem(f"{place}.short_window", problem, "use a twelfth of the long one")
    if tier.long_window > slo.window:
        window = format_duration(slo.window)
        problem = f"looks back further than the SLO's window, {window}"
        yield Problem(f"{place}.long_window", problem, f"use at most {window}")
    elif tier not in slo.tiers:
        yield Problem(
            f"{place}.budget",
            f"no error rate can reach it: it fires at a burn rate of "
            f"{tier.threshold(slo.window):.4g}, and errors of 100 % reach "
            f"{float(1 / slo.budget):.4g}",
            "use a smaller share of the budget, or a longer window",
        )
    elif (burn_rate := tier.burn_rate(slo.window)) < 1:
        least = Decimal(100 * tier.long_window) / slo.window
        yield _warning(
            f"{place}.budget",
            f"a burn rate of {float(burn_rate):.2g} keeps the budget, so the "
            f"{_tier_name(tier)} waits for more than 1",
            f"use at least {least.quantize(Decimal('0.1'), ROUND_CEILING)}",
        )


def _no_page(slo: Slo, path: str) -> Problem:
    pages = [tier for tier in burn.TIERS if tier.severity == "page"]
    shortest = min(tier.long_window for tier in pages)
    if slo.window < shortest:
        return Problem(
            f"{path}.window",
            f"{format_duration(slo.window)} is too short for any alert that pages",
            f"use at least {format_duration(shortest)}, better 28d",
        )
    easiest = min(pages, key=lambda tier: tier.threshold(slo.window))
    problem = (
        f"nothing could ever page: errors of 100 % reach a burn rate of "
        f"{float(1 / slo.budget):.4g}, and the lowest threshold is "
        f"{easiest.threshold(slo.window):.4g}"
    )
    remedy = f"use at least {_objective_for(easiest, slo)}"
    if slo.objective < 1:
        remedy = f"it is in percent: did you mean {(slo.objective * 100).normalize():f}?"
    return Problem(f"{path}.objective", problem, remedy)


def _objective_for(tier: burn.Tier, slo: Slo) -> Decimal:
    """The lowest objective, in tenths of a percent, at which a tier can fire."""
    threshold = Decimal(tier.threshold(slo.window))
    lowest = 100 * (1 - 1 / threshold)
    rounded = lowest.quantize(Decimal("0.1"), ROUND_CEILING)
    return rounded if rounded > lowest else rounded + Decimal("0.1")


def _tier_name(tier: burn.Tier) -> str:
    windows = f"{format_duration(tier.long_window)}/{format_duration(tier.short_window)}"
    return f"{tier.severity} alert over {windows}"


def _retention(configuration: Config) -> Iterator[Problem]:
    kept = configuration.storage.retention
    longest = max(
        (window for _, slo in configuration.slos for window in slo.windows),
        default=max(burn.WINDOWS),
    )
    if kept is not None and kept < longest:
        yield Problem(
            "storage.retention",
            f"{format_duration(kept)} is shorter than the longest window, "
            f"{format_duration(longest)}",
            "remove it, or use at least that and a day",
        )


def _value_at_risk(configuration: Config) -> Iterator[Problem]:
    counted = {journey.value.currency for journey in configuration.journeys if journey.value}
    for currency in configuration.alerts.value_at_risk:
        if currency not in counted:
            problem = f"no journey counts money in {currency}: nothing will page"
            yield _warning(f"alerts.value_at_risk.{currency}", problem, "add a journey's `value`")


def summary(configuration: Config, *, file: str) -> Iterator[str]:
    """What a configuration promises, in lines for people."""
    slos = len(configuration.slos)
    yield f"{file} is good: {_count(len(configuration.journeys), 'journey')}, {_count(slos, 'SLO')}"
    for journey in configuration.journeys:
        yield ""
        yield f"{journey.name}: {_begins(journey)}{_succeeds(journey)}"
        for slo in journey.slos:
            yield from _promises(slo, _criteria(slo))
    if configuration.standalone:
        yield ""
        yield "Without a journey:"
        for standalone in configuration.standalone:
            yield from _promises(standalone, _events(standalone.sli))


def _promises(slo: Slo, criteria: str) -> Iterator[str]:
    window = f"over {format_duration(slo.window)}"
    if slo.calendar is not None:
        window = f"in each {slo.calendar.period} ({slo.calendar.time_zone})"
    budgeting, what = slo.budgeting, f"{slo.objective} %"
    if budgeting.method == "timeslices":
        what += f" of {budgeting.slices} with at least {budgeting.target} %"
    elif budgeting.method == "ratio_timeslices":
        window += f", all {budgeting.slices} alike"
    yield f"  {slo.name}: {what} {criteria} {window}"
    for severity in ("page", "ticket"):
        tiers = [tier for tier in slo.tiers if tier.severity == severity]
        if tiers:
            yield f"    {severity}s at {', '.join(_fires(tier, slo) for tier in tiers)}"


def _events(sli: Sli) -> str:
    """What a standalone SLO counts: `of http.server.request.duration good: below 300ms`."""
    if sli.composite is not None:
        return f"of {' and '.join(f'{part.slo} by {part.weight:g}' for part in sli.composite)}"
    if sli.prometheus is not None:
        counted = sli.prometheus
        return f"of {counted.total} in Prometheus, {counted.verdict} if {counted.part},"
    if sli.metric is None:
        return ""
    metric, part = sli.metric, sli.metric.part
    where = "" if metric.service == "*" else f" of {metric.service}"
    told = [f"counted by {part.name}"] if part.name else []
    told += [f"{key} {value}" for key, value in part.attributes.items()]
    for key in ("below", "above"):
        bound = getattr(part, key)
        if bound is not None:
            told.append(f"{key} {format_duration(bound) if isinstance(bound, int) else bound}")
    return f"of {metric.name}{where}, {metric.verdict} if {' and '.join(told)},"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _begins(journey: Journey) -> str:
    span = journey.attempt.span
    if span is None:
        return f"begins with event {journey.attempt.event}"
    kind = f"{span.kind} " if span.kind else ""
    where = "any service" if span.service == "*" else span.service
    having = "".join(f", {key}={value}" for key, value in span.attributes.items())
    return f"begins with {kind}span {span.name} of {where}{having}"


def _succeeds(journey: Journey) -> str:
    if journey.outcome is None:
        return "; succeeds without an error"
    within = format_duration(journey.outcome.within)
    return f"; succeeds with event {journey.outcome.event} within {within}"


def _criteria(slo: JourneySlo) -> str:
    good = slo.good
    criteria = [
        ("achieved", good.achieved),
        ("without error", good.error is not None),
        (f"faster than {format_duration(good.duration_below or 0)}", good.duration_below),
        (f"achieved within {format_duration(good.within or 0)}", good.within),
    ]
    return " and ".join(words for words, given in criteria if given)


def _fires(tier: burn.Tier, slo: Slo) -> str:
    """`6.72 % bad over 1h and 5m`: what an alert takes, in terms that need no burn rate."""
    share = 100 * tier.threshold(slo.window) * slo.budget_ratio
    windows = f"{format_duration(tier.long_window)} and {format_duration(tier.short_window)}"
    return f"{share:.3g} % bad over {windows}"

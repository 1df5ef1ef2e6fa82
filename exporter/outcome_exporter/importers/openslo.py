"""OpenSLO v1: SLO, SLI, Service, AlertPolicy, AlertCondition, DataSource; inline or by reference.

| OpenSLO | here |
| --- | --- |
| metadata.name, an objective's place | name, with `-1`, `-2` where there are several objectives |
| displayName, description | title |
| Service, labels: owner or team | owner |
| timeWindow | window, or calendar for one that is not rolling |
| budgetingMethod, timeSliceTarget, timeSliceWindow | budgeting |
| objectives[].target, targetPercent | objective |
| ratioMetric good, bad, total | good or bad, total |
| ratioMetric raw, rawType | minutes of each series, as good or as bad as the ratio says |
| thresholdMetric with op and value | good: minutes in which each series keeps the threshold |
| DataSource of type Prometheus | prometheus.url |
| AlertPolicy, AlertCondition | our own alert tiers take their place |
| AlertNotificationTarget | Alertmanager's routes, outside of this configuration |

Source:
    OpenSLO specification, version v1, by its field names.
"""

from decimal import Decimal, InvalidOperation
from typing import Any

from outcome_exporter.importers.reading import (
    Document,
    Found,
    Left,
    Node,
    Note,
    about,
    duration_of,
    leftovers,
    minutes,
    name_of,
    named,
    owner_of,
    prometheus,
    runbook_of,
)
from outcome_exporter.units import format_duration

KINDS = (
    "SLO",
    "SLI",
    "Service",
    "AlertPolicy",
    "AlertCondition",
    "AlertNotificationTarget",
    "DataSource",
)
WINDOW = "28d"
"""Where an SLO has no time window."""

_OPERATORS = {"lte": "<=", "lt": "<", "gte": ">=", "gt": ">"}
_PERIODS = {"1w": "week", "1M": "month", "1Q": "quarter", "1Y": "year"}
_METHODS = {"Timeslices": "timeslices", "RatioTimeslices": "ratio_timeslices"}
_QUERY_KEYS = ("query", "promql")


class _Books:
    """Every object by kind and name, and which of them somebody refers to."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], Node] = {}
        self.used: set[tuple[str, str]] = set()

    def add(self, kind: str, name: str, node: Node) -> bool:
        """Whether it is the first of that name."""
        return self._objects.setdefault((kind, name), node) is node

    def get(self, kind: str, name: str) -> Node | None:
        self.used.add((kind, name))
        return self._objects.get((kind, name))

    def of(self, kind: str) -> dict[str, Node]:
        return {name: node for (k, name), node in self._objects.items() if k == kind}


def read(documents: list[Document]) -> Found:
    """The SLOs of OpenSLO's files; what one refers to may be in another."""
    found, books = Found(), _Books()
    for one in documents:
        root = Node(one.data)
        kind, version = root.text("kind"), root.text("apiVersion")
        metadata = root.node("metadata")
        name = metadata.text("name")
        if kind not in KINDS or version != "openslo/v1":
            what = f"{kind} {version}".strip() or "a document without a kind"
            found.notes.append(Note("", one.file, what, "is no object of openslo/v1"))
        elif not books.add(kind, name, root):
            found.notes.append(Note("", one.file, f"{kind} {name}", "stands there twice"))
    for name, node in books.of("SLO").items():
        _slo(name, node, books, found)
    _rest(books, found)
    return found


def _slo(name: str, root: Node, books: _Books, found: Found) -> None:
    metadata, spec = root.node("metadata"), root.node("spec")
    metadata.take("name")
    objectives = spec.nodes("objectives")
    named(found, name)
    try:
        shared = _window(name_of(name), spec, found)
    except Left as left:
        found.notes.append(Note(name_of(name), left.path, "the whole SLO is left out", str(left)))
        return
    if not objectives:
        path, why = "spec.objectives", "there are none"
        found.notes.append(Note(name_of(name), path, "the whole SLO is left out", why))
    title = metadata.text("displayName")
    description, method = spec.text("description"), spec.text("budgetingMethod")
    service = _owner(spec.text("service"), books)
    owner = owner_of(metadata.node("labels")) or service
    runbook = runbook_of(metadata.node("annotations"))
    for at, objective in enumerate(objectives, 1):
        own = name_of(name, str(at) if len(objectives) > 1 else "")
        what = objective.text("displayName")
        parts = [title, what, description]
        slo: dict[str, Any] = {"name": own}
        try:
            slo |= {"objective": _target(objective), **shared}
            slo |= _budgeting(method, objective)
            heading = ": ".join(part for part in parts if part)
            about(found, slo, title=heading, owner=owner, runbook=runbook)
            indicator = _indicator(objective, books) or _indicator(spec, books)
            slo["sli"] = _sli(indicator, objective, own, books, found)
        except Left as left:
            found.notes.append(Note(own, left.path, "the whole SLO is left out", str(left)))
            continue
        found.slos.append(slo)
    _policies(name_of(name), spec, books, found)
    leftovers(found, name_of(name), root)


def _owner(service: str, books: _Books) -> str:
    """A service's owner by its labels, else the service itself: somebody is to be asked."""
    node = books.get("Service", service)
    labels = node.node("metadata").node("labels") if node is not None else Node({})
    return owner_of(labels) or service


def _window(name: str, spec: Node, found: Found) -> dict[str, Any]:
    """The window, rolling or of the calendar."""
    windows = spec.nodes("timeWindow")
    if not windows:
        return {"window": WINDOW}
    if len(windows) > 1:
        raise Left("spec.timeWindow", "there are several")
    window = windows[0]
    text, calendar = window.text("duration"), window.node("calendar")
    if window.take("isRolling") is False or calendar:
        if text not in _PERIODS:
            periods = ", ".join(_PERIODS)
            raise Left(window.path, f"a calendar window of {text} is not one of {periods}")
        began = calendar.text("startTime")
        if began:
            why = "periods begin at midnight, of a Monday or of the first of a month"
            found.notes.append(
                Note(name, f"{calendar.path}.startTime", f"{began} is left out", why)
            )
        zone = calendar.text("timeZone") or "UTC"
        return {"calendar": {"period": _PERIODS[text], "time_zone": zone}}
    length = duration_of(text)
    if length is None:
        raise Left(window.path, "its duration is none")
    return {"window": format_duration(length)}


def _budgeting(method: str, objective: Node) -> dict[str, Any]:
    """What the budget is spent by."""
    target, length = objective.take("timeSliceTarget"), objective.text("timeSliceWindow")
    if method in ("", "Occurrences"):
        return {}
    if method not in _METHODS:
        raise Left("spec.budgetingMethod", f"{method} is not known here")
    budgeting: dict[str, Any] = {"method": _METHODS[method], "slice": length or "1m"}
    if target is not None and method == "Timeslices":
        budgeting["target"] = _percent(target, objective)
    return {"budgeting": budgeting}


def _target(objective: Node) -> Any:  # noqa: ANN401 - for `check` to refuse
    percent, ratio = objective.take("targetPercent"), objective.take("target")
    return _percent(ratio, objective) if percent is None else percent


def _percent(ratio: object, objective: Node) -> float:
    """Percent of a share of one, without the noise of a multiplied float."""
    try:
        return float((100 * Decimal(str(ratio))).normalize())
    except InvalidOperation:
        raise Left(objective.path, "its target is no number") from None


def _indicator(node: Node, books: _Books) -> Node | None:
    """The spec of an SLI, inline or by reference."""
    inline, reference = node.node("indicator"), node.text("indicatorRef")
    if inline:
        metadata = inline.node("metadata")
        for key in ("name", "displayName"):
            metadata.take(key)
        return inline.node("spec")
    if not reference:
        return None
    root = books.get("SLI", reference)
    if root is None:
        raise Left(f"{node.path}.indicatorRef", f"there is no SLI {reference!r} in the files")
    return root.node("spec")


def _sli(
    spec: Node | None, objective: Node, name: str, books: _Books, found: Found
) -> dict[str, Any]:
    if spec is None:
        raise Left("spec.indicator", "neither the SLO nor its objective has one")
    ratio, threshold = spec.node("ratioMetric"), spec.node("thresholdMetric")
    spec.take("description")
    if ratio:
        return _ratio(ratio, objective, name, books, found)
    if threshold:
        return _threshold(threshold, objective, name, books, found)
    raise Left(spec.path, "it has neither ratioMetric nor thresholdMetric")


def _ratio(node: Node, objective: Node, name: str, books: _Books, found: Found) -> dict[str, Any]:
    objective.take("op")  # says nothing of a ratio
    raw, kind = node.node("raw"), node.text("rawType")
    if raw:
        if kind not in ("success", "failure"):
            raise Left(f"{node.path}.rawType", "it is neither success nor failure")
        query = _query(raw, books, found)
        return minutes(found, name, raw.path, query, is_good=kind == "success")
    counter = node.take("counter") is True
    good, bad, total = (node.node(key) for key in ("good", "bad", "total"))
    if not total or not (good or bad):
        raise Left(node.path, "it needs good or bad, and total")
    if good and bad:
        bad.take("metricSource")
        found.notes.append(Note(name, bad.path, "is left out", "good and total say it already"))
    part = _query(good or bad, books, found)
    whole = _query(total, books, found)
    return prometheus(found, name, node.path, bool(good), part, whole, counter=counter)


def _threshold(
    node: Node, objective: Node, name: str, books: _Books, found: Found
) -> dict[str, Any]:
    operator, value = objective.text("op"), objective.take("value")
    query = _query(node, books, found)
    if operator not in _OPERATORS or not isinstance(value, int | float):
        raise Left(objective.path, "a threshold needs op (lte, lt, gte, gt) and a number as value")
    what = "is looked at once a minute, each of which is an event"
    found.notes.append(Note(name, node.path, what, "a threshold counts no events"))
    good = f"sum(({query}) {_OPERATORS[operator]} bool {value})"
    return {"prometheus": {"good": good, "total": f"count({query})"}}


def _query(node: Node, books: _Books, found: Found) -> str:
    source = node.node("metricSource")
    kind, spec = source.text("type"), source.node("spec")
    reference = source.text("metricSourceRef")
    if reference:
        data_source = books.get("DataSource", reference)
        if data_source is None:
            raise Left(source.path, f"there is no DataSource {reference!r} in the files")
        kind = _data_source(data_source, found) or kind
    if kind and kind.lower() not in ("prometheus", "thanos", "mimir", "cortex", "victoriametrics"):
        raise Left(source.path, f"it is read from {kind}, and only Prometheus is")
    query = next((text for key in _QUERY_KEYS if (text := spec.text(key))), "")
    if not query:
        raise Left(source.path, f"its spec has no {' or '.join(_QUERY_KEYS)}")
    return query


def _data_source(root: Node, found: Found) -> str:
    """Its type; its address is remembered."""
    spec = root.node("spec")
    spec.take("description")
    details = spec.merged("connectionDetails")
    url = next((url for key in ("url", "URL", "address") if (url := details.text(key))), "")
    kind = spec.text("type")
    if url.startswith(("http://", "https://")) and kind.lower() == "prometheus":
        found.urls += [url] if url not in found.urls else []
    return kind


def _policies(name: str, spec: Node, books: _Books, found: Found) -> None:
    """Alerts by burn rate come by themselves; whatever else a policy says is told."""
    policies = spec.take("alertPolicies") or []
    for at, policy in enumerate(policies if isinstance(policies, list) else [policies]):
        path = f"spec.alertPolicies[{at}]"
        reference = policy.get("alertPolicyRef") if isinstance(policy, dict) else policy
        if reference is not None and books.get("AlertPolicy", str(reference)) is None:
            why = f"there is no AlertPolicy {str(reference)!r} in the files"
            found.notes.append(Note(name, path, "is not carried over", why))
            continue
        what = "its conditions, severities and targets are not carried over"
        found.notes.append(Note(name, path, what, "`generate rules` writes alert tiers of its own"))


def _rest(books: _Books, found: Found) -> None:
    """Objects that no SLO needed, and what those that were needed could not carry."""
    for kind in ("SLI", "DataSource", "Service"):
        for name, root in books.of(kind).items():
            if (kind, name) in books.used:
                leftovers(found, f"{kind} {name}", root)
            else:
                found.notes.append(Note("", "", f"{kind} {name}", "no SLO refers to it"))
    for kind in ("AlertPolicy", "AlertCondition", "AlertNotificationTarget"):
        for name in books.of(kind):
            why = "`generate rules` writes alerts of its own, and Alertmanager routes them"
            found.notes.append(Note("", "", f"{kind} {name}", why))

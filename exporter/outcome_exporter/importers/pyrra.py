"""Pyrra: `ServiceLevelObjective` resources.

| Pyrra | here |
| --- | --- |
| metadata.name | name |
| labels `pyrra.dev/team` or `pyrra.dev/owner` | owner |
| spec.target, window, description | objective, window, title |
| indicator.ratio | bad and total |
| indicator.latency | good and total |
| indicator.bool_gauge | good: minutes that each series is 1 |
| indicator.latencyNative | cannot be: native histograms are not read |
| grouping | cannot be: one SLO counts all groups together |

Source:
    Pyrra's custom resource `pyrra.dev/v1alpha1`, by its field names.
"""

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
    named,
    owner_of,
    prometheus,
    runbook_of,
)
from outcome_exporter.units import format_duration


def read(documents: list[Document]) -> Found:
    """The SLOs of Pyrra's resources."""
    found = Found()
    for one in documents:
        root = Node(one.data)
        kind, version = root.text("kind"), root.text("apiVersion")
        if kind != "ServiceLevelObjective" or not version.startswith("pyrra.dev/"):
            what = f"{kind} {version}".strip() or "a document without a kind"
            found.notes.append(Note("", one.file, what, "is no resource of Pyrra's"))
            continue
        metadata = root.node("metadata")
        name = named(found, metadata.text("name"))
        try:
            found.slos.append(_slo(root.node("spec"), metadata, name, found))
        except Left as left:
            found.notes.append(Note(name, left.path, "the whole SLO is left out", str(left)))
            continue
        leftovers(found, name, root)
    return found


def _slo(spec: Node, metadata: Node, name: str, found: Found) -> dict[str, Any]:
    window = duration_of(spec.text("window"))
    if window is None:
        raise Left(spec.path, "its window is no duration")
    slo: dict[str, Any] = {
        "name": name,
        "objective": _number(spec.text("target")),
        "window": format_duration(window),
    }
    labels, annotations = metadata.node("labels"), metadata.node("annotations")
    about(
        found,
        slo,
        title=spec.text("description"),
        owner=owner_of(labels),
        runbook=runbook_of(annotations),
    )
    slo["sli"] = _sli(spec.node("indicator"), name, found)
    return slo


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # for `check` to refuse


def _sli(node: Node, name: str, found: Found) -> dict[str, Any]:
    ratio, latency, gauge = node.node("ratio"), node.node("latency"), node.node("bool_gauge")
    if ratio:
        bad, total = _metric(ratio.node("errors")), _metric(ratio.node("total"))
        return prometheus(found, name, ratio.path, False, bad, total, counter=True)
    if latency:
        good, total = _metric(latency.node("success")), _metric(latency.node("total"))
        return prometheus(found, name, latency.path, True, good, total, counter=True)
    if gauge:
        metric = _metric(gauge)
        note = "is looked at once a minute"
        found.notes.append(Note(name, gauge.path, note, "a gauge counts no events"))
        return {"prometheus": {"good": f"sum({metric} > bool 0)", "total": f"count({metric})"}}
    if node.take("latencyNative"):
        raise Left(f"{node.path}.latencyNative", "native histograms are not read")
    raise Left(node.path, "it has no indicator that can be read")


def _metric(node: Node) -> str:
    """The selector of a query. What Pyrra would not read would count other events."""
    metric = node.text("metric")
    if not metric:
        raise Left(node.path, "it names no metric")
    if node.data.keys() - {"metric"} - {"grouping"}:
        others = ", ".join(sorted(node.data.keys() - {"metric", "grouping"}))
        raise Left(node.path, f"Pyrra knows no {others} here; write it into the metric")
    return metric

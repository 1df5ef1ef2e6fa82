"""Sloth: `version: prometheus/v1` files and `PrometheusServiceLevel` resources.

| Sloth | here |
| --- | --- |
| service, slos[].name | name: `service-name` |
| objective | objective; the window is Sloth's default, 30d |
| description | title |
| labels, alerting.labels: owner or team | owner |
| alerting.annotations: runbook | runbook |
| sli.events | bad and total |
| sli.raw | bad and total, where it divides two queries; otherwise minutes, as bad as it says |
| sli.plugin | cannot be: its code makes the query |

Source:
    Sloth's documentation of `prometheus/v1` and of its custom resource, by their field names.
"""

from typing import Any

from outcome_exporter.importers.queries import NoCount, ratio_of, rest_of
from outcome_exporter.importers.reading import (
    Document,
    Found,
    Left,
    Node,
    Note,
    about,
    leftovers,
    minutes,
    named,
    owner_of,
    prometheus,
    runbook_of,
)

WINDOW = "30d"
"""Sloth has its window on the command line, where 30d is the default."""


def read(documents: list[Document]) -> Found:
    """The SLOs of Sloth's files."""
    found = Found()
    for one in documents:
        root = Node(one.data)
        kind, version = root.text("kind"), root.text("version") or root.text("apiVersion")
        if kind == "PrometheusServiceLevel" or version.startswith("sloth.slok.dev/"):
            root.node("metadata").take("name")  # names are made of the service's
            _service(root.node("spec"), found)
        elif version == "prometheus/v1":
            _service(root, found)
        else:
            what = version or "a document without a version"
            found.notes.append(Note("", one.file, what, "is no file of Sloth's"))
            continue
        leftovers(found, "", root)
    return found


def _service(node: Node, found: Found) -> None:
    service = node.text("service")
    labels = node.node("labels")
    owner = owner_of(labels)
    for slo in node.nodes("slos"):
        name = named(found, service, slo.text("name"))
        try:
            found.slos.append(_slo(slo, name, owner, found))
        except Left as left:
            found.notes.append(Note(name, left.path, "the whole SLO is left out", str(left)))


def _slo(node: Node, name: str, owner: str, found: Found) -> dict[str, Any]:
    slo: dict[str, Any] = {"name": name, "objective": node.take("objective"), "window": WINDOW}
    sli = _sli(node.node("sli"), name, found)
    labels, alerting = node.node("labels"), node.node("alerting")
    annotations = alerting.node("annotations")
    about(
        found,
        slo,
        title=node.text("description"),
        owner=owner_of(labels) or owner_of(alerting.node("labels")) or owner,
        runbook=runbook_of(annotations),
    )
    slo["sli"] = sli
    return slo


def _sli(node: Node, name: str, found: Found) -> dict[str, Any]:
    events, raw, plugin = node.node("events"), node.node("raw"), node.node("plugin")
    if plugin:
        which = plugin.text("id")
        raise Left(plugin.path, f"the plugin {which} is code of Sloth's; write its query out")
    if events:
        error = events.text("error_query") or events.text("errorQuery")
        total = events.text("total_query") or events.text("totalQuery")
        good = rest_of(error, total)
        return prometheus(found, name, events.path, good is not None, good or error, total)
    if raw:
        query = raw.text("error_ratio_query") or raw.text("errorRatioQuery")
        if not query:
            raise Left(raw.path, "it has no query")
        try:
            ratio = ratio_of(query)
        except NoCount:
            return minutes(found, name, raw.path, query, is_good=False)
        return prometheus(found, name, raw.path, ratio.is_good, ratio.part, ratio.total)
    raise Left(node.path, "it has no events")

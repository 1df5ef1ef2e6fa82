"""Rules as files: what they hold, and whether what is on disk still says the same.

    outcomes.yaml    alerts, and the recording rules that they read
    sloth.yaml       recording rules with Sloth's names

As groups of plain Prometheus, or each as a PrometheusRule of the Prometheus operator.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from outcome_exporter.config import Config
from outcome_exporter.rules import alerts, burning, messages, sloth
from outcome_exporter.units import format_duration

Format = Literal["prometheus", "operator"]

_HEADER = "# Written by `outcome-exporter generate rules`: change the configuration instead.\n"
_RULE = dict[str, Any]


def rules(config: Config, *, per_slo: bool = False, form: Format = "prometheus") -> dict[str, str]:
    """Text of every file by name.

    Args:
        config: The configuration, checked.
        per_slo: Burn alerts for each SLO by name, with its thresholds and labels written out.
        form: For Prometheus, or as resources for its operator.
    """
    found = {
        "outcomes.yaml": [
            _group("outcome-budgets", [*_recordings(config, per_slo), *_burns(config, per_slo)]),
            _group("outcome-journeys", _written(alerts.journey_alerts(config), config)),
            _group("outcome-exporter", _written(alerts.exporter_alerts(config), config)),
        ],
        "sloth.yaml": [
            _group(
                "outcome-sloth",
                [
                    _recording(record, expr, labels)
                    for record, expr, labels in sloth.recordings(config)
                ],
            )
        ],
    }
    return {
        name: _HEADER + _yaml(_resource(name, groups) if form == "operator" else {"groups": groups})
        for name, groups in found.items()
    }


def _group(name: str, its_rules: Iterable[_RULE]) -> dict[str, Any]:
    return {"name": name, "rules": list(its_rules)}


def _resource(file: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    name = f"outcome-exporter-{file.removesuffix('.yaml')}"
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "outcome-exporter"}},
        "spec": {"groups": groups},
    }


def _recordings(config: Config, per_slo: bool) -> Iterator[_RULE]:  # noqa: FBT001
    if not per_slo:
        yield _recording(burning.RECORD, burning.generic(), {})
        return
    for promised in config.slos:
        journey, slo = promised
        about = {"slo": slo.name, "owner": promised.owner}
        if journey is not None:
            about = {"slo": slo.name, "journey": journey.name, "owner": promised.owner}
        for severity in ("page", "ticket"):
            expr = burning.explicit(config, slo, severity)
            if expr:
                yield _recording(burning.RECORD, expr, {"severity": severity, **about})


def _burns(config: Config, per_slo: bool) -> Iterator[_RULE]:  # noqa: FBT001
    if not per_slo:
        yield from _written(alerts.burn_alerts(), config)
        return
    for promised in config.slos:
        yield from _written(alerts.slo_burn_alerts(config, promised), config)


def _recording(record: str, expr: str, labels: dict[str, str]) -> _RULE:
    return {"record": record, "expr": expr, **({"labels": labels} if labels else {})}


def _written(found: Iterable[alerts.Alert], config: Config) -> Iterator[_RULE]:
    settings = config.alerts
    keep = format_duration(settings.keep_firing_for) if settings.keep_firing_for else ""
    for alert in found:
        variables = {name: name for name in alert.variables}
        links = {
            "runbook_url": alert.runbook_url,
            "dashboard_url": messages.dashboard_url(settings.dashboard, variables),
            "trace_url": messages.trace_url(config.trace_search_url) if variables else "",
        }
        yield {
            "alert": alert.name,
            "expr": alert.expr,
            **({"for": alert.wait} if alert.wait else {}),
            **({"keep_firing_for": keep} if keep else {}),
            "labels": {"severity": getattr(settings.severities, alert.severity)}
            | dict(alert.labels),
            "annotations": {
                name: messages.scoped(text)
                for name, text in {
                    "summary": alert.summary,
                    "description": alert.description,
                    **links,
                }.items()
                if text
            },
        }


def stale(files: dict[str, str], folder: Path) -> list[Path]:
    """Files of a folder that differ from what they should say, or are not there."""
    found = []
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            found.append(path)
    return found


def write(files: dict[str, str], folder: Path) -> list[Path]:
    """Writes them; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in files.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


class _Dumper(yaml.SafeDumper):
    """Lists indented below their key, and long texts as blocks that one can read."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, FBT002
        del indentless
        super().increase_indent(flow, indentless=False)


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(document: object) -> str:
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100_000
    )
    return text

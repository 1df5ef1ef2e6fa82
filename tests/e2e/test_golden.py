"""Whole runs, from arrivals to the exposition, byte for byte.

A folder of `tests/golden/` for each: `config.yaml`, `input.json` with what arrived and when, and
`metrics.txt`, the exposition in OpenMetrics. `UPDATE_GOLDEN=1` writes the expositions anew.

    {"start": "2026-09-21T14:13:20Z",          seconds below count from here
     "arrivals": [{"at": 0.5, "traces": {…}},  an ExportTraceServiceRequest in OTLP/JSON
                  {"at": 1, "logs": {…}},      an ExportLogsServiceRequest in OTLP/JSON
                  {"at": 2, "events": […]},    CloudEvents
                  {"at": 9, "restart": true}],
     "until": 60}                              when the series are looked at

In requests a text `"@12.5"` is a time, in the form its field wants; so nobody counts nanoseconds.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.scenario import rfc3339

from outcome_exporter import check
from outcome_exporter.events import parse_time
from outcome_exporter.exposition import render
from outcome_exporter.model import Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.receive.otlp_json import parse
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("*/input.json"))


def timed(value: Any, start: int, *, unix: bool) -> Any:
    """The same with every `"@seconds"` as a time."""
    match value:
        case dict():
            return {key: timed(inner, start, unix=unix) for key, inner in value.items()}
        case list():
            return [timed(inner, start, unix=unix) for inner in value]
        case str() if value.startswith("@"):
            time = start + round(float(value[1:]) * SECOND)
            return str(time) if unix else rfc3339(time)
    return value


def log_of(case: dict[str, Any]) -> Iterator[Record]:
    start = parse_time(case["start"])
    for offset, arrival in enumerate(case["arrivals"]):
        kind, payload = request(arrival, start)
        time = start + round(arrival["at"] * SECOND) + offset
        yield Record(offset, time, kind, Encoding.NONE, payload)


def request(arrival: dict[str, Any], start: int) -> tuple[Kind, bytes]:
    match arrival:
        case {"traces": traces}:
            body = json.dumps(timed(traces, start, unix=True)).encode()
            return Kind.TRACES, parse(body, ExportTraceServiceRequest)
        case {"logs": logs}:
            body = json.dumps(timed(logs, start, unix=True)).encode()
            return Kind.LOGS, parse(body, ExportLogsServiceRequest)
        case {"events": events}:
            return Kind.CLOUDEVENTS, json.dumps(timed(events, start, unix=False)).encode()
        case {"restart": True}:
            return Kind.START, b""
    raise AssertionError(arrival)


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_the_whole_exposition_is_as_it_was(folder):
    case = json.loads((folder / "input.json").read_text())
    pipeline = Pipeline(check.load(folder / "config.yaml").config)
    for record in log_of(case):
        pipeline.ingest(record)
    pipeline.advance(parse_time(case["start"]) + case["until"] * SECOND)
    shown = render(snapshot(pipeline), openmetrics=True).decode()
    expected = folder / "metrics.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(shown)
    assert shown == expected.read_text()


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_every_golden_exposition_is_read_by_another_parser(folder):
    families = list(text_string_to_metric_families((folder / "metrics.txt").read_text()))
    names = {family.name for family in families}
    assert {"outcome_attempts", "slo_sli_ratio"} <= names


def test_there_are_cases_for_every_reason():
    text = "".join((folder / "metrics.txt").read_text() for folder in CASES)
    for reason in ("ok", "error", "missed", "recovered", "slow"):
        counts = [
            line.split("} ")[1].split(" ")[0]
            for line in text.splitlines()
            if line.startswith("outcome_attempts_total{") and f'reason="{reason}"' in line
        ]
        assert any(float(count) > 0 for count in counts), reason

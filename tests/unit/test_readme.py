"""The README's configuration and series are what the program makes of the demo's shop."""

import os
from pathlib import Path

import yaml

from outcome_exporter.config import Config
from outcome_exporter.demo.faults import script
from outcome_exporter.demo.simulate import simulate
from outcome_exporter.exposition import render
from outcome_exporter.model import Encoding, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import MINUTE

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- series: begin -->\n", "<!-- series: end -->"
SHOWN = (
    ("outcome_attempts_total{", "checkout"),
    ("outcome_value_total{", "checkout"),
    ("outcome_blame_total{", "checkout"),
    ("slo_events_total{", "checkout-success"),
    ("slo_sli_ratio{", 'checkout-success",window="1h"'),
    ("slo_burn_rate{", 'checkout-success",window="1h"'),
    ("slo_error_budget_remaining_ratio{", "checkout-success"),
)
"""How a series begins, and what else it says."""


def configuration():
    block = README.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    return Config.model_validate(yaml.safe_load(block))


def test_the_series_are_those_of_the_configuration_above_them():
    pipeline = Pipeline(configuration())
    arrival = 0
    for offset, (arrival, kind, payload) in enumerate(
        simulate(seed=1, seconds=120, faults=script(120))
    ):
        pipeline.ingest(Record(offset, arrival, kind, Encoding.NONE, payload))
    pipeline.advance(arrival + 7 * MINUTE)
    lines = render(snapshot(pipeline), openmetrics=False).decode().splitlines()
    shown = [line for start, of in SHOWN for line in lines if line.startswith(start) and of in line]
    text = "```\n" + "\n".join(shown) + "\n```\n"
    readme = README.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_GOLDEN"):
        head, rest = readme.split(BEGIN)
        readme = head + BEGIN + text + END + rest.split(END)[1]
        README.write_text(readme, encoding="utf-8")
    assert BEGIN + text + END in readme

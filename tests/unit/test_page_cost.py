"""What the status page costs."""

from collections import Counter

import pytest

from outcome_exporter import page, series
from outcome_exporter.config import Config
from outcome_exporter.model import Sample
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND

NOW = 1_700_000_000 * SECOND


def looks(journeys, monkeypatch):
    """How often the page looks at one row of a family, by the family's name, for each row."""
    looked = Counter()

    class Rows(dict):
        def items(self):
            looked[self.family] += len(self)
            return super().items()

    class Samples(list):
        def __iter__(self):
            looked[self.family] += len(self)
            return super().__iter__()

    table = page._Reader.table

    def counted(self, family):
        rows = Rows(table(self, family))
        rows.family = family.name
        return rows

    config = Config.model_validate(
        {
            "journeys": [
                {
                    "name": f"journey-{n}",
                    "attempt": {"event": "begun"},
                    "outcome": {"event": "done", "within": "1m"},
                    "slos": [{"name": f"slo-{n}", "objective": 99, "good": {"achieved": True}}],
                }
                for n in range(journeys)
            ]
        },
        context={"from_file": True},
    )
    pipeline = Pipeline(config)
    pipeline.advance(NOW)
    shown = {}
    cause = "pay", "POST /pay", "1", "error"
    blame = [Sample((f"journey-{n}", *cause), 1.0) for n in range(journeys)]
    for family, found in {**snapshot(pipeline), series.BLAME: blame}.items():
        shown[family] = Samples(found)
        shown[family].family = family.name
    with monkeypatch.context() as patched:
        patched.setattr(page._Reader, "table", counted)
        assert page.render_page(config, shown, NOW).count("POST /pay") >= journeys
    sizes = {family.name: len(found) for family, found in shown.items()}
    return {name: count / sizes[name] for name, count in looked.items() if sizes.get(name)}


def test_it_does_not_look_through_all_journeys_for_each_of_them(monkeypatch):
    few, many = (looks(count, monkeypatch) for count in (3, 30))
    assert many.keys() >= {"outcome_attempts_total", "outcome_blame_total"}
    assert many == pytest.approx(few, abs=1)

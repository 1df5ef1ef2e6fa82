"""Every fault of the demo is named in time, with the right culprit, and nothing before it."""

from collections import Counter
from typing import NamedTuple

import pytest

from outcome_exporter import series
from outcome_exporter.demo import settings
from outcome_exporter.demo.faults import CULPRITS, SCRIPT, Culprit
from outcome_exporter.demo.simulate import START_UNIX_NANO, simulate
from outcome_exporter.model import Encoding, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import MINUTE, SECOND

NAMED_WITHIN_SECONDS = 60


class Named(NamedTuple):
    elapsed: int
    culprit: Culprit
    share: float


class Run(NamedTuple):
    pipeline: Pipeline
    named: list[Named]


@pytest.fixture(scope="module")
def run() -> Run:
    pipeline = Pipeline(settings.load())
    named: list[Named] = []
    looked = 0
    arrival = START_UNIX_NANO
    for offset, (arrival, kind, payload) in enumerate(simulate()):
        pipeline.ingest(Record(offset, arrival, kind, Encoding.NONE, payload))
        elapsed = (arrival - START_UNIX_NANO) // SECOND
        if elapsed >= looked + 5:
            looked = elapsed
            for sample in snapshot(pipeline)[series.CAUSE_SHARE]:
                journey, window, *cause = sample.labels
                if window == "1m":
                    named.append(Named(elapsed, Culprit(journey, *cause), sample.value))
    pipeline.advance(arrival + 5 * MINUTE)
    return Run(pipeline, named)


@pytest.mark.parametrize("fault", SCRIPT, ids=lambda fault: fault.kind)
def test_a_fault_is_named_within_a_minute_of_its_start(run, fault):
    for culprit in CULPRITS[fault.kind]:
        first = min(found.elapsed for found in run.named if found.culprit == culprit)
        assert fault.start < first <= fault.start + NAMED_WITHIN_SECONDS, culprit


def test_nothing_else_is_ever_named(run):
    expected = {culprit for culprits in CULPRITS.values() for culprit in culprits}
    assert {found.culprit for found in run.named} == expected


def test_a_fault_explains_most_of_what_is_bad_while_it_lasts(run):
    for fault in SCRIPT:
        during = [n for n in run.named if fault.start + 40 < n.elapsed <= fault.end + 20]
        for culprit in CULPRITS[fault.kind]:
            mine = [found for found in during if found.culprit.journey == culprit.journey]
            assert max(mine, key=lambda found: found.share).culprit == culprit


def test_blame_sums_to_the_bad_outcomes_of_each_journey(run):
    shown = snapshot(run.pipeline)
    blamed, bad = Counter(), Counter()
    for sample in shown[series.BLAME]:
        blamed[sample.labels[0]] += sample.value
    for sample in shown[series.ATTEMPTS]:
        if sample.labels[1] == "bad":
            bad[sample.labels[0]] += sample.value
    assert blamed == bad
    assert bad["checkout"] > 100


def test_money_of_blame_sums_to_the_money_at_risk(run):
    shown = snapshot(run.pipeline)
    at_risk = next(s.value for s in shown[series.VALUE] if s.labels[2] == "at_risk")
    assert sum(s.value for s in shown[series.BLAME_VALUE]) == pytest.approx(at_risk, abs=1e-6)


def test_what_is_laid_to_a_culprit_was_its_fault(run):
    of = Counter()
    for sample in snapshot(run.pipeline)[series.BLAME]:
        of[Culprit(*sample.labels)] += sample.value
    culprits = {culprit for culprits in CULPRITS.values() for culprit in culprits}
    wrong = {
        culprit: count
        for culprit, count in of.items()
        if culprit not in culprits and culprit.cause_kind != "unattributed"
    }
    # Any day a few searches fail in inventory, and no more than those.
    assert all(c.service == "inventory" and c.cause_kind == "error" for c in wrong)
    assert sum(wrong.values()) <= 5


def test_changes_are_told_from_when_they_were_made(run):
    told = {sample.labels: sample.value for sample in snapshot(run.pipeline)[series.CHANGE_INFO]}
    began = START_UNIX_NANO // SECOND
    assert told == {
        ("inventory", "deployment", "2.4.0", "2.3.0"): began + 135,
        ("inventory", "rollback", "2.3.0", "2.4.0"): began + 180,
    }

"""The exposition: byte for byte what prometheus-client writes, and what Prometheus can read."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest as client_text
from prometheus_client.openmetrics.exposition import generate_latest as client_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar as ClientExemplar
from prometheus_client.samples import Timestamp
from prometheus_client.utils import floatToGoString
from tests import snapshots

from outcome_exporter import series
from outcome_exporter.exposition import (
    CONTENT_TYPE_OPENMETRICS,
    CONTENT_TYPE_TEXT,
    BrokenSeries,
    accepts_gzip,
    chunks,
    render,
    wants_openmetrics,
)
from outcome_exporter.model import Exemplar, Histogram, Sample, Snapshot

GOLDEN = Path(__file__).parents[1] / "golden" / "exposition"
SHOPS = {
    "healthy": snapshots.healthy,
    "burning": snapshots.burning,
    "fresh": snapshots.fresh,
    "unconfigured": snapshots.unconfigured,
}

# The oracle -------------------------------------------------------------------------------------


class AsClient:
    """A snapshot as prometheus-client's own metric objects."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for family in series.ALL:
            if family in self.snapshot:
                yield self._metric(family, self.snapshot[family])

    def _metric(self, family, samples):
        name = family.name.removesuffix("_total") if family.type == "counter" else family.name
        unit = name.rpartition("_")[2]
        metric = Metric(
            name, family.help, family.type, unit if unit in {"seconds", "bytes", "ratio"} else ""
        )
        for sample in sorted(samples, key=lambda each: (each.labels, each.extra)):
            labels = dict(
                zip(family.labels + sample.extra, map(self._text, sample.labels), strict=True)
            )
            exemplar = sample.exemplar and ClientExemplar(
                {"trace_id": sample.exemplar.trace_id},
                sample.exemplar.value,
                Timestamp(*divmod(sample.exemplar.time_unix_nano, 10**9)),
            )
            if isinstance(sample.value, Histogram):
                self._histogram(metric, name, labels, sample, exemplar)
            else:
                metric.add_sample(family.name, labels, sample.value + 0.0, exemplar=exemplar)
        return metric

    @staticmethod
    def _text(value):
        return value.encode("utf-8", "backslashreplace").decode()

    @staticmethod
    def _histogram(metric, name, labels, sample, exemplar):
        total = 0.0
        bounds, counts, total_seconds = sample.value
        for bound, count in zip([*bounds, float("inf")], counts, strict=True):
            total += count
            here = None
            if exemplar and exemplar.value <= bound:
                here, exemplar = exemplar, None
            metric.add_sample(
                f"{name}_bucket",
                {**labels, "le": floatToGoString(bound)},
                float(round(total)),
                None,
                here,
            )
        metric.add_sample(f"{name}_count", labels, float(round(total)))
        metric.add_sample(f"{name}_sum", labels, total_seconds + 0.0)


def by_client(snapshot: Snapshot, *, openmetrics: bool) -> bytes:
    return (client_openmetrics if openmetrics else client_text)(AsClient(snapshot))


TEXTS = st.text(
    st.one_of(st.sampled_from('\\"\n\r\t{},=#\0\ud800\udfffé検🙂 az'), st.characters(codec=None)),
    max_size=12,
)
COUNTS = st.one_of(
    st.integers(0, 10**15).map(float),
    st.integers(0, 10**12).map(lambda millionths: millionths / 1e6),
)
VALUES = st.one_of(COUNTS, st.floats(allow_nan=False, allow_infinity=False))
EXEMPLARS = st.none() | st.builds(
    Exemplar,
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.floats(0, 10),
    st.integers(0, 2**62),
)


@st.composite
def some_snapshots(draw) -> Snapshot:
    snapshot = {}
    for family in draw(st.lists(st.sampled_from(series.ALL), unique=True, max_size=4)):
        extra = draw(st.sampled_from([(), ("tier",), ("zone", "A_1")]))
        if family.type == "histogram":
            values = st.builds(
                Histogram,
                st.just((-0.5, 0.005, 1.0, 12_345_678.0)),
                st.tuples(*[COUNTS] * 5),
                VALUES,
            )
        else:
            values = VALUES
        exemplars = st.none() if family.type == "gauge" else EXEMPLARS
        width = len(family.labels) + len(extra)
        samples = st.builds(Sample, st.tuples(*[TEXTS] * width), values, exemplars, st.just(extra))
        snapshot[family] = draw(
            st.lists(samples, max_size=4, unique_by=lambda sample: sample.labels)
        )
    return snapshot


@pytest.mark.parametrize("openmetrics", [False, True])
@settings(deadline=None, derandomize=True)
@given(snapshot=some_snapshots())
def test_it_is_byte_for_byte_what_prometheus_client_writes(openmetrics, snapshot):
    assert render(snapshot, openmetrics=openmetrics) == by_client(snapshot, openmetrics=openmetrics)


@settings(deadline=None, derandomize=True)
@given(snapshot=some_snapshots(), seed=st.randoms(use_true_random=False))
def test_the_order_of_samples_and_families_changes_nothing(snapshot, seed):
    items = [(family, seed.sample(samples, len(samples))) for family, samples in snapshot.items()]
    seed.shuffle(items)
    assert render(dict(items), openmetrics=True) == render(snapshot, openmetrics=True)


@settings(deadline=None, derandomize=True)
@given(label=TEXTS)
def test_hostile_label_values_come_back_as_they_were(label):
    snapshot = {series.EVENTS_UNMATCHED: [Sample((label,), 1.0)]}
    expected = label.encode("utf-8", "backslashreplace").decode()
    text = render(snapshot, openmetrics=True).decode()
    (family,) = parse_openmetrics(text)
    assert family.samples[0].labels == {"type": expected}


# Golden -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("shop", SHOPS)
def test_the_exposition_is_the_golden_one(shop, openmetrics):
    file = GOLDEN / f"{shop}.{'openmetrics' if openmetrics else 'text'}.txt"
    text = render(SHOPS[shop]().snapshot, openmetrics=openmetrics)
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_bytes(text)
    assert text.decode() == file.read_text(encoding="utf-8")


def test_the_burning_shop_holds_every_family():
    assert set(snapshots.burning().snapshot) == set(series.ALL)


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("shop", SHOPS)
def test_prometheus_client_parses_it_back(shop, openmetrics):
    snapshot = SHOPS[shop]().snapshot
    text = render(snapshot, openmetrics=openmetrics).decode()
    parsed = list((parse_openmetrics if openmetrics else parse_text)(text))
    names = [metric.name for metric in parsed]
    assert names == [
        family.name.removesuffix("_total") for family in series.ALL if family in snapshot
    ]
    counts = {metric.name: len(metric.samples) for metric in parsed}
    for family, samples in snapshot.items():
        lines = sum(
            len(sample.value.counts) + 2 if isinstance(sample.value, Histogram) else 1
            for sample in samples
        )
        assert counts[family.name.removesuffix("_total")] == lines


def test_exemplars_come_back_from_counters_and_from_the_bucket_they_lie_in():
    text = render(snapshots.burning().snapshot, openmetrics=True).decode()
    found = {
        (sample.name, sample.labels.get("le")): sample.exemplar
        for metric in parse_openmetrics(text)
        for sample in metric.samples
        if sample.exemplar
    }
    exemplar = found["outcome_attempt_duration_seconds_bucket", "2.5"]
    assert (exemplar.labels, exemplar.value) == ({"trace_id": snapshots.TRACE_ID}, 1.75)
    assert float(exemplar.timestamp) == snapshots.NOW / 1e9 - 12
    assert {name for name, _ in found} == {
        "outcome_attempts_total",
        "outcome_attempt_duration_seconds_bucket",
        "outcome_blame_total",
        "slo_events_total",
    }


def test_promtool_has_nothing_to_say():
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing; install Debian's prometheus")
        pytest.skip("promtool is missing; Debian's prometheus has it")
    text = render(snapshots.burning().snapshot, openmetrics=False)
    verdict = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False
    )
    assert (verdict.returncode, verdict.stdout, verdict.stderr) == (0, b"", b"")


# What must not be shown ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_refused_with_its_name(value):
    snapshot = {series.SLO_SLI: [Sample(("checkout", "5m"), value)]}
    with pytest.raises(BrokenSeries, match=r"slo_sli_ratio\{checkout, 5m\}: -?(nan|inf)"):
        render(snapshot, openmetrics=False)


@pytest.mark.parametrize(
    ("family", "sample", "problem"),
    [
        (series.SLO_SLI, Sample(("checkout",), 1.0), "2 labels expected"),
        (series.SLO_SLI, Sample(("a", "b", "c"), 1.0), "2 labels expected"),
        (series.ATTEMPT_DURATION, Sample((), Histogram((), (1.0,), 1.0)), "1 labels expected"),
        (series.SLO_SLI, Sample(("a", "b"), Histogram((), (1.0,), 1.0)), "a histogram as a gauge"),
        (series.ATTEMPT_DURATION, Sample(("a",), 1.0), "a number as a histogram"),
        (series.ATTEMPT_DURATION, Sample(("a",), Histogram((1.0,), (1.0,), 1.0)), "1 counts, 1"),
        (series.READY, Sample((), 1.0, Exemplar("a", 1.0, 1)), "only counters"),
        (series.ATTEMPTS, Sample(("a", "b", "c", "d"), 1.0, None, ("journey",)), "taken"),
        (series.ATTEMPTS, Sample(("a", "b", "c", "d"), 1.0, None, ("le",)), "taken"),
        (series.ATTEMPTS, Sample(("a", "b", "c", "d"), 1.0, None, ('x"} 1',)), "not allowed"),
    ],
)
def test_a_series_that_does_not_fit_its_family_is_refused(family, sample, problem):
    with pytest.raises(BrokenSeries, match=problem):
        render({family: [sample]}, openmetrics=False)


def test_the_same_series_twice_is_refused():
    snapshot = {series.PENDING_ATTEMPTS: [Sample(("a",), 1.0), Sample(("a",), 2.0)]}
    with pytest.raises(BrokenSeries, match=r"outcome_pending_attempts\{a\}: there twice"):
        render(snapshot, openmetrics=False)


def test_minus_zero_is_zero():
    assert b"outcome_exporter_ready 0.0\n" in render(
        {series.READY: [Sample((), -0.0)]}, openmetrics=False
    )


def test_a_family_comes_as_one_chunk():
    snapshot = snapshots.healthy().snapshot
    assert len(list(chunks(snapshot, openmetrics=False))) == len(snapshot)


# Negotiation --------------------------------------------------------------------------------------

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text ; version=1.0.0", True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", False),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.5", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=much,;;=,", False),
        ("application/openmetrics-text;q=nan", False),
    ],
)
def test_openmetrics_is_served_to_those_who_prefer_it(accept, openmetrics):
    assert wants_openmetrics(accept) is openmetrics


@pytest.mark.parametrize(
    ("accept_encoding", "gzip"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*", True),
        ("identity", False),
        ("br, GZIP", True),
        ("notgzip", False),
    ],
)
def test_gzip_is_used_where_it_is_accepted(accept_encoding, gzip):
    assert accepts_gzip(accept_encoding) is gzip


def test_content_types_are_those_that_prometheus_names():
    assert CONTENT_TYPE_TEXT == "text/plain; version=0.0.4; charset=utf-8"
    assert CONTENT_TYPE_OPENMETRICS == "application/openmetrics-text; version=1.0.0; charset=utf-8"

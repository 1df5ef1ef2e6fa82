"""The series as text, for Prometheus to scrape: the classic format 0.0.4 and OpenMetrics 1.0.

State: none. Input: a snapshot of every series. Output: bytes that depend on nothing else. Families
come in the order of `series.ALL`, samples sorted by their label values, labels by their names.

    # HELP outcome_attempts_total Attempts at a journey by their final verdict.
    # TYPE outcome_attempts_total counter
    outcome_attempts_total{journey="checkout",outcome="bad",reason="error"} 17.0

OpenMetrics names a counter's family without `_total`, states units, adds exemplars to counters and
histogram buckets, and ends with `# EOF`.

prometheus-client has both formats, and its output is the oracle of the tests, byte for byte. It is
not used here because it escapes and sorts the labels of every line anew: 100,000 series take it
0.9 s (1.5 s for OpenMetrics) of a core that the pipeline needs, every 15 seconds. This writer takes
a tenth of that: what repeats is written once, that is label names per family, label values per
snapshot, and a histogram's labels per histogram.

A snapshot that would be refused by Prometheus, or worse, be stored wrongly (NaN, the same series
twice, labels that do not fit), is a defect of the stage that made it: `BrokenSeries`, with the
series' name.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import isfinite
from operator import attrgetter, itemgetter

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.utils import floatToGoString

from outcome_exporter import series
from outcome_exporter.model import Exemplar, Histogram, Sample, Snapshot
from outcome_exporter.series import Family
from outcome_exporter.units import SECOND

CONTENT_TYPE_TEXT = CONTENT_TYPE_PLAIN_0_0_4
CONTENT_TYPE_OPENMETRICS = CONTENT_TYPE_LATEST

_UNITS = ("seconds", "bytes", "ratio")
_KNOWN = frozenset(series.ALL)
_LABELS_THEN_NAMES = attrgetter("labels", "extra")


class BrokenSeries(AssertionError):
    """A stage handed over a series that must not be shown."""

    def __init__(self, family: Family, labels: Sequence[str], problem: str) -> None:
        super().__init__(f"{family.name}{{{', '.join(labels)}}}: {problem}")


def wants_openmetrics(accept: str) -> bool:
    """Which of the two formats an Accept header prefers.

    OpenMetrics must be named, in version 1.0.0 or none, and weigh as much as plain text: a browser
    or curl gets the classic format. Schemes of escaping change nothing, because all of our names
    are in the classic character set.

    Source:
        RFC 9110, section 12.5.1; Prometheus, "Scrape protocol content negotiation".
    """
    openmetrics = text = 0.0
    for part in accept.split(","):
        media_type, *parameters = (token.strip().lower() for token in part.split(";"))
        values = dict(token.partition("=")[::2] for token in parameters)
        weight = _weight(values.get("q", "1"))
        if media_type == "application/openmetrics-text":
            if values.get("version", "1.0.0") == "1.0.0":
                openmetrics = max(openmetrics, weight)
        elif media_type == "text/plain":
            text = max(text, weight)
    return openmetrics > 0 and openmetrics >= text


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip.

    Source:
        RFC 9110, section 12.5.3: a coding of weight 0 is refused, `*` is any that is not named.
    """
    weights = {}
    for part in accept_encoding.split(","):
        coding, *parameters = (token.strip().lower() for token in part.split(";"))
        values = dict(token.partition("=")[::2] for token in parameters)
        weights[coding] = _weight(values.get("q", "1"))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0


def render(snapshot: Snapshot, *, openmetrics: bool) -> bytes:
    """The whole exposition.

    Raises:
        BrokenSeries: A series must not be shown.
    """
    return b"".join(chunks(snapshot, openmetrics=openmetrics))


def chunks(snapshot: Snapshot, *, openmetrics: bool) -> Iterator[bytes]:
    """The exposition, family by family.

    Raises:
        BrokenSeries: A series must not be shown.
    """
    assert snapshot.keys() <= _KNOWN, "a family that series.py does not know"
    escaped = _Escaped()
    for family in series.ALL:
        if family in snapshot:
            samples = sorted(snapshot[family], key=_LABELS_THEN_NAMES)
            _refuse_twins(family, samples)
            lines = [_header(family, openmetrics=openmetrics)]
            write = _histogram_lines if family.type == "histogram" else _value_lines
            write(lines, family, samples, escaped, openmetrics=openmetrics)
            yield "".join(lines).encode()
    if openmetrics:
        yield b"# EOF\n"


def _refuse_twins(family: Family, samples: Sequence[Sample]) -> None:
    for one, next_one in pairwise(samples):
        if one.labels == next_one.labels and one.extra == next_one.extra:
            raise BrokenSeries(family, one.labels, "there twice")


def _header(family: Family, *, openmetrics: bool) -> str:
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    if not openmetrics:
        return f"# HELP {family.name} {text}\n# TYPE {family.name} {family.type}\n"
    name = family.name.removesuffix("_total") if family.type == "counter" else family.name
    text = text.replace('"', r"\"")
    unit = name.rpartition("_")[2]
    unit_line = f"# UNIT {name} {unit}\n" if unit in _UNITS else ""
    return f"# HELP {name} {text}\n# TYPE {name} {family.type}\n{unit_line}"


def _value_lines(
    lines: list[str],
    family: Family,
    samples: Sequence[Sample],
    escaped: "_Escaped",
    *,
    openmetrics: bool,
) -> None:
    """Append one line per counter or gauge."""
    layouts: dict[tuple[str, ...], _Layout] = {}
    for sample in samples:
        layout = layouts.get(sample.extra) or layouts.setdefault(
            sample.extra, _Layout(family, sample.extra)
        )
        value = sample.value
        if isinstance(value, Histogram):
            raise BrokenSeries(family, sample.labels, f"a histogram as a {family.type}")
        text = _number(value, family, sample)
        exemplar = ""
        if sample.exemplar is not None:
            if family.type != "counter":
                raise BrokenSeries(family, sample.labels, "only counters have exemplars")
            if openmetrics:
                exemplar = _exemplar(sample.exemplar, family, sample)
        lines.append(f"{family.name}{layout.labels(sample, escaped)} {text}{exemplar}\n")


def _histogram_lines(
    lines: list[str],
    family: Family,
    samples: Sequence[Sample],
    escaped: "_Escaped",
    *,
    openmetrics: bool,
) -> None:
    """Append the buckets, the count and the sum of each histogram."""
    layouts: dict[tuple[str, ...], tuple[_Layout, _Layout]] = {}
    bounds_as_text: dict[tuple[float, ...], list[str]] = {}
    for sample in samples:
        plain, with_bound = layouts.get(sample.extra) or layouts.setdefault(
            sample.extra,
            (_Layout(family, sample.extra), _Layout(family, sample.extra, bound=True)),
        )
        histogram = sample.value
        if not isinstance(histogram, Histogram):
            raise BrokenSeries(family, sample.labels, "a number as a histogram")
        bounds, counts, total = histogram
        if len(counts) != len(bounds) + 1:
            raise BrokenSeries(family, sample.labels, f"{len(counts)} counts, {len(bounds)} bounds")
        texts = bounds_as_text.get(bounds) or bounds_as_text.setdefault(
            bounds, [*(_with_exponent(bound) for bound in bounds), "+Inf"]
        )
        # Sampled spans count in fractions, yet OpenMetrics wants whole buckets. Rounding what has
        # been added up is monotonic: no later bucket and no later scrape falls behind.
        cumulative = list(accumulate(counts))
        if not isfinite(cumulative[-1]):
            raise BrokenSeries(family, sample.labels, f"{cumulative[-1]} is no count")
        numbers = [_number(round(count), family, sample) for count in cumulative]
        exemplars = [""] * len(counts)
        if sample.exemplar is not None and openmetrics:
            bucket = sum(bound < sample.exemplar.value for bound in bounds)
            exemplars[bucket] = _exemplar(sample.exemplar, family, sample)
        labels = plain.labels(sample, escaped)
        head, tail = with_bound.around_bound(sample, escaped)
        head = f"{family.name}_bucket{head}"
        lines += [
            f"{head}{bound}{tail} {number}{exemplar}\n"
            for bound, number, exemplar in zip(texts, numbers, exemplars, strict=True)
        ]
        lines.append(f"{family.name}_count{labels} {numbers[-1]}\n")
        lines.append(f"{family.name}_sum{labels} {_number(total, family, sample)}\n")


class _Escaped(dict[str, str]):
    """Label values as they stand between quotes; each is worked out once."""

    def __missing__(self, value: str) -> str:
        text = value
        if not text.isascii():
            # Lone surrogates have no UTF-8; written out they stay distinct and readable.
            text = text.encode("utf-8", "backslashreplace").decode()
        text = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        self[value] = text
        return text


_BOUND = "\0"
"""Where a bucket's bound goes; no label name holds it."""


class _Layout:
    """How the labels of samples that share their names are written: sorted by name."""

    def __init__(self, family: Family, extra: tuple[str, ...], *, bound: bool = False) -> None:
        names = family.labels + extra
        if len({*names, "le"}) != len(names) + 1 or not all(map(_is_label_name, extra)):
            raise BrokenSeries(family, names, "label names that are taken or not allowed")
        order = sorted(range(len(names)), key=names.__getitem__)
        pairs = [(names[at], f'{names[at]}="%s"') for at in order]
        if bound:
            pairs = sorted([*pairs, ("le", f'le="{_BOUND}"')], key=itemgetter(0))
        self.family = family
        self.width = len(names)
        self.order = order
        self.template = f"{{{','.join(text for _, text in pairs)}}}" if pairs else ""

    def labels(self, sample: Sample, escaped: _Escaped) -> str:
        values = sample.labels
        if len(values) != self.width:
            raise BrokenSeries(self.family, values, f"{self.width} labels expected")
        return self.template % tuple([escaped[values[at]] for at in self.order])

    def around_bound(self, sample: Sample, escaped: _Escaped) -> tuple[str, str]:
        """What stands before a bucket's bound and after it."""
        # The split is at the template's own mark: a value may hold anything.
        head, tail = self.template.split(_BOUND)
        before = head.count("%s")
        values = [escaped[sample.labels[at]] for at in self.order]
        return head % tuple(values[:before]), tail % tuple(values[before:])


def _is_label_name(name: str) -> bool:
    return name.isascii() and name.isidentifier() and not name.startswith("__")


_PLAIN_BELOW = 1e6
"""From here on the format's numbers have exponents."""


def _number(value: float, family: Family, sample: Sample) -> str:
    if -_PLAIN_BELOW < value < _PLAIN_BELOW:
        return repr(float(value) + 0.0)  # adding 0 makes -0 a plain 0
    if not isfinite(value):
        raise BrokenSeries(family, sample.labels, f"{value} is no value")
    return _with_exponent(value)


def _with_exponent(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call] # the client has no types


def _exemplar(exemplar: Exemplar, family: Family, sample: Sample) -> str:
    seconds, nanoseconds = divmod(exemplar.time_unix_nano, SECOND)
    value = _number(exemplar.value, family, sample)
    return f' # {{trace_id="{_Escaped()[exemplar.trace_id]}"}} {value} {seconds}.{nanoseconds:09d}'

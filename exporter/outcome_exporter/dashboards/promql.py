"""PromQL from the exporter's own list of series: names and labels are checked, never typed.

Three habits keep the queries fast, exact and free of NaN:

- Gauges are read as they are. What an SLO says of 28 days is one sample, not 28 days of them.
- What a counter gained in the time range is the difference of two readings (`grown`). The
  counters of outcomes survive restarts, so that nothing is guessed, and `increase()`, which reads
  every sample of the range and extrapolates, is not needed. The readings may come of different
  pods: one that is replaced goes on where the one before it stopped.
- A ratio divides only by what is above zero: no traffic gives no line, not NaN.

`$job` names the exporter: one at a time, so that a test installation never mixes with another.
"""

from outcome_exporter.series import Family

_OPERATORS = ("=~", "!~", "!=")

_BUCKET_LABEL = "le"
_PLACE = "instance, pod"
"""Labels of the scrape that say where the exporter runs: others after a restart elsewhere."""


def select(family: Family, *, part: str = "", **matchers: str) -> str:
    """A selector.

    Args:
        family: Whose series.
        part: `_bucket`, `_count` or `_sum` of a histogram.
        matchers: Label → value; a value that begins with `=~`, `!~` or `!=` is matched so.
    """
    assert bool(part) == (family.type == "histogram"), family.name
    pairs = {"job": "$job", **matchers}
    unknown = matchers.keys() - set(family.labels)
    assert not unknown, f"{family.name} has no label {unknown}"
    texts = ", ".join(f"{label}{_matched(value)}" for label, value in pairs.items())
    return f"{family.name}{part}{{{texts}}}"


def _matched(value: str) -> str:
    for operator in _OPERATORS:
        if value.startswith(operator):
            return f'{operator}"{value.removeprefix(operator)}"'
    return f'="{value}"'


def gauge(family: Family, **matchers: str) -> str:
    """Each series of a gauge with its own labels alone, also while a pod is being replaced."""
    assert family.type == "gauge", family.name
    return f"max by ({', '.join(family.labels)}) ({select(family, **matchers)})"


def rate(family: Family, by: str, *, part: str = "", **matchers: str) -> str:
    """What a counter gains per second, summed by labels."""
    _assert_labels(family, by, part)
    selector = select(family, part=part, **matchers)
    return f"sum by ({by}) (rate({selector}[$__rate_interval]))"


def grown(family: Family, by: str, **matchers: str) -> str:
    """What a counter gained in the time range, summed by labels; at least 0.

    Its start is off by at most `$__interval`, the time between two points of the panel.
    """
    _assert_labels(family, by)
    assert family.type == "counter", family.name
    selector = select(family, **matchers)
    # A journey's own labels are not known here, so what goes is named, and not what stays.
    now = f"max without ({_PLACE}) ({selector})"
    begin = f"min without ({_PLACE}) (min_over_time({selector}[$__range:$__interval]))"
    return f"sum by ({by}) ({now} - {begin})"


def increased(family: Family, by: str, **matchers: str) -> str:
    """The same for counters that begin anew with the process, by what Prometheus makes of it."""
    _assert_labels(family, by)
    return f"sum by ({by}) (increase({select(family, **matchers)}[$__range]))"


def _assert_labels(family: Family, by: str, part: str = "") -> None:
    known = {*family.labels, *([_BUCKET_LABEL] if part == "_bucket" else [])}
    assert {label for label in by.split(", ") if label} <= known, (family.name, by)


def quantile(share: float, family: Family, by: str, **matchers: str) -> str:
    """A quantile of a histogram by labels; no line, rather than NaN, where nothing happened."""
    labels = f"{by}, {_BUCKET_LABEL}" if by else _BUCKET_LABEL
    buckets = rate(family, labels, part="_bucket", **matchers)
    return f"histogram_quantile({share}, {buckets}) >= 0"


def ratio(part: str, whole: str) -> str:
    """A share of what happened: 0 where no part of it did, nothing where it did not happen."""
    return f"(({part}) or ({whole}) * 0) / (({whole}) > 0)"


def renamed(expr: str, old: str, new: str) -> str:
    """The same series with a label under another name; the old one stays."""
    return f'label_replace({expr}, "{new}", "$1", "{old}", "(.*)")'


def cut(expr: str, step: float) -> str:
    """Cut off, not rounded up, so that 99.496 % does not look like the promised 99.5 %.

    A thousandth of a step is forgiven: floating point may have left that little below.
    """
    per_unit = round(1 / step)
    return f"floor(({expr}) * {per_unit} + 0.001) / {per_unit}"

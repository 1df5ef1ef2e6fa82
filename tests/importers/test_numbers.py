"""Imported SLOs count what is counted by hand from the same samples.

The samples are those of a made-up Prometheus that knows as much of PromQL as the imported queries
need: selectors read exactly, and expressions by their text, each worked out here from samples.
"""

import re
from collections import defaultdict
from itertools import pairwise

import pytest
import yaml

from outcome_exporter import importers
from outcome_exporter.config import Config
from outcome_exporter.prometheus_source import poll

FIRST = 26_666_667
MINUTES = 10
SAMPLES = {
    # Two pods; one is restarted in minute 4, and one appears with three events counted.
    ("requests_total", "200", "a"): [(15 * n, 3 * n) for n in range(16)]
    + [(15 * n, 3 * (n - 16)) for n in range(16, 40)],
    ("requests_total", "500", "a"): [(15 * n, n // 4) for n in range(40)],
    ("requests_total", "500", "b"): [(15 * n, 1 + n // 9) for n in range(20, 40)],
    ("seconds_bucket", "0.5", "a"): [(15 * n, 2 * n) for n in range(40)],
    ("seconds_count", "", "a"): [(15 * n, 3 * n) for n in range(40)],
    ("up", "", "a"): [(15 * n, float(not 12 <= n < 20)) for n in range(41)],
    ("up", "", "b"): [(15 * n, 1.0) for n in range(41)],
    ("punctual_ratio", "", "a"): [(15 * n, n / 40) for n in range(41)],
}
"""(metric, code or le, pod): (seconds after FIRST, value)."""


def increase(name, told=None):
    """Events that a metric counted by hand: the sum of what each sample adds to the one before."""
    total = 0
    for (metric, label, pod), samples in SAMPLES.items():
        if metric == name and told in (None, label):
            new = pod == "b"
            total += samples[0][1] if new else 0
            for (_, before), (_, after) in pairwise(samples):
                total += after - before if after >= before else after
    return total


def last(name, minute):
    """Values of a gauge at the end of a minute, by pod."""
    end = (minute + 1) * 60
    return [
        max(pair for pair in samples if pair[0] <= end)[1]
        for (metric, *_), samples in SAMPLES.items()
        if metric == name
    ]


EXPRESSIONS = {
    "sum(up > bool 0)": lambda m: sum(value > 0 for value in last("up", m)),
    "count(up)": lambda m: len(last("up", m)),
    "sum(clamp_max((punctual_ratio) >= 0, 1))": lambda m: sum(last("punctual_ratio", m)),
    "count((punctual_ratio) >= 0)": lambda m: len(last("punctual_ratio", m)),
    "sum(sum_over_time(punctual_ratio[1m]))": lambda m: sum(within("punctual_ratio", m)),
    "sum(count_over_time(punctual_ratio[1m]))": lambda m: len(within("punctual_ratio", m)),
}


def within(name, minute):
    """Samples of a minute, its end included and its beginning not, as Prometheus 3 has them."""
    return [
        value
        for (metric, *_), samples in SAMPLES.items()
        if metric == name
        for at, value in samples
        if minute * 60 < at <= (minute + 1) * 60
    ]


def prometheus(path, parameters):
    query = parameters["query"]
    if path == "query_range":
        values = [[(FIRST + m + 1) * 60, str(EXPRESSIONS[query](m))] for m in range(MINUTES)]
        return [{"metric": {}, "values": values}]
    now = int(parameters["time"]) - FIRST * 60
    last_only = query.startswith("last_over_time(")
    name, told, length = re.fullmatch(
        r'([a-z_]+)(?:\{.*?"([^"]*)"\})?\[(\d+)s\]\)?', query.removeprefix("last_over_time(")
    ).groups()
    found = []
    for (metric, label, pod), samples in SAMPLES.items():
        if metric != name or not re.fullmatch(told or ".*", label):
            continue
        values = [[FIRST * 60 + t, str(v)] for t, v in samples if now - int(length) <= t <= now]
        metric_labels = {"metric": {"pod": pod, "label": label}}
        if values and last_only:
            found.append(metric_labels | {"value": [now, values[-1][1]]})
        elif values:
            found.append(metric_labels | {"values": values})
    return found


def counted(kind, text):
    """Good and bad events of the only SLO of a file, in a single poll of ten minutes."""
    done = importers.run(kind, [importers.Source("x", text.encode())])
    assert done.slos == 1, done.notes
    config = Config.model_validate(yaml.safe_load(done.text), context={"from_file": True})
    [slo] = config.standalone
    polled = poll(prometheus, slo, config.prometheus, FIRST, FIRST + MINUTES, 7)
    sums = defaultdict(int)
    for _, good, bad in polled.counts:
        sums["good"] += good
        sums["bad"] += bad
    return sums["good"] / 1e6, sums["bad"] / 1e6


def sloth(sli):
    return f"""
version: prometheus/v1
service: shop
slos: [{{name: orders, objective: 99, sli: {sli}}}]
"""


def openslo(ratio):
    return f"""
apiVersion: openslo/v1
kind: SLO
metadata: {{name: orders}}
spec: {{indicator: {{spec: {{ratioMetric: {ratio}}}}}, objectives: [{{target: 0.99}}]}}
"""


def pyrra(indicator):
    return f"""
apiVersion: pyrra.dev/v1alpha1
kind: ServiceLevelObjective
metadata: {{name: orders}}
spec: {{target: '99', window: 4w, indicator: {indicator}}}
"""


def source(query):
    return f"{{metricSource: {{type: Prometheus, spec: {{query: '{query}'}}}}}}"


RATE_BAD = 'sum(rate(requests_total{code=~"5.."}[{{.window}}]))'
RATE_ALL = "sum(rate(requests_total[{{.window}}]))"
BAD, ALL, GOOD = (
    increase("requests_total", "500"),
    increase("requests_total"),
    increase("requests_total", "200"),
)
REQUESTS = (GOOD, BAD)
LATENCY = (increase("seconds_bucket"), increase("seconds_count") - increase("seconds_bucket"))
PUNCTUAL = sum(sum(last("punctual_ratio", m)) for m in range(MINUTES))
RATIO = (
    "sum(sum_over_time(punctual_ratio[{{.window}}]))"
    "/sum(count_over_time(punctual_ratio[{{.window}}]))"
)
SAMPLED = sum(sum(within("punctual_ratio", m)) for m in range(MINUTES))


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (
            "sloth",
            sloth(f"{{events: {{error_query: '{RATE_BAD}', total_query: '{RATE_ALL}'}}}}"),
            REQUESTS,
        ),
        ("sloth", sloth(f"{{raw: {{error_ratio_query: '{RATE_BAD} / {RATE_ALL}'}}}}"), REQUESTS),
        (
            "sloth",
            sloth(f"{{raw: {{error_ratio_query: '1 - ({RATIO})'}}}}"),
            (SAMPLED, 40 - SAMPLED),
        ),
        ("sloth", sloth("{raw: {error_ratio_query: punctual_ratio}}"), (10 - PUNCTUAL, PUNCTUAL)),
        (
            "openslo",
            openslo(
                "{counter: true, good: "
                + source('sum(requests_total{code="200"})')
                + f", total: {source('sum(requests_total)')}}}"
            ),
            REQUESTS,
        ),
        (
            "openslo",
            openslo(
                "{counter: true, bad: "
                + source('sum(requests_total{code="500"})')
                + f", total: {source('sum(requests_total)')}}}"
            ),
            REQUESTS,
        ),
        (
            "openslo",
            openslo(f"{{rawType: success, raw: {source('punctual_ratio')}}}"),
            (PUNCTUAL, 10 - PUNCTUAL),
        ),
        (
            "pyrra",
            pyrra(
                "{ratio: {errors: {metric: 'requests_total{code=\"500\"}'}, "
                "total: {metric: requests_total}}}"
            ),
            REQUESTS,
        ),
        (
            "pyrra",
            pyrra(
                "{latency: {success: {metric: 'seconds_bucket{le=\"0.5\"}'}, "
                "total: {metric: seconds_count}}}"
            ),
            LATENCY,
        ),
        ("pyrra", pyrra("{bool_gauge: {metric: up}}"), (18, 2)),
    ],
    ids=[
        "sloth-events",
        "sloth-raw",
        "sloth-raw-samples",
        "sloth-raw-ratio",
        "openslo-good",
        "openslo-bad",
        "openslo-raw",
        "pyrra-ratio",
        "pyrra-latency",
        "pyrra-bool-gauge",
    ],
)
def test_an_imported_slo_counts_what_is_counted_by_hand(kind, text, expected):
    assert counted(kind, text) == pytest.approx(expected, abs=1e-4)


def test_what_is_counted_by_hand_is_not_nothing():
    assert REQUESTS == (45 + 69, 9 + 5)
    assert LATENCY == (78, 39)

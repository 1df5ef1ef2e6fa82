"""However points come and time is cut, resources say what a slow, obvious reference says."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from outcome_exporter.config import Config
from outcome_exporter.model import Point
from outcome_exporter.plan import Plan, text_hash
from outcome_exporter.resources import FAR, LAG, RING, Resources
from outcome_exporter.units import MINUTE, SECOND

FIRST = 26_666_640
"""A minute: the first of an hour's last."""
PLAN = Plan(
    Config.model_validate({"journeys": [{"name": "buy", "attempt": {"span": {"service": "shop"}}}]})
)
GRAIN = {"process.cpu.utilization": 0.05, "mail.queue.size": 1.0, "db": 0.05}
METRICS = (
    ("process.cpu.utilization", {"cpu.mode": "user"}),
    ("process.cpu.utilization", {"cpu.mode": "system"}),
    ("mail.queue.size", {}),
    ("db.client.connection.count", {"db.client.connection.pool.name": "a"}),
    ("db.client.connection.max", {"db.client.connection.pool.name": "a"}),
    ("db.client.connection.count", {"db.client.connection.pool.name": "b"}),
    ("db.client.connection.max", {"db.client.connection.pool.name": "b"}),
)
GAPS = st.sampled_from([1, 7, 20, 60, 61, 200, 700, 5_000, 90_000, 400_000])


@st.composite
def points(draw):
    """Points with their arrival, a few of them late."""
    found, now = [], FIRST * 60
    for _ in range(draw(st.integers(1, 40))):
        now += draw(GAPS)
        at = draw(st.integers(0, len(METRICS) - 1))
        name, attributes = METRICS[at]
        service, replica = draw(st.sampled_from(["shop", "bank"])), draw(st.integers(1, 3))
        late = draw(st.sampled_from([0, 0, 0, 90]))
        point = Point(
            name=name,
            service=service,
            identity=(at + 1, 2 * replica + (service == "shop")),
            attributes=attributes,
            unit="",
            cumulative=False,
            start_time_unix_nano=0,
            time_unix_nano=(now - late) * SECOND,
            value=float(draw(st.integers(0, 20))),
            is_gauge=True,
            replica=replica,
        )
        found.append((now, point))
    return found


class Reference:
    """Every level and all history from all points, minute by minute, the obvious way."""

    def __init__(self, sent):
        self.sent = sent

    def levels(self, end):
        """By service and source, what the minute that ends at a second had."""
        latest = {}
        for arrival, point in self.sent:
            before = latest.get(point.identity)
            fresher = before is None or point.time_unix_nano > before.time_unix_nano
            if arrival < end and fresher:
                latest[point.identity] = point
        sums = {}
        for point in latest.values():
            if point.time_unix_nano > (end - 180) * SECOND:
                source = "db" if point.name.startswith("db") else point.name
                pool = point.attributes.get("db.client.connection.pool.name")
                of = sums.setdefault((point.service, source), {})
                pair = of.setdefault((point.replica, pool), [None, None])
                role = int(point.name.endswith(".max"))
                pair[role] = (pair[role] or 0.0) + point.value
        found = {}
        for key, units in sums.items():
            for used, limit in units.values():
                if used is None or (key[1] == "db" and not limit):
                    continue
                level = used / limit if key[1] == "db" else used
                found[key] = max(found.get(key, -math.inf), level)
        return found


@settings(max_examples=25, deadline=None)
@given(points(), st.data())
def test_levels_and_history_are_those_of_the_reference(sent, data):
    stage, end = Resources(PLAN), sent[-1][0] + data.draw(st.integers(0, 1_500))
    for arrival, point in sent:
        stage.advance(arrival)
        stage.take([point], arrival * SECOND)
    stage.advance(end)
    reference = Reference(sent)
    first = max(end // 60 - RING, sent[0][0] // 60)
    for minute in range(first, end // 60):
        expected = reference.levels((minute + 1) * 60)
        for service, source, row in rows_of(stage):
            level = stage._ring[row, minute % RING]
            wanted = expected.get((service, source), math.nan)
            assert np.isclose(level, wanted, rtol=1e-12, equal_nan=True), (service, source, minute)


def rows_of(stage):
    sources = {
        "process.cpu.utilization": "process.cpu.utilization",
        "mail.queue.size": "mail.queue.size",
        "db": "db.client.connection.count",
    }
    for service in ("shop", "bank"):
        for source, name in sources.items():
            row = stage._row_of.get((int(text_hash(service)), int(text_hash(name))))
            if row is not None:
                yield service, source, row


@settings(max_examples=25, deadline=None)
@given(points(), st.data())
def test_however_time_is_cut_and_the_process_restarted_the_state_is_the_same(sent, data):
    whole, cut = Resources(PLAN), Resources(PLAN)
    for arrival, point in sent:
        whole.advance(arrival)
        whole.take([point], arrival * SECOND)
        if cut.minute >= 0:
            between = data.draw(st.integers(cut.minute * 60, arrival))
            cut.advance(between)
            cut.advance(between)
        cut.advance(arrival)
        if data.draw(st.booleans()):
            dumped = {name: array.copy() for name, array in cut.dump().items()}
            cut = Resources(PLAN)
            cut.restore(dumped)
        cut.take([point], arrival * SECOND)
    for name, array in whole.dump().items():
        other = cut.dump()[name]
        for field in array.dtype.names or (...,):  # bytes between fields are nobody's
            assert array[field].tobytes() == other[field].tobytes(), (name, field)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=30, max_size=120))
def test_history_is_the_decayed_mean_of_minutes_no_higher_than_counts(values):
    stage = Resources(PLAN)
    for minute, value in enumerate(values):
        stage.advance((FIRST + minute) * 60)
        gauge = Point(
            "process.cpu.utilization",
            "shop",
            (1, 1),
            {},
            "1",
            False,
            0,
            (FIRST + minute) * MINUTE + 1,
            value,
            True,
        )
        stage.take([gauge], (FIRST + minute) * MINUTE + 1)
    stage.advance((FIRST + len(values)) * 60)
    weight = total = squares = 0.0
    keep = 0.5 ** (1 / 1440)
    for value in values[: len(values) - LAG]:
        mean = total / weight if weight else 0.0
        if weight >= 10:
            spread = max(math.sqrt(max(squares / weight - mean * mean, 0)), 0.05)
            value = min(value, mean + FAR * spread)  # noqa: PLW2901
        weight, total = weight * keep + 1, total * keep + value
        squares = squares * keep + value * value
    [one] = stage.evidence("shop", FIRST + len(values) - 1)
    assert math.isclose(one.usual, total / weight, rel_tol=1e-9)
    recent = sorted(values[-3:])
    assert one.now == recent[1]

"""What events mean to journeys, read all at once, beside one text at a time."""

import numpy as np
import pytest

from outcome_exporter.claims import Reader, identities
from outcome_exporter.config import Config
from outcome_exporter.kernels.attributes import (
    decimal,
    decimal_of_float,
    text_key,
    trace_key,
    user_hash,
)
from outcome_exporter.kernels.hashing import combine
from outcome_exporter.model import NO_VALUE, BusinessEvent
from outcome_exporter.plan import Plan, text_hash

PLAN = Plan(
    Config.model_validate(
        {
            "journeys": [
                {
                    "name": name,
                    "attempt": {"span": {}},
                    "join": ["trace_id", {"attribute": "order", "event": "data.order"}],
                    "outcome": {"event": event, "within": "5m"},
                    "value": {"event": "data.total", "currency": "USD"},
                    "user": {"event": "data.user"},
                    "slos": [{"name": name, "objective": 99, "good": {"achieved": True}}],
                }
                for name, event in (("buy", "bought"), ("pay", "paid"), ("both", "paid"))
            ]
        }
    )
)
TRACE = bytes(range(1, 17))
VALUES = ["", "a", "größe", "12.50", "x" * 300, True, False, 7, -7, 10**30, 2.0, 2.5, None, [1], {}]


def event(number, kind="paid", trace_id=None, **data):
    return BusinessEvent("shop", str(number), kind, None, trace_id, {"data": data})


def source(text):
    return np.frombuffer(text.encode(), np.uint8)


def as_text(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    return str(value) if isinstance(value, str | int) else ""


def read(events):
    reader = Reader(PLAN, lambda journey, values: 0)
    return reader.read(events, list(range(len(events))), identities(events))


@pytest.mark.parametrize("trace_id", [None, TRACE])
def test_keys_values_and_users_are_those_of_each_event_alone(trace_id):
    events = [
        event(number, trace_id=trace_id, order=value, total=value, user=value)
        for number, value in enumerate(VALUES)
    ]
    claims = read(events).claims
    assert claims["journey"].tolist() == [1, 2] * len(events)
    for row, value in zip(claims[::2], VALUES, strict=True):
        text = source(as_text(value))
        by_trace, by_order, *unused = [tuple(map(int, key)) for key in row["keys"]]
        hi, lo = np.frombuffer(trace_id or bytes(16), ">u8").astype(np.uint64)
        salts = PLAN.spans.salts[1]
        assert by_trace == (trace_key(hi, lo, salts[0]) if trace_id else (0, 0))
        assert by_order == text_key(text, 0, text.size, salts[1])
        assert unused == [(0, 0), (0, 0)]
        assert row["user"] == user_hash(text, 0, text.size)
        if isinstance(value, float):
            assert row["value"] == decimal_of_float(value)
        elif isinstance(value, bool):
            assert row["value"] == NO_VALUE
        else:
            assert row["value"] == decimal(text, 0, text.size)


def test_an_event_is_told_by_its_source_and_id():
    events = [event(1), event(2), event(1), event(1)._replace(source="shop1", id="")]
    found = identities(events)
    expected = [int(combine(text_hash(e.source), text_hash(e.id))) for e in events]
    assert found.tolist() == expected
    assert found[0] == found[2]
    assert len(set(found.tolist())) == 3
    assert read(events).claims["identity"].tolist() == [i for i in expected for _ in range(2)]


def test_events_that_mean_nothing_leave_no_rows():
    read_ = read([event(1, kind="unheard")])
    assert read_.attempts.size == read_.claims.size == 0

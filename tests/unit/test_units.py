"""Durations are read exactly and written back exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcome_exporter import units


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1ns", 1),
        ("500us", 500_000),
        ("500ms", 500_000_000),
        ("10s", 10 * 10**9),
        ("1h30m", 90 * 60 * 10**9),
        ("1w", 7 * 24 * 3600 * 10**9),
        ("28d", 28 * 24 * 3600 * 10**9),
        ("0s", 0),
    ],
)
def test_durations(text, nanoseconds):
    assert units.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1.5h", "-5s", "5 m", "5min", "10S", "1h 30m", "5m!", " 5m", "5m\n"]
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is no duration"):
        units.parse_duration(text)


@given(st.integers(0, 2**62))
def test_what_is_written_is_read_back(nanoseconds):
    assert units.parse_duration(units.format_duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (90 * units.MINUTE, "1h30m"),
        (28 * units.DAY, "28d"),
        (units.WEEK, "7d"),
        (1_500 * units.MILLISECOND, "1s500ms"),
    ],
)
def test_durations_are_written_as_people_do(nanoseconds, text):
    assert units.format_duration(nanoseconds) == text

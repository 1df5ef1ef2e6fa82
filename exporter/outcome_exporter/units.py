"""Units: durations as people write them, and money and weights as exact integers.

Everything that is summed is summed in integers, in millionths: order never changes a sum, so a
replay yields the same bytes.
"""

import re

NANOSECOND = 1
MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

MILLIONTHS = 1_000_000
"""Millionths in one: of a currency unit, of an attempt."""

_UNITS = {
    "w": WEEK,
    "d": DAY,
    "h": HOUR,
    "m": MINUTE,
    "s": SECOND,
    "ms": MILLISECOND,
    "us": MICROSECOND,
    "ns": NANOSECOND,
}
_PART = re.compile(r"(\d+)(w|d|h|ms|m|us|ns|s)")


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration as Prometheus writes it: ``500ms``, ``10s``, ``1h30m``, ``28d``.

    Raises:
        ValueError: The text is not such a duration.
    """
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; write it like 500ms, 10s, 5m, 1h30m or 28d")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def format_duration(nanoseconds: int) -> str:
    """The shortest exact text that `parse_duration` reads back; weeks are written as days."""
    if nanoseconds == 0:
        return "0s"
    text = ""
    for unit in ("d", "h", "m", "s", "ms", "us", "ns"):
        number, nanoseconds = divmod(nanoseconds, _UNITS[unit])
        if number:
            text += f"{number}{unit}"
    return text

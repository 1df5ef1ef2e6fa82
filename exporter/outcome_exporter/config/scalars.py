"""What sections of a configuration are made of: single values, and `Model`.

A value says how it is written, what is refused and in which words, and what Helm and editors may
know of it (JSON Schema). Durations are written as in Prometheus and are nanoseconds once read;
sizes are written `64MiB` and are bytes once read.
"""

import math
import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)

from outcome_exporter import wording
from outcome_exporter.units import DAY, SECOND, format_duration, parse_duration

DURATION_MAX = 3_650 * DAY

FROM_FILE = {"from_file": True}
"""Context of validating a file: there a bare number is no duration, in Python it is nanoseconds."""


def _duration(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        value = 0 if value == "0" else parse_duration(value)
    elif isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(  # noqa: TRY004  # pydantic collects ValueError only
            "must be a duration; write it like 500ms, 10s, 5m, 1h30m or 28d"
        )
    elif value and info.context == FROM_FILE:
        raise ValueError(f"{value} has no unit; write it like 500ms, 10s, 5m, 1h30m or 28d")
    if value > DURATION_MAX:
        raise ValueError(f"{format_duration(value)} is too long; use at most ten years")
    return value


_DURATION = r"^(0|(\d+(w|d|h|ms|m|us|ns|s))+)$"

Duration = Annotated[
    int,
    Field(strict=True, ge=0),
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": _DURATION, "examples": ["500ms", "10s", "5m", "28d"]}
    ),
]
"""Nanoseconds, written like ``10s``."""

_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "B": 1}
_SIZE_MAX = 1 << 50


def _size(value: object) -> object:
    size = value
    if isinstance(value, str):
        for unit, factor in _SIZES.items():
            number = value.removesuffix(unit).strip()
            if number != value and number.isdecimal():
                size = int(number) * factor
                break
    if isinstance(size, bool) or not isinstance(size, int):
        raise ValueError(  # noqa: TRY004  # pydantic collects ValueError only
            f"{value!r} is no size; write it like 512KiB, 64MiB or 2GiB"
        )
    if not 0 < size <= _SIZE_MAX:
        raise ValueError(f"{value!r} is no size that works; use between 1B and 1024TiB")
    return size


def format_size(size_bytes: int) -> str:
    """The shortest exact text that a size is read from: ``64MiB``."""
    unit, factor = max(
        ((unit, factor) for unit, factor in _SIZES.items() if size_bytes % factor == 0),
        key=lambda pair: pair[1],
    )
    return f"{size_bytes // factor}{unit}"


Size = Annotated[
    int,
    Field(strict=True, ge=1),
    BeforeValidator(_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(
        {
            "type": ["string", "integer"],
            "pattern": r"^\d+ *([KMGT]i)?B$",
            "minimum": 1,
            "examples": ["64MiB", "2GiB"],
        }
    ),
]
"""Bytes, written like ``64MiB``."""


def _matching(pattern: str, words: str) -> BeforeValidator:
    """Refuses scalars that do not match, in `words`; what is no scalar is refused later."""

    def validate(value: object) -> object:
        matches = isinstance(value, str) and re.fullmatch(pattern, value)
        if isinstance(value, (str, int, float)) and not matches:
            raise ValueError(f"{wording.shown(value)} {words}")
        return value

    return BeforeValidator(validate)


_NAME = r"[a-zA-Z][a-zA-Z0-9_-]{0,62}"
LABEL_PATTERN = r"[a-zA-Z_][a-zA-Z0-9_]*"
CURRENCY_PATTERN = r"[A-Z]{3}"
_URL = r"https?://\S+"
_ADDRESS = r"(\S*[^\s:]|\[\S+\]):\d{1,5}"
_PORT_MAX = 65_535


def _in_utc(written: str, time: datetime) -> int:
    moment = round(time.timestamp()) * SECOND
    try:
        _write_moment(moment)
    except ValueError:
        raise ValueError(
            f"{written!r} is in UTC outside of the years 1 to 9999; use one within them"
        ) from None
    return moment


def _moment(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            time = None
        if time is not None and time.tzinfo is not None:
            return _in_utc(value, time)
    # A file's seconds since 1970 must not pass for nanoseconds: nothing would be corrected.
    if isinstance(value, str) or (isinstance(value, (int, float)) and info.context == FROM_FILE):
        shown = wording.shown(value)
        raise ValueError(f"{shown} is no time; write it like 2024-05-01T22:00:00Z")
    return value


def _write_moment(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // SECOND, UTC).isoformat()


Moment = Annotated[
    int,
    Field(strict=True),
    BeforeValidator(_moment),
    PlainSerializer(_write_moment, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""Nanoseconds since 1970, written like ``2024-05-01T22:00:00Z``."""

Name = Annotated[
    str,
    Field(pattern=f"^{_NAME}$"),
    _matching(
        _NAME, "is no name that works; use letters, digits, - and _, a letter first, at most 63"
    ),
]

Label = Annotated[
    str, _matching(LABEL_PATTERN, "is no label name; use letters, digits and _, no digit first")
]

Currency = Annotated[
    str,
    Field(pattern=f"^{CURRENCY_PATTERN}$"),
    _matching(CURRENCY_PATTERN, "is no currency code; use three capitals such as USD"),
]

Url = Annotated[
    str,
    # The status page links it: a `javascript:` address must not get there.
    Field(pattern=f"^({_URL})?$"),
    _matching(f"({_URL})?", "is no web address; begin with https:// or http://"),
]

_TRACE_URL = r"https?://[^\s/{}]+/[^\s{}]*\{trace_id\}[^\s{}]*"  # RE2 too: Helm reads it

TraceUrl = Annotated[
    str,
    Field(
        examples=["https://traces.example.com/trace/{trace_id}"],
        json_schema_extra={"pattern": f"^{_TRACE_URL}$"},
    ),
    _matching(
        _TRACE_URL,
        "leads to no trace; write it like https://traces.example.com/trace/{trace_id}, "
        "with {trace_id} once",
    ),
]
"""Where one trace is found."""

_ORIGIN = r"https?://[^\s/*]+"

Origin = Annotated[
    str,
    Field(pattern=f"^{_ORIGIN}$", examples=["https://shop.example.com"]),
    _matching(_ORIGIN, "is no origin; write scheme and host without a path"),
]

Text = Annotated[str, Field(min_length=1, max_length=1000)]


def _port(address: str) -> str:
    if int(address.rpartition(":")[2]) > _PORT_MAX:
        raise ValueError(f"{address!r} has no port that exists; use one up to {_PORT_MAX}")
    return address


Address = Annotated[
    str,
    Field(pattern=f"^{_ADDRESS}$", examples=["0.0.0.0:4317"]),
    _matching(_ADDRESS, "is no address to listen on; write host and port, like 0.0.0.0:4317"),
    AfterValidator(_port),
]
"""Host and port; port 0 takes a free one."""


def _bound(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return _duration(value, info)
    if isinstance(value, float) or (isinstance(value, int) and info.context == FROM_FILE):
        try:
            value = float("nan") if isinstance(value, bool) else float(value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise ValueError("is no bound; write a number, or a duration like 300ms")
    return value


def _write_bound(value: float) -> float | str:
    return format_duration(value) if isinstance(value, int) else value


Bound = Annotated[
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)],
    BeforeValidator(_bound),
    PlainSerializer(_write_bound, return_type=float | str),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "string", "pattern": _DURATION}],
            "examples": ["300ms", 0.3],
        }
    ),
]
"""A float in the metric's own unit, or nanoseconds (an int), which suits any unit of time."""


class Model(BaseModel):
    """Unknown keys are errors, and nothing changes after it has been read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

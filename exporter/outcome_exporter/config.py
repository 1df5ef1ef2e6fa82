"""The configuration file: its shape, its defaults, and what it refuses.

One YAML file. Unknown keys are errors. Durations are written as in Prometheus and are nanoseconds
once read; sizes are written `64MiB` and are bytes once read.
"""

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from outcome_exporter import burn, document, wording
from outcome_exporter.errors import ConfigError
from outcome_exporter.units import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    format_duration,
    parse_duration,
)

JOIN_KEYS_MAX = 4
"""Join keys that a journey may have: attempts carry them in arrays of this width."""

UNOWNED = "unowned"

DURATION_MAX = 3_650 * DAY
OBJECTIVE_MAX = Decimal("99.9999")

_FROM_FILE = {"from_file": True}
"""Context of validating a file: there a bare number is no duration, in Python it is nanoseconds."""


def _duration(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        value = 0 if value == "0" else parse_duration(value)
    elif isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(  # noqa: TRY004  # pydantic collects ValueError only
            "must be a duration; write it like 500ms, 10s, 5m, 1h30m or 28d"
        )
    elif value and info.context == _FROM_FILE:
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
_LABEL = r"[a-zA-Z_][a-zA-Z0-9_]*"
_CURRENCY = r"[A-Z]{3}"
_URL = r"https?://\S+"
_ADDRESS = r"(\S*[^\s:]|\[\S+\]):\d{1,5}"
_PORT_MAX = 65_535


def _moment(value: object) -> object:
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            time = None
        if time is None or time.tzinfo is None:
            raise ValueError(f"{value!r} is no time; write it like 2024-05-01T22:00:00Z")
        return round(time.timestamp()) * SECOND
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
    str, _matching(_LABEL, "is no label name; use letters, digits and _, no digit first")
]
Currency = Annotated[
    str,
    Field(pattern=f"^{_CURRENCY}$"),
    _matching(_CURRENCY, "is no currency code; use three capitals such as USD"),
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


class Model(BaseModel):
    """Unknown keys are errors, and nothing changes after it has been read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Tls(Model):
    """Files in PEM, read again when they change."""

    certificate: Text = Field(examples=["/etc/outcome-exporter/tls.crt"])
    """The server's, with the certificates that lead to its authority."""
    key: Text = Field(examples=["/etc/outcome-exporter/tls.key"])
    client_ca: Text | None = None
    """Authorities of client certificates; with it, nobody connects without one (mutual TLS)."""


def _listener(value: object) -> object:
    return {"listen": value} if isinstance(value, (str, int, float)) else value


class Listener(Model):
    """An address and who may use it. An address alone is short for `{listen: ADDRESS}`."""

    listen: Address = Field(examples=["0.0.0.0:4317"])
    tls: Tls | None = None
    tokens: tuple[Text, ...] = ()
    """Files that hold a bearer token each, read again when they change; any of them opens."""


class HttpListener(Listener):
    origins: tuple[Origin, ...] = ()
    """Web sites whose pages may send here (CORS); by default none."""


def _short(listener: Listener) -> object:
    alone = listener.model_fields_set <= {"listen"}
    return listener.listen if alone else listener.model_dump(exclude_none=True)


class Otlp(Model):
    grpc: Annotated[
        Listener,
        BeforeValidator(_listener, json_schema_input_type=Address | Listener),
        PlainSerializer(_short),
    ] = Listener(listen="0.0.0.0:4317")
    http: Annotated[
        HttpListener,
        BeforeValidator(_listener, json_schema_input_type=Address | HttpListener),
        PlainSerializer(_short),
    ] = HttpListener(listen="0.0.0.0:4318")
    max_request: Size = 64 << 20
    """Largest request, as sent and after decompression."""


class Receivers(Model):
    otlp: Otlp = Otlp()


class Metrics(Listener):
    listen: Address = "0.0.0.0:9464"


class SelfTracing(Model):
    """What the exporter tells about itself as traces; off where it is not configured."""

    endpoint: Url = Field(min_length=1, examples=["http://collector:4318/v1/traces"])
    """Where to, as OTLP over HTTP."""
    ratio: float = Field(default=0.01, gt=0, le=1)
    """Share of requests and scrapes that become traces."""


class Storage(Model):
    path: Text = "./outcome-data"
    max_log: Size = 4 << 30
    """Payload kept until it is settled; above it senders are asked to wait."""
    keep_log: Duration = 0
    """How long settled payload is kept for replays."""
    checkpoint: Duration = 10 * SECOND
    """Time between checkpoints."""
    retention: Duration | None = None
    """How long buckets are kept: by default the longest window and a day."""


class Prometheus(Model):
    """Where SLOs with `sli: {prometheus: …}` are read from: its HTTP API, or one like it."""

    url: Annotated[Url, Field(min_length=1)] = Field(examples=["http://prometheus:9090"])
    bearer_token_file: Text | None = None
    """Holds a token that is sent along; read anew for each request."""
    every: Duration = MINUTE
    """Time between polls; each reads the minutes that have closed since the one before."""
    delay: Duration = 30 * SECOND
    """How long after its end a minute is read: its last scrape must have been stored."""
    lookback: Duration = HOUR
    """How long a series may be silent before it is taken for a new one."""
    births_max: int = Field(default=100, strict=True, ge=0)
    """A new series that begins above it is an old process found only now: not counted."""
    backfill: bool = False
    """Fill windows from history while serving, as `outcome-exporter backfill` does."""


class Traces(Model):
    quiet: Duration = 10 * SECOND
    """A trace settles once its root has come and nothing more came for so long."""
    max_age: Duration = 2 * MINUTE
    """A trace settles at this age, come what may."""
    dedupe: Duration = HOUR
    """How long a settled attempt is remembered, so that a late retry counts once."""


class Time(Model):
    future: Duration = 10 * MINUTE
    """A time this far ahead of its arrival cannot be, and is taken as the arrival's."""
    grace: Duration = MINUTE
    """After the exporter was away: time for senders to deliver before outcomes are missed."""
    lateness: Duration = 10 * SECOND
    """An event that happened in time may arrive this much after its deadline."""


class Exposition(Model):
    birth: Duration = 30 * SECOND
    """A series that is born shows 0 for so long, so that `increase()` misses no first event."""


class Limits(Model):
    pending_spans: int = Field(default=5_000_000, strict=True, ge=1_000)
    """Spans of traces that are not settled; above it senders are asked to wait."""
    pending_attempts: int = Field(default=2_000_000, strict=True, ge=1_000)
    """Attempts and events that wait for each other."""
    remembered: int = Field(default=2_000_000, strict=True, ge=1_000)
    """Settled attempts, traces and events that are remembered to tell duplicates."""
    operations: int = Field(default=10_000, strict=True, ge=10)
    """Distinct services and span names; more become `other`."""
    label_values: int = Field(default=20, strict=True, ge=1, le=1_000)
    """Distinct values of each label of a journey; more become `other`."""
    metric_streams: int = Field(default=100_000, strict=True, ge=100)
    """Streams of metrics that SLOs read; the points of more are not counted."""
    resources: int = Field(default=2_000, strict=True, ge=0, le=100_000)
    """Metrics of resources (CPU, memory, pools, queues) that are kept as evidence about causes, of
    each service one; points of more are left out. 0: none are kept."""
    steps: int = Field(default=10_000, strict=True, ge=100, le=100_000)
    """Operations, in each version, whose history each journey's blame knows; more are `other`."""
    causes: int = Field(default=1_000, strict=True, ge=10, le=10_000)
    """Causes that are told apart in the series of blame; more become `other`."""
    attribute_values: int = Field(default=5_000, strict=True, ge=100, le=60_000)
    """Values of `causes.dimensions` that are told apart, each at its service; more are `other`."""
    compared: int = Field(default=200_000, strict=True, ge=1_000, le=10_000_000)
    """Attempts whose attribute values are kept for their verdict; the oldest go first."""
    changes: int = Field(default=1_000, strict=True, ge=10, le=100_000)
    """Services and feature flags whose changes are known; those told longest ago go first."""
    explained: int = Field(default=10_000, strict=True, ge=100, le=1_000_000)
    """Bad attempts whose evidence is kept for `explain`; the oldest go first."""


class SpanSelector(Model):
    """Which spans begin an attempt. Texts are globs: `*` is any run, `?` any one character."""

    service: Text = "*"
    name: Text = "*"
    kind: Literal["internal", "server", "client", "producer", "consumer"] | None = None
    attributes: dict[Text, Text] = {}


class Attempt(Model):
    """The start milestone: exactly one of a span and a business event."""

    span: SpanSelector | None = None
    event: Text | None = None
    """Type of a business event."""
    errors_below: bool = False
    """An error of any span below is the attempt's: for entry points that always answer 200."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.span is None and self.event is None:
            raise ValueError("begins with nothing; add a span or an event")
        if self.span is not None and self.event is not None:
            raise ValueError("begins with a span and with an event; keep one of them")
        return self


class JoinKey(Model):
    """What an attempt and an event share."""

    attribute: Text = Field(examples=["app.order.id"])
    """Attribute of the attempt's span, or path into the event that began the attempt."""
    event: Text = Field(examples=["data.order_id"])
    """Path into the event that decides, e.g. ``data.order_id``."""


def _join_kind(value: object) -> str | None:
    if value == "trace_id":
        return "the trace id"
    return "a key" if isinstance(value, (dict, JoinKey)) else None


Join = Annotated[
    Annotated[Literal["trace_id"], Tag("the trace id")] | Annotated[JoinKey, Tag("a key")],
    Discriminator(
        _join_kind,
        custom_error_type="join_key",
        custom_error_message="is no join key; use trace_id or "
        "{attribute: app.order.id, event: data.order_id}",
    ),
]


class Outcome(Model):
    event: Text = Field(examples=["shop.order.completed"])
    """Type of the business event that means success."""
    within: Duration = 5 * MINUTE


class Value(Model):
    """Where the money stands; in neither place: the journey's recent mean."""

    event: Text | None = None
    attribute: Text | None = None
    currency: Currency = Field(examples=["USD"])
    """Code of three letters, as ISO 4217 has it."""


class User(Model):
    """Who made the attempt: counted, never shown."""

    attribute: Text | None = None
    event: Text | None = None


class Good(Model):
    """What makes an attempt good for an SLO: everything that is given must hold."""

    achieved: Literal[True] | None = None
    """The journey's event came in time."""
    error: Literal[False] | None = None
    """No technical error."""
    duration_below: Duration | None = None
    """The attempt took less than this."""
    within: Duration | None = None
    """From the attempt's start to its event; implies `achieved`."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if (self.achieved, self.error, self.duration_below, self.within) == (None,) * 4:
            raise ValueError(
                "nothing makes an attempt bad; give achieved, error, duration_below or within"
            )
        return self


def _percent(value: object, *, remedy: str) -> Decimal:
    # YAML reads 99.9 as a binary float; its shortest text is what the author wrote.
    try:
        percent = Decimal("nan" if isinstance(value, bool) else str(value))
    except ArithmeticError:
        percent = Decimal("nan")
    if not percent.is_finite() or percent <= 0:
        raise ValueError(f"{wording.shown(value)} is no percentage; {remedy}")
    return percent


def _objective(value: object) -> Decimal:
    percent = _percent(value, remedy="write the share that must be good like 99.9")
    if percent > OBJECTIVE_MAX:
        room = "no error budget" if percent >= 100 else "too little error budget"  # noqa: PLR2004
        raise ValueError(f"{value} leaves {room}; use at most {OBJECTIVE_MAX}")
    return percent


def _budget_share(value: object) -> Decimal:
    percent = _percent(value, remedy="write the share of the budget like 2")
    if percent > 100:  # noqa: PLR2004
        raise ValueError(f"{value} is more than the whole budget; use at most 100")
    return percent


class AlertTier(Model):
    """A pair of windows that must both burn for an alert."""

    severity: Literal["page", "ticket"] = Field(examples=["page"])
    long_window: Duration = Field(examples=["1h"])
    short_window: Duration = Field(examples=["5m"])
    """An alert ends about this long after the errors."""
    budget: Annotated[
        Decimal,
        BeforeValidator(_budget_share),
        PlainSerializer(float, return_type=float),
        WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 100}),
    ] = Field(examples=[2])
    """Percent of the error budget that the long window may spend."""

    @property
    def tier(self) -> burn.Tier:
        """The same, as the formulas take it."""
        share = Fraction(self.budget) / 100
        return burn.Tier(self.severity, self.long_window, self.short_window, share)


class SloAlerts(Model):
    min_bad_events: Annotated[int, Field(strict=True, ge=1)] | None = None
    """In place of `alerts.min_bad_events`."""
    min_events: Annotated[int, Field(strict=True, ge=0)] | None = None
    """In place of `alerts.min_events`."""
    tiers: tuple[AlertTier, ...] = ()
    """In place of the usual four, all of them."""


class Calendar(Model):
    """A window that begins anew with each period, at midnight."""

    period: Literal["week", "month", "quarter", "year"] = Field(examples=["month"])
    """A week begins on Monday."""
    time_zone: Text = Field(default="UTC", examples=["Europe/Berlin"])
    """Name in the IANA database."""

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"{name!r} is no time zone; write it like Europe/Berlin or UTC"
            ) from None
        return name


_PERIOD_DAYS = {"week": 7, "month": 31, "quarter": 92, "year": 366}
"""At most so long: what is kept, and what alert tiers reckon with."""


def _slice_target(value: object) -> Decimal:
    remedy = "write the share of a slice's events that must be good like 95"
    percent = _percent(value, remedy=remedy)
    if percent > 100:  # noqa: PLR2004
        raise ValueError(f"{value} is more than all events of a slice; use at most 100")
    return percent


class Budgeting(Model):
    """What an error budget is spent by: bad events, or bad slices of time."""

    method: Literal["occurrences", "timeslices", "ratio_timeslices"] = "occurrences"
    slice: Duration = MINUTE
    """Length of a slice of time."""
    target: Annotated[
        Decimal,
        BeforeValidator(_slice_target),
        PlainSerializer(float, return_type=float),
        WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 100}),
    ] = Decimal(95)
    """Of timeslices: percent of its events that must be good for a slice to be good."""


class Correction(Model):
    """A time that counts for nothing, such as a maintenance; also one in the past."""

    slos: Annotated[tuple[Text, ...], Field(min_length=1)] = ("*",)
    """Globs on names of SLOs."""
    start: Moment = Field(examples=["2024-05-01T22:00:00Z"])
    end: Moment = Field(examples=["2024-05-01T23:30:00Z"])
    reason: Text = "maintenance"

    def corrects(self, slo: str) -> bool:
        """Whether it is one of an SLO's."""
        return any(fnmatchcase(slo, glob) for glob in self.slos)


class Slo(Model):
    """What every SLO has, wherever its events come from."""

    name: Name = Field(examples=["checkout-success"])
    objective: Annotated[
        Decimal,
        BeforeValidator(_objective),
        PlainSerializer(float, return_type=float),
        WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": float(OBJECTIVE_MAX)}),
    ] = Field(examples=[99.5])
    """Percent of events that must be good."""
    window: Duration = 28 * DAY
    calendar: Calendar | None = None
    """In place of `window`."""
    budgeting: Budgeting = Budgeting()
    title: Text | None = None
    owner: Text | None = None
    runbook: Url | None = None
    alerts: SloAlerts = SloAlerts()

    @model_validator(mode="before")
    @classmethod
    def _period(cls, data: object) -> object:
        calendar = data.get("calendar") if isinstance(data, dict) else None
        named = calendar.get("period") if isinstance(calendar, dict) else calendar
        days = _PERIOD_DAYS.get(getattr(named, "period", named) or "")
        if not isinstance(data, dict) or days is None:
            return data
        if data.get("window") not in (None, days * DAY, f"{days}d"):
            raise ValueError("has a window and a calendar; keep one of them")
        return data | {"window": f"{days}d"}

    @property
    def objective_ratio(self) -> float:
        return float(Fraction(self.objective) / 100)

    @property
    def budget_ratio(self) -> float:
        """Share of events that may be bad, without the noise of `1 - 0.999`."""
        return float(self.budget)

    @property
    def budget(self) -> Fraction:
        """Share of events that may be bad, exactly."""
        return 1 - Fraction(self.objective) / 100

    @property
    def wanted_tiers(self) -> tuple[burn.Tier, ...]:
        """Alert tiers as configured, whether or not they can fire."""
        return tuple(given.tier for given in self.alerts.tiers) or burn.TIERS

    @property
    def tiers(self) -> tuple[burn.Tier, ...]:
        """Alert tiers that can fire.

        Their long window lies within the SLO's own, and an error rate of 100 % burns faster
        than their threshold.
        """
        return tuple(
            tier
            for tier in self.wanted_tiers
            if tier.long_window <= self.window
            and tier.budget_share * self.window * self.budget < tier.long_window
        )

    @property
    def windows(self) -> tuple[int, ...]:
        """Every window the SLO shows, in nanoseconds, ascending."""
        tiers = (w for tier in self.wanted_tiers for w in (tier.long_window, tier.short_window))
        return tuple(sorted({*burn.WINDOWS, self.window, *tiers}))


class JourneySlo(Slo):
    """An SLO whose events are a journey's attempts."""

    good: Good = Field(examples=[{"achieved": True, "error": False}])


def _bound(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return _duration(value, info)
    if isinstance(value, float) or (isinstance(value, int) and info.context == _FROM_FILE):
        value = float("nan") if isinstance(value, bool) else float(value)
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


class MetricPart(Model):
    """Which of a metric's events are meant: everything that is given must hold."""

    name: Text | None = None
    """Another metric that counts them, such as `http_errors`."""
    attributes: dict[Text, Text] = {}
    """Globs on the attributes of the point, or of its resource."""
    below: Bound | None = None
    """At most this: the upper bounds of a histogram's buckets belong to them."""
    above: Bound | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.below is not None and self.above is not None:
            raise ValueError("below and above are both given; keep one of them")
        if self.name is not None and self.bound is not None:
            raise ValueError("a metric of its own has no bound; keep name, or below or above")
        if (self.name, self.bound) == (None, None) and not self.attributes:
            raise ValueError("tells no events apart; give attributes, below, above or name")
        return self

    @property
    def bound(self) -> float | None:
        """What values are compared with, if anything."""
        return self.below if self.below is not None else self.above


class MetricSli(Model):
    """Events that an OTLP metric counts: a sum, or a histogram; or the time a gauge spends.

    The point's attributes are looked at before those of its resource.
    """

    name: Text = Field(examples=["http.server.request.duration"])
    """Of the metric, exactly."""
    service: Text = "*"
    """Glob on `service.name`."""
    attributes: dict[Text, Text] = {}
    """Globs."""
    good: MetricPart | None = Field(default=None, examples=[{"below": "300ms"}])
    bad: MetricPart | None = Field(
        default=None, examples=[{"attributes": {"http.response.status_code": "5*"}}]
    )
    """In place of `good`: whatever is not bad is good."""
    between: Literal["refuse", "bad", "good", "split"] = "refuse"
    """What becomes of events whose bucket holds the bound, so that nobody knows on which side
    they are. `refuse`: a histogram without a bucket that ends there is not counted at all. `bad`
    and `good` take them all; `split` takes the bucket's events for evenly spread."""
    hold: Duration = 5 * MINUTE
    """How long a gauge is taken to stay as it was when nothing more comes."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.good is None) == (self.bad is None):
            raise ValueError("needs good or bad, one of them")
        return self

    @property
    def part(self) -> MetricPart:
        """What is said of the events: those that are good, or those that are bad."""
        part = self.good or self.bad
        assert part is not None
        return part


class PrometheusSli(Model):
    """Events that a Prometheus has counted: good or bad ones, and all of them.

    A selector of counters is read sample by sample, exactly. Anything else is an expression that
    gives the events of a minute, which Prometheus computes as well as it can.
    """

    good: Text | None = None
    bad: Text | None = Field(default=None, examples=['http_requests_total{job="shop",code=~"5.."}'])
    total: Text = Field(examples=['http_requests_total{job="shop"}'])

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.good is None) == (self.bad is None):
            raise ValueError("needs good or bad, one of them")
        return self

    @property
    def part(self) -> str:
        """What is said of the events: those that are good, or those that are bad."""
        part = self.good or self.bad
        assert part is not None
        return part


class Component(Model):
    """A part of a composite SLO."""

    slo: Name = Field(examples=["checkout-success"])
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0


class Sli(Model):
    """Where the events of an SLO without a journey come from: one of these."""

    metric: MetricSli | None = Field(
        default=None,
        examples=[{"name": "http.server.request.duration", "good": {"below": "300ms"}}],
    )
    prometheus: PrometheusSli | None = None
    composite: Annotated[tuple[Component, ...], Field(min_length=1)] | None = None
    """The weighted mean of other SLOs' SLIs; those without events are left out."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of {', '.join(type(self).model_fields)}")
        return self


class StandaloneSlo(Slo):
    """An SLO that needs no journey."""

    sli: Sli = Field(
        examples=[{"metric": {"name": "http.server.request.duration", "good": {"below": "300ms"}}}]
    )


class Journey(Model):
    name: Name = Field(examples=["checkout"])
    title: Text | None = None
    owner: Text = UNOWNED
    runbook: Url = ""
    attempt: Attempt = Field(examples=[{"span": {"service": "frontend", "name": "POST /pay"}}])
    join: Annotated[tuple[Join, ...], Field(min_length=1, max_length=JOIN_KEYS_MAX)] = ("trace_id",)
    """Any of them that is equal on both sides joins an attempt and an event."""
    outcome: Outcome | None = None
    slow_above: Duration | None = None
    value: Value | None = None
    user: User | None = None
    labels: dict[Label, Text] = Field(
        default={}, json_schema_extra={"propertyNames": {"pattern": f"^{_LABEL}$"}}
    )
    """Label of `outcome_attempts_total` → attribute it shows."""
    slos: tuple[JourneySlo, ...] = ()


class Promised(NamedTuple):
    """An SLO, and the journey it belongs to, if any."""

    journey: Journey | None
    slo: Slo

    @property
    def title(self) -> str:
        """What people call it."""
        if self.slo.title or self.journey is None:
            return self.slo.title or self.slo.name
        return self.journey.title or self.journey.name

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.slo.owner or (self.journey.owner if self.journey else UNOWNED)

    @property
    def runbook(self) -> str:
        """Where to read on; empty where nobody said."""
        return self.slo.runbook or (self.journey.runbook if self.journey else "")


class Severities(Model):
    """What Alertmanager's label `severity` says."""

    page: Text = "page"
    """Wakes somebody now."""
    ticket: Text = "ticket"
    """Is for working hours."""


class Alerts(Model):
    """What `generate rules` writes, and the thresholds that the rules read as series."""

    min_bad_events: int = Field(default=3, strict=True, ge=1)
    """Bad events in a tier's long window below which it stays silent."""
    min_events: int = Field(default=0, strict=True, ge=0)
    """Events, good and bad, in a tier's long window below which it stays silent. 0: however few
    there are, `min_bad_events` of them that are bad tell."""
    value_at_risk: dict[Currency, Annotated[int, Field(strict=True, ge=1)]] = Field(
        default={},
        examples=[{"USD": 10_000}],
        json_schema_extra={"propertyNames": {"pattern": f"^{_CURRENCY}$"}},
    )
    """Money of bad outcomes in an hour above which a journey pages; none: never."""
    keep_firing_for: Duration = 5 * MINUTE
    """How long an alert stays after its condition has ended, so that it does not flap."""
    severities: Severities = Severities()
    owner: Text = "observability"
    """Who runs the exporter, and is told about what concerns it alone."""
    dashboard: Url = Field(
        default="",
        examples=["https://grafana.example.com/d/outcomes"],
    )
    """Dashboard that alerts link, with the time range and the variables `slo` and `journey`."""


DIMENSIONS_MAX = 16


class ChangeEvent(Model):
    """A business event that tells a change. Paths lead into it, like ``data.version``."""

    event: Text = Field(examples=["com.example.release.finished"])
    """Its type."""
    kind: Literal["deployment", "rollback", "flag"] = "deployment"
    service: Text = Field(examples=["data.app"])
    version: Text = Field(examples=["data.tag"])
    """Path of the new version, or of a flag's new variant."""
    previous: Text | None = None
    """Path of what was there before; without it, what was told before."""
    flag: Text | None = None
    """Path of the flag's key."""


class Causes(Model):
    """Where causes are looked for, beside services, operations and versions."""

    dimensions: Annotated[tuple[Text, ...], Field(max_length=DIMENSIONS_MAX)] = Field(
        default=("service.version", "k8s.pod.name", "k8s.node.name", "cloud.availability_zone"),
        examples=[["service.version", "k8s.pod.name", "app.tenant", "http.route"]],
    )
    """Attributes of resources or spans by whose values bad and good attempts are compared; none:
    they are not."""
    environment: Text = "*"
    """Glob on the environment's id; deployments that CDEvents tell of others are left out."""
    changes: tuple[ChangeEvent, ...] = ()
    """Events that tell changes, beside CDEvents and evaluations of feature flags."""

    @field_validator("dimensions")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} stands here twice; keep one of them")
        return names


class Config(Model):
    """A whole configuration file."""

    receivers: Receivers = Receivers()
    metrics: Metrics = Metrics()
    storage: Storage = Storage()
    traces: Traces = Traces()
    time: Time = Time()
    exposition: Exposition = Exposition()
    self_tracing: SelfTracing | None = None
    limits: Limits = Limits()
    alerts: Alerts = Alerts()
    causes: Causes = Causes()
    trace_url: TraceUrl | None = None
    """Where a trace is found, for links from the page, the dashboards and `explain`."""
    trace_search_url: Url = Field(
        default="",
        examples=["https://traces.example.com/search?service={service}&operation={operation}"],
    )
    """Where traces of a cause are found, for alerts, since Prometheus tells them no trace id:
    {service}, {operation} and {version} are the top cause's."""
    prometheus: Prometheus | None = None
    corrections: tuple[Correction, ...] = ()
    journeys: tuple[Journey, ...] = ()
    standalone: Annotated[tuple[StandaloneSlo, ...], Field(alias="slos")] = ()
    """SLOs that need no journey."""

    @property
    def slos(self) -> tuple[Promised, ...]:
        """Every SLO: those of the journeys in the order of the file, then those without one."""
        return (
            *(Promised(journey, slo) for journey in self.journeys for slo in journey.slos),
            *(Promised(None, slo) for slo in self.standalone),
        )

    def min_bad_events(self, slo: Slo) -> int:
        """Bad events below which an SLO's alert tiers stay silent."""
        return slo.alerts.min_bad_events or self.alerts.min_bad_events

    def min_events(self, slo: Slo) -> int:
        """Events, good and bad, below which an SLO's alert tiers stay silent."""
        own = slo.alerts.min_events
        return self.alerts.min_events if own is None else own


def load(path: Path) -> Config:
    """The configuration in a file. Whether it can work is for `check` to say.

    Raises:
        ConfigError: It cannot be read, or is not well formed: every problem, in file order.
    """
    return validate(document.read(path), file=str(path))


def validate(found: document.Document, *, file: str) -> Config:
    """The configuration that a document holds; `file` names it in errors.

    Raises:
        ConfigError: It is not well formed.
    """
    try:
        return Config.model_validate(found.data, context=_FROM_FILE)
    except ValidationError as error:
        raise ConfigError(file, wording.problems(error, Config, found)) from error


class _JsonSchema(GenerateJsonSchema):
    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        serialization: Any = schema["schema"].get("serialization", {})
        if "default" in found and "function" in serialization:
            # A default as one writes it, `10s`, not as it is kept.
            found["default"] = serialization["function"](schema["default"])
        return found


def json_schema() -> dict[str, Any]:
    """JSON Schema of the configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(schema_generator=_JsonSchema),
        "title": "Configuration of outcome-exporter",
    }

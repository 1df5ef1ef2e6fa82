"""The configuration file: its shape, its defaults, and what it refuses.

One YAML file. Unknown keys are errors. Durations are written as in Prometheus and are nanoseconds
once read; sizes are written `64MiB` and are bytes once read.
"""

from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from outcome_exporter import burn
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


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    int,
    Field(strict=True, ge=0),
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["500ms", "10s", "5m", "28d"]}),
]
"""Nanoseconds, written like ``10s``."""

_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "B": 1}


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    for unit, factor in _SIZES.items():
        number = value.removesuffix(unit).strip()
        if number != value and number.isdecimal():
            return int(number) * factor
    raise ValueError(f"{value!r} is no size; write it like 512KiB, 64MiB or 2GiB")


Size = Annotated[
    int,
    Field(strict=True, ge=1),
    BeforeValidator(_size),
    WithJsonSchema({"type": "string", "examples": ["64MiB", "2GiB"]}),
]
"""Bytes, written like ``64MiB``."""

Name = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,62}$")]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Address = Annotated[str, Field(pattern=r"^.+:\d{1,5}$", examples=["0.0.0.0:4317"])]


class Model(BaseModel):
    """Unknown keys are errors, and nothing changes after it has been read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Otlp(Model):
    grpc: Address = "0.0.0.0:4317"
    http: Address = "0.0.0.0:4318"
    max_request: Size = 64 << 20
    """Largest request, as sent and after decompression."""


class Receivers(Model):
    otlp: Otlp = Otlp()


class Metrics(Model):
    listen: Address = "0.0.0.0:9464"


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
    pending_spans: int = Field(default=5_000_000, ge=1_000)
    """Spans of traces that are not settled; above it senders are asked to wait."""
    pending_attempts: int = Field(default=2_000_000, ge=1_000)
    """Attempts and events that wait for each other."""
    remembered: int = Field(default=2_000_000, ge=1_000)
    """Settled attempts, traces and events that are remembered to tell duplicates."""
    operations: int = Field(default=10_000, ge=10)
    """Distinct services and span names; more become `other`."""
    label_values: int = Field(default=20, ge=1, le=1_000)
    """Distinct values of each label of a journey; more become `other`."""


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

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.span is None) == (self.event is None):
            raise ValueError("an attempt begins with a span or an event; give exactly one of them")
        return self


class JoinKey(Model):
    """What an attempt and an event share."""

    attribute: Text
    """Attribute of the attempt's span, or path into the event that began the attempt."""
    event: Text
    """Path into the event that decides, e.g. ``data.order_id``."""


class Outcome(Model):
    event: Text
    """Type of the business event that means success."""
    within: Duration = 5 * MINUTE


class Value(Model):
    """Where the money stands; in neither place: the journey's recent mean."""

    event: Text | None = None
    attribute: Text | None = None
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


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
        if not self.model_fields_set:
            raise ValueError("nothing makes an attempt bad; give achieved, error, duration_below …")
        return self


def _percent(value: object) -> object:
    # YAML reads 99.9 as a binary float; its shortest text is what the author wrote.
    return Decimal(str(value)) if isinstance(value, (int, float, str)) else value


class Slo(Model):
    name: Name
    objective: Annotated[
        Decimal,
        BeforeValidator(_percent),
        Field(gt=0, le=Decimal("99.9999")),
        WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 99.9999}),
    ]
    """Percent of attempts that must be good."""
    window: Duration = 28 * DAY
    good: Good
    title: Text | None = None
    owner: Text | None = None
    runbook: Text | None = None

    @property
    def objective_ratio(self) -> float:
        return float(Fraction(self.objective) / 100)

    @property
    def budget_ratio(self) -> float:
        """Share of events that may be bad, without the noise of `1 - 0.999`."""
        return float(1 - Fraction(self.objective) / 100)

    @property
    def windows(self) -> tuple[int, ...]:
        """Every window the SLO shows, in nanoseconds, ascending."""
        tiers = (w for tier in burn.TIERS for w in (tier.long_window, tier.short_window))
        return tuple(sorted({*burn.WINDOWS, self.window, *tiers}))


class Journey(Model):
    name: Name
    title: Text | None = None
    owner: Text = "unowned"
    runbook: str = ""
    attempt: Attempt
    join: Annotated[
        tuple[Literal["trace_id"] | JoinKey, ...], Field(min_length=1, max_length=JOIN_KEYS_MAX)
    ] = ("trace_id",)
    outcome: Outcome | None = None
    slow_above: Duration | None = None
    value: Value | None = None
    user: User | None = None
    labels: dict[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")], Text] = {}
    """Label of `outcome_attempts_total` → attribute it shows."""
    slos: tuple[Slo, ...] = ()


class Config(Model):
    """A whole configuration file."""

    receivers: Receivers = Receivers()
    metrics: Metrics = Metrics()
    storage: Storage = Storage()
    traces: Traces = Traces()
    time: Time = Time()
    exposition: Exposition = Exposition()
    limits: Limits = Limits()
    journeys: tuple[Journey, ...] = ()

    @property
    def slos(self) -> tuple[tuple[Journey, Slo], ...]:
        """Every SLO with its journey, in the order of the file."""
        return tuple((journey, slo) for journey in self.journeys for slo in journey.slos)


def json_schema() -> dict[str, Any]:
    """JSON Schema of the configuration file."""
    return Config.model_json_schema()

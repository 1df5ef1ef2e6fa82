"""SLOs: how many events must be good, over which window, when to alert, and which events.

Those of an SLO without a journey come from metrics, from a Prometheus or from other SLOs; a
journey's SLO judges attempts, see `journeys`.
"""

from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Generic, Literal, Self, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from outcome_exporter import burn, wording
from outcome_exporter.config.scalars import Bound, Duration, Model, Moment, Name, Text, Url
from outcome_exporter.units import DAY, HOUR, MINUTE, format_duration

OBJECTIVE_MAX = Decimal("99.9999")

Part = TypeVar("Part")


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

    @property
    def slices(self) -> str:
        """Slices of time, as people call them: `minutes`, `slices of 5m`."""
        usual = {MINUTE: "minutes", HOUR: "hours"}
        return usual.get(self.slice) or f"slices of {format_duration(self.slice)}"


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
        period = getattr(named, "period", named)
        # A list or a mapping there is named where it stands, later.
        days = _PERIOD_DAYS.get(period) if isinstance(period, str) else None
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


class MetricPart(Model):
    """Which of a metric's events are meant: everything that is given must hold."""

    name: Text | None = None
    """Another metric that counts them, such as `http_errors`."""
    attributes: dict[Text, Text] = Field(default={})
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


class Parted(Model, Generic[Part]):
    """An SLI that says which of its events are good, or which are bad: the others are not."""

    # Declared by each SLI, among its other fields: an SLO is known by its text, in their order.
    if TYPE_CHECKING:
        good: Part | None
        bad: Part | None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.good is None) == (self.bad is None):
            raise ValueError("needs good or bad, one of them")
        return self

    @property
    def verdict(self) -> Literal["good", "bad"]:
        """Of the events that it names."""
        return "good" if self.good is not None else "bad"

    @property
    def part(self) -> Part:
        """The events that it names."""
        part = self.good if self.good is not None else self.bad
        assert part is not None
        return part


class MetricSli(Parted[MetricPart]):
    """Events that an OTLP metric counts: a sum, or a histogram; or the time a gauge spends.

    The point's attributes are looked at before those of its resource.
    """

    name: Text = Field(examples=["http.server.request.duration"])
    """Of the metric, exactly."""
    service: Text = "*"
    """Glob on `service.name`."""
    attributes: dict[Text, Text] = Field(default={})
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


class PrometheusSli(Parted[Text]):
    """Events that a Prometheus has counted: good or bad ones, and all of them.

    A selector of counters is read sample by sample, exactly. Anything else is an expression that
    gives the events of a minute, which Prometheus computes as well as it can.
    """

    good: Text | None = None
    bad: Text | None = Field(default=None, examples=['http_requests_total{job="shop",code=~"5.."}'])
    total: Text = Field(examples=['http_requests_total{job="shop"}'])


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

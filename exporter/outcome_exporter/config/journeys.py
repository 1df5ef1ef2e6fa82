"""Journeys: what begins an attempt, which event ends it, what it is worth, and what is promised."""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Discriminator, Field, Tag, model_validator

from outcome_exporter.config.scalars import (
    LABEL_PATTERN,
    Currency,
    Duration,
    Label,
    Model,
    Name,
    Text,
    Url,
)
from outcome_exporter.config.slos import Slo, StandaloneSlo
from outcome_exporter.units import MINUTE

JOIN_KEYS_MAX = 4
"""Join keys that a journey may have: attempts carry them in arrays of this width."""

UNOWNED = "unowned"


class SpanSelector(Model):
    """Which spans begin an attempt. Texts are globs: `*` is any run, `?` any one character."""

    service: Text = "*"
    name: Text = "*"
    kind: Literal["internal", "server", "client", "producer", "consumer"] | None = None
    attributes: dict[Text, Text] = Field(default={})


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


class JourneySlo(Slo):
    """An SLO whose events are a journey's attempts."""

    good: Good = Field(examples=[{"achieved": True, "error": False}])


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
        default={}, json_schema_extra={"propertyNames": {"pattern": f"^{LABEL_PATTERN}$"}}
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
    def events(self) -> str:
        """What it judges."""
        if isinstance(self.slo, StandaloneSlo) and self.slo.sli.composite:
            return "events of its parts (weighted)"
        return "attempts" if self.journey else "events"

    @property
    def unit(self) -> str:
        """What its budget counts: events, or slices of time."""
        budgeting = self.slo.budgeting
        if budgeting.method == "occurrences":
            return self.events
        each = " (each by its bad share)" if budgeting.method == "ratio_timeslices" else ""
        return budgeting.slices + each

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.slo.owner or (self.journey.owner if self.journey else UNOWNED)

    @property
    def runbook(self) -> str:
        """Where to read on; empty where nobody said."""
        return self.slo.runbook or (self.journey.runbook if self.journey else "")

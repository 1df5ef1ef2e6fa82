"""The configuration file: its shape, its defaults, and what it refuses.

One YAML file. Unknown keys are errors. Each module has the sections that one question asks for:

    scalars    how single values are written
    process    how the process runs: listeners, storage, times, limits
    slos       what is promised
    journeys   what users try to get done

What is told about all of them, alerts and causes, stands here, with the file as a whole.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from outcome_exporter import document, wording
from outcome_exporter.config.journeys import Journey, Promised
from outcome_exporter.config.process import (
    Exposition,
    Limits,
    Metrics,
    Prometheus,
    Receivers,
    SelfTracing,
    Storage,
    Time,
    Traces,
)
from outcome_exporter.config.scalars import (
    CURRENCY_PATTERN,
    FROM_FILE,
    Currency,
    Duration,
    Model,
    Text,
    TraceUrl,
    Url,
)
from outcome_exporter.config.slos import Correction, Slo, StandaloneSlo
from outcome_exporter.errors import ConfigError
from outcome_exporter.units import MINUTE


class Severities(Model):
    """What Alertmanager's label `severity` says."""

    page: Text = "page"
    """Wakes somebody now."""
    ticket: Text = "ticket"
    """Is for working hours."""


class Alerts(Model):
    """What `generate rules` writes, and the thresholds that the rules read as series."""

    min_bad_events: int = Field(default=3, strict=True, ge=1)
    """Bad events in a tier's long window below which it stays silent, and in an SLO's own one below
    which no alert says that its budget is spent."""
    min_events: int = Field(default=0, strict=True, ge=0)
    """Events, good and bad, likewise. 0: however few there are, `min_bad_events` of them that
    are bad tell."""
    value_at_risk: dict[Currency, Annotated[int, Field(strict=True, ge=1)]] = Field(
        default={},
        examples=[{"USD": 10_000}],
        json_schema_extra={"propertyNames": {"pattern": f"^{CURRENCY_PATTERN}$"}},
    )
    """Money of bad outcomes in an hour above which a journey pages; none: never."""
    keep_firing_for: Duration = 5 * MINUTE
    """How long an alert stays after its condition has ended, so that it does not flap."""
    severities: Severities = Severities()
    owner: Text = "observability"
    """Who runs the exporter, and is told about what concerns it alone."""
    dashboard: Url = Field(
        default="",
        examples=["https://grafana.example.com/d/outcome-journey"],
    )
    """Dashboard that alerts link, with the time range and the variables `slo` and `journey`: the
    Journey dashboard of `generate dashboards` takes them."""


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
        return Config.model_validate(found.data, context=FROM_FILE)
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

"""The process itself: where it listens and who may connect, what it keeps, how long, how much.

Nothing here says what is measured: a configuration of an exporter that runs well for one team's
journeys does for another's.
"""

from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from outcome_exporter.config.scalars import Address, Duration, Model, Origin, Size, Text, Url
from outcome_exporter.units import HOUR, MINUTE, SECOND


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
    checkpoint: Duration = 30 * SECOND
    """Time between checkpoints. Each writes down what waits in memory, and a start reads again what
    came since: 30 s of 10,000 spans a second in about a second."""
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
    pending_spans: int = Field(default=5_000_000, strict=True, ge=1_000, le=1_000_000_000)
    """Spans of traces that are not settled; above it senders are asked to wait."""
    pending_attempts: int = Field(default=2_000_000, strict=True, ge=1_000, le=1_000_000_000)
    """Attempts and events that wait for each other."""
    remembered: int = Field(default=2_000_000, strict=True, ge=1_000, le=1_000_000_000)
    """Settled attempts, traces and events that are remembered to tell duplicates."""
    operations: int = Field(default=10_000, strict=True, ge=10, le=1_000_000)
    """Distinct services and span names; more become `other`."""
    label_values: int = Field(default=20, strict=True, ge=1, le=1_000)
    """Distinct values of each label of a journey; more become `other`."""
    metric_streams: int = Field(default=100_000, strict=True, ge=100, le=10_000_000)
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

"""What the stages hand to each other: records, columns, events, samples. Plain data, no behaviour.

Times are nanoseconds since 1970 in int64. Money and weights are integers in millionths. Ids and
join keys are 128 bits as two uint64 (`hi`, `lo`), in network order: `hi` holds the first 8 bytes.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from outcome_exporter.series import Family

Bytes = npt.NDArray[np.uint8]
Table = npt.NDArray[np.void]
"""A structured array: one row a record."""
Row = Any
"""One row of a table, in compiled code."""


class Kind(IntEnum):
    """What a record of the log holds. The numbers are stored; never reuse one."""

    START = 0
    """The exporter started, under what `Pipeline.terms` says. Before it there may be a gap."""
    TRACES = 1
    """ExportTraceServiceRequest, protobuf."""
    LOGS = 2
    """ExportLogsServiceRequest, protobuf."""
    CLOUDEVENTS = 3
    """A JSON array of CloudEvents in structured mode."""
    METRICS = 4
    """ExportMetricsServiceRequest, protobuf."""
    POLLED = 5
    """What was read from a Prometheus: `Polled` as JSON."""
    CLOCK = 9
    """Nothing came, and something was due: empty. Replays settle it at the same moment. Or the
    configuration changed: what `Pipeline.terms` says of the one that runs now."""


OWN_KINDS = frozenset({Kind.START, Kind.CLOCK})
"""What the exporter writes itself; all else came from senders."""


class Encoding(IntEnum):
    """How a payload is compressed. The numbers are stored; never reuse one."""

    NONE = 0
    GZIP = 1
    ZSTD = 2
    DEFLATE = 3
    """zlib's format, as HTTP means it."""


class Record(NamedTuple):
    """One accepted request, as the log keeps it."""

    offset: int
    """Dense, from 0."""
    arrival_unix_nano: int
    """Strictly later than that of the record before."""
    kind: Kind
    encoding: Encoding
    payload: bytes
    """As it came."""
    decoded: "Batch | None" = None
    """What the receiver decoded from it already; None when read back from disk."""


# Columns of a trace request

SPAN = np.dtype(
    [
        ("trace_hi", np.uint64),
        ("trace_lo", np.uint64),
        ("span_id", np.uint64),
        ("parent_id", np.uint64),  # 0: none
        ("start", np.int64),
        ("end", np.int64),
        ("name_at", np.uint32),  # text is a place and a length in the payload
        ("name_len", np.uint32),
        ("tracestate_at", np.uint32),
        ("tracestate_len", np.uint32),
        ("resource", np.uint32),  # row of `SpanBatch.resources`
        ("attributes_at", np.uint32),  # rows of `SpanBatch.attributes`
        ("attributes_len", np.uint32),
        ("kind", np.uint8),  # 0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer
        ("status", np.uint8),  # 0 unset, 1 ok, 2 error
    ],
    align=True,
)

RESOURCE = np.dtype([("attributes_at", np.uint32), ("attributes_len", np.uint32)])

ATTRIBUTE = np.dtype(
    [
        ("number", np.int64),  # bool and int as they are, a double's bits
        ("at", np.uint32),  # of a string or bytes: place and length in the payload
        ("len", np.uint32),
        ("key", np.uint16),  # index into the wanted keys
        ("type", np.uint8),  # AttributeType
    ],
    align=True,
)


FLAG = np.dtype(
    [
        ("time", np.int64),  # of the last such evaluation
        ("hash", np.uint64),  # of what is said, by which equal evaluations are told
        ("resource", np.uint32),  # row of `SpanBatch.resources`
        ("attributes_at", np.uint32),  # rows of `SpanBatch.flag_attributes`
        ("attributes_len", np.uint32),
    ],
    align=True,
)
"""An evaluation of a feature flag that spans of a resource tell as an event."""
FLAG_EVENT = "feature_flag.evaluation"
"""Type of the event that an evaluation is."""
FLAG_NAMES = (
    "feature_flag.key",
    "feature_flag.result.variant",
    "feature_flag.result.value",
    "feature_flag.variant",
)
"""Attributes of an evaluation; `ATTRIBUTE.key` of its rows counts these. The last one is how the
conventions before 1.32 of OpenTelemetry call a variant, and how most SDKs still do."""


class AttributeType(IntEnum):
    """Types of values that are read; arrays and maps are not, and count as absent."""

    STRING = 1
    BOOL = 2
    INT = 3
    DOUBLE = 4
    BYTES = 5


class SpanBatch(NamedTuple):
    """The spans of one request as columns. Texts point into `payload`."""

    payload: Bytes
    """The request, decompressed."""
    spans: Table
    """SPAN, in the order of the request; spans with an invalid id are left out."""
    resources: Table
    """RESOURCE."""
    attributes: Table
    """ATTRIBUTE: those of wanted keys, grouped by their span or resource."""
    rejected: int
    """Spans left out because a trace id or span id was zero or of the wrong length."""
    flags: Table = np.empty(0, FLAG)
    """FLAG, each once however often it was evaluated; a few dozen at most."""
    flag_attributes: Table = np.empty(0, ATTRIBUTE)
    wanted: object = None
    """The keys that ATTRIBUTE.key counts, so that whoever wants others decodes again."""


# An assembled trace

SETTLED_SPAN = np.dtype(
    [
        ("span_id", np.uint64),
        ("start", np.int64),
        ("end", np.int64),  # at least `start`
        ("parent", np.int32),  # row in the same trace; -1 where it has none or it never came
        ("service", np.uint32),  # text codes: service.name, the span's name, service.version,
        ("operation", np.uint32),
        ("version", np.uint32),
        ("peer", np.uint32),  # whom a client span calls, by its own attributes; 0: not said
        ("traits", np.uint32),  # set of attribute values by which attempts are compared
        ("kind", np.uint8),
        ("status", np.uint8),  # error also where the HTTP status code is 5xx
    ],
    align=True,
)
"""The spans of one trace as blame reads them, by start time; duplicates are gone."""

# Business events


class BusinessEvent(NamedTuple):
    """A fact of the business."""

    source: str
    id: str
    type: str
    time_unix_nano: int | None
    """When it happened; None where the sender did not say: then its arrival."""
    trace_id: bytes | None
    """16 bytes."""
    fields: Mapping[str, Any]
    """Where paths such as ``data.order_id`` lead; for an OTLP log record `data` holds its
    attributes and the entries of its body."""


class EventBatch(NamedTuple):
    """The events of one request."""

    events: Sequence[BusinessEvent]
    rejected: int
    """Records that are no event: no type, or no name."""


# Points of metrics


class Point(NamedTuple):
    """One data point of a metric that an SLO reads, or that tells of a resource."""

    name: str
    """Of the metric."""
    service: str
    identity: tuple[int, int]
    """128 bits: hash of all that makes its stream another one: resource, scope, name, attributes
    and temporality."""
    attributes: Mapping[str, str]
    """Of the point, and of its resource where the point has none of that name."""
    unit: str
    cumulative: bool
    """Counts since the stream began; otherwise since the point before. A gauge is neither."""
    start_time_unix_nano: int
    """When the stream, or the point's interval, began; 0: not said."""
    time_unix_nano: int
    value: "float | Histogram | None"
    """A gauge's value, a counter's count, or a distribution with its bounds in the metric's unit;
    None where the stream ends."""
    is_gauge: bool
    scale: int | None = None
    """Of an exponential histogram: its buckets could end at each 2^(i / 2^scale)."""
    replica: int = 0
    """64 bits: hash of the resource, by which processes of a service are told apart."""


class MetricBatch(NamedTuple):
    """The points of one request that somebody reads."""

    points: Sequence[Point]
    rejected: int
    """Points of theirs that cannot be counted: summaries, and what is no number."""
    wanted: object = None
    """The names that were looked for, so that whoever looks for others decodes again."""


Batch = SpanBatch | EventBatch | MetricBatch
"""One request, decoded."""


class Polled(NamedTuple):
    """What an SLO counted in a stretch of minutes, as a source said."""

    slo: str
    sli: int
    """Hash of what it reads."""
    first: int
    """Minute since 1970."""
    end: int
    """The minute after the last."""
    counts: tuple[tuple[int, int, int], ...]
    """Minute, good, bad; millionths of events."""
    births: int
    """Series that began too high to be new, and whose first sample was not counted."""


# From stage to stage

JOIN_KEYS_MAX = 4
"""Join keys of a journey."""
LABELS_MAX = 6
"""Labels of a journey."""
SLOS_MAX = 60
"""SLOs of a journey: a bit each while an attempt waits."""
SUPPORT_MIN = 5
"""Bad outcomes that whatever is named must explain."""
REASONS = ("ok", "error", "missed", "recovered", "slow")
OK, ERROR, MISSED, RECOVERED, SLOW = range(5)
"""Why an attempt ended as it did; only `ok` is good."""
NO_VALUE = np.iinfo(np.int64).min
"""In place of a value that nobody said."""

ATTEMPT = np.dtype(
    [
        ("keys", np.uint64, (JOIN_KEYS_MAX, 2)),  # (hi, lo); 0, 0: none
        ("trace_hi", np.uint64),
        ("trace_lo", np.uint64),
        ("identity", np.uint64),  # hash by which a duplicate is told
        ("user", np.uint64),  # hash; 0: none
        ("start", np.int64),
        ("end", np.int64),
        ("value", np.int64),  # millionths, or NO_VALUE
        ("weight", np.int64),  # attempts that it stands for, in millionths
        ("labels", np.uint64),  # 10 bits a label
        ("present", np.uint64),  # steps that its trace has, a bit each
        ("origin", np.int32),  # step at which it began to fail; -1: nowhere
        ("slowest", np.int32),  # step that made it slow; -1: none
        # Bookkeeping of the stage that holds it:
        ("sequence", np.uint64),  # order in which attempts became known
        ("pending", np.uint64),  # SLOs without a verdict, a bit each
        ("known", np.uint32),  # second at which it became known
        ("traits", np.uint32),  # where the stage that compares attempts keeps its own; 0: nowhere
        ("next", np.int32),  # next row of a list
        ("journey", np.uint16),
        ("error", np.uint8),  # reason by itself: OK, ERROR, or SLOW once the join knows it
        ("alive", np.uint8),
    ],
    align=True,
)
"""One try at a journey, as it was when it ended."""

CLAIM = np.dtype(
    [
        ("keys", np.uint64, (JOIN_KEYS_MAX, 2)),
        ("identity", np.uint64),  # of the event; claims of one event share it
        ("user", np.uint64),
        ("time", np.int64),
        ("value", np.int64),
        # Bookkeeping of the stage that holds it:
        ("sequence", np.uint64),
        ("sibling", np.int32),  # ring of the claims of one event
        ("journey", np.uint16),
        ("type", np.uint16),  # index into the plan's event types
        ("achieved", np.uint8),  # its value was counted
        ("used", np.uint8),  # it, or a sibling, found an attempt
        ("alive", np.uint8),
    ],
    align=True,
)
"""What one business event means to one journey: its attempts with such a key achieved it."""

VERDICT = np.dtype(
    [
        ("time", np.int64),  # outcome time
        ("weight", np.int64),
        ("value", np.int64),  # of a bad outcome; 0 otherwise
        ("trace_hi", np.uint64),
        ("trace_lo", np.uint64),
        ("slo", np.uint32),
        ("bad", np.uint8),
    ],
    align=True,
)
"""One SLO's judgement of one attempt."""

BUCKET = np.dtype(
    [
        ("slo", np.uint32),
        ("minute", np.int64),  # minutes since 1970, of outcome time
        ("good", np.int64),  # millionths of an event
        ("bad", np.int64),
        ("value", np.int64),  # millionths of the currency, of bad events
    ],
    align=True,
)
"""What one SLO counted in one minute."""

# Series


class Exemplar(NamedTuple):
    """A trace that a counter stands for."""

    trace_id: str
    """32 hex digits."""
    value: float
    time_unix_nano: int


class Histogram(NamedTuple):
    """A distribution."""

    bounds: tuple[float, ...]
    """Upper bounds, ascending, without +Inf."""
    counts: tuple[float, ...]
    """Per bucket, not cumulative; one more than the bounds."""
    sum: float


class Sample(NamedTuple):
    """One series of a family."""

    labels: tuple[str, ...]
    """Values, in the order of the family's labels, then of `extra`."""
    value: float | Histogram
    exemplar: Exemplar | None = None
    extra: tuple[str, ...] = ()
    """Names of labels that the family does not have: a journey's own."""


Snapshot = Mapping[Family, Sequence[Sample]]
"""Every series at one moment."""


class Accepted(NamedTuple):
    """What became of a request that is durable now."""

    rejected: int = 0
    """Items left out."""
    why: str = ""
    """Why, for the sender."""


class Intake(Protocol):
    """Where receivers deliver to."""

    def submit(self, kind: Kind, encoding: Encoding, payload: bytes) -> Accepted:
        """Returns once the payload is durable. Called from many threads.

        Raises:
            DecodeError: It is not what it says it is.
            TooLarge: It is above the limit, also after decompression.
            Overloaded: There is no room now; the sender is to try again.
        """

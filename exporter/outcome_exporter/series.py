"""Every series the exporter shows: its name, type, labels and help, in one place.

Names follow Prometheus' conventions: base units last, `_total` on counters, `_ratio` for shares
of one. A counter's name stands here with its `_total`.
"""

from dataclasses import dataclass
from typing import Literal

Type = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """The series that share a name."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    """Names of the labels, in the order of a sample's values."""


CAUSE = ("cause_service", "cause_operation", "cause_version", "cause_kind")

# What users got
ATTEMPTS = Family(
    "outcome_attempts_total",
    "counter",
    "Attempts at a journey by their final verdict. The journey's own labels follow.",
    ("journey", "outcome", "reason"),
)
ATTEMPT_DURATION = Family(
    "outcome_attempt_duration_seconds",
    "histogram",
    "Duration of attempts, whatever their outcome.",
    ("journey",),
)
VALUE = Family(
    "outcome_value_total",
    "counter",
    "Money by what became of it: achieved; at_risk (bad outcomes); lost (bad and never achieved).",
    ("journey", "currency", "state"),
)
USERS = Family(
    "outcome_users",
    "gauge",
    "Distinct users, estimated with HyperLogLog (standard error 1.6 %).",
    ("journey", "outcome", "window"),
)
BLAME = Family(
    "outcome_blame_total",
    "counter",
    "Bad outcomes by what is held responsible.",
    ("journey", *CAUSE),
)
BLAME_VALUE = Family(
    "outcome_blame_value_total",
    "counter",
    "Money of bad outcomes by what is held responsible.",
    ("journey", "currency", *CAUSE),
)
SUSPECT_SCORE = Family(
    "outcome_suspect_score",
    "gauge",
    "How much more often bad attempts have this attribute value than good ones, -1 to 1.",
    ("journey", "dimension", "value"),
)
CAUSE_SHARE = Family(
    "outcome_cause_share",
    "gauge",
    "Share of a journey's bad outcomes in the window that a cause explains, of 1m and 5m beyond "
    "the usual; top causes only.",
    ("journey", "window", *CAUSE),
)
CAUSE_SINCE = Family(
    "outcome_cause_since_seconds",
    "gauge",
    "How long a cause has been hurting the journey, by event time.",
    ("journey", *CAUSE),
)
CAUSE_RESOURCE_RATIO = Family(
    "outcome_cause_resource_ratio",
    "gauge",
    "Share of its limit that a resource of a service that is a cause has in use, now and usually; "
    "only while it is near its limit and far above the usual.",
    ("cause_service", "resource", "state"),
)
CAUSE_RESOURCE_AMOUNT = Family(
    "outcome_cause_resource_amount",
    "gauge",
    "Amount of a resource without a limit (a queue, requests in flight) of a service that is a "
    "cause, now and usually; only while it is far above the usual.",
    ("cause_service", "resource", "state"),
)
CHANGE_INFO = Family(
    "outcome_change_info",
    "gauge",
    "A change that may be to blame, as a Unix time: a new version, a deployment, a flag.",
    ("service", "kind", "version", "previous_version"),
)
JOURNEY_INFO = Family(
    "outcome_journey_info",
    "gauge",
    "What a journey is about; always 1.",
    ("journey", "owner", "title", "runbook_url"),
)
PENDING_ATTEMPTS = Family(
    "outcome_pending_attempts",
    "gauge",
    "Attempts whose verdict is not final yet.",
    ("journey",),
)
EVENTS_UNMATCHED = Family(
    "outcome_events_unmatched_total",
    "counter",
    "Business events that waited for an attempt in vain.",
    ("type",),
)

# What was promised
SLO_INFO = Family(
    "slo_info",
    "gauge",
    "What an SLO is about, and what its budget counts (unit); always 1.",
    ("slo", "journey", "owner", "title", "runbook_url", "window", "unit"),
)
SLO_OBJECTIVE = Family(
    "slo_objective_ratio", "gauge", "Share of events that must be good.", ("slo",)
)
SLO_EVENTS = Family("slo_events_total", "counter", "Events an SLO judged.", ("slo", "result"))
SLO_WINDOW_EVENTS = Family(
    "slo_window_events",
    "gauge",
    "Events an SLO judged in the window, by event time, exactly.",
    ("slo", "window", "result"),
)
SLO_SLI = Family(
    "slo_sli_ratio",
    "gauge",
    "Share of good events in the window; 1 where it holds none.",
    ("slo", "window"),
)
SLO_BURN_RATE = Family(
    "slo_burn_rate",
    "gauge",
    "How many times faster than allowed the error budget is spent; 0 where the window is empty.",
    ("slo", "window"),
)
SLO_BUDGET_REMAINING = Family(
    "slo_error_budget_remaining_ratio",
    "gauge",
    "Error budget left in the SLO's window: 1 untouched, 0 spent, below 0 overspent.",
    ("slo",),
)
SLO_BUDGET_EXHAUSTION = Family(
    "slo_error_budget_exhaustion_seconds",
    "gauge",
    "Time until the budget is gone at the burn rate of the last 6 hours, at most the SLO's window.",
    ("slo",),
)
SLO_ALERT_THRESHOLD = Family(
    "slo_alert_burn_rate_threshold",
    "gauge",
    "Burn rate above which both windows must be for an alert of this severity.",
    ("slo", "severity", "long_window", "short_window"),
)
SLO_ALERT_MIN_BAD = Family(
    "slo_alert_min_bad_events",
    "gauge",
    "Bad events below which an alert stays silent: in its long window, or the budget's own.",
    ("slo",),
)
SLO_ALERT_MIN = Family(
    "slo_alert_min_events",
    "gauge",
    "Events, good and bad, below which an alert stays silent, in the same window.",
    ("slo",),
)
VALUE_THRESHOLD = Family(
    "outcome_alert_value_threshold",
    "gauge",
    "Money of bad outcomes in an hour above which a journey pages; where one is configured.",
    ("journey", "currency"),
)
SLO_TRAFFIC_STATE = Family(
    "slo_traffic_state",
    "gauge",
    "1 for the state of its traffic: none for 5 minutes, or so low that one bad event would page.",
    ("slo", "state"),
)

SLO_INTERVAL = Family(
    "slo_sli_interval_ratio",
    "gauge",
    "Where the true SLI lies with 95 % (Wilson): wide while there are few events.",
    ("slo", "window", "bound"),
)
SLO_CORRECTED = Family(
    "slo_corrected_events",
    "gauge",
    "Events of the SLO's window that corrections take out of it.",
    ("slo", "result"),
)
SLO_UNCERTAIN = Family(
    "slo_uncertain_events_total",
    "counter",
    "Events in a histogram's bucket that holds the SLO's bound, which `between` judged.",
    ("slo",),
)

# Span metrics, named as the Collector's spanmetrics connector names them
SPAN_LABELS = ("service_name", "span_name", "span_kind", "status_code")
SPAN_CALLS = Family("traces_span_metrics_calls_total", "counter", "Spans received.", SPAN_LABELS)
SPAN_DURATION = Family(
    "traces_span_metrics_duration_seconds", "histogram", "Duration of spans.", SPAN_LABELS
)

# The exporter itself
BUILD_INFO = Family(
    "outcome_exporter_build_info", "gauge", "Version that runs; always 1.", ("version",)
)
READY = Family(
    "outcome_exporter_ready",
    "gauge",
    "1 while requests are accepted and the log has been replayed.",
)
REQUESTS = Family(
    "outcome_exporter_requests_total",
    "counter",
    "Requests to the receivers by what became of them.",
    ("receiver", "signal", "result"),
)
RECEIVED_BYTES = Family(
    "outcome_exporter_received_bytes_total",
    "counter",
    "Bytes of accepted request bodies as sent.",
    ("receiver", "signal"),
)
RECEIVED_ITEMS = Family(
    "outcome_exporter_received_items_total",
    "counter",
    "Spans, business events and data points taken from the log.",
    ("signal",),
)
REJECTED_ITEMS = Family(
    "outcome_exporter_rejected_items_total",
    "counter",
    "Spans and events that were left out of an accepted request, by why.",
    ("signal", "why"),
)
DUPLICATES = Family(
    "outcome_exporter_duplicates_total",
    "counter",
    "Spans, attempts, events and data points that had been counted before.",
    ("what",),
)
LATE_SPANS = Family(
    "outcome_exporter_late_spans_total",
    "counter",
    "Spans that came after their trace was settled.",
)
SKEWED_TIMES = Family(
    "outcome_exporter_skewed_times_total",
    "counter",
    "Times that cannot be: too far ahead (taken as the arrival's) or too old (in no bucket).",
    ("what",),
)
OVERFLOW = Family(
    "outcome_exporter_overflow_total",
    "counter",
    "Label values that became `other`, and records dropped from a capped memory, by what.",
    ("what",),
)
POINTS_REFUSED = Family(
    "outcome_exporter_metric_points_refused_total",
    "counter",
    "Data points that an SLO reads and did not count, by why.",
    ("slo", "why"),
)
SOURCE_POLLS = Family(
    "outcome_exporter_source_polls_total",
    "counter",
    "Polls of sources by what became of them; one that failed is made up for later.",
    ("source", "result"),
)
SOURCE_TIME = Family(
    "outcome_exporter_source_timestamp_seconds",
    "gauge",
    "Up to when an SLO's source has been read; 0 where it has not been.",
    ("slo",),
)
LOG_SIZE = Family("outcome_exporter_log_size_bytes", "gauge", "Payload in the durable log.")
LOG_LAG = Family("outcome_exporter_log_lag_bytes", "gauge", "Payload not read yet.")
LOG_LAG_SECONDS = Family(
    "outcome_exporter_log_lag_seconds", "gauge", "Age of the oldest payload not read yet."
)
WATERMARK = Family(
    "outcome_exporter_watermark_timestamp_seconds",
    "gauge",
    "Arrival time up to which everything has been settled.",
)
PENDING_SPANS = Family("outcome_exporter_pending_spans", "gauge", "Spans of unsettled traces.")
PENDING_TRACES = Family("outcome_exporter_pending_traces", "gauge", "Traces not settled yet.")
SETTLE_LATENCY = Family(
    "outcome_exporter_settle_latency_seconds",
    "histogram",
    "From the end of an attempt to its verdict.",
)
CHECKPOINT_AGE = Family(
    "outcome_exporter_checkpoint_timestamp_seconds", "gauge", "Time of the last checkpoint."
)
CHECKPOINT_DURATION = Family(
    "outcome_exporter_checkpoint_duration_seconds", "gauge", "How long the last checkpoint took."
)
CHECKPOINT_FAILURES = Family(
    "outcome_exporter_checkpoint_failures_total", "counter", "Checkpoints that failed."
)
CONNECTIONS = Family(
    "outcome_exporter_connections", "gauge", "Open connections of an HTTP listener.", ("listener",)
)
CONNECTIONS_CUT = Family(
    "outcome_exporter_connections_cut_total",
    "counter",
    "Connections of an HTTP listener that were cut because of what they cost others, by why.",
    ("listener", "why"),
)
CREDENTIALS_OK = Family(
    "outcome_exporter_credentials_last_reload_successful",
    "gauge",
    "1 if a listener's certificates and tokens are in use as the files hold them.",
    ("listener",),
)
CLOCK_AHEAD = Family(
    "outcome_exporter_clock_ahead_seconds",
    "gauge",
    "By how much arrival times are ahead of the system's clock, after it leapt; negative: behind.",
)
CONFIG_RELOAD_OK = Family(
    "outcome_exporter_config_last_reload_successful",
    "gauge",
    "1 if the running configuration is the file's.",
)
PROCESS_CPU = Family(
    "process_cpu_seconds_total", "counter", "Processor time of the exporter, user and system."
)
PROCESS_MEMORY = Family(
    "process_resident_memory_bytes", "gauge", "Memory that the exporter's process holds."
)

ALL: tuple[Family, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Family)
)

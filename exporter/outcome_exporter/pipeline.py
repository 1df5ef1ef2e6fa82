"""The one place that knows all stages: records of the log in, series out.

    record ─▶ traces ─▶ blame ─▶ attempts ⋈ events ─▶ verdicts ─▶ windows
         │       └▶ span metrics         ├▶ users, blame   ▲
         └▶ changes                      └▶ suspects       │
    metrics, polls ▶───────────────────────────────────────┘
    metrics ─▶ resources ─▶ blame: who is saturated; evidence about whom it names

Time is the log's: a record first moves the clock to its arrival, and the clock moves in whole
seconds, at each of which the stages settle what is due. Moving it on without arrivals does the
same early. So what comes out is a function of the log and the configuration alone (G2).

Not thread-safe: the caller lets one thread in at a time.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from outcome_exporter.blame import Blame
from outcome_exporter.buffers import Buffers
from outcome_exporter.changes import Changes
from outcome_exporter.claims import Reader, identities
from outcome_exporter.config import Config
from outcome_exporter.errors import StateCorrupt
from outcome_exporter.events import decode_cloudevents, decode_logs
from outcome_exporter.flags import evaluations
from outcome_exporter.kernels.hashing import KNOWN_SEED, Seed
from outcome_exporter.kernels.otlp_values import wanted_keys
from outcome_exporter.kernels.wire import decode_spans
from outcome_exporter.metrics import Metrics
from outcome_exporter.model import (
    OK,
    OWN_KINDS,
    Batch,
    BusinessEvent,
    Bytes,
    EventBatch,
    Kind,
    MetricBatch,
    Polled,
    Record,
    SpanBatch,
    Table,
)
from outcome_exporter.outcomes import Outcomes, Settled
from outcome_exporter.plan import Arrays, Moved, Plan, part, text_hash
from outcome_exporter.points import decode_metrics
from outcome_exporter.polled import PolledSlis, decode_polled
from outcome_exporter.receive.compression import decompress
from outcome_exporter.resources import Resources
from outcome_exporter.slo import BucketStore, NoStore, Slos
from outcome_exporter.spanmetrics import SpanMetrics
from outcome_exporter.suspects import Suspects
from outcome_exporter.traces import Traces
from outcome_exporter.units import SECOND
from outcome_exporter.users import ANY, BAD, Users

STATE_VERSION = 4
"""Version of what `dump` gives; a change of any stage's rows makes a new one."""

_BUFFERS_BYTES = 64 << 20
"""Kept for the columns of requests."""
_ANY_SIZE = 1 << 40
"""What is in the log was accepted, whatever the limit is now."""


class Pipeline:
    """Every stage's state."""

    def __init__(
        self, config: Config, store: BucketStore | None = None, seed: Seed = KNOWN_SEED
    ) -> None:
        """Nothing was received.

        Args:
            config: A configuration that has been checked.
            store: Buckets of earlier checkpoints; without one everything stays in memory.
            seed: Where the keys of tables lie; nothing that comes out depends on it.
        """
        self.config = config
        self.plan = Plan(config, seed)
        self._wanted = wanted_keys(self.plan.wanted)
        self._buffers = Buffers(_BUFFERS_BYTES)
        self.traces = Traces(self.plan)
        self.spanmetrics = SpanMetrics(self.plan)
        self.blame = Blame(self.plan, self.traces.texts.code, self._saturated)
        self.suspects = Suspects(self.plan, self.traces.traits)
        self.changes = Changes(config)
        self.outcomes = Outcomes(self.plan)
        self.users = Users(self.plan)
        self.metrics = Metrics(self.plan)
        self.polled = PolledSlis(self.plan)
        self.resources = Resources(self.plan)
        self.slos = Slos(self.plan, store or NoStore())
        self._reader = Reader(self.plan, self.traces.pack_labels)
        self.second: int | None = None
        """The clock, in seconds since 1970; None before the first record."""
        self.remembered_from: int | None = None
        """Second from which on what `explain` tells is known: this process's, or its reload's."""
        self._birth = config.exposition.birth // SECOND
        """As the log said last; see `terms`."""
        self.shown_born = 0
        """Series born in this second or before are shown, however long `birth` is now."""
        self.next_offset = 0
        """Offset of the log up to which the state accounts for it."""
        self.received = {"traces": 0, "events": 0, "metrics": 0}
        self.skewed_events = 0

    @property
    def pending(self) -> dict[str, tuple[int, int]]:
        """What waits in memory, by name: how many, and the limit."""
        limits = self.config.limits
        return {
            "spans": (len(self.traces.spans), limits.pending_spans),
            "attempts": (len(self.outcomes.attempts), limits.pending_attempts),
            "events": (len(self.outcomes.claims), limits.pending_attempts),
        }

    # Input

    def decode(self, kind: Kind, payload: bytes | Bytes) -> Batch:
        """A decompressed payload as columns, events or points; thread-safe.

        Args:
            kind: What the payload is.
            payload: bytes; of traces also an array of them.

        Raises:
            DecodeError: It is not what it says it is.
        """
        match kind:
            case Kind.TRACES:
                return decode_spans(payload, self._wanted, self._buffers)._replace(
                    wanted=self._wanted
                )
            case Kind.LOGS:
                return decode_logs(bytes(payload))
            case Kind.CLOUDEVENTS:
                return decode_cloudevents(bytes(payload))
            case Kind.METRICS:
                return decode_metrics(bytes(payload), self.metrics.names, self.resources.wants)
            case _:
                raise AssertionError(kind)

    def ingest(self, record: Record) -> None:
        """Takes the next record of the log in."""
        assert record.offset >= self.next_offset, "a record was read twice"
        if record.kind in OWN_KINDS:
            self._heed(record)
        self.advance(record.arrival_unix_nano)
        match self._decoded(record):
            case SpanBatch() as spans:
                self.received["traces"] += spans.spans.size
                for event in evaluations(spans):
                    time = event.time_unix_nano or record.arrival_unix_nano
                    self.changes.take(event, min(time, record.arrival_unix_nano))
                self.traces.ingest(spans, record.arrival_unix_nano)
            case EventBatch() as events:
                self.received["events"] += len(events.events)
                self._take_events(events.events, record.arrival_unix_nano)
            case MetricBatch() as metrics:
                assert self.second is not None
                self.received["metrics"] += len(metrics.points)
                self.resources.take(metrics.points, record.arrival_unix_nano)
                self.slos.add(self.metrics.take(metrics, record.arrival_unix_nano, self.second))
            case Polled() as polled:
                self.slos.add(self.polled.take(polled))
        self.next_offset = record.offset + 1

    def _decoded(self, record: Record) -> Batch | Polled | None:
        if record.kind in OWN_KINDS:
            return None
        # What was decoded for another configuration has other attributes.
        match record.decoded:
            case SpanBatch(wanted=wanted) if wanted is self._wanted:
                return record.decoded
            case EventBatch():
                return record.decoded
            case MetricBatch(wanted=wanted) if wanted is self.metrics.names:
                return record.decoded
        payload = decompress(record.encoding, record.payload, _ANY_SIZE)
        if record.kind is Kind.POLLED:
            return decode_polled(payload)
        return self.decode(record.kind, payload)

    def _heed(self, record: Record) -> None:
        """Takes in what the exporter says of itself."""
        said = json.loads(record.payload) if record.payload else {}
        if self.second is not None:
            now = max(record.arrival_unix_nano // SECOND, self.second)
            self.shown_born = max(self.shown_born, now - self._birth)
            if record.kind is Kind.START:
                # It was away until now: senders get time to deliver what they kept.
                self.outcomes.grace_until = now + self.config.time.grace // SECOND
                self.traces.forgive(now + 1)
        self._birth = said.get("birth", self._birth)

    def _take_events(self, events: Sequence[BusinessEvent], arrival: int) -> None:
        assert self.second is not None
        if any(map(self.changes.listens, {event.type for event in events})):
            for event in events:
                if self.changes.listens(event.type):
                    self.changes.take(event, self._event_time(event, arrival))
        # What no journey listens to is not remembered either: it would push out what matters.
        wanted = [event for event in events if event.type in self.plan.event_types]
        if not wanted:
            return
        hashes = identities(wanted)
        fresh = self.outcomes.are_new(hashes, self.second)
        new = list(itertools.compress(wanted, fresh.tolist()))
        times = [self._event_time(event, arrival) for event in new]
        read = self._reader.read(new, times, hashes[fresh])
        if read.attempts.size:
            self._take_attempts(read.attempts)
        if read.claims.size:
            self._deliver(self.outcomes.add_claims(read.claims, self.second))

    def _event_time(self, event: BusinessEvent, arrival: int) -> int:
        time = event.time_unix_nano
        if time is None:
            return arrival
        if time > arrival + self.config.time.future:
            self.skewed_events += 1
            return arrival
        # A time that was never set is the year 1 to some languages; no verdict lies before 1970.
        return max(time, 0)

    # The clock

    def advance(self, now_unix_nano: int) -> None:
        """Moves the clock on, second by second where something is due; never back."""
        target = now_unix_nano // SECOND
        if self.second is None:
            self.second = self.remembered_from = target
            self.slos.begin(target // 60)
            self.metrics.begin(target)
            self.resources.advance(target)
        while self.second < target:
            self.second = self.next_due(target)
            self._tick()

    def next_due(self, until: int) -> int:
        """First second after now at which something may settle, else `until`, a later second."""
        assert self.second is not None
        due = self.traces.next_due(self.second, until)
        due = self.outcomes.next_due(self.second, due)
        return self.metrics.next_due(self.second, due)

    def is_due(self, now_unix_nano: int) -> bool:
        """Whether moving the clock to `now_unix_nano` may settle something."""
        until = now_unix_nano // SECOND + 1
        return self.second is not None and self.next_due(until) < until

    def _tick(self) -> None:
        assert self.second is not None
        self.slos.advance(self.second)
        self.resources.advance(self.second)
        self.blame.advance(self.second)
        self.suspects.advance(self.second)
        for settled in self.traces.settle(self.second):
            self.spanmetrics.add(settled.spans, self.second)
            self.blame.observe(settled.spans, settled.starts, settled.attempts, settled.places)
            self.suspects.observe(*settled, self.second)
            self._take_attempts(settled.attempts)
        self._deliver(self.outcomes.expire(self.second))
        self.slos.add(self.metrics.settle(self.second))

    def _saturated(self, services: Iterable[int], minute: int) -> list[int]:
        """Which of some services were saturated shortly before a minute; as text codes."""
        found = self.resources.saturated(minute)
        text = self.traces.texts.text
        return (
            [service for service in services if text_hash(text(service)) in found] if found else []
        )

    def _take_attempts(self, attempts: Table) -> None:
        assert self.second is not None
        self.users.add(ANY, attempts, self.second)
        self._deliver(self.outcomes.add_attempts(attempts, self.second))

    def _deliver(self, settled: Settled) -> None:
        assert self.second is not None
        self.slos.add(settled.verdicts)
        # Who is hurt long after the attempt is among all users at that time, too.
        for outcome in (ANY, BAD):
            self.users.add(outcome, settled.bad, self.second)
        self.users.add(ANY, settled.users, self.second)
        self.users.add(BAD, settled.users[settled.users["error"] != OK], self.second)
        self.blame.give(settled.bad, self.second)
        self.blame.recover(settled.recovered)
        self.suspects.give(settled.good, settled.bad)

    # What is shown

    def shows(self, born: int) -> bool:
        """Whether a series born at a second is shown with its value, and no more as 0."""
        if self.second is None or born <= self.shown_born:
            return True
        return self.second >= born + self._birth

    def terms(self) -> bytes:
        """What the log is to say of this configuration before it rules what is shown, as JSON.

        A series that fell back to 0 because `birth` was raised would be a counter that was reset
        (G5). So what one `birth` has shown stays shown under the next, for which each must be
        known from when on it held. A checkpoint does not tell: it may have been written before
        one that was shortened, ruled for a while, and was raised again after a crash.
        """
        return json.dumps({"birth": self.config.exposition.birth // SECOND}).encode()

    # Checkpoints

    def dump(self) -> tuple[dict[str, Any], Arrays]:
        """The whole state but the buckets, as (JSON, arrays). The arrays are views."""
        meta = {
            "version": STATE_VERSION,
            "names": self.plan.names(),
            "second": self.second,
            "birth": self._birth,
            "shown_born": self.shown_born,
            "received": self.received,
            "skewed_events": self.skewed_events,
        }
        stages = {
            "traces": self.traces.dump(),
            "spanmetrics": self.spanmetrics.dump(),
            "blame": self.blame.dump(),
            "suspects": self.suspects.dump(),
            "changes": self.changes.dump(),
            "outcomes": self.outcomes.dump(),
            "users": self.users.dump(),
            "metrics": self.metrics.dump(),
            "polled": self.polled.dump(),
            "resources": self.resources.dump(),
            "slos": self.slos.dump(),
        }
        arrays = {
            f"{stage}.{name}": array
            for stage, dumped in stages.items()
            for name, array in dumped.items()
        }
        return meta, arrays

    def restore(self, meta: dict[str, Any], arrays: Arrays, next_offset: int) -> None:
        """Takes over what `dump` gave, also under another configuration.

        Journeys and SLOs that stay, by name, keep their history.

        Raises:
            StateCorrupt: It was written by another version.
        """
        if meta["version"] != STATE_VERSION:
            raise StateCorrupt(
                f"the state has version {meta['version']}, this program reads {STATE_VERSION}; "
                "run the version that wrote it, or start with an empty storage folder"
            )
        moved = Moved.between(meta["names"], self.plan.names())
        # What was judged before lies behind the checkpoint, and is read no more.
        self.second = self.remembered_from = meta["second"]
        # A state of before does not say.
        self._birth = meta.get("birth", self._birth)
        self.shown_born = meta.get("shown_born", self.shown_born)
        self.received.update(meta["received"])
        self.skewed_events = meta["skewed_events"]
        self.next_offset = next_offset
        self.traces.restore(part(arrays, "traces"), moved, self.second or 0)
        self.spanmetrics.restore(part(arrays, "spanmetrics"))
        self.blame = Blame(self.plan, self.traces.texts.code, self._saturated)
        self.blame.restore(part(arrays, "blame"), moved, self.second or 0)
        self.changes.restore(part(arrays, "changes"))
        self.suspects.restore(part(arrays, "suspects"), moved)
        self.outcomes.restore(part(arrays, "outcomes"), moved, meta["names"]["event_types"])
        self.users.restore(part(arrays, "users"), moved)
        self.metrics.restore(part(arrays, "metrics"), moved)
        self.polled.restore(part(arrays, "polled"), moved)
        self.resources.restore(part(arrays, "resources"))
        if self.second is not None:
            self.metrics.begin(self.second)
        self.slos.restore(part(arrays, "slos"), moved)
        for slo in moved.now_polled.tolist():
            first = self.slos.first_minute(slo)
            if first is not None:
                self.polled.skip(slo, first, self.slos.minute + 1)

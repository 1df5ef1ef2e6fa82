"""Assembly: spans grouped into traces, and the attempts found in them.

State: rows of pending spans, traces and candidates; texts as codes; traces settled lately.
Input: a request's spans with their arrival. Output, once a trace is quiet or old: its spans in
order, and its attempts.

A trace settles when its root has come and nothing more came for `quiet`, or at `max_age`. What
arrives later begins the trace anew and is counted as late; its attempts count all the same.

Limits: a span that arrives after its trace was settled is not known to lie below an attempt that
was settled with it, so a late inner match of the same journey is an attempt of its own. Duplicates
are told within a trace; a span sent again after its trace was settled counts again in span metrics.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels import assembly
from outcome_exporter.kernels.attributes import Batch
from outcome_exporter.kernels.labels import LABEL_BITS
from outcome_exporter.kernels.pool import Pool, collect, next_busy, schedule
from outcome_exporter.kernels.recent import Recent
from outcome_exporter.kernels.texts import Texts
from outcome_exporter.kernels.traits import Traits
from outcome_exporter.model import ATTEMPT, LABELS_MAX, SETTLED_SPAN, SpanBatch, Table
from outcome_exporter.plan import Arrays, Moved, Plan, part
from outcome_exporter.units import HOUR, SECOND

_CHUNK = 1 << 15
"""Spans settled at a time, at least one trace: all that a tick holds in memory. Every one of them
costs a quarter of a millisecond in the stages behind this one, however few they are."""

_ROOM = 1 << 23
"""Spans that there is room for at once; should more be pending, the pools grow."""

_CACHE_KEYS = 1 << 15
_CACHE_LISTS = 1 << 17


class SettledTraces(NamedTuple):
    """Whole traces."""

    spans: Table
    """SETTLED_SPAN, trace after trace, each by start time."""
    starts: npt.NDArray[np.int64]
    """Shape (traces + 1,): where each trace begins in `spans`."""
    attempts: Table
    """ATTEMPT."""
    places: npt.NDArray[np.int64]
    """Shape of `attempts`: row in `spans` of each attempt's span."""


class Traces:
    """The stage's state."""

    def __init__(self, plan: Plan) -> None:
        """Nothing is pending."""
        limits, config = plan.config.limits, plan.config.traces
        self._plan = plan
        self._quiet = max(-(-config.quiet // SECOND), 1)
        self._max_age = max(-(-config.max_age // SECOND), 1)
        room = min(limits.pending_spans, _ROOM)
        self.spans = Pool(assembly.PENDING_SPAN, room, timed=False)
        self.traces = Pool(assembly.PENDING_TRACE, room)
        self.candidates = Pool(ATTEMPT, timed=False)
        self._slots = np.full(4096, -1, np.int32)
        self.counts = np.zeros(assembly.COUNTS, np.int64)
        self.settled = Recent(limits.remembered, plan.seed)
        self.texts = Texts(limits.operations, plan.seed)
        self._labels = self._empty_labels()
        self.traits = Traits(
            plan.dimensions,
            len(plan.config.causes.dimensions),
            limits.attribute_values,
            HOUR // SECOND + 2 * self._max_age,
            plan.seed,
        )
        self._cache = assembly.Matches(
            keys=np.zeros(_CACHE_KEYS, np.uint64),
            first=np.zeros(_CACHE_KEYS, np.int32),
            lists=np.zeros(max(_CACHE_LISTS, 2 * len(plan.journeys) + 2), np.int32),
            counts=np.zeros(2, np.int64),
            seed=plan.seed,
        )

    def _empty_labels(self, kept: npt.NDArray[np.int64] | None = None) -> assembly.Labels:
        """No values; room for `kept` codes of labels beyond what the limit gives all of them."""
        cap = self._plan.config.limits.label_values
        labelled = sum(len(journey.labels) for journey in self._plan.journeys)
        codes = np.zeros(1, np.int64) if kept is None else kept
        texts = cap * labelled + int(codes.sum())
        self._label_texts = Texts(texts, self._plan.seed)
        slots = len(self._plan.journeys) * LABELS_MAX
        values = np.zeros((slots, max(cap + 2, int(codes.max(initial=0)))), np.int32)
        values[:, 1] = 1
        return assembly.Labels(
            texts=self._label_texts.arrays,
            codes=np.zeros((slots, texts + 2), np.uint16),
            values=values,
            counts=np.full(slots, 2, np.int64),
            cap=cap + 2,
        )

    def _pools(self) -> assembly.Pools:
        return assembly.Pools(
            spans=self.spans.rows,
            traces=self.traces.rows,
            candidates=self.candidates.rows,
            free_spans=self.spans.free,
            free_traces=self.traces.free,
            free_candidates=self.candidates.free,
            wheel=self.traces.wheel,
            slots=self._slots,
            counts=self.counts,
            seed=self._plan.seed,
        )

    def ingest(self, batch: SpanBatch, arrival_unix_nano: int) -> None:
        """Takes a request's spans in."""
        count = batch.spans.size
        self.spans.reserve(count)
        self.traces.reserve(count)
        self.candidates.reserve(count * max(len(self._plan.spans.selectors), 1))
        if 2 * (len(self.traces) + count) > self._slots.size:
            self._slots = np.empty(1 << (4 * (len(self.traces) + count)).bit_length(), np.int32)
            assembly.reindex(self._pools())
        clock = np.array([arrival_unix_nano, self._plan.config.time.future, self._quiet], np.int64)
        assembly.ingest(
            self._plan.spans,
            self._pools(),
            self.texts.arrays,
            self._labels,
            self._cache,
            self.settled.arrays,
            self.traits.arrays,
            Batch(batch.payload, batch.spans, batch.resources, batch.attributes),
            clock,
        )

    def next_due(self, after: int, until: int) -> int:
        """First second in (after, until] at which something may settle, else `until`."""
        return int(next_busy(self.traces.wheel, after, until))

    def settle(self, second: int) -> Iterator[SettledTraces]:
        """Takes out the traces that are due at a second, in the order they began, some at a time.

        What asks for them asks for all.
        """
        for rows in self._ripe(second):
            yield self._take(rows, second)

    def _ripe(self, second: int) -> list[npt.NDArray[np.int64]]:
        """Rows of the traces that are due, cut where enough spans have come together."""
        rung = collect(self.traces.wheel, second)
        if rung.size == 0:
            return []
        rows = assembly.ripe(self._pools(), rung, second, self._quiet, self._max_age)
        self.settled.reserve(rows.size)
        if rows.size == 0:
            return []
        before = np.cumsum(self.traces.rows["spans"][rows]) // _CHUNK
        return np.split(rows, np.flatnonzero(np.diff(before)) + 1)

    def _take(self, rows: npt.NDArray[np.int64], second: int) -> SettledTraces:
        pools = self._pools()
        spans, candidates, _ = assembly.totals(pools, rows)
        settled = np.empty(spans, SETTLED_SPAN)
        starts = np.empty(rows.size + 1, np.int64)
        attempts = np.empty(candidates, ATTEMPT)
        places = np.empty(candidates, np.int64)
        found = assembly.settle(
            pools,
            rows,
            self.settled.arrays,
            second,
            self._max_age,
            settled,
            starts,
            attempts,
            places,
        )
        return SettledTraces(settled[: starts[-1]], starts, attempts[:found], places[:found])

    def forgive(self, second: int) -> None:
        """Gives every pending trace its quiet time again: the exporter was away until now."""
        alive = self._alive()
        self.traces.rows["last"][: alive.size][alive] = second
        self.traces.rows["first"][: alive.size][alive] = second

    def _alive(self) -> npt.NDArray[np.bool_]:
        alive: npt.NDArray[np.bool_] = self.traces.rows["alive"][: self.traces.used] == 1
        return alive

    def label_values(self, journey: int, packed: int) -> tuple[str, ...]:
        """The texts of a journey's labels."""
        mask = (1 << LABEL_BITS) - 1
        codes = [
            packed >> LABEL_BITS * n & mask for n in range(len(self._plan.journeys[journey].labels))
        ]
        values = self._labels.values[journey * LABELS_MAX :]
        return tuple(self._label_texts.text(int(values[n, code])) for n, code in enumerate(codes))

    def pack_labels(self, journey: int, values: list[str]) -> int:
        """The code of a journey's label values, for attempts that begin with an event."""
        packed = 0
        for n, value in enumerate(values):
            source = np.frombuffer(value.encode(errors="replace"), np.uint8)
            place = journey * LABELS_MAX + n
            code = assembly.label_code(self._labels, place, source, 0, source.size, self.counts)
            packed |= int(code) << LABEL_BITS * n
        return packed

    # Checkpoints

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        arrays: Arrays = {
            "spans": self.spans.rows[: self.spans.used],
            "traces": self.traces.rows[: self.traces.used],
            "candidates": self.candidates.rows[: self.candidates.used],
            "counts": self.counts,
            "label_values": self._labels.values,
            "label_counts": self._labels.counts,
        }
        for name, table in (("settled", self.settled), ("texts", self.texts)):
            arrays |= {f"{name}.{key}": value for key, value in table.dump().items()}
        arrays |= {f"labels.{key}": value for key, value in self._label_texts.dump().items()}
        arrays |= {f"traits.{key}": value for key, value in self.traits.dump().items()}
        return arrays

    def restore(self, arrays: Arrays, moved: Moved, second: int) -> None:
        """Takes over what `dump` gave at `second`, maybe under another configuration."""
        limits = self._plan.config.limits
        self.counts[:] = arrays["counts"]
        seed = self._plan.seed
        self.texts = Texts.restore(limits.operations, part(arrays, "texts"), seed)
        self.settled = Recent.restore(limits.remembered, part(arrays, "settled"), seed)
        self._restore_labels(arrays, moved)
        for pool, name in (
            (self.spans, "spans"),
            (self.traces, "traces"),
            (self.candidates, "candidates"),
        ):
            pool.load(arrays[name])
        spans = np.zeros(self.spans.used, np.bool_)
        candidates = np.zeros(self.candidates.used, np.bool_)
        assembly.adopt(self._pools(), moved.journeys, moved.label_places, spans, candidates)
        self.spans.release(spans)
        self.candidates.release(candidates)
        self.traces.release(self._alive())
        if moved.same_dimensions:
            self.traits.restore(part(arrays, "traits"))
        else:
            self.traits.go_on_from(part(arrays, "traits"))
            self.spans.rows["traits"] = 0
        self._slots = np.empty(1 << (4 * max(self.traces.used, 1024)).bit_length(), np.int32)
        assembly.reindex(self._pools())
        # Those that wait for their root were quiet before: their time may be over already.
        rows = self.traces.rows[: self.traces.used]
        due = np.minimum(rows["last"] + self._quiet, rows["first"] + self._max_age)
        for row in np.flatnonzero(self._alive()).tolist():
            schedule(self.traces.wheel, row, max(int(due[row]), second + 1))

    def _restore_labels(self, arrays: Arrays, moved: Moved) -> None:
        """Values of labels that are the same keep their codes; those of others begin anew."""
        texts = Texts.restore(0, part(arrays, "labels"), self._plan.seed)
        values, counts = arrays["label_values"], arrays["label_counts"]
        places = [
            (int(new) * LABELS_MAX + int(place), old * LABELS_MAX + n)
            for old, new in enumerate(moved.journeys)
            if new >= 0
            for n, place in enumerate(moved.label_places[old])
            if place >= 0
        ]
        self._labels = self._empty_labels(counts[[old for _, old in places]])
        for new, old in places:
            self._labels.counts[new] = counts[old]
            for code in range(2, counts[old]):
                text = self._label_texts.code(texts.text(int(values[old, code])))
                self._labels.codes[new, text] = code
                self._labels.values[new, code] = text

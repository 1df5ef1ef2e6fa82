"""Spans into traces, traces into attempts: the loops of the `traces` stage.

`ingest` takes the spans of one request into the pools: one row a span (64 bytes), one a trace, and
one a candidate, a span that a journey's selector matches. What a candidate needs of its
attributes (keys, value, user, labels) is read here, since attributes are not kept.

`settle` takes whole traces out again: duplicates removed, spans ordered by start, parents
resolved to rows, and those candidates that lie below no other of their journey as attempts.

Cost: O(1) a span for both; a trace is sorted, and ancestors are walked at most `STEPS` times the
spans of the trace, so that no trace however deep costs more than linear time.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter import plan as p
from outcome_exporter.kernels.attributes import (
    TEXT,
    Batch,
    Place,
    adjusted_count,
    attribute_of,
    code_of,
    key_of,
    resource_attribute,
    text_of,
    trace_key,
    user_hash,
    value_of,
)
from outcome_exporter.kernels.glob import matches
from outcome_exporter.kernels.hashing import Seed, combine, home, mix
from outcome_exporter.kernels.jit import allocating, inlined, kernel
from outcome_exporter.kernels.labels import LABEL_BITS, repacked
from outcome_exporter.kernels.pool import NIL, Free, Wheel, expect, give, schedule, take
from outcome_exporter.kernels.recent import RecentArrays, expect_memory, remember, seen
from outcome_exporter.kernels.texts import LENGTH_MAX, NONE, OTHER, TextArrays, find, intern
from outcome_exporter.kernels.traits import SET_MAX, TraitArrays, make_room, of_resource, of_span
from outcome_exporter.kernels.words import prefetch
from outcome_exporter.model import (
    JOIN_KEYS_MAX,
    LABELS_MAX,
    AttributeType,
    Bytes,
    Row,
    Table,
)
from outcome_exporter.plan import SpanPlan

PENDING_SPAN = np.dtype(
    [
        ("span_id", np.uint64),
        ("parent_id", np.uint64),
        ("start", np.int64),
        ("end", np.int64),
        ("next", np.int32),  # the span that came before it in the same trace
        ("candidate", np.int32),  # first of the span's candidates
        ("service", np.uint32),
        ("operation", np.uint32),
        ("version", np.uint32),
        ("peer", np.uint32),
        ("traits", np.uint32),
        ("kind", np.uint8),
        ("status", np.uint8),
    ],
    align=True,
)
assert PENDING_SPAN.itemsize == 64

PENDING_TRACE = np.dtype(
    [
        ("hi", np.uint64),
        ("lo", np.uint64),
        ("sequence", np.uint64),  # order in which traces began
        ("head", np.int32),
        ("spans", np.int32),
        ("candidates", np.int32),
        ("first", np.int64),  # second in which it began, rounded up
        ("last", np.int64),  # second of its last span, rounded up
        ("rooted", np.uint8),
        ("late", np.uint8),  # it was settled before
        ("alive", np.uint8),
    ],
    align=True,
)

# Places in `Pools.counts`
SPANS, SEQUENCE, DUPLICATES, LATE, AHEAD, LABELS_OVERFLOW = range(6)
COUNTS = 6

STEPS = 64
"""Ancestors walked for each span of a trace, at most, on average."""

_AHEAD = 8
"""Spans between asking for memory and working on it: what far memory takes to come near."""
_SIDE_BY_SIDE = 16
"""Traces whose spans are brought near together, since each one's lie behind one another."""
_FETCHED = 64
"""Spans of a trace that are, at most."""

_SECOND = 1_000_000_000
_INT = int(AttributeType.INT)
_STATUS_ERROR = 2
_CACHE_MISS = -2
_LIST_END = -1


class Pools(NamedTuple):
    """The state of the stage."""

    spans: Table
    traces: Table
    candidates: Table
    free_spans: Free
    free_traces: Free
    free_candidates: Free
    wheel: Wheel
    slots: npt.NDArray[np.int32]
    """Trace rows by id, open addressing, -1 where empty; a power of two, at most half full."""
    counts: npt.NDArray[np.int64]
    seed: Seed


class Matches(NamedTuple):
    """Which selectors a service and span name match: a cache, emptied when it is half full."""

    keys: npt.NDArray[np.uint64]
    """(service code << 32 | operation code) + 1; 0 where empty."""
    first: npt.NDArray[np.int32]
    """Place of the first selector in `lists`."""
    lists: npt.NDArray[np.int32]
    """Selectors, each run ended by -1."""
    counts: npt.NDArray[np.int64]
    """Keys, places used in `lists`."""
    seed: Seed


class Labels(NamedTuple):
    """Values of the journeys' labels: a code for each value of each label, capped."""

    texts: TextArrays
    codes: npt.NDArray[np.uint16]
    """Shape (journeys x LABELS_MAX, texts): code of a text, 0 where it has none."""
    values: npt.NDArray[np.int32]
    """Shape (journeys x LABELS_MAX, codes): text of a code."""
    counts: npt.NDArray[np.int64]
    """Shape (journeys x LABELS_MAX,): codes given, from 2 on."""
    cap: int
    """Codes from which on a value is `other`; a lower cap than before takes none away."""


# Matching


@kernel
def _selected(plan: SpanPlan, s: int, service: Place, name: Place) -> bool:
    row = plan.selectors[s]
    return matches(plan.patterns, row[1], row[2], service[0], service[1], service[2]) and matches(
        plan.patterns, row[3], row[4], name[0], name[1], name[2]
    )


@kernel
def _clear(cache: Matches) -> None:
    cache.keys[:] = 0
    cache.counts[:] = 0


@kernel
def _cached(cache: Matches, key: np.uint64) -> int:
    mask = np.uint64(cache.keys.size - 1)
    slot = home(cache.seed, key, np.uint64(0)) & mask
    while cache.keys[slot] != 0 and cache.keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@kernel
def _selectors_of(
    plan: SpanPlan,
    cache: Matches,
    codes: tuple[int, int],
    service: Place,
    name: Place,
) -> int:
    """Place in `cache.lists` of the selectors that match a service and a span name."""
    key = (np.uint64(codes[0]) << np.uint64(32) | np.uint64(codes[1])) + np.uint64(1)
    slot = _cached(cache, key)
    # A text beyond the table's capacity, or one that was cut, shares its code: nothing to
    # remember it by.
    nameless = (
        codes[0] == OTHER
        or codes[1] == OTHER
        or service[2] - service[1] > LENGTH_MAX
        or name[2] - name[1] > LENGTH_MAX
    )
    if cache.keys[slot] == key and not nameless:
        return np.int64(cache.first[slot])
    count = plan.selectors.shape[0]
    if 2 * cache.counts[0] >= cache.keys.size or cache.counts[1] + count + 1 > cache.lists.size:
        _clear(cache)
        slot = _cached(cache, key)
    first = place = cache.counts[1]
    for s in range(count):
        if _selected(plan, s, service, name):
            cache.lists[place] = s
            place += 1
    cache.lists[place] = _LIST_END
    if not nameless:
        cache.keys[slot] = key
        cache.first[slot] = first
        cache.counts[0] += 1
        cache.counts[1] = place + 1
    return first


@kernel
def _holds(plan: SpanPlan, batch: Batch, span: int, s: int, scratch: Bytes) -> bool:
    """Whether kind and attributes of a span are those of a selector."""
    row = plan.selectors[s]
    if row[5] != p.ANY_KIND and batch.spans[span].kind != row[5]:
        return False
    for c in range(row[6], row[7]):
        attribute = attribute_of(batch, span, plan.conditions[c, 0])
        if attribute < 0:
            return False
        source, at, length = text_of(batch, attribute, scratch)
        if not matches(
            plan.patterns,
            plan.conditions[c, 1],
            plan.conditions[c, 2],
            source,
            at,
            at + length,
        ):
            return False
    return True


@kernel
def label_code(
    labels: Labels,
    place: int,
    source: Bytes,
    at: int,
    length: int,
    counts: npt.NDArray[np.int64],
) -> int:
    """Code of a value of one label: 0 for the empty text, 1 for `other`.

    Counts the values that there was no room for in `counts`; one that is called so is none.
    """
    if length == 0:
        return NONE
    text = find(labels.texts, source, at, length)
    if text == OTHER:
        return OTHER
    if text >= 0 and labels.codes[place, text] > 0:
        return np.int64(labels.codes[place, text])
    code = labels.counts[place]
    if code < labels.cap and text < 0:
        text = intern(labels.texts, source, at, length)
    if code >= labels.cap or text == OTHER:
        counts[LABELS_OVERFLOW] += 1
        return OTHER
    labels.codes[place, text] = code
    labels.values[place, code] = text
    labels.counts[place] = code + 1
    return code


@kernel
def _fill(
    plan: SpanPlan,
    labels: Labels,
    batch: Batch,
    span: int,
    journey: int,
    attempt: Row,
    counts: npt.NDArray[np.int64],
    scratch: Bytes,
) -> None:
    """Writes what an attempt takes from its span's attributes into a row."""
    row = batch.spans[span]
    attempt.journey = journey
    attempt.trace_hi = row.trace_hi
    attempt.trace_lo = row.trace_lo
    attempt.identity = combine(
        combine(mix(row.trace_hi) ^ row.trace_lo, row.span_id), plan.identity[journey]
    )
    for k in range(JOIN_KEYS_MAX):
        rule, salt = plan.keys[journey, k], plan.salts[journey, k]
        if rule == p.TRACE_KEY:
            hi, lo = trace_key(row.trace_hi, row.trace_lo, salt)
        else:
            hi, lo = key_of(batch, attribute_of(batch, span, rule), salt, scratch)
        attempt.keys[k, 0] = hi
        attempt.keys[k, 1] = lo
    attempt.value = value_of(batch, attribute_of(batch, span, plan.value[journey]))
    attempt.user = 0
    user = attribute_of(batch, span, plan.user[journey])
    if user >= 0:
        source, at, length = text_of(batch, user, scratch)
        attempt.user = user_hash(source, at, length)
    packed = np.uint64(0)
    for n in range(LABELS_MAX):
        attribute = attribute_of(batch, span, plan.labels[journey, n])
        if attribute >= 0:
            source, at, length = text_of(batch, attribute, scratch)
            code = label_code(labels, journey * LABELS_MAX + n, source, at, length, counts)
            packed |= np.uint64(code) << np.uint64(LABEL_BITS * n)
    attempt.labels = packed
    at = np.int64(row.tracestate_at)
    attempt.weight = adjusted_count(batch.payload, at, at + np.int64(row.tracestate_len))


# Assembly


@inlined
def _home(pools: Pools, hi: np.uint64, lo: np.uint64) -> int:
    return np.int64(home(pools.seed, hi, lo) & np.uint64(pools.slots.size - 1))


@kernel
def _trace_slot(pools: Pools, hi: np.uint64, lo: np.uint64) -> int:
    mask = pools.slots.size - 1
    slot = _home(pools, hi, lo)
    while True:
        row = pools.slots[slot]
        if row < 0 or (pools.traces[row].lo == lo and pools.traces[row].hi == hi):
            return slot
        slot = (slot + 1) & mask


@kernel
def _forget_trace(pools: Pools, row: int) -> None:
    """Takes a trace out of the index."""
    mask = pools.slots.size - 1
    hole = _trace_slot(pools, pools.traces[row].hi, pools.traces[row].lo)
    slot = hole
    while True:
        slot = (slot + 1) & mask
        other = pools.slots[slot]
        if other < 0:
            break
        first = _home(pools, pools.traces[other].hi, pools.traces[other].lo)
        if ((slot - first) & mask) >= ((slot - hole) & mask):
            pools.slots[hole] = other
            hole = slot
    pools.slots[hole] = NIL


@kernel
def reindex(pools: Pools) -> None:
    """Builds the index of traces anew from the rows."""
    pools.slots[:] = NIL
    for row in range(pools.free_traces.counts[0]):
        if pools.traces[row].alive:
            pools.slots[_trace_slot(pools, pools.traces[row].hi, pools.traces[row].lo)] = row


@kernel
def _trace_hash(hi: np.uint64, lo: np.uint64) -> np.uint64:
    return combine(mix(hi), lo)


@kernel
def _begin_trace(
    pools: Pools, settled: RecentArrays, hi: np.uint64, lo: np.uint64, last: int, quiet: int
) -> int:
    row = take(pools.free_traces)
    trace = pools.traces[row]
    trace.hi = hi
    trace.lo = lo
    trace.sequence = pools.counts[SEQUENCE]
    trace.head = NIL
    trace.spans = 0
    trace.candidates = 0
    trace.first = last
    trace.last = last
    trace.rooted = 0
    trace.late = seen(settled, _trace_hash(hi, lo), last - 1)
    trace.alive = 1
    pools.counts[SEQUENCE] += 1
    schedule(pools.wheel, row, last + quiet)
    return row


@inlined
def _expect_span(pools: Pools, batch: Batch, i: int) -> None:
    """Brings near what will be touched for a span of the batch."""
    if i >= batch.spans.size:
        return
    span = batch.spans[i]
    prefetch(batch.payload, np.int64(span.name_at))
    prefetch(batch.attributes, np.int64(span.attributes_at))
    prefetch(pools.slots, _home(pools, span.trace_hi, span.trace_lo))
    expect(pools.free_spans, pools.spans, _AHEAD)


@inlined
def _expect_trace(pools: Pools, batch: Batch, settled: RecentArrays, i: int) -> None:
    """Likewise what lies behind that: it is near by now."""
    if i >= batch.spans.size:
        return
    span = batch.spans[i]
    row = pools.slots[_home(pools, span.trace_hi, span.trace_lo)]
    if row >= 0:
        prefetch(pools.traces, np.int64(row))
    else:
        expect_memory(settled, _trace_hash(span.trace_hi, span.trace_lo))
    at = np.int64(span.attributes_at)
    for k in range(at, at + np.int64(span.attributes_len)):
        if p.PEER <= batch.attributes[k].key <= p.ADDRESS:
            prefetch(batch.payload, np.int64(batch.attributes[k].at))


@allocating
def ingest(
    plan: SpanPlan,
    pools: Pools,
    texts: TextArrays,
    labels: Labels,
    cache: Matches,
    settled: RecentArrays,
    traits: TraitArrays,
    batch: Batch,
    clock: npt.NDArray[np.int64],
) -> None:
    """Takes the spans of one request in.

    Args:
        plan: What begins attempts.
        pools: The stage's rows; there must be room for every span of the batch in each.
        texts: Services, span names, versions.
        labels: Values of the journeys' labels.
        cache: Which selectors match which spans.
        settled: Traces that were settled lately.
        traits: Attribute values by which attempts are compared.
        batch: The request.
        clock: (arrival, how far ahead a time may be, quiet), in ns, ns and seconds.
    """
    scratch = np.empty(64, np.uint8)
    resources = np.zeros((batch.resources.size, 3), np.int64)
    services = np.full(batch.resources.size, NIL, np.int64)
    for r in range(batch.resources.size):
        services[r] = resource_attribute(batch, r, p.SERVICE)
        resources[r, 0] = code_of(batch, services[r], texts, scratch)
        resources[r, 1] = code_of(batch, resource_attribute(batch, r, p.VERSION), texts, scratch)
    found = np.empty(SET_MAX, np.uint16)
    if traits.dimensions.size > 0:
        second = clock[0] // _SECOND
        make_room(traits, second)
        for r in range(batch.resources.size):
            resources[r, 2] = of_resource(traits, batch, r, resources[r, 0], found, second, scratch)
    _ingest_spans(
        plan,
        pools,
        texts,
        labels,
        cache,
        settled,
        traits,
        batch,
        clock,
        scratch,
        resources,
        services,
        found,
    )


@kernel
def _ingest_spans(
    plan: SpanPlan,
    pools: Pools,
    texts: TextArrays,
    labels: Labels,
    cache: Matches,
    settled: RecentArrays,
    traits: TraitArrays,
    batch: Batch,
    clock: npt.NDArray[np.int64],
    scratch: Bytes,
    resources: npt.NDArray[np.int64],
    services: npt.NDArray[np.int64],
    found: npt.NDArray[np.uint16],
) -> None:
    arrival, future, quiet = clock[0], clock[1], clock[2]
    last = arrival // _SECOND + 1
    trace_hi = trace_lo = np.uint64(0)
    trace_row = NIL
    for i in range(batch.spans.size):
        _expect_span(pools, batch, i + 2 * _AHEAD)
        _expect_trace(pools, batch, settled, i + _AHEAD)
        span = batch.spans[i]
        if trace_row < 0 or span.trace_lo != trace_lo or span.trace_hi != trace_hi:
            trace_hi, trace_lo = span.trace_hi, span.trace_lo
            slot = _trace_slot(pools, trace_hi, trace_lo)
            trace_row = np.int64(pools.slots[slot])
            if trace_row < 0:
                trace_row = _begin_trace(pools, settled, trace_hi, trace_lo, last, quiet)
                pools.slots[slot] = trace_row
        trace = pools.traces[trace_row]
        # A time of 0 was never set: a span without one has no duration.
        duration = max(span.end - span.start, 0) if span.start > 0 else 0
        end = span.start + duration if span.start > 0 else span.end
        if end > arrival + future:
            # A time that cannot be: the clock of its sender is wrong, its duration need not be.
            end = arrival
            pools.counts[AHEAD] += 1
        row = take(pools.free_spans)
        pending = pools.spans[row]
        pending.span_id = span.span_id
        pending.parent_id = span.parent_id
        pending.start = end - duration
        pending.end = end
        pending.next = trace.head
        pending.candidate = NIL
        resource = np.int64(span.resource)
        name_at, name_end = np.int64(span.name_at), np.int64(span.name_at) + span.name_len
        service = resources[resource, 0]
        operation = intern(texts, batch.payload, name_at, np.int64(span.name_len))
        pending.service = service
        pending.operation = operation
        pending.version = resources[resource, 1]
        pending.traits = resources[resource, 2]
        pending.peer = NONE
        pending.kind = span.kind
        pending.status = span.status
        if span.attributes_len > 0:
            compared = _read_fixed(batch, i, texts, scratch, pending, traits.dimensions)
            if compared:
                pending.traits = of_span(
                    traits, batch, i, resources[resource, 2], service, found, last - 1, scratch
                )
        trace.head = row
        trace.spans += 1
        trace.last = last
        trace.rooted |= span.parent_id == 0
        pools.counts[SPANS] += 1
        pools.counts[LATE] += trace.late
        if plan.selectors.shape[0] == 0:
            continue
        service_text = (batch.payload, 0, 0)
        if services[resource] >= 0:
            attribute = batch.attributes[services[resource]]
            if attribute.type == TEXT:
                at = np.int64(attribute.at)
                service_text = (batch.payload, at, at + np.int64(attribute.len))
        place = _selectors_of(
            plan, cache, (service, operation), service_text, (batch.payload, name_at, name_end)
        )
        while cache.lists[place] != _LIST_END:
            s = np.int64(cache.lists[place])
            place += 1
            if not _holds(plan, batch, i, s, scratch):
                continue
            row = take(pools.free_candidates)
            attempt = pools.candidates[row]
            _fill(plan, labels, batch, i, plan.selectors[s, 0], attempt, pools.counts, scratch)
            attempt.start = pending.start
            attempt.end = pending.end
            attempt.error = pending.status == _STATUS_ERROR
            attempt.next = pending.candidate
            pending.candidate = row
            trace.candidates += 1


@kernel
def _read_fixed(
    batch: Batch,
    span: int,
    texts: TextArrays,
    scratch: Bytes,
    pending: Row,
    dimensions: npt.NDArray[np.int16],
) -> bool:
    """Reads what every span may say: whom it calls, and an HTTP status.

    Returns whether it says something by which attempts are compared.
    """
    peer, rank, compared = NIL, 99, False
    at = np.int64(batch.spans[span].attributes_at)
    for row in range(at, at + np.int64(batch.spans[span].attributes_len)):
        key = batch.attributes[row].key
        if p.PEER <= key <= p.ADDRESS and key < rank:
            peer, rank = row, np.int64(key)
        elif key == p.STATUS or key == p.STATUS_OLD:
            attribute = batch.attributes[row]
            if attribute.type == _INT and attribute.number >= 500:
                pending.status = _STATUS_ERROR
        if dimensions.size > 0:
            compared |= dimensions[key] >= 0
    pending.peer = code_of(batch, peer, texts, scratch)
    return compared


# Settling


@allocating
def ripe(
    pools: Pools,
    rows: npt.NDArray[np.int64],
    second: int,
    quiet: int,
    max_age: int,
) -> npt.NDArray[np.int64]:
    """Of the traces whose timer rang: those to settle, in the order they began.

    The others, to which a span came meanwhile or whose root is missing, get a new timer.
    """
    settle = np.empty(rows.size, np.int64)
    order = np.empty(rows.size, np.uint64)
    count = 0
    for i in range(rows.size):
        row = rows[i]
        trace = pools.traces[row]
        oldest = trace.first + max_age
        # What was settled before has its root behind it.
        due = min(oldest, trace.last + quiet) if trace.rooted or trace.late else oldest
        if due <= second:
            settle[count] = row
            order[count] = trace.sequence
            count += 1
        else:
            schedule(pools.wheel, row, min(due, second + quiet))
    return settle[:count][np.argsort(order[:count])]


@kernel
def totals(pools: Pools, rows: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    """Spans and candidates of some traces together, and the most spans of one."""
    spans = candidates = most = 0
    for i in range(rows.size):
        spans += pools.traces[rows[i]].spans
        candidates += pools.traces[rows[i]].candidates
        most = max(most, np.int64(pools.traces[rows[i]].spans))
    return spans, candidates, most


@allocating
def _order_by_start(
    spans: Table,
    first: int,
    count: int,
    rows: npt.NDArray[np.int64],
    by_start: npt.NDArray[np.int64],
) -> None:
    """Writes to `by_start` the places of `rows` in order of start; what came first wins ties."""
    if count <= 32:
        for k in range(count):
            start = spans[rows[first + k]].start
            place = k
            while place > 0 and spans[rows[first + by_start[place - 1]]].start > start:
                by_start[place] = by_start[place - 1]
                place -= 1
            by_start[place] = k
        return
    starts = np.empty(count, np.int64)
    for k in range(count):
        starts[k] = spans[rows[first + k]].start
    by_start[:count] = np.argsort(starts, kind="mergesort")


@kernel
def _find_span(
    table: npt.NDArray[np.int32],
    seed: Seed,
    mask: int,
    settled: Table,
    first: int,
    span_id: np.uint64,
) -> int:
    """Slot of a span id in a scratch index over `settled[first:]`."""
    slot = np.int64(home(seed, span_id, np.uint64(0)) & np.uint64(mask))
    while table[slot] >= 0 and settled[first + table[slot]].span_id != span_id:
        slot = (slot + 1) & mask
    return slot


@allocating
def _cut_cycles(settled: Table, first: int, count: int) -> None:
    """Makes a forest of the parents of one trace: where they run in a circle, one is taken away.

    Senders can say that two spans are each other's parent; nobody who walks up may be caught.
    """
    forward = False
    for k in range(count):
        forward |= settled[first + k].parent >= k
    if not forward:  # every parent began before its child: no circle
        return
    visit = np.zeros(count, np.int64)
    for k in range(count):
        at = k
        while at >= 0 and visit[at] == 0:
            visit[at] = k + 1
            parent = np.int64(settled[first + at].parent)
            if parent >= 0 and visit[parent] == k + 1:
                settled[first + at].parent = NIL
                parent = NIL
            at = parent


@kernel
def _below_its_like(
    pools: Pools,
    settled: Table,
    first: int,
    sources: npt.NDArray[np.int64],
    k: int,
    journey: int,
    budget: npt.NDArray[np.int64],
) -> bool:
    """Whether an ancestor of a span is a candidate of the same journey."""
    ancestor = np.int64(settled[first + k].parent)
    while ancestor >= 0 and budget[0] > 0:
        budget[0] -= 1
        candidate = np.int64(pools.spans[sources[first + ancestor]].candidate)
        while candidate >= 0:
            if pools.candidates[candidate].journey == journey:
                return True
            candidate = np.int64(pools.candidates[candidate].next)
        ancestor = np.int64(settled[first + ancestor].parent)
    return False


@kernel
def _fetch_traces(
    pools: Pools, rows: npt.NDArray[np.int64], recent: RecentArrays, at: npt.NDArray[np.int64]
) -> None:
    """Brings near what settling some traces will touch.

    Each list of spans is walked one miss after the other: side by side, they are waited for
    together.
    """
    for t in range(rows.size):
        trace = pools.traces[rows[t]]
        at[t] = trace.head
        prefetch(pools.slots, _home(pools, trace.hi, trace.lo))
        expect_memory(recent, _trace_hash(trace.hi, trace.lo))
    for _ in range(_FETCHED):
        ended = True
        for t in range(rows.size):
            if at[t] >= 0:
                at[t] = pools.spans[at[t]].next
                ended = False
        if ended:
            return


class Scratch(NamedTuple):
    """Room that `settle` works in, as long as the longest trace unless said otherwise."""

    table: npt.NDArray[np.int32]
    """Index of span ids, -1 where empty; a power of two, at most half full."""
    arrived: npt.NDArray[np.int64]
    by_start: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    """As long as `settled`: the pending row of each."""
    slots: npt.NDArray[np.int64]
    budget: npt.NDArray[np.int64]
    """Shape (1,): steps that are left in a trace."""
    at: npt.NDArray[np.int64]
    """Shape (_SIDE_BY_SIDE,)."""


@allocating
def settle(
    pools: Pools,
    rows: npt.NDArray[np.int64],
    recent: RecentArrays,
    second: int,
    seconds: int,
    settled: Table,
    starts: npt.NDArray[np.int64],
    attempts: Table,
    places: npt.NDArray[np.int64],
) -> int:
    """Takes whole traces out of the pools.

    Args:
        pools: The stage's rows.
        rows: The traces.
        recent: Where they are remembered, from `second` on for `seconds`.
        second: The clock.
        seconds: How long.
        settled: SETTLED_SPAN rows, as many as the traces have spans; written.
        starts: Shape (traces + 1,): where each trace begins in `settled`; written.
        attempts: ATTEMPT rows, as many as there are candidates; written.
        places: Shape of attempts: row in `settled` of an attempt's span; written.

    Returns:
        How many attempts there are.
    """
    _, _, most = totals(pools, rows)
    size = 1
    while size < 2 * most + 2:
        size *= 2
    table = np.full(size, NIL, np.int32)
    arrived = np.empty(most, np.int64)
    by_start = np.empty(most, np.int64)
    sources = np.empty(settled.size, np.int64)
    slots = np.empty(most, np.int64)
    budget = np.zeros(1, np.int64)
    at = np.empty(_SIDE_BY_SIDE, np.int64)
    scratch = Scratch(table, arrived, by_start, sources, slots, budget, at)
    return _settle(pools, rows, recent, second, seconds, settled, starts, attempts, places, scratch)


@kernel
def _settle(
    pools: Pools,
    rows: npt.NDArray[np.int64],
    recent: RecentArrays,
    second: int,
    seconds: int,
    settled: Table,
    starts: npt.NDArray[np.int64],
    attempts: Table,
    places: npt.NDArray[np.int64],
    scratch: Scratch,
) -> int:
    table, arrived, by_start, sources, slots, budget, at = scratch
    written = found = 0
    for t in range(rows.size):
        if t % _SIDE_BY_SIDE == 0:
            _fetch_traces(pools, rows[t : t + _SIDE_BY_SIDE], recent, at)
        trace = pools.traces[rows[t]]
        first = written
        starts[t] = first
        count = np.int64(trace.spans)
        # The list runs from the last to the first: fill from the end.
        row = np.int64(trace.head)
        for k in range(count - 1, -1, -1):
            arrived[k] = row
            row = np.int64(pools.spans[row].next)
        _order_by_start(pools.spans, 0, count, arrived, by_start)
        # Small traces use a small part of the index, so that clearing it costs what they cost.
        mask = 1
        while mask < 2 * count + 2:
            mask *= 2
        mask -= 1
        kept = 0
        for k in range(count):
            row = arrived[by_start[k]]
            span = pools.spans[row]
            slot = _find_span(table, pools.seed, mask, settled, first, span.span_id)
            if table[slot] >= 0:
                pools.counts[DUPLICATES] += 1
                _give_candidates(pools, np.int64(span.candidate))
                give(pools.free_spans, row)
                continue
            table[slot] = kept
            slots[kept] = slot
            sources[first + kept] = row
            out = settled[first + kept]
            out.span_id = span.span_id
            out.start = span.start
            out.end = span.end
            out.service = span.service
            out.operation = span.operation
            out.version = span.version
            out.peer = span.peer
            out.traits = span.traits
            out.kind = span.kind
            out.status = span.status
            kept += 1
        written = first + kept
        for k in range(kept):
            parent = pools.spans[sources[first + k]].parent_id
            place = NIL
            if parent != 0:
                place = np.int64(table[_find_span(table, pools.seed, mask, settled, first, parent)])
            settled[first + k].parent = place
        _cut_cycles(settled, first, kept)
        for k in range(kept):
            table[slots[k]] = NIL
        if trace.candidates > 0:
            budget[0] = STEPS * kept
            for k in range(kept):
                candidate = np.int64(pools.spans[sources[first + k]].candidate)
                while candidate >= 0:
                    journey = np.int64(pools.candidates[candidate].journey)
                    if not _below_its_like(pools, settled, first, sources, k, journey, budget):
                        attempts[found] = pools.candidates[candidate]
                        places[found] = first + k
                        found += 1
                    candidate = np.int64(pools.candidates[candidate].next)
        for k in range(kept):
            row = sources[first + k]
            _give_candidates(pools, np.int64(pools.spans[row].candidate))
            give(pools.free_spans, row)
        remember(recent, _trace_hash(trace.hi, trace.lo), second, seconds)
        _forget_trace(pools, rows[t])
        trace.alive = 0
        give(pools.free_traces, rows[t])
    starts[rows.size] = written
    return found


@kernel
def _give_candidates(pools: Pools, candidate: int) -> None:
    while candidate >= 0:
        after = np.int64(pools.candidates[candidate].next)
        give(pools.free_candidates, candidate)
        candidate = after


@kernel
def adopt(
    pools: Pools,
    journeys: npt.NDArray[np.int64],
    label_places: npt.NDArray[np.int64],
    spans: npt.NDArray[np.bool_],
    candidates: npt.NDArray[np.bool_],
) -> None:
    """Marks the rows that pending traces hold, and gives candidates their journeys' new numbers.

    Args:
        pools: The stage's rows, restored.
        journeys: New number of each journey; -1 where it is gone, with its candidates.
        label_places: Shape (journeys, LABELS_MAX): new place of each label's codes; -1 where
            candidates lose them.
        spans: Shape of the pool: whether a row is held; written.
        candidates: Likewise.
    """
    for row in range(pools.free_traces.counts[0]):
        trace = pools.traces[row]
        if not trace.alive:
            continue
        trace.candidates = 0
        place = np.int64(trace.head)
        while place >= 0:
            span = pools.spans[place]
            spans[place] = True
            candidate, span.candidate = np.int64(span.candidate), NIL
            tail = NIL
            while candidate >= 0:
                attempt = pools.candidates[candidate]
                after = np.int64(attempt.next)
                journey = journeys[attempt.journey]
                if journey >= 0:
                    attempt.labels = repacked(attempt.labels, label_places[attempt.journey])
                    attempt.journey = journey
                    attempt.next = NIL
                    if tail < 0:
                        span.candidate = candidate
                    else:
                        pools.candidates[tail].next = candidate
                    tail = candidate
                    candidates[candidate] = True
                    trace.candidates += 1
                candidate = after
            place = np.int64(span.next)

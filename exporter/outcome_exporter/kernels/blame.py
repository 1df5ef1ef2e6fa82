"""Evidence from assembled traces, and the one cause each bad attempt is given: loops of `blame`.

`observe` walks the critical path of every attempt and adds up, for each step of its journey (a
service's operation in one version), how long it kept the user waiting, how often it began to
fail, and after which step a service stopped going on. `give` counts a bad attempt under a cause.

Cost: O(1) a span for each attempt that it lies below, plus one logarithm a step.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.critical_path import in_order, link_children, scratch, walk
from outcome_exporter.kernels.hashing import combine
from outcome_exporter.kernels.jit import allocating, kernel
from outcome_exporter.kernels.pool import NIL
from outcome_exporter.kernels.steps import (
    ATTEMPTS,
    BAD,
    BITS,
    DURATION,
    ERRORS,
    FAILED,
    FAILURE,
    HISTORY_MIN,
    LATENCY,
    LOG,
    MISSING,
    MS,
    RING,
    SLOT_SECONDS,
    SLOTS,
    SPANS,
    SQUARES,
    STEPS,
    STOP,
    TRIES,
    UNATTRIBUTED,
    VARIANCE_FLOOR,
    WEIGHTS,
    State,
    cause,
    give_bit,
    stands_for,
    step,
    step_slot,
)
from outcome_exporter.kernels.sums import added, weighted
from outcome_exporter.kernels.texts import NONE
from outcome_exporter.model import ERROR, MISSED, RECOVERED, Row, Table
from outcome_exporter.units import MILLIONTHS

TOLD = np.dtype(
    [
        ("trace_hi", np.uint64),
        ("trace_lo", np.uint64),
        ("start", np.int64),
        ("time", np.int64),  # of the outcome
        ("value", np.int64),
        ("present", np.uint64),
        ("key", np.uint64),  # says which attempt it is; see `Memory.recovered`
        ("cause", np.int32),  # row of `causes`
        ("journey", np.uint16),
        ("reason", np.uint8),
    ],
    align=True,
)
"""A bad attempt and the cause it was given."""

PATH = np.dtype(
    [
        ("trace_hi", np.uint64),
        ("trace_lo", np.uint64),
        ("start", np.int64),
        ("end", np.int64),
        ("first", np.int64),  # its first span, counted from the first one ever kept
        ("count", np.int32),
        ("left_out", np.int32),  # spans that there was no room for
        ("origin", np.int32),  # steps, as in ATTEMPT
        ("slowest", np.int32),
        ("until", np.int64),  # of one that waits: second until which its place is its own
        ("journey", np.uint16),
    ],
    align=True,
)
PATH_SPAN = np.dtype(
    [
        ("start", np.int64),  # ns after the attempt's start, by the span's own clock
        ("length", np.int64),
        ("own", np.int64),  # ns of the critical path
        ("step", np.int32),
        ("charged", np.int32),  # step that is held responsible: the callee's, of a call
        ("depth", np.uint16),
        ("failed", np.uint8),
        ("covered", np.uint8),  # an error lies below it
    ],
    align=True,
)
PATH_SPANS_MAX = 200
"""Spans that are kept of one attempt."""
WAITING_SPANS = 32
"""The same, while it waits for its event."""

# Places in `Memory.counts`
TOLDS, PATHS, PATH_SPANS, RECOVEREDS = range(4)

CALLEE_SHARE = 0.6
"""Of a call's time that neither side spent: mostly the network's and the callee's queue. The rest
stays with the caller, so that one who calls many and is slow with all of them outweighs each."""
UNUSUAL = 2.5
"""Standard deviations from history at which one attempt's step is unusual by itself."""
STEP_USUAL = 0.5
"""Share of attempts that go through a step whose absence means something."""
QUIET_AFTER = 300_000_000_000
"""Nanoseconds without a bad outcome after which a cause's pain begins anew."""

_CLIENT, _PRODUCER = 3, 4
_STATUS_ERROR = 2
_MINUTE = 60_000_000_000
_SLOT = SLOT_SECONDS * 1_000_000_000


class Memory(NamedTuple):
    """Evidence of the last bad attempts: rings, and what waits to be known as one."""

    told: Table
    paths: Table
    spans: Table
    recovered: npt.NDArray[np.uint64]
    """Keys of attempts that were told for an error, and whose event came later."""
    counts: npt.NDArray[np.int64]
    """Rows ever written to each."""
    waiting: Table
    """PATH of attempts that were fine so far and wait for their event: each has one place, by a
    hash, and leaves it to another only once it cannot wait any more. So they are a sample."""
    waiting_spans: Table
    """PATH_SPAN, `WAITING_SPANS` a place."""
    waits: npt.NDArray[np.int64]
    """Shape (journeys,): seconds for which an attempt may wait; 0: for nothing."""
    slow: npt.NDArray[np.int64]
    """Shape (journeys,): ns from which on an attempt may turn out bad for it; -1: never."""


# What a trace says


@kernel
def _slot_of(time: int, now: int) -> int:
    """Where the slot of a time is kept; the oldest one that is for what came late."""
    return min(max(time // _SLOT, now - SLOTS + 1), now) % SLOTS


class Work(NamedTuple):
    """Room for one attempt."""

    mine: npt.NDArray[np.int64]
    """Step of a span of the attempt."""
    charged: npt.NDArray[np.int64]
    """Step that a span's error and end are laid to: the callee's, of a call."""
    last: npt.NDArray[np.int64]
    """The child of a span that began last."""
    covered: npt.NDArray[np.uint8]
    """Whether an error lies below a span."""
    touched: npt.NDArray[np.int64]
    spent: npt.NDArray[np.float64]
    """By step: nanoseconds of the attempt's critical path."""
    marked: npt.NDArray[np.uint8]


@kernel
def _cover(spans: Table, first: int, count: int, covered: npt.NDArray[np.uint8]) -> bool:
    """Marks the spans of a trace below which one failed; returns whether any failed."""
    found = False
    for k in range(count):
        covered[k] = 0
    for k in range(count):
        if spans[first + k].status == _STATUS_ERROR:
            found = True
            parent = spans[first + k].parent
            while parent >= 0 and not covered[parent]:
                covered[parent] = 1
                parent = spans[first + parent].parent
    return found


@kernel
def _remote_child(
    spans: Table, first: int, k: int, head: int, following: npt.NDArray[np.int64]
) -> int:
    found = NIL
    while head >= 0:
        if spans[first + head].service != spans[first + k].service:
            found = head
        head = following[head]
    return found


@kernel
def _charge(
    marked: npt.NDArray[np.uint8],
    spent: npt.NDArray[np.float64],
    touched: npt.NDArray[np.int64],
    count: int,
    row: int,
    nanoseconds: float,
) -> int:
    """Adds time to a step; returns how many steps have been touched."""
    if not marked[row]:
        marked[row] = 1
        spent[row] = 0.0
        touched[count] = row
        count += 1
    spent[row] += nanoseconds
    return count


@allocating
def observe(
    state: State,
    spans: Table,
    starts: npt.NDArray[np.int64],
    attempts: Table,
    places: npt.NDArray[np.int64],
    now: int,
    memory: Memory,
    spent: npt.NDArray[np.float64],
    marked: npt.NDArray[np.uint8],
) -> None:
    """Learns from settled traces, and writes to each attempt who could be to blame for it.

    Args:
        state: The stage's.
        spans: SETTLED_SPAN, trace after trace.
        starts: Shape (traces + 1,): where each trace begins.
        attempts: ATTEMPT; `origin`, `slowest`, `present` are written, and `error` where an error
            below counts.
        places: Row in `spans` of each attempt's span, ascending by trace.
        now: The slot it is.
        memory: Where the paths of attempts that failed or were slow are kept.
        spent: Room for a number a step. It is kept between calls: as long as memory for it was
            taken and given back each time, the system had to clear it each time.
        marked: Likewise; 0 before and after.
    """
    most = 0
    for t in range(starts.size - 1):
        most = max(most, starts[t + 1] - starts[t])
    room = scratch(most + 1)
    work = Work(
        np.empty(most + 1, np.int64),
        np.empty(most + 1, np.int64),
        np.empty(most + 1, np.int64),
        np.empty(most + 1, np.uint8),
        np.empty(2 * most + 2, np.int64),
        spent,
        marked,
    )
    trace, linked, failed = 0, NIL, False
    for i in range(attempts.size):
        while starts[trace + 1] <= places[i]:
            trace += 1
        first = starts[trace]
        count = starts[trace + 1] - first
        if linked != trace:
            link_children(spans, first, count, room)
            failed = _cover(spans, first, count, work.covered)
            linked = trace
        root = places[i] - first
        size = walk(spans, first, root, room)
        inside = in_order(room, count, size)
        _attempt(
            state,
            spans,
            first,
            root,
            inside,
            room.own,
            room.head,
            room.following,
            work,
            attempts[i],
            np.int64(failed),
            _slot_of(attempts[i].end, now),
        )
        slow = memory.slow[np.int64(attempts[i].journey)]
        if attempts[i].error != 0 or 0 <= slow <= attempts[i].end - attempts[i].start:
            _keep_path(memory, spans, first, root, inside, room.own, work, attempts[i])
        elif memory.waits[np.int64(attempts[i].journey)] > 0:
            _let_wait(
                memory, state.clock[0], spans, first, root, inside, room.own, work, attempts[i]
            )


@kernel
def _keep_path(
    memory: Memory,
    spans: Table,
    first: int,
    root: int,
    inside: npt.NDArray[np.int64],
    own: npt.NDArray[np.int64],
    work: Work,
    attempt: Row,
) -> None:
    """Writes down the path of an attempt that is bad, or may turn out so."""
    path = memory.paths[memory.counts[PATHS] % memory.paths.size]
    memory.counts[PATHS] += 1
    path.first = memory.counts[PATH_SPANS]
    _write_path(path, memory.spans, PATH_SPANS_MAX, spans, first, root, inside, own, work, attempt)
    memory.counts[PATH_SPANS] += path.count


@kernel
def _key_of(attempt: Row) -> np.uint64:
    key = combine(np.uint64(attempt.trace_hi), np.uint64(attempt.trace_lo))
    return combine(key, np.uint64(attempt.journey))


@kernel
def _waiting_place(memory: Memory, attempt: Row) -> int:
    return np.int64(_key_of(attempt) % np.uint64(memory.waiting.size))


@kernel
def _let_wait(
    memory: Memory,
    second: int,
    spans: Table,
    first: int,
    root: int,
    inside: npt.NDArray[np.int64],
    own: npt.NDArray[np.int64],
    work: Work,
    attempt: Row,
) -> None:
    """Writes down the path of an attempt whose event may never come, where there is a place."""
    place = _waiting_place(memory, attempt)
    path = memory.waiting[place]
    if path.until > second:
        return
    path.until = second + memory.waits[np.int64(attempt.journey)]
    path.first = place * WAITING_SPANS
    _write_path(
        path, memory.waiting_spans, WAITING_SPANS, spans, first, root, inside, own, work, attempt
    )


@kernel
def _keep_waiting(memory: Memory, attempt: Row) -> None:
    """Its event never came: what was written down while it waited is kept with the others."""
    waited = memory.waiting[_waiting_place(memory, attempt)]
    if (
        waited.trace_lo != attempt.trace_lo
        or waited.trace_hi != attempt.trace_hi
        or waited.start != attempt.start
        or waited.journey != attempt.journey
    ):
        return
    place = memory.counts[PATHS] % memory.paths.size
    memory.counts[PATHS] += 1
    memory.paths[place] = waited
    path, at = memory.paths[place], np.int64(waited.first)
    path.first = memory.counts[PATH_SPANS]
    for n in range(path.count):
        row = memory.counts[PATH_SPANS] % memory.spans.size
        memory.spans[row] = memory.waiting_spans[at + n]
        memory.counts[PATH_SPANS] += 1
    waited.until = 0


@kernel
def _write_path(
    path: Row,
    kept: Table,
    most: int,
    spans: Table,
    first: int,
    root: int,
    inside: npt.NDArray[np.int64],
    own: npt.NDArray[np.int64],
    work: Work,
    attempt: Row,
) -> None:
    """Writes down which spans an attempt waited for, and which failed, from `path.first` on."""
    path.trace_hi, path.trace_lo = attempt.trace_hi, attempt.trace_lo
    path.start, path.end = attempt.start, attempt.end
    path.journey = attempt.journey
    path.origin, path.slowest = attempt.origin, attempt.slowest
    path.count = path.left_out = 0
    for k in inside:
        span = spans[first + k]
        failed = span.status == _STATUS_ERROR
        if own[k] == 0 and not failed and k != root:
            continue
        if path.count == most:
            path.left_out += 1
            continue
        depth, above = 0, k
        while above != root and spans[first + above].parent >= 0 and depth < PATH_SPANS_MAX:
            above = np.int64(spans[first + above].parent)
            depth += 1
        row = kept[(path.first + path.count) % kept.size]
        path.count += 1
        row.start, row.length = span.start - attempt.start, span.end - span.start
        row.own = own[k]
        row.step, row.charged = work.mine[k], work.charged[k]
        row.depth = depth
        row.failed = failed
        row.covered = work.covered[k]


@kernel
def _attempt(
    state: State,
    spans: Table,
    first: int,
    root: int,
    inside: npt.NDArray[np.int64],
    own: npt.NDArray[np.int64],
    head: npt.NDArray[np.int64],
    following: npt.NDArray[np.int64],
    work: Work,
    attempt: Row,
    failed: int,
    slot: int,
) -> None:
    journey = np.int64(attempt.journey)
    weight = attempt.weight / MILLIONTHS
    touched = 0
    present = np.uint64(0)
    origin, origin_score, origin_end = NIL, -1.0, np.int64(0)
    errors = 0
    steps, slots, seed, recent = state.steps, state.slots, state.seed, state.recent
    marked, spent = work.marked, work.spent
    for k in inside:
        work.last[k] = NIL
        span = spans[first + k]
        service, operation = np.int64(span.service), np.int64(span.operation)
        version = np.int64(span.version)
        slot_of = step_slot(steps, slots, seed, journey, service, operation, version)
        row = np.int64(slots[slot_of])
        if row < 0:
            row = step(state, journey, service, operation, version)
        work.mine[k] = row
    for k in inside:
        span = spans[first + k]
        mine = work.mine[k]
        callee = NIL
        if span.kind == 0 or span.kind == _CLIENT:
            remote = _remote_child(spans, first, k, head[k], following)
            if remote >= 0:
                callee = work.mine[remote]
            elif span.kind == _CLIENT and span.peer != NONE:
                callee = step(state, journey, np.int64(span.peer), np.int64(span.operation), NONE)
                state.recent[callee, slot, SPANS] += weight
        work.charged[k] = mine if callee < 0 else callee
        recent[mine, slot, SPANS] += weight
        if callee < 0:
            touched = _charge(marked, spent, work.touched, touched, mine, own[k])
        else:
            touched = _charge(
                marked, spent, work.touched, touched, mine, (1 - CALLEE_SHARE) * own[k]
            )
            touched = _charge(marked, spent, work.touched, touched, callee, CALLEE_SHARE * own[k])
        if span.kind != _CLIENT and span.kind != _PRODUCER:
            base = np.int64(steps[mine].base)
            steps[base].latest = mine
            if steps[base].bit < 0:
                give_bit(state, journey, base)
            if steps[base].bit < BITS:
                present |= np.uint64(1) << np.uint64(steps[base].bit)
        if failed != 0 and span.status == _STATUS_ERROR and not work.covered[k]:
            culprit = work.charged[k] if span.kind == _CLIENT else mine
            errors += 1
            state.recent[culprit, slot, ERRORS] += weight
            score = state.score[culprit, FAILURE]
            if score > origin_score or (score == origin_score and span.end >= origin_end):
                origin, origin_score, origin_end = culprit, score, span.end
    # Where spans say that they failed, nobody asks after which one it stopped.
    if state.past[journey, FAILED] == 0:
        _stops(state, spans, first, root, inside, work, journey, slot, weight)
    attempt.present = present
    attempt.origin = origin
    if state.below[journey] and errors > 0:
        attempt.error = 1
    duration = attempt.end - attempt.start
    attempt.slowest = _learn_times(state, work, touched, journey, slot, duration / 1e6, weight)
    tries = state.journeys[journey, slot]
    tries[TRIES] += weight
    tries[DURATION] += weight * duration / 1e6
    tries[WEIGHTS] += weight * weight
    if errors > 0:
        tries[FAILED] += weight


@kernel
def _stops(
    state: State,
    spans: Table,
    first: int,
    root: int,
    inside: npt.NDArray[np.int64],
    work: Work,
    journey: int,
    slot: int,
    weight: float,
) -> None:
    """Notes which step each span began last; itself where it began none."""
    for k in inside:
        if k != root:
            work.last[np.int64(spans[first + k].parent)] = k
    for k in inside:
        parent = np.int64(state.steps[work.mine[k]].base)
        after = work.mine[k] if work.last[k] < 0 else work.charged[work.last[k]]
        after = np.int64(state.steps[after].base)
        known = state.steps[parent]
        if known.after != after:
            known.stop = step(state, journey, parent, after, STOP)
            known.after = after
        row = np.int64(known.stop)
        state.steps[row].seen |= 1 << slot
        state.recent[row, slot, ATTEMPTS] += weight


@kernel
def _learn_times(
    state: State,
    work: Work,
    touched: int,
    journey: int,
    slot: int,
    duration_ms: float,
    weight: float,
) -> int:
    """Adds an attempt's times to its steps; returns the one that made it slow, or NIL."""
    past = state.past[journey]
    total = duration_ms - (past[DURATION] / past[TRIES] if past[TRIES] else 0.0)
    recent, history = state.recent, state.base
    least = HISTORY_MIN * stands_for(past)
    best, best_excess = NIL, 0.0
    known, known_excess = NIL, 0.0
    for n in range(touched):
        row = work.touched[n]
        work.marked[row] = 0
        ms = work.spent[row] / 1e6
        log = np.log1p(ms)
        recent[row, slot, ATTEMPTS] += weight
        recent[row, slot, MS] += weight * ms
        recent[row, slot, LOG] += weight * log
        recent[row, slot, SQUARES] += weight * log * log
        # All that is added to a step in `_attempt` is added to one that was charged.
        state.steps[row].seen |= 1 << slot
        base = np.int64(state.steps[row].base)
        times = history[base, ATTEMPTS]
        if times < least:
            continue
        excess = ms - history[base, MS] / times
        if excess <= 0:
            continue
        if state.score[row, LATENCY] > 0 and excess > known_excess:
            known, known_excess = row, excess
        if excess > best_excess:
            mean = history[base, LOG] / times
            variance = max(history[base, SQUARES] / times - mean * mean, 0.0)
            if log - mean > UNUSUAL * np.sqrt(variance + VARIANCE_FLOOR):
                best, best_excess = row, excess
    # What is known to be slow now explains it, unless it had little to do with this attempt.
    if known >= 0 and known_excess >= 0.3 * best_excess:
        return known
    return best if best_excess >= 0.3 * total else NIL


# Blame


@kernel
def _share_of_attempts(state: State, journey: int, base: int) -> float:
    """Share of the attempts at a journey that went through a step, in whatever version."""
    tries = state.past[journey, TRIES]
    through = state.base[base, ATTEMPTS]
    for slot in range(SLOTS):
        tries += state.journeys[journey, slot, TRIES]
    for row in range(base, state.counts[STEPS]):
        if state.steps[row].base == base:
            for slot in range(SLOTS):
                through += state.recent[row, slot, ATTEMPTS]
    return through / tries if tries else 0.0


@kernel
def _missing(state: State, journey: int, present: np.uint64, second: int) -> int:
    """Cause of an attempt whose event never came: the first step that good ones have."""
    if present == 0:
        return cause(state, journey, NONE, NONE, NONE, UNATTRIBUTED, second)
    best, best_share, last = NIL, STEP_USUAL, NIL
    for bit in range(BITS):
        base = state.bits[journey, bit]
        if base < 0:
            break
        if present >> np.uint64(bit) & np.uint64(1):
            last = base
            continue
        share = _share_of_attempts(state, journey, base)
        # Steps get their bits in the order in which they begin: of equal ones the first.
        if share > best_share + (0.1 if best >= 0 else 0.0):
            best, best_share = base, share
    row = last if best < 0 else best
    known = state.steps[state.steps[row].latest]
    operation = state.events[journey] if best < 0 else known.second
    return cause(state, journey, known.first, np.int64(operation), known.version, MISSING, second)


@kernel
def _cause_of(state: State, attempt: Row, second: int) -> int:
    journey = np.int64(attempt.journey)
    if attempt.error == MISSED:
        return _missing(state, journey, attempt.present, second)
    failed = attempt.error == ERROR or attempt.error == RECOVERED
    row, kind = (attempt.origin, FAILURE) if failed else (attempt.slowest, LATENCY)
    if row < 0:
        return cause(state, journey, NONE, NONE, NONE, UNATTRIBUTED, second)
    known = state.steps[row]
    return cause(state, journey, known.first, known.second, known.version, kind, second)


@kernel
def give(state: State, bad: Table, second: int, memory: Memory) -> None:
    """Counts bad attempts, each under its one cause, and remembers which.

    Args:
        state: The stage's.
        bad: ATTEMPT rows as the join tells them: `end` is the outcome's time, `error` its reason.
        second: The clock.
        memory: Where they are remembered.
    """
    now = second // 60
    for i in range(bad.size):
        attempt = bad[i]
        row = _cause_of(state, attempt, second)
        if attempt.error == MISSED:
            _keep_waiting(memory, attempt)
        told = memory.told[memory.counts[TOLDS] % memory.told.size]
        memory.counts[TOLDS] += 1
        told.trace_hi, told.trace_lo = attempt.trace_hi, attempt.trace_lo
        told.start, told.time = attempt.start, attempt.end
        told.value, told.present = attempt.value, attempt.present
        told.key = combine(_key_of(attempt), np.uint64(attempt.start))
        told.cause, told.journey, told.reason = row, attempt.journey, attempt.error
        known = state.causes[row]
        known.count += attempt.weight
        known.value = added(known.value, weighted(attempt.value, attempt.weight))
        if attempt.trace_hi != 0 or attempt.trace_lo != 0:
            known.trace_hi = attempt.trace_hi
            known.trace_lo = attempt.trace_lo
        if attempt.end - known.time > QUIET_AFTER:
            known.since = attempt.end
        elif known.since - attempt.end <= QUIET_AFTER:  # else it is of another pain, long over
            known.since = min(known.since, attempt.end)
        known.time = max(known.time, attempt.end)
        minute = min(attempt.end // _MINUTE, now)
        if minute > now - RING:
            state.ring[row, minute % RING] += attempt.weight
        slot = _slot_of(attempt.end, second // SLOT_SECONDS)
        state.journeys[np.int64(attempt.journey), slot, BAD] += attempt.weight / MILLIONTHS


@kernel
def recover(recovered: Table, memory: Memory) -> None:
    """Remembers attempts whose event came although they had failed."""
    for i in range(recovered.size):
        attempt = recovered[i]
        key = combine(_key_of(attempt), np.uint64(attempt.start))
        memory.recovered[memory.counts[RECOVEREDS] % memory.recovered.size] = key
        memory.counts[RECOVEREDS] += 1

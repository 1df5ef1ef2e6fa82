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
from outcome_exporter.kernels.hashing import Seed, combine, home
from outcome_exporter.kernels.jit import allocating, kernel
from outcome_exporter.kernels.pool import NIL
from outcome_exporter.kernels.texts import NONE, OTHER
from outcome_exporter.model import ERROR, MISSED, RECOVERED, Row, Table

LATENCY, FAILURE, MISSING, UNATTRIBUTED = range(4)
KINDS = ("latency", "error", "missing", "unattributed")

STEP = np.dtype(
    [
        ("first", np.int64),  # of a step: service and operation; of a stop: parent and last step
        ("second", np.int64),
        ("version", np.int64),  # text code; STOP for a stop
        ("journey", np.int32),
        ("base", np.int32),  # row whose history it is compared with: its first version's
        ("who", np.int32),  # first row of its service in its version: they are blamed together
        ("latest", np.int32),  # of a base: the version that was seen last
        ("bit", np.int32),  # of a base: place in `present`; NIL: none yet, BITS: beyond the last
        ("after", np.int32),  # of a base: the step that was begun last, when it was seen last,
        ("stop", np.int32),  # and the row of that
        ("seen", np.int32),  # one bit for each slot in `recent` that is not empty
        ("born", np.int64),  # second
    ],
    align=True,
)
STOP = -1
"""In place of a version: not a step, but that a step was the last one another began."""

# Columns of what is known of a step. An attempt counts as the attempts that it stands for.
ATTEMPTS, MS, LOG, SQUARES, SPANS, ERRORS = range(6)
COLUMNS = 6
# Columns of what is known of a journey
TRIES, DURATION, FAILED, BAD, WEIGHTS = range(5)
"""The last: sum of the squares of what each attempt stands for."""
JOURNEY_COLUMNS = 5

SLOT_SECONDS = 20
SLOTS = 12
"""Slots of event time whose attempts are kept apart: what is compared with what was before."""
RING = 360
"""Minutes for which causes are counted: the longest window of a verdict."""
BITS = 64

CAUSE = np.dtype(
    [
        ("count", np.int64),  # millionths
        ("value", np.int64),
        ("trace_hi", np.uint64),
        ("trace_lo", np.uint64),
        ("time", np.int64),  # of the last bad outcome
        ("since", np.int64),  # of the first one since it hurts
        ("born", np.int64),  # second
        ("service", np.uint32),
        ("operation", np.uint32),
        ("version", np.uint32),
        ("journey", np.uint16),
        ("kind", np.uint8),
    ],
    align=True,
)

TOLD = np.dtype(
    [
        ("trace_hi", np.uint64),
        ("trace_lo", np.uint64),
        ("start", np.int64),
        ("time", np.int64),  # of the outcome
        ("value", np.int64),
        ("present", np.uint64),
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
TOLDS, PATHS, PATH_SPANS = range(3)

# Places in `State.counts`
STEPS, CAUSES, STEPS_OVERFLOW, CAUSES_OVERFLOW = range(4)
COUNTS = 4

CALLEE_SHARE = 0.6
"""Of a call's time that neither side spent: mostly the network's and the callee's queue. The rest
stays with the caller, so that one who calls many and is slow with all of them outweighs each."""
VARIANCE_FLOOR = 0.02
"""Of log(1 + ms): below it a difference is real, but nobody would feel it."""
HISTORY_MIN = 5
"""Attempts that make a history."""
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
_MILLIONTHS = 1_000_000


class State(NamedTuple):
    """The state of the stage."""

    steps: Table
    recent: npt.NDArray[np.float64]
    """Shape (steps, SLOTS, COLUMNS): the last slots."""
    base: npt.NDArray[np.float64]
    """Shape (steps, COLUMNS): history, in the rows that are a base."""
    score: npt.NDArray[np.float64]
    """Shape (steps, 2): attempts that the last verdict holds a step responsible for, by kind."""
    slots: npt.NDArray[np.int32]
    journeys: npt.NDArray[np.float64]
    """Shape (journeys, SLOTS, JOURNEY_COLUMNS)."""
    past: npt.NDArray[np.float64]
    """Shape (journeys, JOURNEY_COLUMNS)."""
    bits: npt.NDArray[np.int32]
    """Shape (journeys, BITS): base of each bit of `present`; NIL where unused."""
    causes: Table
    cause_slots: npt.NDArray[np.int32]
    ring: npt.NDArray[np.int64]
    """Shape (causes, RING): millionths of bad outcomes by minute."""
    counts: npt.NDArray[np.int64]
    events: npt.NDArray[np.uint32]
    """Shape (journeys,): text of the event that makes an attempt good."""
    below: npt.NDArray[np.bool_]
    """Shape (journeys,): an error below the attempt's span is its own."""
    clock: npt.NDArray[np.int64]
    """Shape (1,): the second it is."""
    seed: Seed


class Memory(NamedTuple):
    """Evidence of the last bad attempts: rings, and what waits to be known as one."""

    told: Table
    paths: Table
    spans: Table
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


# Steps


@kernel
def _step_slot(
    steps: Table,
    slots: npt.NDArray[np.int32],
    seed: Seed,
    journey: int,
    first: int,
    second: int,
    version: int,
) -> int:
    # Two arrays rather than the state: in the innermost loop, passing all of it costs more than
    # the lookup itself.
    mask = slots.size - 1
    names = np.uint64(first) << np.uint64(32) | np.uint64(second)
    rest = np.uint64(version + 2) << np.uint64(32) | np.uint64(journey)
    slot = np.int64(home(seed, names, rest) & np.uint64(mask))
    while True:
        row = slots[slot]
        if row < 0:
            return slot
        known = steps[row]
        if (
            known.second == second
            and known.first == first
            and known.version == version
            and known.journey == journey
        ):
            return slot
        slot = (slot + 1) & mask


@kernel
def _base_of(state: State, journey: int, first: int, second: int) -> int:
    """Row of the first version of a step; NIL where it is new."""
    for row in range(state.counts[STEPS]):
        known = state.steps[row]
        if (
            known.second == second
            and known.first == first
            and known.journey == journey
            and known.version != STOP
        ):
            return np.int64(known.base)
    return NIL


@kernel
def _who_of(state: State, journey: int, first: int, version: int) -> int:
    """First row of a service's version; NIL where it is new."""
    for row in range(state.counts[STEPS]):
        known = state.steps[row]
        if known.first == first and known.journey == journey and known.version == version:
            return row
    return NIL


@kernel
def step(state: State, journey: int, first: int, second: int, version: int) -> int:
    """Row of a step or a stop, a new one if there is room."""
    slot = _step_slot(state.steps, state.slots, state.seed, journey, first, second, version)
    row = np.int64(state.slots[slot])
    if row >= 0:
        return row
    # Each journey may keep one step and one stop more: those of everything beyond the limit.
    if state.counts[STEPS] >= state.steps.shape[0] - 2 * state.past.shape[0]:
        state.counts[STEPS_OVERFLOW] += 1
        first = second = OTHER
        version = STOP if version == STOP else NONE
        slot = _step_slot(state.steps, state.slots, state.seed, journey, first, second, version)
        row = np.int64(state.slots[slot])
        if row >= 0:
            return row
    row = state.counts[STEPS]
    base = row if version == STOP else _base_of(state, journey, first, second)
    who = row if version == STOP else _who_of(state, journey, first, version)
    state.counts[STEPS] += 1
    state.slots[slot] = row
    known = state.steps[row]
    known.first, known.second, known.version = first, second, version
    known.journey = journey
    known.base = row if base < 0 else base
    known.who = row if who < 0 else who
    known.latest = row
    known.bit = NIL
    known.after = NIL
    known.seen = 0
    known.born = state.clock[0]
    return row


@kernel
def reindex_steps(state: State) -> None:
    """Builds the index of steps anew from the rows."""
    state.slots[:] = NIL
    for row in range(state.counts[STEPS]):
        known = state.steps[row]
        slot = _step_slot(
            state.steps,
            state.slots,
            state.seed,
            np.int64(known.journey),
            known.first,
            known.second,
            known.version,
        )
        state.slots[slot] = row


@kernel
def _give_bit(state: State, journey: int, base: int) -> None:
    """Gives a step its bit in `present`, while there is one."""
    state.steps[base].bit = BITS
    for bit in range(BITS):
        if state.bits[journey, bit] < 0:
            state.bits[journey, bit] = base
            state.steps[base].bit = bit
            return


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
        np.empty(state.steps.shape[0], np.float64),
        np.zeros(state.steps.shape[0], np.uint8),
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
def _waiting_place(memory: Memory, attempt: Row) -> int:
    key = combine(np.uint64(attempt.trace_hi), np.uint64(attempt.trace_lo))
    key = combine(key, np.uint64(attempt.journey))
    return np.int64(key % np.uint64(memory.waiting.size))


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
    weight = attempt.weight / _MILLIONTHS
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
        slot_of = _step_slot(steps, slots, seed, journey, service, operation, version)
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
                _give_bit(state, journey, base)
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
def _stands_for(journey: npt.NDArray[np.float64]) -> float:
    """Attempts that one attempt stands for, as far as chance is concerned: at least 1.

    Sums over weighted attempts vary as sums over (sum w)^2 / sum w^2 attempts would, Kish's
    effective sample size; a count divided by this is the number of them.
    """
    return max(journey[WEIGHTS] / journey[TRIES], 1.0) if journey[TRIES] > 0 else 1.0


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
    least = HISTORY_MIN * _stands_for(past)
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


# History


@kernel
def open_slot(
    state: State,
    place: int,
    hurt: npt.NDArray[np.bool_],
    budget: npt.NDArray[np.float64],
    support: float,
    keep: float,
) -> None:
    """A new slot begins; the one that it displaces becomes history, unless the journey was hurt.

    Args:
        state: The stage's.
        place: Of the slot.
        hurt: Shape (journeys, SLOTS): which slots are no history.
        budget: Shape (journeys,): share of attempts that may be bad.
        support: Bad attempts below which nobody was hurt.
        keep: Share of history that is not forgotten.
    """
    for j in range(budget.size):
        seen = state.journeys[j, place]
        # Until the end of this, `hurt` says of which journeys the slot does not become history.
        hurt[j, place] |= seen[TRIES] == 0 or (
            seen[BAD] >= support * _stands_for(seen) and seen[BAD] > budget[j] * seen[TRIES]
        )
        for c in range(JOURNEY_COLUMNS):
            if not hurt[j, place]:
                state.past[j, c] = state.past[j, c] * keep + seen[c]
            seen[c] = 0.0
    for row in range(state.counts[STEPS]):
        if not hurt[state.steps[row].journey, place]:
            for c in range(COLUMNS):
                state.base[row, c] *= keep
    for row in range(state.counts[STEPS]):
        known = state.steps[row]
        if known.seen >> place & 1:
            known.seen ^= 1 << place
            seen = state.recent[row, place]
            for c in range(COLUMNS):
                if not hurt[known.journey, place]:
                    state.base[known.base, c] += seen[c]
                seen[c] = 0.0
    for j in range(budget.size):
        hurt[j, place] = False


# Verdicts


NAMED = np.dtype(
    [
        ("service", np.int64),
        ("operation", np.int64),
        ("version", np.int64),
        ("kind", np.int64),
        ("share", np.float64),
    ],
    align=True,
)
"""A cause that a verdict names, and its share of the bad outcomes."""
TOP = 5
"""Causes that a verdict names at most."""


class Limits(NamedTuple):
    """What evidence must be."""

    t: float
    z: float
    stop_z: float
    drift: float
    """Deviation of log(1 + ms) between times without any fault."""
    visits: float
    """Attempts of the last slots that a step must have been in to be called slow."""
    support: float
    """Bad attempts that a cause must explain."""
    share: float
    """Of the bad attempts, that the first cause must explain."""
    floor: float
    """The same for those beside it."""
    harm: float
    """Attempts' worth of pain below which nothing is named."""
    saturated: float
    """Share of `t`, `z`, `stop_z`, `support` and `harm` that is enough of a saturated service."""


class Sums(NamedTuple):
    """Room for evidence: the last slots, and all before them, by length."""

    now: npt.NDArray[np.float64]
    """Shape (lengths, steps, COLUMNS)."""
    past: npt.NDArray[np.float64]
    begun: npt.NDArray[np.float64]
    """Shape (steps,): spans of a base's versions in the last slots."""
    journeys_now: npt.NDArray[np.float64]
    """Shape (lengths, journeys, JOURNEY_COLUMNS)."""
    journeys_past: npt.NDArray[np.float64]
    burns: npt.NDArray[np.bool_]
    """Shape (journeys,): enough went bad in the last slots for a verdict."""
    seen: npt.NDArray[np.bool_]
    """Shape (steps,): which ones were seen in the last slots, of those journeys."""
    wanted: npt.NDArray[np.bool_]
    """Shape (steps,): with whose history one of them is compared."""


class Evidence(NamedTuple):
    """Attempts hurt by each step more than history explains, from the front. Shape (rows,)."""

    ends: npt.NDArray[np.int64]
    """Shape (lengths,): where that of each length ends; it begins where the one before does."""
    rows: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    hurt: npt.NDArray[np.float64]
    support: npt.NDArray[np.float64]
    """Attempts that show it, each counted once whatever it stands for."""
    strength: npt.NDArray[np.float64]
    """Its test statistic, as a multiple of what it must be."""


class Verdicts(NamedTuple):
    """What is named, and room to find out."""

    named: Table
    """NAMED, shape (journeys, windows, TOP), top first."""
    counts: npt.NDArray[np.int64]
    """Shape (journeys, windows): how many are."""
    of_window: npt.NDArray[np.bool_]
    """Shape (windows, lengths): which lengths it takes the one from that differs most."""
    strongest: npt.NDArray[np.float64]
    """Shape (windows,)."""
    opinions: Table
    """NAMED, shape (lengths, TOP)."""
    whos: npt.NDArray[np.int64]
    """Shape (steps,): the services in their versions that were found, from the front."""
    marked: npt.NDArray[np.bool_]
    """By `who`, as the rest: whether it is among them."""
    hurt: npt.NDArray[np.float64]
    support: npt.NDArray[np.float64]
    worst: npt.NDArray[np.int64]
    """Place in the evidence of what it is held responsible for most."""


@kernel
def _z(hits: float, of: float, hits_before: float, of_before: float) -> float:
    """How many deviations a proportion is above what it was before."""
    pooled = (hits + hits_before + 0.5) / (of + of_before + 1)
    spread = pooled * (1 - pooled) * (1 / (of + 1) + 1 / (of_before + 1))
    more = (hits + 0.5) / (of + 1) - (hits_before + 0.5) / (of_before + 1)
    return more / np.sqrt(max(spread, 1e-12))


@kernel
def _t(
    now: npt.NDArray[np.float64], n: float, past: npt.NDArray[np.float64], m: float, drift: float
) -> float:
    """Welch's t of log(1 + ms), with room for drift; of so many attempts now and before."""
    mean, before = now[LOG] / now[ATTEMPTS], past[LOG] / past[ATTEMPTS]
    spread = max(now[SQUARES] / now[ATTEMPTS] - mean * mean, 0.0) + VARIANCE_FLOOR
    spread_before = max(past[SQUARES] / past[ATTEMPTS] - before * before, 0.0) + VARIANCE_FLOOR
    return (mean - before) / np.sqrt(spread / n + spread_before / m + drift * drift)


@kernel
def _sum_journeys(
    state: State,
    newest: int,
    lengths: npt.NDArray[np.int64],
    hurt: npt.NDArray[np.bool_],
    support: float,
    sums: Sums,
) -> bool:
    """Adds the slots of journeys up; returns whether any has enough bad attempts."""
    found = False
    for j in range(state.past.shape[0]):
        for i in range(lengths.size):
            for c in range(JOURNEY_COLUMNS):
                sums.journeys_now[i, j, c] = 0.0
                sums.journeys_past[i, j, c] = state.past[j, c]
        for age in range(SLOTS):
            place = (newest - age) % SLOTS
            for i in range(lengths.size):
                if age < lengths[i]:
                    for c in range(JOURNEY_COLUMNS):
                        sums.journeys_now[i, j, c] += state.journeys[j, place, c]
                elif not hurt[j, place]:
                    for c in range(JOURNEY_COLUMNS):
                        sums.journeys_past[i, j, c] += state.journeys[j, place, c]
        longest = sums.journeys_now[lengths.size - 1, j]
        sums.burns[j] = longest[BAD] >= support * _stands_for(longest)
        found |= sums.burns[j]
    return found


@kernel
def _sum_steps(
    state: State,
    newest: int,
    lengths: npt.NDArray[np.int64],
    hurt: npt.NDArray[np.bool_],
    sums: Sums,
) -> None:
    """Adds up the slots of the steps of journeys that burn, where they were seen of late.

    Says which ones were in `sums.seen`; of the others, and of the history that none of them is
    compared with, nothing is written.
    """
    lately = _slots_of(newest, 0, lengths[lengths.size - 1])
    for row in range(state.counts[STEPS]):
        sums.seen[row] = sums.wanted[row] = False
    for row in range(state.counts[STEPS]):
        known = state.steps[row]
        if known.seen & lately == 0 or not sums.burns[known.journey]:
            continue
        # Where spans failed in the shortest they did in all, and nobody asks who stopped.
        if known.version == STOP and sums.journeys_now[0, known.journey, FAILED] > 0:
            continue
        sums.seen[row] = sums.wanted[known.base] = True
    for row in range(state.counts[STEPS]):
        if sums.wanted[row]:
            for i in range(lengths.size):
                for c in range(COLUMNS):
                    sums.past[i, row, c] = state.base[row, c]
    for row in range(state.counts[STEPS]):
        known = state.steps[row]
        if not sums.wanted[known.base]:
            continue
        if sums.seen[row]:
            for i in range(lengths.size):
                for c in range(COLUMNS):
                    sums.now[i, row, c] = 0.0
        for age in range(SLOTS):
            place = (newest - age) % SLOTS
            if known.seen >> place & 1 == 0:
                continue
            seen = state.recent[row, place]
            history = not hurt[known.journey, place]
            for i in range(lengths.size):
                if age < lengths[i]:
                    for c in range(COLUMNS):
                        sums.now[i, row, c] += seen[c]
                elif history:
                    for c in range(COLUMNS):
                        sums.past[i, known.base, c] += seen[c]


@kernel
def _slots_of(newest: int, begin: int, end: int) -> int:
    """The bits in `seen` of the slots of some ages."""
    bits = 0
    for age in range(begin, end):
        bits |= 1 << (newest - age) % SLOTS
    return bits


@kernel
def _note(
    state: State,
    out: Evidence,
    count: int,
    row: int,
    kind: int,
    hurt: float,
    support: float,
    strength: float,
) -> int:
    """Writes evidence; returns how much there is then."""
    out.rows[count], out.kind[count] = row, kind
    out.hurt[count], out.support[count], out.strength[count] = hurt, support, strength
    state.score[row, kind] = max(state.score[row, kind], hurt)
    return count + 1


@kernel
def _enough(limits: Limits, saturated: npt.NDArray[np.int64], service: int) -> float:
    """Share of the evidence that is enough for a service."""
    for code in saturated:
        if code == service:
            return limits.saturated
    return 1.0


@kernel
def weigh(
    state: State,
    newest: int,
    lengths: npt.NDArray[np.int64],
    hurt: npt.NDArray[np.bool_],
    limits: Limits,
    saturated: npt.NDArray[np.int64],
    sums: Sums,
    out: Evidence,
) -> bool:
    """Compares the last slots with all before them, and says who is known to hurt.

    Only steps of journeys in which enough went bad are looked at: without them it costs nothing
    but a look at each journey.

    Args:
        state: The stage's; `score` is written.
        newest: The slot it is.
        lengths: How many of the last slots are compared with all before them, ascending.
        hurt: Shape (journeys, SLOTS): which ones are no history.
        limits: What differs enough.
        saturated: Text codes of the services of which less is enough.
        sums: Room.
        out: Room for two rows a step and length.

    Returns:
        Whether enough went bad in any journey.
    """
    used = state.counts[STEPS]
    for row in range(used):
        state.score[row, LATENCY] = state.score[row, FAILURE] = 0.0
    if not _sum_journeys(state, newest, lengths, hurt, limits.support, sums):
        return False
    _sum_steps(state, newest, lengths, hurt, sums)
    count = 0
    for i in range(lengths.size):
        now, past, begun = sums.now[i], sums.past[i], sums.begun
        for row in range(used):
            begun[row] = 0.0
        for row in range(used):
            if sums.seen[row]:
                begun[state.steps[row].base] += now[row, SPANS]
        for row in range(used):
            if not sums.seen[row]:
                continue
            known = state.steps[row]
            journey, base = known.journey, known.base
            tries = sums.journeys_past[i, journey]
            # What one attempt stands for: chance goes by attempts, harm by what they stand for.
            each = _stands_for(sums.journeys_now[i, journey])
            each_past = _stands_for(tries)
            if known.version == STOP:
                parent = known.first
                hits, before, of = now[row, ATTEMPTS], past[row, ATTEMPTS], past[parent, SPANS]
                failed = sums.journeys_now[i, journey, FAILED] > 0 or tries[FAILED] > 0
                if failed or hits == 0 or of < HISTORY_MIN * each_past:
                    continue
                z = _z(hits / each, begun[parent] / each, before / each_past, of / each_past)
                excess = hits - begun[parent] * (before + 0.5 * each_past) / (of + each_past)
                step_ = np.int64(known.second)
                least = limits.stop_z * _enough(limits, saturated, state.steps[step_].first)
                if z > least and excess > 0:
                    strength, harm = z / least, excess * (1 - 1 / z)
                    count = _note(state, out, count, step_, FAILURE, harm, hits / each, strength)
                continue
            enough = _enough(limits, saturated, known.first)
            n, m = now[row, ATTEMPTS] / each, past[base, ATTEMPTS] / each_past
            if n >= limits.visits and m >= HISTORY_MIN:
                more_ms = now[row, MS] / now[row, ATTEMPTS] - past[base, MS] / past[base, ATTEMPTS]
                t = _t(now[row], n, past[base], m, limits.drift) if more_ms > 0 else 0.0
                least = limits.t * enough
                if t > least:
                    usual_ms = tries[DURATION] / max(tries[TRIES], 1.0)
                    harm = now[row, ATTEMPTS] * more_ms / max(usual_ms, 1e-6) * (1 - 1 / t)
                    count = _note(state, out, count, row, LATENCY, harm, n, t / least)
            hits, of = now[row, ERRORS], past[base, SPANS]
            if hits > 0 and of >= HISTORY_MIN * each_past:
                begun_here, before = now[row, SPANS], past[base, ERRORS]
                z = _z(hits / each, begun_here / each, before / each_past, of / each_past)
                excess = hits - begun_here * (before + 0.5 * each_past) / (of + each_past)
                least = limits.z * enough
                if z > least and excess > 0:
                    harm = excess * (1 - 1 / z)
                    count = _note(state, out, count, row, FAILURE, harm, hits / each, z / least)
        out.ends[i] = count
    return True


@kernel
def _name(
    named: Table,
    count: int,
    service: int,
    operation: int,
    version: int,
    kind: int,
    hurt: float,
) -> int:
    """Puts a cause in its place among the top ones; returns how many there are then."""
    place = count
    while place > 0:
        other = named[place - 1]
        if other.share > hurt:
            break
        if other.share == hurt and (
            (other.service, other.operation, other.version, other.kind)
            < (service, operation, version, kind)
        ):
            break
        if place < TOP:
            named[place] = other
        place -= 1
    if place < TOP:
        mine = named[place]
        mine.service, mine.operation, mine.version = service, operation, version
        mine.kind, mine.share = kind, hurt
    return min(count + 1, TOP)


@kernel
def _opinion(
    state: State,
    journey: int,
    length: int,
    minutes: int,
    minute: int,
    limits: Limits,
    saturated: npt.NDArray[np.int64],
    sums: Sums,
    found: Evidence,
    out: Verdicts,
) -> tuple[int, float]:
    """The causes that explain enough of what went bad in the last slots, top first.

    Writes them to `out.opinions`; returns how many there are, and how much the clearest differs.
    """
    now, past = sums.journeys_now[length, journey], sums.journeys_past[length, journey]
    each = _stands_for(now)
    if now[BAD] < limits.support * each:
        return 0, 0.0
    begin, end = found.ends[length - 1] if length > 0 else 0, found.ends[length]
    strength, slow, slow_support = 0.0, 0.0, 0.0
    for n in range(begin, end):
        if state.steps[found.rows[n]].journey == journey:
            strength = max(strength, found.strength[n])
            if found.kind[n] == LATENCY:
                slow += found.hurt[n]
                slow_support = max(slow_support, found.support[n])
    # All slowness together weighs no more than as many failures as attempts show it.
    share = min(1.0, slow_support * each / slow) if slow > 0 else 1.0
    whos = 0
    for n in range(begin, end):
        step_ = state.steps[found.rows[n]]
        if step_.journey != journey:
            continue
        who = np.int64(step_.who)
        hurt = found.hurt[n] * share if found.kind[n] == LATENCY else found.hurt[n]
        if not out.marked[who]:
            out.marked[who] = True
            out.hurt[who] = out.support[who] = 0.0
            out.worst[who] = n
            out.whos[whos] = who
            whos += 1
        worst = out.worst[who]
        least = found.hurt[worst] * share if found.kind[worst] == LATENCY else found.hurt[worst]
        if hurt > least:
            out.worst[who] = n
        out.hurt[who] += hurt
        out.support[who] = max(out.support[who], found.support[n])
    named, count, total = out.opinions[length], 0, 0.0
    for n in range(whos):
        who = out.whos[n]
        out.marked[who] = False
        worst = out.worst[who]
        step_ = state.steps[found.rows[worst]]
        if out.support[who] < limits.support * _enough(limits, saturated, step_.first):
            continue
        kind, hurt = found.kind[worst], out.hurt[who]
        count = _name(named, count, step_.first, step_.second, step_.version, kind, hurt)
        total += hurt
    if state.events[journey] != NONE:
        for row in range(state.counts[CAUSES]):
            cause_ = state.causes[row]
            if cause_.journey != journey or cause_.kind != MISSING:
                continue
            hurt = 0.0
            for n in range(minutes):
                hurt += state.ring[row, (minute - n) % RING] / _MILLIONTHS
            if hurt >= limits.support * each:
                service, operation = np.int64(cause_.service), np.int64(cause_.operation)
                version = np.int64(cause_.version)
                count = _name(named, count, service, operation, version, MISSING, hurt)
                total += hurt
    unusual = now[BAD] - now[TRIES] * past[BAD] / max(past[TRIES], 1.0)
    explained = max(total, unusual)
    if count == 0:
        return 0, strength
    least = limits.harm * each * _enough(limits, saturated, named[0].service)
    if named[0].share < max(limits.share * explained, least):
        return 0, strength
    while named[count - 1].share < max(limits.floor * explained, least):
        count -= 1
    for n in range(count):
        named[n].share = named[n].share / explained
    return count, strength


@kernel
def judge(
    state: State,
    newest: int,
    minute: int,
    lengths: npt.NDArray[np.int64],
    hurt: npt.NDArray[np.bool_],
    limits: Limits,
    saturated: npt.NDArray[np.int64],
    sums: Sums,
    found: Evidence,
    out: Verdicts,
) -> None:
    """Says who is to blame now, journey by journey.

    Args:
        state: The stage's; `score` is written.
        newest: The slot it is.
        minute: The minute it is.
        lengths: How many of the last slots are compared with all before them, ascending.
        hurt: Shape (journeys, SLOTS): which ones are no history; those that a cause is named for
            are none from now on.
        limits: What is enough.
        saturated: Text codes of the services of which less is enough.
        sums: Room.
        found: Room for two rows a step and length.
        out: Where the verdicts are written.
    """
    journeys, windows = out.counts.shape
    for j in range(journeys):
        for w in range(windows):
            out.counts[j, w] = 0
    if not weigh(state, newest, lengths, hurt, limits, saturated, sums, found):
        return
    for j in range(journeys):
        if not sums.burns[j]:
            continue
        shortest = NIL
        for w in range(windows):
            out.strongest[w] = -1.0
        for i in range(lengths.size):
            # The minutes that the slots may lie in.
            minutes = (lengths[i] * SLOT_SECONDS + 59) // 60 + 1
            count, strength = _opinion(
                state, j, i, minutes, minute, limits, saturated, sums, found, out
            )
            if count == 0:
                continue
            if shortest < 0:
                shortest = i
            for w in range(windows):
                if out.of_window[w, i] and strength > out.strongest[w]:
                    out.strongest[w] = strength
                    out.counts[j, w] = count
                    for n in range(count):
                        out.named[j, w, n] = out.opinions[i, n]
        if shortest >= 0:
            # What is shortest began last: more would take good minutes out of history.
            for age in range(lengths[shortest]):
                hurt[j, (newest - age) % SLOTS] = True


# Blame


@kernel
def _cause_slot(
    state: State, journey: int, service: int, operation: int, version: int, kind: int
) -> int:
    mask = state.cause_slots.size - 1
    names = np.uint64(service) << np.uint64(32) | np.uint64(operation)
    rest = np.uint64(version) << np.uint64(32) | np.uint64(journey * 4 + kind)
    slot = np.int64(home(state.seed, names, rest) & np.uint64(mask))
    while True:
        row = state.cause_slots[slot]
        if row < 0:
            return slot
        known = state.causes[row]
        if (
            known.service == service
            and known.operation == operation
            and known.version == version
            and known.journey == journey
            and known.kind == kind
        ):
            return slot
        slot = (slot + 1) & mask


@kernel
def cause(
    state: State, journey: int, service: int, operation: int, version: int, kind: int, second: int
) -> int:
    """Row of a cause, a new one if there is room."""
    slot = _cause_slot(state, journey, service, operation, version, kind)
    row = np.int64(state.cause_slots[slot])
    if row >= 0:
        return row
    if state.counts[CAUSES] >= state.causes.shape[0] - 4 * state.past.shape[0]:
        if kind != UNATTRIBUTED:
            state.counts[CAUSES_OVERFLOW] += 1
            service = operation = OTHER
            version = NONE
        slot = _cause_slot(state, journey, service, operation, version, kind)
        row = np.int64(state.cause_slots[slot])
        if row >= 0:
            return row
    row = state.counts[CAUSES]
    state.counts[CAUSES] += 1
    state.cause_slots[slot] = row
    known = state.causes[row]
    known.service, known.operation, known.version = service, operation, version
    known.journey = journey
    known.kind = kind
    known.born = second
    return row


@kernel
def reindex_causes(state: State) -> None:
    """Builds the index of causes anew from the rows."""
    state.cause_slots[:] = NIL
    for row in range(state.counts[CAUSES]):
        known = state.causes[row]
        slot = _cause_slot(
            state,
            np.int64(known.journey),
            np.int64(known.service),
            np.int64(known.operation),
            np.int64(known.version),
            np.int64(known.kind),
        )
        state.cause_slots[slot] = row


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
        told.cause, told.journey, told.reason = row, attempt.journey, attempt.error
        known = state.causes[row]
        known.count += attempt.weight
        weight, value = attempt.weight, attempt.value
        known.value += value // _MILLIONTHS * weight + value % _MILLIONTHS * weight // _MILLIONTHS
        if attempt.trace_hi != 0 or attempt.trace_lo != 0:
            known.trace_hi = attempt.trace_hi
            known.trace_lo = attempt.trace_lo
        if attempt.end - known.time > QUIET_AFTER:
            known.since = attempt.end
        known.since = min(known.since, attempt.end)
        known.time = max(known.time, attempt.end)
        minute = min(attempt.end // _MINUTE, now)
        if minute > now - RING:
            state.ring[row, minute % RING] += attempt.weight
        slot = _slot_of(attempt.end, second // SLOT_SECONDS)
        state.journeys[np.int64(attempt.journey), slot, BAD] += attempt.weight / _MILLIONTHS

"""Attempts and events into outcomes: the loops of the `outcomes` stage.

An attempt waits under its keys for an event, an event (a claim, for each journey that it may mean
something to) waits under its keys for attempts. Keys are 128-bit hashes in tables, one for each
side, so that whoever arrives looks only at the other side; see `waiting`.

Verdicts are given as early as they are certain, at the time at which they became true:

    a criterion on error or duration failed      bad, at the attempt's end
    no event is needed, and none failed          good, at the attempt's end
    the event came within time                   good, at the event or the end, whichever is later
    the time for the event passed                bad, at start + within

Nothing depends on the order of rows in a pool or under a key: what is processed together is sorted
by `sequence`, so that a restored state goes on exactly as the one that was saved.

Cost: O(keys) an attempt or event, plus O(log n) for each attempt that leaves n under its key.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.hashing import home
from outcome_exporter.kernels.jit import allocating, kernel
from outcome_exporter.kernels.pool import NIL, cancel, give, schedule, take
from outcome_exporter.kernels.recent import RecentArrays, remember
from outcome_exporter.kernels.sums import added, weighted
from outcome_exporter.kernels.waiting import Side, first, has_mate, link, unlink
from outcome_exporter.model import (
    ERROR,
    JOIN_KEYS_MAX,
    MISSED,
    NO_VALUE,
    OK,
    RECOVERED,
    SLOW,
    Row,
    Table,
)
from outcome_exporter.plan import JoinPlan

ACHIEVED, AT_RISK, LOST = range(3)

COMBINATION = np.dtype(
    [
        ("labels", np.uint64),
        ("counts", np.int64, (5,)),  # by reason, millionths
        ("trace_hi", np.uint64, (5,)),  # of the last attempt, for exemplars
        ("trace_lo", np.uint64, (5,)),
        ("time", np.int64, (5,)),
        ("born", np.int64),  # second
        ("journey", np.uint32),
    ],
    align=True,
)
"""One combination of a journey's label values."""

# Places in `Outcomes.counts`
SEQUENCE, DUPLICATE_ATTEMPTS, DUPLICATE_EVENTS, COMBINATIONS, COMBINATIONS_OVERFLOW = range(5)
COUNTS = 5

DURATION_BOUNDS_MS = (5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000)
"""Upper bounds of the buckets of durations: those OpenTelemetry advises for HTTP."""
_BOUNDS = np.array(DURATION_BOUNDS_MS, np.int64) * 1_000_000

LATENCY_BOUNDS_SECONDS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 3600)
_LATENCY_BOUNDS = np.array(LATENCY_BOUNDS_SECONDS, np.int64)

_SECOND = 1_000_000_000


class Outcomes(NamedTuple):
    """The state of the stage."""

    attempts: Side
    claims: Side
    settled: RecentArrays
    """Attempts that were counted, by identity."""
    combinations: Table
    combination_slots: npt.NDArray[np.int32]
    durations: npt.NDArray[np.int64]
    """Shape (journeys, bounds + 1): attempts by duration, millionths."""
    duration_sum: npt.NDArray[np.int64]
    """Shape (journeys,): microseconds."""
    latency: npt.NDArray[np.int64]
    """Shape (bounds + 1,): attempts by seconds from their end to the final verdict."""
    latency_sum: npt.NDArray[np.int64]
    """Shape (1,): seconds."""
    value: npt.NDArray[np.int64]
    """Shape (journeys, 3): achieved, at risk, lost; millionths."""
    mean: npt.NDArray[np.int64]
    """Shape (journeys,): recent mean value, millionths."""
    pending: npt.NDArray[np.int64]
    """Shape (journeys,): attempts whose reason is not final."""
    unmatched: npt.NDArray[np.int64]
    """Shape (event types,)."""
    counts: npt.NDArray[np.int64]


class Moment(NamedTuple):
    """When it is, and what follows from it."""

    second: int
    grace_until: int
    """Second before which nothing is missed: the exporter was away."""
    lateness: int
    """Nanoseconds that an event may be late."""
    dedupe: int
    """Seconds that a settled attempt is remembered."""


class Output(NamedTuple):
    """What a call settled; the arrays are written from the front."""

    verdicts: Table
    """VERDICT."""
    bad: Table
    """ATTEMPT: attempts that became bad, with `end` the time at which, `error` their reason."""
    users: Table
    """ATTEMPT: attempts whose user only their event knew, `error` whether they are bad."""
    good: Table
    """ATTEMPT: attempts that are good for good, with `end` the outcome time; empty where nobody
    asks."""
    recovered: Table
    """ATTEMPT: attempts whose event came although they had failed; they were told as bad before."""
    counts: npt.NDArray[np.int64]
    """Verdicts, bad attempts, users, good attempts, recovered ones."""


@kernel
def _release(side: Side, row: int) -> None:
    """Gives back a row that waits under no key any more."""
    if side.wheel.due[row] > 0:
        cancel(side.wheel, row)
    side.rows[row].alive = 0
    give(side.free, row)


@kernel
def _remove(side: Side, row: int) -> None:
    unlink(side, row)
    _release(side, row)


@allocating
def by_sequence(rows: Table, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows in the order in which they became known."""
    order = np.empty(places.size, np.uint64)
    for i in range(places.size):
        order[i] = rows[places[i]].sequence
    return places[np.argsort(order)]


# Counting


@kernel
def _add_value(state: Outcomes, journey: int, what: int, value: int, weight: int) -> None:
    state.value[journey, what] = added(state.value[journey, what], weighted(value, weight))


@kernel
def _combination_slot(state: Outcomes, journey: int, labels: np.uint64) -> int:
    mask = state.combination_slots.size - 1
    slot = np.int64(home(state.attempts.heaps.seed, labels, np.uint64(journey)) & np.uint64(mask))
    while True:
        row = state.combination_slots[slot]
        if row < 0:
            return slot
        known = state.combinations[row]
        if known.labels == labels and known.journey == journey:
            return slot
        slot = (slot + 1) & mask


@kernel
def _all_other(labels: np.uint64) -> np.uint64:
    """The same labels, every one of them `other`."""
    packed = np.uint64(0)
    for n in range(6):
        if labels >> np.uint64(10 * n) & np.uint64(1023):
            packed |= np.uint64(1) << np.uint64(10 * n)
    return packed


@kernel
def combination(state: Outcomes, journey: int, labels: np.uint64, second: int) -> int:
    """Row of a combination of label values, a new one if there is room."""
    slot = _combination_slot(state, journey, labels)
    row = np.int64(state.combination_slots[slot])
    if row >= 0:
        return row
    # Each journey may keep 64 rows more for its sums under `other`: one a set of present labels.
    spare = 64 * state.pending.size
    if state.counts[COMBINATIONS] >= state.combinations.size - spare:
        other = _all_other(labels)
        if other != labels:
            state.counts[COMBINATIONS_OVERFLOW] += 1
            return combination_other(state, journey, other, second)
    return _new_combination(state, slot, journey, labels, second)


@kernel
def combination_other(state: Outcomes, journey: int, labels: np.uint64, second: int) -> int:
    """Row of a combination in which every label is `other`."""
    slot = _combination_slot(state, journey, labels)
    row = np.int64(state.combination_slots[slot])
    return row if row >= 0 else _new_combination(state, slot, journey, labels, second)


@kernel
def _new_combination(
    state: Outcomes, slot: int, journey: int, labels: np.uint64, second: int
) -> int:
    row = state.counts[COMBINATIONS]
    state.counts[COMBINATIONS] += 1
    state.combination_slots[slot] = row
    state.combinations[row].journey = journey
    state.combinations[row].labels = labels
    state.combinations[row].born = second
    return row


@kernel
def reindex_combinations(state: Outcomes) -> None:
    """Builds the index of combinations anew from the rows."""
    state.combination_slots[:] = NIL
    for row in range(state.counts[COMBINATIONS]):
        known = state.combinations[row]
        slot = _combination_slot(state, np.int64(known.journey), known.labels)
        state.combination_slots[slot] = row


@kernel
def _learn(state: Outcomes, journey: int, value: int) -> None:
    """Moves a journey's recent mean a sixteenth of the way."""
    mean = state.mean[journey]
    state.mean[journey] = value if mean == 0 else mean + (value - mean) // 16


@kernel
def _finish(state: Outcomes, attempt: Row, reason: int, moment: Moment) -> None:
    """Counts an attempt under its final reason."""
    journey = np.int64(attempt.journey)
    row = combination(state, journey, attempt.labels, moment.second)
    counted = state.combinations[row]
    counted.counts[reason] += attempt.weight
    counted.trace_hi[reason] = attempt.trace_hi
    counted.trace_lo[reason] = attempt.trace_lo
    counted.time[reason] = attempt.end
    waited = max(moment.second - attempt.end // _SECOND, 0)
    state.latency[np.searchsorted(_LATENCY_BOUNDS, waited)] += 1
    state.latency_sum[0] += waited


@kernel
def _tell_bad(
    state: Outcomes, attempt: Row, value: int, reason: int, time: int, out: Output
) -> None:
    """An attempt became bad: its money is at risk, and somebody is to blame."""
    _add_value(state, np.int64(attempt.journey), AT_RISK, value, attempt.weight)
    row = out.counts[1]
    out.bad[row] = attempt
    out.bad[row].value = value
    out.bad[row].error = reason
    out.bad[row].end = time
    out.counts[1] += 1


@kernel
def _tell_good(attempt: Row, time: int, out: Output) -> None:
    """An attempt is good, for good; told where somebody asks."""
    if out.good.size > 0:
        row = out.counts[3]
        out.good[row] = attempt
        out.good[row].end = time
        out.counts[3] += 1


@kernel
def _verdict(out: Output, attempt: Row, slo: int, bad: int, time: int, value: int) -> None:
    row = out.verdicts[out.counts[0]]
    row.slo = slo
    row.bad = bad
    row.time = time
    row.weight = attempt.weight
    row.value = weighted(value, attempt.weight) if bad else 0
    row.trace_hi = attempt.trace_hi
    row.trace_lo = attempt.trace_lo
    out.counts[0] += 1


@kernel
def _due(plan_within: int, attempt: Row, moment: Moment) -> int:
    """Second from which an event that should have come within a time is missed."""
    late = max(attempt.start + plan_within, attempt.known * _SECOND) + moment.lateness
    return max(late // _SECOND + 1, moment.grace_until)


@kernel
def _judge(
    plan: JoinPlan, attempt: Row, value: int, event: int, moment: Moment, out: Output
) -> int:
    """Gives the verdicts that are certain, and the second at which the next one will be.

    `event` is the time of the attempt's event, or NO_VALUE while there is none. Returns -1 where
    nothing is pending.
    """
    journey = np.int64(attempt.journey)
    first = plan.first_slo[journey]
    duration = attempt.end - attempt.start
    pending, due = np.uint64(0), np.int64(-1)
    for slo in range(first, plan.first_slo[journey + 1]):
        bit = np.uint64(1) << np.uint64(slo - first)
        if not attempt.pending & bit:
            continue
        within, below = plan.slo_within[slo], plan.slo_below[slo]
        deadline = attempt.start + within
        if (plan.slo_error[slo] and attempt.error == ERROR) or 0 <= below <= duration:
            _verdict(out, attempt, slo, 1, attempt.end, value)
        elif within < 0:
            _verdict(out, attempt, slo, 0, attempt.end, value)
        elif event != NO_VALUE and event <= deadline:
            _verdict(out, attempt, slo, 0, max(event, attempt.end), value)
        elif event != NO_VALUE or _due(within, attempt, moment) <= moment.second:
            _verdict(out, attempt, slo, 1, deadline, value)
        else:
            pending |= bit
            second = _due(within, attempt, moment)
            due = second if due < 0 else min(due, second)
    attempt.pending = pending
    return due


@kernel
def _is_slow(plan: JoinPlan, attempt: Row) -> bool:
    """Whether it took longer than its journey's `slow_above`, where there is one."""
    return 0 <= plan.slow_above[np.int64(attempt.journey)] < attempt.end - attempt.start


# What arrives


@kernel
def _achieve(
    plan: JoinPlan, state: Outcomes, attempt: Row, claim: Row, moment: Moment, out: Output
) -> None:
    """An attempt and its event have met."""
    journey = np.int64(attempt.journey)
    _judge(plan, attempt, attempt.value, claim.time, moment, out)
    reason = RECOVERED if attempt.error == ERROR else np.int64(attempt.error)
    _finish(state, attempt, reason, moment)
    if reason == OK:
        _tell_good(attempt, max(claim.time, attempt.end), out)
    elif reason == RECOVERED:
        out.recovered[out.counts[4]] = attempt
        out.counts[4] += 1
    if attempt.user == 0 and claim.user != 0:
        row = out.counts[2]
        out.users[row] = attempt
        out.users[row].user = claim.user
        out.users[row].error = reason != OK
        out.counts[2] += 1
    if not claim.achieved and plan.has_value[journey]:
        value = attempt.value
        if claim.value != NO_VALUE:
            value = claim.value
            _learn(state, journey, value)
        _add_value(state, journey, ACHIEVED, value, attempt.weight)
    claim.achieved = 1


@kernel
def _mark_used(state: Outcomes, row: int) -> None:
    rows = state.claims.rows
    sibling = row
    while True:
        rows[sibling].used = 1
        sibling = np.int64(rows[sibling].sibling)
        if sibling == row:
            return


@kernel
def _finish_alone(
    plan: JoinPlan, state: Outcomes, attempt: Row, moment: Moment, out: Output
) -> None:
    """Ends an attempt of a journey without an outcome event, for which nothing is waited."""
    journey = np.int64(attempt.journey)
    _finish(state, attempt, np.int64(attempt.error), moment)
    if attempt.error == OK:
        _tell_good(attempt, attempt.end, out)
    if plan.has_value[journey]:
        fate = LOST if attempt.error == ERROR else ACHIEVED
        _add_value(state, journey, fate, attempt.value, attempt.weight)


@allocating
def add_attempts(
    plan: JoinPlan, state: Outcomes, attempts: Table, moment: Moment, out: Output
) -> None:
    """Takes attempts that became known.

    Args:
        plan: When attempts are good.
        state: The stage's; there must be room for every attempt to wait.
        attempts: ATTEMPT rows, in the order they became known.
        moment: The clock.
        out: Room for every SLO of every attempt, and for every attempt to be bad.
    """
    for i in range(attempts.size):
        attempt = attempts[i]
        if remember(state.settled, attempt.identity, moment.second, moment.dedupe):
            state.counts[DUPLICATE_ATTEMPTS] += 1
            continue
        journey = np.int64(attempt.journey)
        attempt.sequence = state.counts[SEQUENCE]
        state.counts[SEQUENCE] += 1
        attempt.known = moment.second
        slos = np.uint64(plan.first_slo[journey + 1] - plan.first_slo[journey])
        attempt.pending = (np.uint64(1) << slos) - np.uint64(1)
        duration = attempt.end - attempt.start
        state.durations[journey, np.searchsorted(_BOUNDS, duration)] += attempt.weight
        microseconds = weighted(duration // 1000, attempt.weight)
        state.duration_sum[journey] = added(state.duration_sum[journey], microseconds)
        claim = _claim_for(plan, state, attempt)
        value = np.int64(0)
        if plan.has_value[journey]:
            value = attempt.value
            if value != NO_VALUE:
                _learn(state, journey, value)
            elif claim >= 0:
                value = state.claims.rows[claim].value
            if value == NO_VALUE:
                value = state.mean[journey]
        attempt.value = value
        if attempt.error == OK and _is_slow(plan, attempt):
            attempt.error = SLOW
        if attempt.error != OK:
            _tell_bad(state, attempt, value, np.int64(attempt.error), attempt.end, out)
        if plan.within[journey] < 0:
            _judge(plan, attempt, value, NO_VALUE, moment, out)
            _finish_alone(plan, state, attempt, moment, out)
        elif claim >= 0:
            _achieve(plan, state, attempt, state.claims.rows[claim], moment, out)
            _mark_used(state, claim)
        else:
            row = take(state.attempts.free)
            state.attempts.rows[row] = attempt
            waiting = state.attempts.rows[row]
            waiting.alive = 1
            due = _judge(plan, waiting, value, NO_VALUE, moment, out)
            final = _due(plan.within[journey], waiting, moment)
            schedule(state.attempts.wheel, row, final if due < 0 else min(due, final))
            link(state.attempts, row)
            state.pending[journey] += 1


@kernel
def _claim_for(plan: JoinPlan, state: Outcomes, attempt: Row) -> int:
    """Row of the claim that an attempt finds waiting, the earliest in time; NIL for none."""
    within = plan.within[np.int64(attempt.journey)]
    if within < 0:
        return NIL
    claims = state.claims.rows
    best = np.int64(NIL)
    for k in range(JOIN_KEYS_MAX):
        row = first(state.claims, attempt, k)
        if row < 0 or claims[row].time > attempt.start + within:
            continue
        if best >= 0 and claims[row].time == claims[best].time:
            if claims[row].sequence < claims[best].sequence:
                best = row
        elif best < 0 or claims[row].time < claims[best].time:
            best = row
    return best


@allocating
def take_achieved(
    plan: JoinPlan, state: Outcomes, claims: Table
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lets the attempts that some claims achieve wait under no key any more.

    Returns:
        Their rows, those of the first claim first, each claim's by sequence; and of each claim,
        up to where its own are. Shape (attempts,), (claims,).
    """
    side = state.attempts
    found = np.empty(64, np.int64)
    ends = np.empty(claims.size, np.int64)
    count = 0
    for i in range(claims.size):
        claim = claims[i]
        begun = count
        within = plan.within[np.int64(claim.journey)]
        for k in range(JOIN_KEYS_MAX):
            row = first(side, claim, k)
            while row >= 0 and claim.time <= side.rows[row].start + within:
                if count == found.size:
                    more = np.empty(2 * count, np.int64)
                    more[:count] = found
                    found = more
                found[count] = row
                count += 1
                unlink(side, row)
                row = first(side, claim, k)
        if count - begun > 1:
            found[begun:count] = by_sequence(side.rows, found[begun:count])
        ends[i] = count
    return found[:count], ends


@allocating
def add_claims(
    plan: JoinPlan,
    state: Outcomes,
    claims: Table,
    achieved: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    wait: npt.NDArray[np.int64],
    moment: Moment,
    out: Output,
) -> None:
    """Takes events, as what they mean to each journey.

    Args:
        plan: When attempts are good.
        state: The stage's; there must be room for every claim to wait.
        claims: CLAIM rows; those of one event follow one another.
        achieved: What `take_achieved` gave for them.
        wait: Shape (journeys,): seconds that a claim waits for attempts.
        moment: The clock.
        out: Room for every SLO of every attempt that is achieved.
    """
    rows, ends = achieved
    begun = 0
    leader = NIL
    identity = np.uint64(0)
    for i in range(claims.size):
        row = take(state.claims.free)
        state.claims.rows[row] = claims[i]
        claim = state.claims.rows[row]
        claim.sequence = state.counts[SEQUENCE]
        state.counts[SEQUENCE] += 1
        claim.alive = 1
        claim.achieved = claim.used = 0
        if leader >= 0 and identity == claim.identity:
            claim.sibling = state.claims.rows[leader].sibling
            state.claims.rows[leader].sibling = row
            claim.used = state.claims.rows[leader].used
        else:
            leader, identity = row, claim.identity
            claim.sibling = row
        link(state.claims, row)
        journey = np.int64(claim.journey)
        schedule(state.claims.wheel, row, moment.second + wait[journey])
        for waiting in rows[begun : ends[i]]:
            _mark_used(state, row)
            _achieve(plan, state, state.attempts.rows[waiting], claim, moment, out)
            state.pending[journey] -= 1
            _release(state.attempts, waiting)
        begun = ends[i]


# What did not arrive


@kernel
def _finish_missed(plan: JoinPlan, state: Outcomes, row: int, moment: Moment, out: Output) -> None:
    """Ends an attempt whose event never came."""
    attempt = state.attempts.rows[row]
    journey = np.int64(attempt.journey)
    if attempt.error == OK:
        deadline = attempt.start + plan.within[journey]
        _tell_bad(state, attempt, attempt.value, MISSED, deadline, out)
    _finish(state, attempt, ERROR if attempt.error == ERROR else MISSED, moment)
    # A retry that still waits may save the money; the last of them answers for it.
    if plan.has_value[journey] and not has_mate(state.attempts, row):
        _add_value(state, journey, LOST, attempt.value, attempt.weight)


@allocating
def expire_attempts(
    plan: JoinPlan,
    state: Outcomes,
    rows: npt.NDArray[np.int64],
    moment: Moment,
    out: Output,
) -> None:
    """Judges attempts whose timer rang: the time of an event passed, for an SLO or for good."""
    for row in by_sequence(state.attempts.rows, rows):
        attempt = state.attempts.rows[row]
        journey = np.int64(attempt.journey)
        due = _judge(plan, attempt, attempt.value, NO_VALUE, moment, out)
        final = _due(plan.within[journey], attempt, moment)
        if final > moment.second:
            schedule(state.attempts.wheel, row, final if due < 0 else min(due, final))
            continue
        if plan.within[journey] < 0:  # the event that it waited for was taken out of the journey
            _finish_alone(plan, state, attempt, moment, out)
        else:
            _finish_missed(plan, state, row, moment, out)
        state.pending[journey] -= 1
        _remove(state.attempts, row)


@allocating
def expire_claims(state: Outcomes, rows: npt.NDArray[np.int64], moment: Moment) -> None:
    """Drops events that waited long enough; those no attempt wanted are counted."""
    for row in by_sequence(state.claims.rows, rows):
        if moment.second < moment.grace_until:
            schedule(state.claims.wheel, row, moment.grace_until)
            continue
        claim = state.claims.rows[row]
        if claim.sibling == row:
            if not claim.used:
                state.unmatched[claim.type] += 1
        else:
            before = row
            while state.claims.rows[before].sibling != row:
                before = np.int64(state.claims.rows[before].sibling)
            state.claims.rows[before].sibling = claim.sibling
        _remove(state.claims, row)

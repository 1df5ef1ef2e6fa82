"""Which attempts have which traits, and how many of them were bad: the loops of `suspects`.

`observe` gathers the traits of each trace and keeps them until its attempts have a verdict, in a
ring; an attempt carries the place. `count` adds an attempt that got its verdict to its minute.

Cost: O(1) a span, O(traits) an attempt.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.jit import allocating, kernel
from outcome_exporter.kernels.pool import NIL
from outcome_exporter.kernels.traits import TraitArrays
from outcome_exporter.model import Row, Table

GOOD, BAD = range(2)

MINUTES = 60
"""Minutes of outcome time that are kept apart."""
TRAITS_MAX = 255
"""Traits of a trace; what comes beyond is left out and counted."""

PAIR = np.dtype(
    [
        ("born", np.int64),  # of the trait: its row may have come to mean another one
        ("journey", np.int32),
        ("trait", np.int32),
    ],
    align=True,
)
"""A trait that attempts at a journey had."""

# Places in `State.counts`
HEAD, VALID_FROM, PAIRS, PAIRS_OVERFLOW, KEPT_OVERFLOW, TRAITS_OVERFLOW = range(6)
COUNTS = 6

_HEADER = 3
_MINUTE = 60_000_000_000
_WORD = 0xFFFFFFFF


class State(NamedTuple):
    """The state of the stage."""

    ring: npt.NDArray[np.uint16]
    """What is kept of traces: the second it was written, in two words, a count, and the traits.
    A power of two long."""
    index: npt.NDArray[np.int32]
    """Shape (journeys, traits): row of a pair; NIL where there is none."""
    pairs: Table
    seen: npt.NDArray[np.uint32]
    """Shape (pairs, MINUTES, 2): attempts, good and bad."""
    totals: npt.NDArray[np.int64]
    """Shape (journeys, MINUTES, 2): those whose traits are known."""
    counts: npt.NDArray[np.int64]


@allocating
def observe(
    state: State,
    traits: TraitArrays,
    spans: Table,
    starts: npt.NDArray[np.int64],
    attempts: Table,
    places: npt.NDArray[np.int64],
    second: int,
) -> None:
    """Keeps the traits of each trace that has attempts, and writes the place to them.

    Args:
        state: The stage's.
        traits: What the sets of the spans hold.
        spans: SETTLED_SPAN, trace after trace.
        starts: Shape (traces + 1,): where each trace begins.
        attempts: ATTEMPT; `traits` is written.
        places: Row in `spans` of each attempt's span, ascending by trace.
        second: The clock.
    """
    sets_seen = np.full(traits.sets.size, NIL, np.int32)
    seen = np.full(traits.rows.size, NIL, np.int32)
    found = np.empty(TRAITS_MAX, np.uint16)
    trace, gathered = 0, NIL
    place = np.int64(0)
    for i in range(attempts.size):
        while starts[trace + 1] <= places[i]:
            trace += 1
        if gathered != trace:
            gathered = trace
            first, end = starts[trace], starts[trace + 1]
            size = _gather(state, traits, spans, first, end, trace, sets_seen, seen, found)
            place = _keep(state, found, size, second)
        attempts[i].traits = np.uint32(place & _WORD)


@kernel
def _gather(
    state: State,
    traits: TraitArrays,
    spans: Table,
    first: int,
    end: int,
    trace: int,
    sets_seen: npt.NDArray[np.int32],
    seen: npt.NDArray[np.int32],
    found: npt.NDArray[np.uint16],
) -> int:
    count = 0
    last = np.int64(0)
    for k in range(first, end):
        one = np.int64(spans[k].traits)
        if one == last or one == 0 or sets_seen[one] == trace:
            continue
        last = one
        sets_seen[one] = trace
        known = traits.sets[one]
        for n in range(known.count):
            trait = known.traits[n]
            if seen[trait] == trace:
                continue
            seen[trait] = trace
            if count == TRAITS_MAX:
                state.counts[TRAITS_OVERFLOW] += 1
                continue
            found[count] = trait
            count += 1
    return count


@kernel
def _keep(state: State, found: npt.NDArray[np.uint16], count: int, second: int) -> int:
    mask = state.ring.size - 1
    if state.counts[HEAD] & _WORD == 0:  # 0 means nowhere
        state.counts[HEAD] += 1
    place = state.counts[HEAD]
    state.ring[place & mask] = second & 0xFFFF
    state.ring[(place + 1) & mask] = second >> 16 & 0xFFFF
    state.ring[(place + 2) & mask] = count
    for k in range(count):
        state.ring[(place + _HEADER + k) & mask] = found[k]
    state.counts[HEAD] = place + _HEADER + count
    return place


@kernel
def _kept(state: State, attempt: Row) -> int:
    """Where the traits of an attempt are kept; NIL where they are no more."""
    head = state.counts[HEAD]
    place = head - ((head - np.int64(attempt.traits)) & _WORD)
    if place < max(head - state.ring.size, state.counts[VALID_FROM]):
        return NIL
    mask = state.ring.size - 1
    written = np.int64(state.ring[place & mask]) | np.int64(state.ring[(place + 1) & mask]) << 16
    # Places are counted modulo 2^32: one that waits for very long may point at a later trace's.
    return place if written == np.int64(attempt.known) else NIL


@kernel
def _pair(state: State, traits: TraitArrays, journey: int, trait: int) -> int:
    """Row of a journey's trait, a new one if there is room."""
    born = traits.rows[trait].born
    row = np.int64(state.index[journey, trait])
    if row < 0:
        if state.counts[PAIRS] == state.pairs.size:
            state.counts[PAIRS_OVERFLOW] += 1
            return NIL
        row = state.counts[PAIRS]
        state.counts[PAIRS] += 1
        state.index[journey, trait] = row
        state.pairs[row].journey = journey
        state.pairs[row].trait = trait
    elif state.pairs[row].born == born:
        return row
    state.pairs[row].born = born
    state.seen[row] = 0
    return row


@kernel
def count(state: State, traits: TraitArrays, attempts: Table, verdict: int, minute: int) -> None:
    """Adds attempts that got their verdict.

    Args:
        state: The stage's.
        traits: What is known.
        attempts: ATTEMPT; `end` is the outcome's time.
        verdict: GOOD or BAD, of all of them.
        minute: The clock.
    """
    mask = state.ring.size - 1
    for i in range(attempts.size):
        attempt = attempts[i]
        if attempt.traits == 0:
            continue
        place = _kept(state, attempt)
        if place < 0:
            state.counts[KEPT_OVERFLOW] += 1
            continue
        when = min(attempt.end // _MINUTE, minute)
        if when <= minute - MINUTES:
            continue
        journey, slot = np.int64(attempt.journey), when % MINUTES
        state.totals[journey, slot, verdict] += 1
        for k in range(state.ring[(place + 2) & mask]):
            trait = np.int64(state.ring[(place + _HEADER + k) & mask])
            # Its row may stand for another value by now.
            if traits.rows[trait].alive and traits.rows[trait].born <= np.int64(attempt.known):
                row = _pair(state, traits, journey, trait)
                if row >= 0:
                    state.seen[row, slot, verdict] += 1


@kernel
def forget_pairs(state: State) -> None:
    """Makes room: pairs that no attempt of the last `MINUTES` had go."""
    used = 0
    for row in range(state.counts[PAIRS]):
        pair = state.pairs[row]
        some = False
        for minute in range(MINUTES):
            some |= state.seen[row, minute, GOOD] > 0 or state.seen[row, minute, BAD] > 0
        state.index[pair.journey, pair.trait] = used if some else NIL
        if some:
            if used != row:
                state.pairs[used] = pair
                # One by one: assigning a slice makes a copy, which a kernel has no room for.
                for minute in range(MINUTES):
                    for verdict in range(state.seen.shape[2]):
                        state.seen[used, minute, verdict] = state.seen[row, minute, verdict]
            used += 1
    state.counts[PAIRS] = used

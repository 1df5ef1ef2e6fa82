"""What blame knows of steps and causes: their rows, and where each is found.

A step is a service's operation in one version, within a journey. Its first version is its base:
what is seen of the others lately is compared with the history of all. A stop is a row of the same
table, which says after which step another one went no further.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.hashing import Seed, home
from outcome_exporter.kernels.jit import kernel
from outcome_exporter.kernels.pool import NIL
from outcome_exporter.kernels.texts import NONE, OTHER
from outcome_exporter.model import Table

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

VARIANCE_FLOOR = 0.02
"""Of log(1 + ms): below it a difference is real, but nobody would feel it."""
HISTORY_MIN = 5
"""Attempts that make a history."""
# Places in `State.counts`
STEPS, CAUSES, STEPS_OVERFLOW, CAUSES_OVERFLOW = range(4)
COUNTS = 4


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


# Steps


@kernel
def step_slot(
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
    slot = step_slot(state.steps, state.slots, state.seed, journey, first, second, version)
    row = np.int64(state.slots[slot])
    if row >= 0:
        return row
    # Each journey may keep one step and one stop more: those of everything beyond the limit.
    if state.counts[STEPS] >= state.steps.shape[0] - 2 * state.past.shape[0]:
        state.counts[STEPS_OVERFLOW] += 1
        first = second = OTHER
        version = STOP if version == STOP else NONE
        slot = step_slot(state.steps, state.slots, state.seed, journey, first, second, version)
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
        slot = step_slot(
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
def give_bit(state: State, journey: int, base: int) -> None:
    """Gives a step its bit in `present`, while there is one."""
    state.steps[base].bit = BITS
    for bit in range(BITS):
        if state.bits[journey, bit] < 0:
            state.bits[journey, bit] = base
            state.steps[base].bit = bit
            return


@kernel
def stands_for(journey: npt.NDArray[np.float64]) -> float:
    """Attempts that one attempt stands for, as far as chance is concerned: at least 1.

    Sums over weighted attempts vary as sums over (sum w)^2 / sum w^2 attempts would, Kish's
    effective sample size; a count divided by this is the number of them.
    """
    return max(journey[WEIGHTS] / journey[TRIES], 1.0) if journey[TRIES] > 0 else 1.0


# Causes


@kernel
def cause_slot(
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
    slot = cause_slot(state, journey, service, operation, version, kind)
    row = np.int64(state.cause_slots[slot])
    if row >= 0:
        return row
    if state.counts[CAUSES] >= state.causes.shape[0] - 4 * state.past.shape[0]:
        if kind != UNATTRIBUTED:
            state.counts[CAUSES_OVERFLOW] += 1
            service = operation = OTHER
            version = NONE
        slot = cause_slot(state, journey, service, operation, version, kind)
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
        slot = cause_slot(
            state,
            np.int64(known.journey),
            np.int64(known.service),
            np.int64(known.operation),
            np.int64(known.version),
            np.int64(known.kind),
        )
        state.cause_slots[slot] = row

"""Distinct users, estimated: HyperLogLog registers, one row for a time slice.

With 2^12 registers the standard error is 1.04 / sqrt(4096) = 1.6 %; small sets are counted by
linear counting, which is nearly exact.

Source:
    Flajolet et al., HyperLogLog: the analysis of a near-optimal cardinality estimation algorithm,
    2007. With a 64-bit hash its correction for large sets is not needed.
"""

import math

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.jit import kernel
from outcome_exporter.model import Table

PRECISION = 12
REGISTERS = 1 << PRECISION


@kernel
def add(registers: npt.NDArray[np.uint8], hashed: np.uint64) -> None:
    """Adds one hashed user to a row of registers."""
    register = hashed >> np.uint64(64 - PRECISION)
    rest = hashed << np.uint64(PRECISION)
    rank = 1
    while rank <= 64 - PRECISION and rest & np.uint64(1 << 63) == 0:
        rank += 1
        rest = rest << np.uint64(1)
    registers[register] = max(registers[register], rank)


@kernel
def add_users(
    registers: npt.NDArray[np.uint8],
    slices: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    attempts: Table,
    layout: npt.NDArray[np.int64],
    now: int,
) -> None:
    """Counts the users of attempts in the slices that hold their end, or in that of `now`.

    Args:
        registers: Shape (journeys with users, slices, REGISTERS).
        slices: Shape (journeys with users, slices): number of the slice that each row holds.
        rows: Shape (journeys,): row of a journey; -1 where it names no user.
        attempts: ATTEMPT rows.
        layout: Shape (windows, 3): first slice, its length in ns, how many slices.
        now: The clock, in ns. What ends later by its sender's is counted now: a slice of the
            future would take the place of one that a window still holds.
    """
    for i in range(attempts.size):
        attempt = attempts[i]
        row = rows[attempt.journey]
        if row < 0 or attempt.user == 0:
            continue
        for w in range(layout.shape[0]):
            first, length, count = layout[w, 0], layout[w, 1], layout[w, 2]
            number = min(attempt.end, now) // length
            place = first + number % count
            if number > slices[row, place]:
                slices[row, place] = number
                registers[row, place, :] = 0
            if number == slices[row, place]:
                add(registers[row, place], attempt.user)


def estimate(registers: npt.NDArray[np.uint8]) -> float:
    """How many distinct users were added, from registers merged by maximum."""
    raw = 0.7213 / (1 + 1.079 / REGISTERS) * REGISTERS**2
    raw /= float(np.sum(np.exp2(-registers.astype(np.float64))))
    empty = REGISTERS - int(np.count_nonzero(registers))
    if raw <= 2.5 * REGISTERS and empty:
        return REGISTERS * math.log(REGISTERS / empty)
    return raw

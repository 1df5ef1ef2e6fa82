"""Rows that come and go, and timers on them.

A pool is a structured array whose rows are taken and given back; the rows given back last are
taken first, so that what is alive stays dense at the front. A wheel is a hashed timing wheel: a
row waits in the slot of its due second modulo the wheel's size, and a visit to a slot skips the
rows whose round has not come. Inserting and removing is O(1); a tick costs what lies in one slot.

Rows are state and are checkpointed. Free lists and wheels follow from the rows and are rebuilt.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.jit import allocating, inlined, kernel
from outcome_exporter.kernels.words import prefetch
from outcome_exporter.model import Table

NIL = -1
"""No row."""

_USED = 0
_FREE = 1
_CACHE_LINE = 64

WHEEL_SLOTS = 4096
"""Seconds that a wheel spans in one round; a power of two."""


class Free(NamedTuple):
    """Which rows of a pool can be taken."""

    stack: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    """Rows ever taken (those from here on are untouched), rows on the stack."""


class Wheel(NamedTuple):
    """Timers on the rows of one pool."""

    heads: npt.NDArray[np.int32]
    following: npt.NDArray[np.int32]
    previous: npt.NDArray[np.int32]
    due: npt.NDArray[np.int64]
    """Second at which a row is due; 0 for a row without a timer."""


@kernel
def take(free: Free) -> int:
    """A row that nobody uses; there must be one."""
    if free.counts[_FREE] > 0:
        free.counts[_FREE] -= 1
        return np.int64(free.stack[free.counts[_FREE]])
    row = free.counts[_USED]
    free.counts[_USED] += 1
    return np.int64(row)


@inlined
def expect(free: Free, rows: Table, takes: int) -> None:
    """Brings a row near that will be taken in so many takes."""
    place = free.counts[_FREE] - takes
    if place > 0:
        prefetch(rows, np.int64(free.stack[place - 1]))


@kernel
def give(free: Free, row: int) -> None:
    """Hands a row back."""
    free.stack[free.counts[_FREE]] = row
    free.counts[_FREE] += 1


@kernel
def schedule(wheel: Wheel, row: int, second: int) -> None:
    """Sets the timer of a row that has none."""
    slot = second & (WHEEL_SLOTS - 1)
    head = wheel.heads[slot]
    wheel.due[row] = second
    wheel.following[row] = head
    wheel.previous[row] = NIL
    if head >= 0:
        wheel.previous[head] = row
    wheel.heads[slot] = row


@kernel
def cancel(wheel: Wheel, row: int) -> None:
    """Takes the timer of a row away."""
    after, previous = wheel.following[row], wheel.previous[row]
    if previous >= 0:
        wheel.following[previous] = after
    else:
        wheel.heads[wheel.due[row] & (WHEEL_SLOTS - 1)] = after
    if after >= 0:
        wheel.previous[after] = previous
    wheel.due[row] = 0


@allocating
def collect(wheel: Wheel, second: int) -> npt.NDArray[np.int64]:
    """Takes the rows that are due at `second` off the wheel, in no particular order."""
    count = 0
    row = wheel.heads[second & (WHEEL_SLOTS - 1)]
    while row >= 0:
        count += wheel.due[row] <= second
        row = wheel.following[row]
    rows = np.empty(count, np.int64)
    count = 0
    row = wheel.heads[second & (WHEEL_SLOTS - 1)]
    while row >= 0:
        after = wheel.following[row]
        if wheel.due[row] <= second:
            rows[count] = row
            count += 1
            cancel(wheel, row)
        row = after
    return rows


@kernel
def next_busy(wheel: Wheel, after: int, until: int) -> int:
    """First second in (after, until] whose slot holds a row; `until` where there is none."""
    for second in range(after + 1, min(until, after + WHEEL_SLOTS) + 1):
        if wheel.heads[second & (WHEEL_SLOTS - 1)] >= 0:
            return second
    return until


class Pool:
    """A growing structured array with its free rows and, where wanted, its timers."""

    def __init__(
        self, dtype: np.dtype[np.void], capacity: int = 1024, *, timed: bool = True
    ) -> None:
        """An empty pool; timers cost 16 bytes a row.

        Room costs memory only where it was written to, and growing copies what is there: a pool
        whose limit is known gets that capacity at once.
        """
        timers = capacity if timed else 0
        self.rows: Table = _zeros(capacity, dtype)
        self.free = Free(np.zeros(capacity, np.int32), np.zeros(2, np.int64))
        self.wheel = Wheel(
            heads=np.full(WHEEL_SLOTS, NIL, np.int32),
            following=np.zeros(timers, np.int32),
            previous=np.zeros(timers, np.int32),
            due=np.zeros(timers, np.int64),
        )

    def __len__(self) -> int:
        """Rows that are taken."""
        return int(self.free.counts[_USED] - self.free.counts[_FREE])

    @property
    def used(self) -> int:
        """Rows ever taken: those that a checkpoint keeps."""
        return int(self.free.counts[_USED])

    def reserve(self, rows: int) -> None:
        """Makes room for so many more rows."""
        capacity = self.rows.size
        needed = len(self) + rows
        if needed <= capacity:
            return
        capacity = max(needed, capacity * 3 // 2)
        used = self.used
        self.rows = _grown(self.rows, capacity, used)
        self.free = Free(_grown(self.free.stack, capacity, used), self.free.counts)
        if self.wheel.due.size:
            self.wheel = Wheel(
                self.wheel.heads, *(_grown(timers, capacity, used) for timers in self.wheel[1:])
            )

    def load(self, rows: Table) -> None:
        """Takes the rows of a checkpoint over, in place of those that are there.

        `release` those that are dead afterwards.
        """
        # As many as there was room for find room again: who holds on to `rows` may go on.
        self.reserve(rows.size - len(self))
        self.rows[: rows.size] = rows
        self.free.counts[:] = rows.size, 0

    def release(self, alive: npt.NDArray[np.bool_]) -> None:
        """Frees the rows that are not alive, the first ones to be taken first."""
        dead = np.flatnonzero(~alive)[::-1]
        self.free.stack[: dead.size] = dead
        self.free.counts[_FREE] = dead.size


def _zeros(size: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Rows that begin with a cache line: one as long as a line then lies in one, not in two."""
    room = np.zeros(size * dtype.itemsize + _CACHE_LINE, np.uint8)
    first = -room.ctypes.data % _CACHE_LINE
    return room[first : first + size * dtype.itemsize].view(dtype)


def _grown(array: npt.NDArray[Any], size: int, used: int) -> npt.NDArray[Any]:
    # Rows that were never taken are not copied: that would make room for them in earnest.
    grown = _zeros(size, array.dtype)
    grown[:used] = array[:used]
    return grown

"""Verdicts into minute buckets and sliding sums: the loops of the `slo` stage."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.hashing import Seed, home
from outcome_exporter.kernels.jit import inlined, kernel
from outcome_exporter.model import Table

GOOD, BAD, VALUE = range(3)

_MINUTE = 60 * 1_000_000_000


class Windows(NamedTuple):
    """Every window of every SLO, those of one SLO side by side."""

    first: npt.NDArray[np.int64]
    """Shape (slos + 1,)."""
    minutes: npt.NDArray[np.int64]
    """Shape (windows,)."""
    sums: npt.NDArray[np.int64]
    """Shape (windows, 3): good, bad, value."""


class Fresh(NamedTuple):
    """Buckets that are not in the store yet, as what is to be added to it."""

    rows: Table
    """BUCKET."""
    slots: npt.NDArray[np.int32]
    """Rows by (slo, minute), open addressing, -1 where empty."""
    count: npt.NDArray[np.int64]
    """Shape (1,)."""
    seed: Seed


class Totals(NamedTuple):
    """Counters of each SLO since it began."""

    events: npt.NDArray[np.int64]
    """Shape (slos, 2): good, bad; millionths."""
    trace: npt.NDArray[np.uint64]
    """Shape (slos, 2): trace of the last bad event, for the exemplar."""
    time: npt.NDArray[np.int64]
    """Shape (slos,): when it was."""
    too_old: npt.NDArray[np.int64]
    """Shape (1,): events older than any window."""


@kernel
def _slot(fresh: Fresh, slo: int, minute: int) -> int:
    mask = fresh.slots.size - 1
    slot = np.int64(home(fresh.seed, np.uint64(minute), np.uint64(slo)) & np.uint64(mask))
    while True:
        row = fresh.slots[slot]
        if row < 0 or (fresh.rows[row].slo == slo and fresh.rows[row].minute == minute):
            return slot
        slot = (slot + 1) & mask


@kernel
def reindex(fresh: Fresh) -> None:
    """Builds the index anew from the rows."""
    fresh.slots[:] = -1
    for row in range(fresh.count[0]):
        fresh.slots[_slot(fresh, np.int64(fresh.rows[row].slo), fresh.rows[row].minute)] = row


@kernel
def find(fresh: Fresh, slo: int, minute: int) -> int:
    """Row of a bucket; -1 where there is none."""
    return np.int64(fresh.slots[_slot(fresh, slo, minute)])


@kernel
def add(
    verdicts: Table, windows: Windows, fresh: Fresh, totals: Totals, now: int, oldest: int
) -> None:
    """Counts verdicts, each in the minute of its outcome time.

    Args:
        verdicts: VERDICT rows.
        windows: Sums up to the minute `now`.
        fresh: There must be room for a bucket of each verdict.
        totals: Counters.
        now: The minute it is.
        oldest: First minute that any window holds.
    """
    for i in range(verdicts.size):
        verdict = verdicts[i]
        slo, bad = np.int64(verdict.slo), np.int64(verdict.bad)
        totals.events[slo, bad] += verdict.weight
        if bad:
            totals.trace[slo, 0] = verdict.trace_hi
            totals.trace[slo, 1] = verdict.trace_lo
            totals.time[slo] = verdict.time
        minute = verdict.time // _MINUTE
        if minute < oldest:
            totals.too_old[0] += 1
            continue
        slot = _slot(fresh, slo, minute)
        row = np.int64(fresh.slots[slot])
        if row < 0:
            row = fresh.count[0]
            fresh.count[0] += 1
            fresh.slots[slot] = row
            fresh.rows[row].slo = slo
            fresh.rows[row].minute = minute
            fresh.rows[row].good = fresh.rows[row].bad = fresh.rows[row].value = 0
        bucket = fresh.rows[row]
        if bad:
            bucket.bad += verdict.weight
            bucket.value += verdict.value
        else:
            bucket.good += verdict.weight
        if minute > now:
            continue
        for w in range(windows.first[slo], windows.first[slo + 1]):
            if minute > now - windows.minutes[w]:
                windows.sums[w, bad] += verdict.weight
                windows.sums[w, VALUE] += verdict.value


@kernel
def move_on(windows: Windows, buckets: Table, now: int) -> None:
    """The minute `now` begins: its buckets enter every window, and one leaves each.

    Args:
        windows: Sums up to the minute before.
        buckets: Of any minutes; what neither enters nor leaves stays out of it.
        now: The minute it is.
    """
    for i in range(buckets.size):
        slo, age = np.int64(buckets[i].slo), now - buckets[i].minute
        for w in range(windows.first[slo], windows.first[slo + 1]):
            if age == 0:
                _add(windows, w, 1, buckets, i)
            elif age == windows.minutes[w]:
                _add(windows, w, -1, buckets, i)


@kernel
def fill(windows: Windows, length: int, buckets: Table) -> None:
    """Adds buckets to the windows of a length."""
    for i in range(buckets.size):
        slo = np.int64(buckets[i].slo)
        for w in range(windows.first[slo], windows.first[slo + 1]):
            if windows.minutes[w] == length:
                _add(windows, w, 1, buckets, i)


@inlined
def _add(windows: Windows, w: int, sign: int, buckets: Table, i: int) -> None:
    bucket = buckets[i]
    windows.sums[w, GOOD] += sign * bucket.good
    windows.sums[w, BAD] += sign * bucket.bad
    windows.sums[w, VALUE] += sign * bucket.value

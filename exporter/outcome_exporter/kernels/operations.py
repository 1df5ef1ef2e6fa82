"""Spans counted by operation: the loops of the `spanmetrics` stage."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.hashing import Seed, home
from outcome_exporter.kernels.jit import kernel
from outcome_exporter.kernels.texts import OTHER
from outcome_exporter.model import Table

BOUNDS_MS = (2, 4, 6, 8, 10, 50, 100, 200, 400, 800, 1000, 1400, 2000, 5000, 10_000, 15_000)
"""Upper bounds of the histogram: the connector's defaults."""
_BOUNDS = np.array(BOUNDS_MS, np.int64) * 1_000_000

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUSES = ("UNSET", "OK", "ERROR")

_SUM_MAX = (1 << 62) - 1
"""292 years in all: broken clocks stop a sum, they do not turn it back."""

OPERATION = np.dtype(
    [
        ("counts", np.int64, (len(BOUNDS_MS) + 1,)),
        ("sum", np.int64),  # nanoseconds, at most _SUM_MAX
        ("born", np.int64),  # second
        ("service", np.uint32),  # text codes
        ("name", np.uint32),
        ("kind", np.uint8),
        ("status", np.uint8),
    ],
    align=True,
)


class Operations(NamedTuple):
    """The state of the stage."""

    rows: Table
    slots: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    """Rows, spans counted under `other`."""
    seed: Seed


@kernel
def _slot(state: Operations, service: int, name: int, kind: int, status: int) -> int:
    mask = state.slots.size - 1
    names = np.uint64(service) << np.uint64(32) | np.uint64(name)
    slot = np.int64(home(state.seed, names, np.uint64(kind << 4 | status)) & np.uint64(mask))
    while True:
        row = state.slots[slot]
        if row < 0:
            return slot
        known = state.rows[row]
        if (
            known.service == service
            and known.name == name
            and known.kind == kind
            and known.status == status
        ):
            return slot
        slot = (slot + 1) & mask


@kernel
def add(state: Operations, spans: Table, second: int) -> None:
    for i in range(spans.size):
        span = spans[i]
        kind = min(np.int64(span.kind), len(KINDS) - 1)
        status = min(np.int64(span.status), len(STATUSES) - 1)
        service, name = np.int64(span.service), np.int64(span.operation)
        slot = _slot(state, service, name, kind, status)
        row = np.int64(state.slots[slot])
        if row < 0 and state.counts[0] >= state.rows.size - len(KINDS) * len(STATUSES):
            state.counts[1] += 1
            service = name = OTHER
            slot = _slot(state, service, name, kind, status)
            row = np.int64(state.slots[slot])
        if row < 0:
            row = state.counts[0]
            state.counts[0] += 1
            state.slots[slot] = row
            state.rows[row].service = service
            state.rows[row].name = name
            state.rows[row].kind = kind
            state.rows[row].status = status
            state.rows[row].born = second
        duration = span.end - span.start
        place = 0
        while place < _BOUNDS.size and duration > _BOUNDS[place]:
            place += 1
        state.rows[row].counts[place] += 1
        total = np.int64(state.rows[row].sum)
        state.rows[row].sum = total + min(duration, _SUM_MAX - total)


@kernel
def reindex(state: Operations) -> None:
    state.slots[:] = -1
    for row in range(state.counts[0]):
        known = state.rows[row]
        slot = _slot(
            state,
            np.int64(known.service),
            np.int64(known.name),
            np.int64(known.kind),
            np.int64(known.status),
        )
        state.slots[slot] = row

"""Rate, errors and duration of every operation, from settled spans.

State: a row for each (service, span name, kind, status), at most `operations` of them; beyond it
spans are counted under `other`. Named as the Collector's spanmetrics connector names them, with its
default buckets, so that dashboards made for it work.
"""

import numpy as np

from outcome_exporter.kernels.hashing import Seed
from outcome_exporter.kernels.operations import (
    KINDS,
    OPERATION,
    STATUSES,
    Operations,
    add,
    reindex,
)
from outcome_exporter.model import Table
from outcome_exporter.plan import Arrays, Plan


class SpanMetrics:
    """The stage's state."""

    def __init__(self, plan: Plan) -> None:
        """Nothing was seen."""
        self._state = _empty(plan.config.limits.operations, plan.seed)

    def add(self, spans: Table, second: int) -> None:
        """Counts SETTLED_SPAN rows."""
        add(self._state, spans, second)

    @property
    def rows(self) -> Table:
        """OPERATION rows."""
        return self._state.rows[: self._state.counts[0]]

    @property
    def overflow(self) -> int:
        """Spans counted under `other`."""
        return int(self._state.counts[1])

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        return {"rows": self.rows, "counts": self._state.counts}

    def restore(self, arrays: Arrays) -> None:
        """Takes over what `dump` gave."""
        rows = max(self._state.rows.size - _SPARE, arrays["rows"].size)
        self._state = _empty(rows, self._state.seed)
        self._state.rows[: arrays["rows"].size] = arrays["rows"]
        self._state.counts[:] = arrays["counts"]
        reindex(self._state)


_SPARE = len(KINDS) * len(STATUSES)
"""Rows for what is counted under `other`."""


def _empty(rows: int, seed: Seed) -> Operations:
    rows += _SPARE
    return Operations(
        rows=np.zeros(rows, OPERATION),
        slots=np.full(1 << (2 * rows).bit_length(), -1, np.int32),
        counts=np.zeros(2, np.int64),
        seed=seed,
    )

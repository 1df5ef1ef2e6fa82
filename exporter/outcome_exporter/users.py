"""Distinct users of each journey, and how many of them were hurt: sketches over time slices.

State: HyperLogLog registers by journey, outcome and time slice; user ids are hashes from the
first stage on. A window is the merge of its slices, so it is up to one slice longer than its name
says: 1h is 12 slices of 5 minutes and the current one, 1d is 24 hours and the current one.
"""

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.sketch import REGISTERS, add_users, estimate
from outcome_exporter.model import Table
from outcome_exporter.plan import Arrays, Moved, Plan
from outcome_exporter.units import HOUR, MINUTE, SECOND

ANY, BAD = range(2)
OUTCOMES = ("any", "bad")

WINDOWS = (("1h", 5 * MINUTE, 13), ("1d", HOUR, 25))
"""Name, slice in nanoseconds, slices."""

_SLICES = sum(slices for *_, slices in WINDOWS)


class Users:
    """The stage's state."""

    def __init__(self, plan: Plan) -> None:
        """Nobody yet."""
        count = len(plan.journeys)
        self.rows = np.full(count, -1, np.int64)
        self.rows[[journey.user is not None for journey in plan.journeys]] = 1
        self.rows[self.rows > 0] = np.arange(np.count_nonzero(self.rows > 0))
        tracked = np.count_nonzero(self.rows >= 0)
        self._registers = [np.zeros((tracked, _SLICES, REGISTERS), np.uint8) for _ in OUTCOMES]
        self._slices = [np.full((tracked, _SLICES), -1, np.int64) for _ in OUTCOMES]
        first, layout = 0, []
        for _, length, slices in WINDOWS:
            layout.append((first, length, slices))
            first += slices
        self._layout = np.array(layout, np.int64)

    def add(self, outcome: int, attempts: Table, second: int) -> None:
        """Counts the users of ATTEMPT rows at their `end`, at `second` where that is ahead."""
        if attempts.size and self._registers[outcome].size:
            registers, slices = self._registers[outcome], self._slices[outcome]
            now = second * SECOND
            add_users(registers, slices, self.rows, attempts, self._layout, now)

    def estimate(self, journey: int, outcome: int, window: int, second: int) -> float:
        """Distinct users in a window that ends now; 0 where the journey names no user."""
        row = int(self.rows[journey])
        first, length, count = self._layout[window].tolist()
        places = slice(first, first + count)
        numbers = self._slices[outcome][row, places]
        current = second * SECOND // length
        alive = (numbers > current - count) & (numbers <= current)
        if not alive.any():
            return 0.0
        merged: npt.NDArray[np.uint8] = self._registers[outcome][row, places][alive].max(axis=0)
        return round(estimate(merged))

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        arrays: Arrays = {"rows": self.rows}
        for name, registers, slices in zip(OUTCOMES, self._registers, self._slices, strict=True):
            arrays |= {f"{name}.registers": registers, f"{name}.slices": slices}
        return arrays

    def restore(self, arrays: Arrays, moved: Moved) -> None:
        """Takes over what `dump` gave."""
        for old, new in enumerate(moved.journeys.tolist()):
            source = int(arrays["rows"][old])
            if new < 0 or source < 0 or self.rows[new] < 0:
                continue
            for o, name in enumerate(OUTCOMES):
                self._registers[o][self.rows[new]] = arrays[f"{name}.registers"][source]
                self._slices[o][self.rows[new]] = arrays[f"{name}.slices"][source]

"""SLOs: minute buckets of verdicts, and what follows from them for every window.

State: buckets since the last checkpoint; sums over every window of every SLO; counters. Input:
verdicts with their outcome time. A window of n minutes ends with the current minute and holds n
minutes, that one included; its sums are exact integers, moved on by the minute that enters and the
one that leaves, so that a scrape costs O(windows), not O(minutes).

Buckets that were checkpointed are read back from a `BucketStore`; verdicts of the past change the
sums of whatever windows they fall into.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from outcome_exporter import burn
from outcome_exporter.config import Slo
from outcome_exporter.kernels import buckets as k
from outcome_exporter.model import BUCKET, Table
from outcome_exporter.plan import Arrays, Moved, Plan
from outcome_exporter.units import HOUR, MILLIONTHS, MINUTE, SECOND

_LEAP_MINUTES = 180
"""Above so many minutes at once, sums are made anew rather than moved on."""

_TRAFFIC_WINDOW = 5 * MINUTE


class BucketStore(Protocol):
    """Buckets of earlier checkpoints; `slo` is the number of the SLO in the plan."""

    def read_minute(self, minute: int) -> Table:
        """BUCKET rows of one minute."""

    def sum_minutes(self, first: int, last: int) -> Table:
        """BUCKET rows, one an SLO, summed over first to last, both included."""


class NoStore:
    """For a run that keeps everything in memory."""

    def read_minute(self, minute: int) -> Table:
        """Nothing."""
        del minute
        return np.empty(0, BUCKET)

    def sum_minutes(self, first: int, last: int) -> Table:
        """Nothing."""
        del first, last
        return np.empty(0, BUCKET)


class Slos:
    """The stage's state."""

    def __init__(self, plan: Plan, store: BucketStore) -> None:
        """No verdict yet."""
        self.slos: tuple[Slo, ...] = tuple(slo for _, slo in plan.slos)
        self._store = store
        lengths = [[w // MINUTE for w in slo.windows] for slo in self.slos]
        self._windows = k.Windows(
            first=np.concatenate([[0], np.cumsum([len(of) for of in lengths])]).astype(np.int64),
            minutes=np.array([m for of in lengths for m in of], np.int64),
            sums=np.zeros((sum(map(len, lengths)), 3), np.int64),
        )
        self._lengths: list[int] = sorted({m for of in lengths for m in of})
        self._longest = self._lengths[-1] if self._lengths else 0
        self._fresh = _empty_fresh(1024)
        count = len(self.slos)
        self.totals = k.Totals(
            events=np.zeros((count, 2), np.int64),
            trace=np.zeros((count, 2), np.uint64),
            time=np.zeros(count, np.int64),
            too_old=np.zeros(1, np.int64),
        )
        self.minute = 0

    def add(self, verdicts: Table) -> None:
        """Counts verdicts."""
        if verdicts.size == 0:
            return
        self._reserve(verdicts.size)
        oldest = self.minute - self._longest + 1
        k.add(verdicts, self._windows, self._fresh, self.totals, self.minute, oldest)

    def _reserve(self, rows: int) -> None:
        needed = int(self._fresh.count[0]) + rows
        if needed > self._fresh.rows.size:
            old = self._fresh
            self._fresh = _empty_fresh(max(needed, 2 * old.rows.size))
            self._fresh.rows[: old.rows.size] = old.rows
            self._fresh.count[:] = old.count
            k.reindex(self._fresh)

    def advance(self, second: int) -> None:
        """Moves the windows on to the minute of `second`."""
        minute = second // 60
        if minute - self.minute > _LEAP_MINUTES:
            self.minute = minute
            self._sum_anew(self._lengths)
        while self.minute < minute:
            self.minute += 1
            k.shift(self._windows, 0, 1, self._read(self.minute))
            for length in self._lengths:
                k.shift(self._windows, length, -1, self._read(self.minute - length))

    def _read(self, minute: int) -> Table:
        rows = self._fresh.rows[: self._fresh.count[0]]
        return np.concatenate([self._store.read_minute(minute), rows[rows["minute"] == minute]])

    def _sum_anew(self, lengths: Iterable[int]) -> None:
        rows = self._fresh.rows[: self._fresh.count[0]]
        for length in lengths:
            first = self.minute - length + 1
            self._windows.sums[self._windows.minutes == length] = 0
            within = (rows["minute"] >= first) & (rows["minute"] <= self.minute)
            k.shift(self._windows, length, 1, self._store.sum_minutes(first, self.minute))
            k.shift(self._windows, length, 1, rows[within])

    # What is shown

    def window_events(self, slo: int) -> list[tuple[int, float, float]]:
        """Of every window of an SLO: (length in ns, good events, bad events)."""
        first, last = self._windows.first[slo : slo + 2]
        return [
            (int(minutes) * MINUTE, int(sums[0]) / MILLIONTHS, int(sums[1]) / MILLIONTHS)
            for minutes, sums in zip(
                self._windows.minutes[first:last], self._windows.sums[first:last], strict=True
            )
        ]

    # Checkpoints

    def fresh(self) -> Table:
        """BUCKET rows to be added to the store; call `flushed` once they are there."""
        return self._fresh.rows[: self._fresh.count[0]]

    def flushed(self) -> None:
        """The store has the fresh buckets now."""
        self._fresh.count[0] = 0
        self._fresh.slots[:] = -1

    def dump(self) -> Arrays:
        """What a checkpoint keeps beside the buckets."""
        return {
            "first": self._windows.first,
            "minutes": self._windows.minutes,
            "sums": self._windows.sums,
            "minute": np.array([self.minute], np.int64),
            **{f"total_{name}": array for name, array in self.totals._asdict().items()},
        }

    def restore(self, arrays: Arrays, moved: Moved) -> None:
        """Takes over what `dump` gave; windows that are new are summed from the store."""
        self.minute = int(arrays["minute"][0])
        self.totals.too_old[:] = arrays["total_too_old"]
        known: set[tuple[int, int]] = set()
        for old, new in enumerate(moved.slos.tolist()):
            if new < 0:
                continue
            for name in ("events", "trace", "time"):
                getattr(self.totals, name)[new] = arrays[f"total_{name}"][old]
            first, last = arrays["first"][old : old + 2]
            for w in range(first, last):
                place = self._place(new, int(arrays["minutes"][w]))
                if place is not None:
                    self._windows.sums[place] = arrays["sums"][w]
                    known.add((new, int(arrays["minutes"][w])))
        missing = {
            int(self._windows.minutes[w])
            for slo in range(len(self.slos))
            for w in range(self._windows.first[slo], self._windows.first[slo + 1])
            if (slo, int(self._windows.minutes[w])) not in known
        }
        self._sum_anew(sorted(missing))

    def _place(self, slo: int, minutes: int) -> int | None:
        first, last = self._windows.first[slo : slo + 2]
        found = np.flatnonzero(self._windows.minutes[first:last] == minutes)
        return int(first + found[0]) if found.size else None


def _empty_fresh(rows: int) -> k.Fresh:
    return k.Fresh(
        rows=np.zeros(rows, BUCKET),
        slots=np.full(1 << (2 * rows).bit_length(), -1, np.int32),
        count=np.zeros(1, np.int64),
    )


def sli(good: float, bad: float) -> float:
    """Share of good events; 1 where there are none."""
    return good / (good + bad) if good + bad else 1.0


def burn_rate(slo: Slo, good: float, bad: float) -> float:
    """How many times faster than allowed the budget is spent; 0 where there are no events."""
    return bad / (good + bad) / slo.budget_ratio if good + bad else 0.0


def budget_remaining(slo: Slo, good: float, bad: float) -> float:
    """Error budget left, from the events of the own window: 1 untouched, below 0 overspent."""
    return 1.0 - burn_rate(slo, good, bad)


def exhaustion_seconds(slo: Slo, remaining: float, rate: float) -> float:
    """Time until the budget is gone at a burn rate: at most the window, 0 once it is spent."""
    window = slo.window / SECOND
    if remaining <= 0:
        return 0.0
    return min(remaining * window / rate, window) if rate else window


def traffic_state(slo: Slo, windows: dict[int, tuple[float, float]]) -> str:
    """`none`: nothing for 5 minutes; `low`: one bad event in the last hour would page alone."""
    if not sum(windows[_TRAFFIC_WINDOW]):
        return "none"
    page = burn.TIERS[0].threshold(slo.window)
    return "low" if burn_rate(slo, sum(windows[HOUR]) - 1, 1) > page else "normal"

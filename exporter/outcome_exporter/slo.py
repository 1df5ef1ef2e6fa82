"""SLOs: minute buckets of verdicts, and what follows from them for every window.

State: buckets since the last checkpoint; sums over every window of every SLO; counters. Input:
verdicts with their outcome time. A window of n minutes ends with the current minute and holds n
minutes, that one included; its sums are exact integers, moved on by the minute that enters and the
one that leaves, so that a scrape costs O(windows), not O(minutes).

SLOs that are budgeted otherwise than by events in a rolling window keep their minutes as arrays as
well, and have their windows computed from them when they are looked at; see `budgets`.

Buckets that were checkpointed are read back from a `BucketStore`; verdicts of the past change the
sums of whatever windows they fall into.
"""

import bisect
import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from outcome_exporter import budgets, burn
from outcome_exporter.config.slos import Slo, StandaloneSlo
from outcome_exporter.kernels import buckets as k
from outcome_exporter.kernels.hashing import Seed
from outcome_exporter.model import BUCKET, Table
from outcome_exporter.plan import Arrays, Moved, Plan
from outcome_exporter.units import HOUR, MILLIONTHS, MINUTE, SECOND

_LEAP_MINUTES = 180
"""Above so many minutes at once, sums are made anew rather than moved on."""

_MINUTES_AT_ONCE = 256
"""Read from the store: 10 MB of a thousand SLOs."""

_TRAFFIC_WINDOW = 5 * MINUTE
_Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


class BucketStore(Protocol):
    """Buckets of earlier checkpoints; `slo` is the number of the SLO in the plan."""

    def read_minute(self, minute: int) -> Table:
        """BUCKET rows of one minute."""

    def read_minutes(self, first: int, last: int) -> Table:
        """BUCKET rows of first to last, both included."""

    def sum_minutes(self, first: int, last: int) -> Table:
        """BUCKET rows, one an SLO, summed over first to last, both included."""


class NoStore:
    """For a run that keeps everything in memory."""

    def read_minute(self, minute: int) -> Table:
        """Nothing."""
        del minute
        return np.empty(0, BUCKET)

    def read_minutes(self, first: int, last: int) -> Table:
        """Nothing."""
        del first, last
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
        self._fresh = _empty_fresh(1024, plan.seed)
        count = len(self.slos)
        self.totals = k.Totals(
            events=np.zeros((count, 2), np.int64),
            trace=np.zeros((count, 2), np.uint64),
            time=np.zeros(count, np.int64),
            too_old=np.zeros(1, np.int64),
        )
        self.minute = 0
        self._corrections = [
            budgets.spans_of(
                (each.start, each.end)
                for each in plan.config.corrections
                if each.corrects(slo.name)
            )
            for slo in self.slos
        ]
        self._components = _components(self.slos)
        self._ahead = plan.config.time.future // MINUTE + 2
        self._histories = budgets.Histories(
            sorted(self._special()), self._longest + HOUR // MINUTE, self._ahead
        )
        self._computed: dict[tuple[int, int], tuple[float, float]] = {}

    def _special(self) -> set[int]:
        """SLOs whose windows are more than sums, and those that composites are made of."""
        return {
            number
            for number, slo in enumerate(self.slos)
            if slo.calendar or slo.budgeting.method != "occurrences" or self._corrections[number]
        } | {part for parts in self._components.values() for part, _ in parts}

    def begin(self, minute: int) -> None:
        """The minute that it is before anything has happened."""
        self.minute = minute
        self._histories.advance(minute)

    def add(self, verdicts: Table) -> None:
        """Counts verdicts."""
        if verdicts.size == 0:
            return
        self._reserve(verdicts.size)
        oldest = self.minute - self._longest + 1
        k.add(verdicts, self._windows, self._fresh, self.totals, self.minute, oldest)
        self._histories.add(verdicts)
        self._computed.clear()

    def _reserve(self, rows: int) -> None:
        needed = int(self._fresh.count[0]) + rows
        if needed > self._fresh.rows.size:
            old = self._fresh
            self._fresh = _empty_fresh(max(needed, 2 * old.rows.size), old.seed)
            self._fresh.rows[: old.rows.size] = old.rows
            self._fresh.count[:] = old.count
            k.reindex(self._fresh)

    def advance(self, second: int) -> None:
        """Moves the windows on to the minute of `second`."""
        minute = second // 60
        if minute > self.minute:
            self._histories.advance(minute)
            self._computed.clear()
        if minute - self.minute > _LEAP_MINUTES:
            self.minute = minute
            self._sum_anew(self._lengths)
        while self.minute < minute:
            self.minute += 1
            k.move_on(self._windows, self.fresh(), self.minute)
            for age in (0, *self._lengths):
                stored = self._store.read_minute(self.minute - age)
                if stored.size:
                    k.move_on(self._windows, stored, self.minute)

    def _sum_anew(self, lengths: Iterable[int]) -> None:
        rows = self.fresh()
        for length in lengths:
            first = self.minute - length + 1
            self._windows.sums[self._windows.minutes == length] = 0
            within = (rows["minute"] >= first) & (rows["minute"] <= self.minute)
            k.fill(self._windows, length, self._store.sum_minutes(first, self.minute))
            k.fill(self._windows, length, rows[within])

    # What is shown

    def window_events(self, slo: int) -> list[tuple[int, float, float]]:
        """Of every window of an SLO: (length in ns, good, bad), in what its budget counts."""
        if self._is_computed(slo):
            return [(length, *self.window(slo, length)) for length in self.slos[slo].windows]
        first, last = self._windows.first[slo : slo + 2]
        return [
            (int(minutes) * MINUTE, int(sums[0]) / MILLIONTHS, int(sums[1]) / MILLIONTHS)
            for minutes, sums in zip(
                self._windows.minutes[first:last], self._windows.sums[first:last], strict=True
            )
        ]

    def window(self, slo: int, length: int) -> tuple[float, float]:
        """Good and bad of one of an SLO's windows, in what its budget counts."""
        if self._is_computed(slo):
            if (slo, length) not in self._computed:
                self._computed[slo, length] = self._window(slo, length)
            return self._computed[slo, length]
        place = self._place(slo, length // MINUTE)
        assert place is not None, "it has no such window"
        good, bad, _ = self._windows.sums[place].tolist()
        return good / MILLIONTHS, bad / MILLIONTHS

    def _is_computed(self, slo: int) -> bool:
        return slo in self._components or slo in self._histories

    def _window(
        self, slo: int, length: int, also: tuple[budgets.Span, ...] = ()
    ) -> tuple[float, float]:
        """Good and bad of a window of an SLO that keeps its minutes, or of a composite.

        Takes out what its corrections say, and `also` those of a composite that it is part of.
        """
        parts, corrections = self._components.get(slo), (*self._corrections[slo], *also)
        if parts is not None:
            return _mean((self._window(part, length, corrections), w) for part, w in parts)
        counts, first, slices = self._minutes(slo, length)
        if corrections:
            counts -= budgets.corrected(counts, first, corrections)
        return budgets.judged(counts, first, self.slos[slo].budgeting, slices)

    def _minutes(self, slo: int, length: int) -> tuple[budgets.Counts, int, int]:
        """What the minutes of a window hold, the first of them, and the slices it has."""
        promise = self.slos[slo]
        if promise.calendar is not None and length == promise.window:
            span = budgets.period(promise.calendar, self.minute)
            first = span.first
            slices = (span.end - first) // (promise.budgeting.slice // MINUTE)
        else:
            first, slices = budgets.rolling(self.minute, length // MINUTE, promise.budgeting)
        return self._histories.counts(slo, first, self.minute), first, slices

    def corrected_events(self, slo: int) -> tuple[float, float]:
        """Good and bad events of the SLO's own window that corrections take out."""
        sums = np.zeros(2, np.int64)
        for part in [part for part, _ in self._components.get(slo, [])] or [slo]:
            corrections = {*self._corrections[slo], *self._corrections[part]}
            if corrections:
                counts, first, _ = self._minutes(part, self.slos[slo].window)
                sums += budgets.corrected(counts, first, corrections).sum(axis=1)
        good, bad = sums.tolist()
        return good / MILLIONTHS, bad / MILLIONTHS

    def events(self, slo: int) -> tuple[float, float]:
        """Good and bad events since the beginning; of a composite, those of its parts."""
        good, bad = self._events(slo).tolist()
        return good / MILLIONTHS, bad / MILLIONTHS

    def _events(self, slo: int) -> npt.NDArray[np.int64]:
        """Good and bad, in millionths. A composite's own total is what its parts of now lack."""
        parts = [part for part, _ in self._components.get(slo, [])]
        events: npt.NDArray[np.int64] = self.totals.events[[slo, *parts]].sum(axis=0)
        return events

    def _all_events(self) -> npt.NDArray[np.int64]:
        events = self.totals.events.copy()
        for slo in self._components:
            events[slo] = self._events(slo)
        return events

    def first_minute(self, slo: int) -> int | None:
        """The first of an SLO's own window in which it counted anything; None where it did not."""
        window = range(self.minute - self.slos[slo].window // MINUTE + 1, self.minute + 1)

        def counts(last: int) -> bool:
            stored, fresh = self._store.sum_minutes(window.start, last), self.fresh()
            fresh = fresh[(fresh["minute"] >= window.start) & (fresh["minute"] <= last)]
            return bool((stored["slo"] == slo).any() or (fresh["slo"] == slo).any())

        found = bisect.bisect_left(window, True, key=counts)
        return window[found] if found < len(window) else None

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
            "events": self._all_events(),
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
        self._go_on_from(arrays, moved)
        self._load_histories()

    def _go_on_from(self, arrays: Arrays, moved: Moved) -> None:
        """No SLO that stays counts back or leaps, even if it is made of others than before."""
        if "events" not in arrays:  # of a version whose composites had no total of their own
            return
        stays = moved.slos >= 0
        shown = dict(zip(moved.slos[stays].tolist(), arrays["events"][stays], strict=True))
        for slo, events in shown.items():
            if slo not in self._components:
                self.totals.events[slo] = events
        for slo in self._components:
            if slo in shown:
                self.totals.events[slo] = 0
                self.totals.events[slo] = shown[slo] - self._events(slo)

    def _load_histories(self) -> None:
        """Reads the minutes back, where an SLO needs them at all."""
        histories = self._histories
        histories.advance(self.minute)
        if self._special():
            for first in range(histories.first, histories.last + 1, _MINUTES_AT_ONCE):
                last = min(first + _MINUTES_AT_ONCE - 1, histories.last)
                histories.load(self._store.read_minutes(first, last))
            histories.load(self.fresh())
        self._computed.clear()

    def _place(self, slo: int, minutes: int) -> int | None:
        first, last = self._windows.first[slo : slo + 2]
        found = np.flatnonzero(self._windows.minutes[first:last] == minutes)
        return int(first + found[0]) if found.size else None


def _components(slos: tuple[Slo, ...]) -> dict[int, list[tuple[int, float]]]:
    """Of each composite SLO: number and weight of its parts."""
    numbers = {slo.name: number for number, slo in enumerate(slos)}
    return {
        number: [(numbers[part.slo], part.weight) for part in slo.sli.composite]
        for number, slo in enumerate(slos)
        if isinstance(slo, StandaloneSlo) and slo.sli.composite
    }


def _mean(parts: Iterable[tuple[tuple[float, float], float]]) -> tuple[float, float]:
    """The weighted mean of SLIs, as so many good and bad of all their events."""
    busy = [(good, bad, good + bad, weight) for (good, bad), weight in parts if good + bad]
    if not busy:
        return 0.0, 0.0
    each = sum(total for *_, total, _ in busy) / sum(weight for *_, weight in busy)
    # Each by itself: a difference would leave noise, or less than nothing, where none is bad.
    return (
        each * sum(weight * good / total for good, _, total, weight in busy),
        each * sum(weight * bad / total for _, bad, total, weight in busy),
    )


def wilson(good: float, bad: float) -> tuple[float, float]:
    """Bounds between which the true SLI lies with 95 %, after so many events; 0 to 1 for none.

    Source:
        Wilson 1927; Brown, Cai and DasGupta, "Interval Estimation for a Binomial Proportion", 2001.
    """
    total = good + bad
    if not total:
        return 0.0, 1.0
    share, z2 = good / total, _Z * _Z
    centre = share + z2 / (2 * total)
    half = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    scale = 1 + z2 / total
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def _empty_fresh(rows: int, seed: Seed) -> k.Fresh:
    return k.Fresh(
        rows=np.zeros(rows, BUCKET),
        slots=np.full(1 << (2 * rows).bit_length(), -1, np.int32),
        count=np.zeros(1, np.int64),
        seed=seed,
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

"""Budgets that are more than a sum of events: time slices, calendar periods, corrections.

State: what each SLO counted in every minute of its longest window. Input: verdicts. Output: for a
window, how many good and bad things it holds, so that the formulas of `slo` need not know what a
thing is:

- **occurrences**: an event.
- **timeslices**: a slice of time. It is bad if it had events and fewer of them were good than the
  slice's target; every other slice is good, those without events too, so that the budget is a fixed
  time: 0.1 % of 30 days is 43 minutes. Of a calendar period all slices count, those to come too.
- **ratio_timeslices**: a slice of time that had events, good to the share of its good ones. A quiet
  minute weighs as much as a busy one.

Slices are aligned to the hour; the one that runs is judged by what it has so far. A window without
any event holds nothing, whatever the method.

A **calendar** period runs from its first midnight in its time zone until now: a day of a change to
summer time has 23 hours there. A **correction** takes minutes out, of every window, also in
hindsight: events in them count neither as good nor as bad. Counters never go back, so it does not
change `slo_events_total`.

Cost: an array of minutes for each SLO that needs one of these; others have sums (see `slo`).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from outcome_exporter.config.slos import Budgeting, Calendar
from outcome_exporter.kernels.buckets import BAD, GOOD
from outcome_exporter.model import Table
from outcome_exporter.units import MILLIONTHS, MINUTE

Counts = npt.NDArray[np.int64]
"""Shape (2, minutes): good, bad; millionths of events."""
_MONTHS = {"month": 1, "quarter": 3, "year": 12}


class Histories:
    """What some SLOs counted, by minute: a ring for each, all in one array."""

    def __init__(self, slos: Collection[int], minutes: int, ahead: int) -> None:
        """Of the SLOs of these numbers, `minutes` up to now are kept, and those `ahead` of now."""
        self._places = np.full(max(slos, default=-1) + 1, -1, np.int64)
        self._places[list(slos)] = np.arange(len(slos))
        self._rings = np.zeros((len(slos), 2, minutes + ahead + 1), np.int64)
        self._kept, self._ahead = minutes, ahead
        self.minute = 0

    def __contains__(self, slo: int) -> bool:
        return slo < self._places.size and bool(self._places[slo] >= 0)

    @property
    def first(self) -> int:
        """The first minute that is kept."""
        return self.minute - self._kept + 1

    @property
    def last(self) -> int:
        """The last one."""
        return self.minute + self._ahead

    def add(self, verdicts: Table) -> None:
        """Counts VERDICT rows, of whichever SLOs."""
        if not self._places.size:
            return
        minutes = verdicts["time"] // MINUTE
        known, places = self._known(verdicts["slo"], minutes)
        at = (places, verdicts["bad"][known].astype(np.int64), minutes[known] % self._size)
        np.add.at(self._rings, at, verdicts["weight"][known])

    def load(self, buckets: Table) -> None:
        """Adds BUCKET rows, of whichever SLOs."""
        known, places = self._known(buckets["slo"], buckets["minute"])
        minutes = buckets["minute"][known] % self._size
        for result, name in enumerate(("good", "bad")):
            np.add.at(self._rings[:, result], (places, minutes), buckets[name][known])

    def _known(
        self, slos: npt.NDArray[np.uint32], minutes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Which rows are kept, and the rings of those."""
        known = (slos < self._places.size) & (minutes >= self.first) & (minutes <= self.last)
        known[known] = self._places[slos[known]] >= 0
        return known, self._places[slos[known]]

    @property
    def _size(self) -> int:
        return int(self._rings.shape[2])

    def advance(self, minute: int) -> None:
        """Moves on to a later minute; what is too old is forgotten."""
        if self.minute:  # before the first minute there is nothing to forget
            first = max(self.minute, minute - self._size) + self._ahead + 1
            self._rings[:, :, np.arange(first, minute + self._ahead + 1) % self._size] = 0
        self.minute = max(self.minute, minute)

    def counts(self, slo: int, first: int, last: int) -> Counts:
        """Of the minutes from first to last, both included; nothing where it is forgotten."""
        found = np.zeros((2, max(last - first + 1, 0)), np.int64)
        begin, end = max(first, self.first), min(last, self.last)
        ring = self._rings[self._places[slo]]
        while begin <= end:  # at most twice: up to where the ring ends, and from where it begins
            place = begin % self._size
            count = min(end - begin + 1, self._size - place)
            found[:, begin - first : begin - first + count] = ring[:, place : place + count]
            begin += count
        return found


@dataclass(frozen=True)
class Span:
    """Minutes from first on, before end."""

    first: int
    end: int


def spans_of(times: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    """Times in nanoseconds as whole minutes: a minute that is touched is taken out whole."""
    return tuple(Span(start // MINUTE, -(-end // MINUTE)) for start, end in times)


def corrected(counts: Counts, first: int, taken_out: Iterable[Span]) -> Counts:
    """What the minutes that are taken out hold, zero elsewhere."""
    within = np.zeros(counts.shape[1], np.bool_)
    for span in taken_out:
        within[max(span.first - first, 0) : max(span.end - first, 0)] = True
    return counts * within


def judged(counts: Counts, first: int, budgeting: Budgeting, slices: int) -> tuple[float, float]:
    """Good and bad things of a window.

    Args:
        counts: Of its minutes, without what is corrected.
        first: Its first minute.
        budgeting: What a thing is.
        slices: How many slices the window holds, those to come included.
    """
    if budgeting.method == "occurrences":
        events = counts.sum(axis=1).tolist()
        return events[GOOD] / MILLIONTHS, events[BAD] / MILLIONTHS
    length = budgeting.slice // MINUTE
    # Slices begin at the first minute, and at every one that their length divides.
    begins = np.maximum(np.arange(-(first % length), counts.shape[1], length), 0)
    good = np.add.reduceat(counts[GOOD], begins)
    total = good + np.add.reduceat(counts[BAD], begins)
    busy = total > 0
    if not busy.any():
        return 0.0, 0.0
    if budgeting.method == "timeslices":
        # Both sides are the nearest float of their fraction: a slice exactly at its target is good.
        target = float(Fraction(budgeting.target) / 100)
        bad_slices = int(np.count_nonzero(good[busy] / total[busy] < target))
        return float(max(slices - bad_slices, 0)), float(bad_slices)
    bad_share = float(((total[busy] - good[busy]) / total[busy]).sum())
    return float(np.count_nonzero(busy)) - bad_share, bad_share


def rolling(minute: int, length: int, budgeting: Budgeting) -> tuple[int, int]:
    """First minute and number of slices of a window of `length` minutes that ends with `minute`."""
    if budgeting.method == "occurrences":
        return minute - length + 1, 0
    each = budgeting.slice // MINUTE
    slices = max(length // each, 1)
    return (minute // each - slices + 1) * each, slices


def period(calendar: Calendar, minute: int) -> Span:
    """The calendar's period that a minute lies in: from its first minute, to the next one's."""
    zone = ZoneInfo(calendar.time_zone)
    today = datetime.fromtimestamp(minute * 60, UTC).astimezone(zone).date()
    begin, end = _dates(calendar, today)
    return Span(_midnight(begin, zone), _midnight(end, zone))


def _dates(calendar: Calendar, today: date) -> tuple[date, date]:
    if calendar.period == "week":
        begin = today - timedelta(days=today.weekday())
        return begin, begin + timedelta(days=7)
    months = _MONTHS[calendar.period]
    begin = date(today.year, (today.month - 1) // months * months + 1, 1)
    carry, month = divmod(begin.month - 1 + months, 12)
    return begin, date(begin.year + carry, month + 1, 1)


def _midnight(day: date, zone: ZoneInfo) -> int:
    """Minute since 1970 at which a day begins, in a zone."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) // 60

"""SLIs from OTLP metrics: points of streams in, verdicts out.

State: of every stream what it said last, and of every sender when; of every SLO that divides two
metrics, minutes that wait for both. Input: points, with their arrival. Output: VERDICT rows, so
that windows, budgets and series are those of every other SLO.

**What a point adds.** A delta point adds what it says, unless it came before. A cumulative one
adds its difference to the point before. A stream is an identity and its start time, so that a
restart begins a new one at 0. Its first point counts in full if it began while the exporter was
watching: a pod whose first point is already 1 has had one event, and it is counted. One that began
earlier, or does not say when (no start time, or one that equals the point's time), only sets the
mark from which the next counts. A stream without start times that falls has been reset, and adds
what it says. A point of the same or an earlier time adds nothing: what it holds is in the later.

**When it was.** Events are spread evenly over the time in which they happened, in whole events
where there are any, so that the increase over an outage does not land in one minute. An event at
the very end of a minute belongs to it. SDKs date a new stream back to the start of the process; if
its sender was heard since, it is from then on that its events happened: or the first errors of an
incident would be spread over days. A time above a day is taken for its last day: a start near 1970,
in a wrong unit, must not become millions of minutes.

**Below a bound.** A bucket's upper bound belongs to it. Where the bound is no bucket's edge the
events of that one bucket cannot be judged. By default such a histogram is refused: not counted,
and a counter says so. `between` decides otherwise, and `slo_uncertain_events_total` says how many
events it decided: the true SLI lies within that many of the one shown.

**Gauges** are time in state: an event is a minute of one stream. A state lasts until the next
point, at most `hold`.

**Two metrics**, such as errors and requests, come as points of their own. Their minutes wait until
nothing has come for `time.lateness`, then good and bad are counted so that neither ever shrinks.
Of a minute that comes in pieces, what was counted stays; more of a part than of its total is held
back until the total comes, for an hour, and counted as refused after that.

Two writers of one stream (same resource and attributes, overlapping times) cannot be told from a
clock that wanders; the first point of each further one is a mark, not a count, and is counted as
refused. Give replicas a `service.instance.id`.

Known limits: a stream silent for a day is forgotten; delta points are told from their duplicates
for `traces.dedupe`; counts above 4.6e12 are refused.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from outcome_exporter.config.slos import MetricPart, MetricSli
from outcome_exporter.kernels.glob import matches
from outcome_exporter.kernels.hashing import combine
from outcome_exporter.kernels.recent import Recent, remember
from outcome_exporter.minutes import spread
from outcome_exporter.model import VERDICT, Histogram, MetricBatch, Point, Table
from outcome_exporter.plan import Arrays, Moved, Plan, part
from outcome_exporter.units import DAY, HOUR, MILLIONTHS, MINUTE, SECOND

logger = logging.getLogger(__name__)

STARTS_MAX = 2_000
"""Start times that are kept of one identity: each new one is compared with all of them. A process
that restarts once a minute has 1,440 until the first is forgotten."""
MINUTES_MAX = 10_000
"""Minutes of an SLO of two metrics that wait for the other: a week, delivered within an hour."""
REFUSALS = (
    "bound_between_buckets",
    "wrong_type",
    "wrong_unit",
    "impossible",
    "overlapping_writer",
    "too_many_streams",
    "part_without_total",
    "too_many_minutes",
)
"""Why a point was not counted."""
_REMEDIES = {
    "bound_between_buckets": "no bucket ends at its bound: move the bound, or choose `between`",
    "wrong_type": "it needs another type of metric: shares below a bound need a histogram or a "
    "gauge, ratios need a counter",
    "wrong_unit": "its bound is a duration, and the metric's unit is no time: write a number",
    "impossible": "its times or counts cannot be",
    "overlapping_writer": "two writers share one stream: give each a service.instance.id",
    "too_many_streams": "raise limits.metric_streams, or select fewer; or it restarts more than "
    f"{STARTS_MAX} times a day",
    "too_many_minutes": f"its points are of more than {MINUTES_MAX} minutes: send history later",
    "part_without_total": "the part has more events than its total",
}

_STREAM = np.dtype(
    [
        ("hi", np.uint64),
        ("lo", np.uint64),
        ("start", np.int64),
        ("time", np.int64),  # of its last point
        ("total", np.int64),  # millionths; of a gauge: whether it was in the state
        ("good", np.int64),  # millionths
        ("uncertain", np.int64),
        ("seen", np.int64),  # second of its last point's arrival
        ("slo", np.uint32),
        ("role", np.uint8),
    ],
    align=True,
)
_HEARD = np.dtype(
    [
        ("slo", np.int64),
        ("replica", np.uint64),
        ("time", np.int64),  # of its latest cumulative point
        ("seen", np.int64),  # second of its arrival
    ]
)
_MINUTE_ROW = np.dtype(
    [
        ("slo", np.int64),
        ("minute", np.int64),
        ("total", np.int64),
        ("part", np.int64),
        ("counted_part", np.int64),
        ("counted_rest", np.int64),
        ("due", np.int64),  # second at which it is counted; 0: it is
        ("until", np.int64),  # second at which it is forgotten
    ]
)

JUDGED, TOTAL, PART = range(3)
"""What a stream is to an SLO: told apart by itself, or one of two metrics."""

_COUNT_MAX = (1 << 62) // MILLIONTHS
_SPREAD_MAX = DAY
_FORGET_SECONDS = DAY // SECOND
_HELD_SECONDS = HOUR // SECOND
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "min": MINUTE,
    "h": HOUR,
    "d": DAY,
}
"""Nanoseconds in each of UCUM's units of time."""

_Key = tuple[int, int, int, int, int]
"""SLO, role, identity (hi, lo), start."""


class _Refused(Exception):
    """A point that cannot be counted, by why."""


class _Counts(NamedTuple):
    """What a point says, in millionths of an event."""

    total: int
    good: int
    uncertain: int = 0
    """How many of them the configuration put on their side."""


@dataclass
class _Minute:
    """A minute of an SLO of two metrics."""

    total: int = 0
    part: int = 0
    counted_part: int = 0
    counted_rest: int = 0
    due: int = 0
    until: int = 0


class Metrics:
    """The stage's state."""

    def __init__(self, plan: Plan) -> None:
        """No point has come."""
        limits = plan.config.limits
        self._plan = plan
        self._slis: dict[int, MetricSli] = {
            number: slo.sli.metric
            for number, slo in plan.standalone()
            if slo.sli.metric is not None
        }
        self.names = frozenset(
            name
            for sli in self._slis.values()
            for name in (sli.name, sli.part.name)
            if name is not None
        )
        """The metrics that are read."""
        self._by_name: dict[str, list[tuple[int, int]]] = {}
        for number, sli in self._slis.items():
            role = TOTAL if sli.part.name else JUDGED
            self._by_name.setdefault(sli.name, []).append((number, role))
            if sli.part.name:
                self._by_name.setdefault(sli.part.name, []).append((number, PART))
        self._matches: dict[tuple[int, int], list[tuple[int, int, bool]]] = {}
        self._streams: dict[_Key, int] = {}
        self._epochs: dict[_Key, list[int]] = {}
        self._heard: dict[tuple[int, int], tuple[int, int]] = {}
        """By SLO and sender, as in `_HEARD`; no more than there are streams."""
        self._rows = np.zeros(64, _STREAM)
        self._free: list[int] = []
        self._used = 0
        self._swept = 0
        self._minutes: dict[tuple[int, int], _Minute] = {}
        self._waiting = [0] * len(plan.slos)
        """How many of them, by SLO."""
        self._dues: list[tuple[int, int, int]] = []
        """A heap of when something happens to each; some are out of date."""
        self._deltas = Recent(limits.remembered, plan.seed)
        self._since = np.full(len(plan.slos), -1, np.int64)
        self.uncertain = np.zeros(len(plan.slos), np.int64)
        """Millionths of events that `between` decided."""
        self.refused = np.zeros((len(plan.slos), len(REFUSALS)), np.int64)
        self.duplicates = 0
        self.skewed = 0
        self._warned: set[tuple[int, str]] = set()

    @property
    def slos(self) -> Iterable[int]:
        """Numbers of the SLOs that read metrics."""
        return self._slis

    def begin(self, second: int) -> None:
        """The exporter watches SLOs that are new from now on."""
        self._since[self._since < 0] = second

    # Points

    def take(self, batch: MetricBatch, arrival_unix_nano: int, second: int) -> Table:
        """VERDICT rows of a request's points."""
        verdicts: list[tuple[int, int, int, int]] = []
        self._sweep(second)
        future = self._plan.config.time.future
        heard: dict[tuple[int, int], tuple[int, int]] = {}
        for point in batch.points:
            if point.name not in self.names:
                continue  # it tells of a resource
            taken = point
            if point.time_unix_nano > arrival_unix_nano + future:
                self.skewed += 1
                taken = point._replace(time_unix_nano=arrival_unix_nano)
            for slo, role, told in self._matching(point):
                try:
                    verdicts += self._take(taken, slo, role, second, told=told)
                except _Refused as refused:
                    self._refuse(slo, str(refused))
                    continue
                if taken.cumulative:
                    sender = slo, taken.replica
                    before = heard.get(sender) or self._heard.get(sender, (0, 0))
                    heard[sender] = max(before[0], taken.time_unix_nano), second
        # Only now: the points of one request are of one moment, and tell nothing of each other's.
        self._heard.update(heard)
        return _table(verdicts)

    def _refuse(self, slo: int, why: str) -> None:
        self.refused[slo, REFUSALS.index(why)] += 1
        if (slo, why) not in self._warned:
            self._warned.add((slo, why))
            name = self._plan.slos[slo].slo.name
            logger.warning("SLO %s does not count a point: %s", name, _REMEDIES[why])

    def _matching(self, point: Point) -> list[tuple[int, int, bool]]:
        """SLOs that read a stream, its role, and whether it matches the part's attributes."""
        found = self._matches.get(point.identity)
        if found is None:
            if len(self._matches) >= 4 * self._plan.config.limits.metric_streams:
                self._matches.clear()
            found = self._matches[point.identity] = [
                (slo, role, _has(point, self._slis[slo].part.attributes))
                for slo, role in self._by_name.get(point.name, ())
                if _selected(point, self._slis[slo], role)
            ]
        return found

    def _take(
        self, point: Point, slo: int, role: int, second: int, *, told: bool
    ) -> Iterator[tuple[int, int, int, int]]:
        sli = self._slis[slo]
        if point.is_gauge:
            if role != JUDGED or sli.part.bound is None:
                raise _Refused("wrong_type")
            return self._gauge(point, slo, second, told=told)
        if point.value is None:
            return iter(())
        counts = _measure(point, sli, role, told=told)
        start, time = point.start_time_unix_nano, point.time_unix_nano
        if start > time:
            raise _Refused("impossible")
        if point.cumulative:
            change = self._cumulative(point, counts, (slo, role), second)
        else:
            change = self._delta(point, counts, (slo, role), second)
        if change is None:
            return iter(())
        began, added = max(change[0], time - _SPREAD_MAX), change[1]
        self.uncertain[slo] += added.uncertain
        if role != JUDGED:
            return self._wait(slo, role, added.total, (began, time), second)
        return _verdicts(slo, added, (began, time))

    def _delta(
        self, point: Point, counts: _Counts, place: tuple[int, int], second: int
    ) -> tuple[int, _Counts] | None:
        hashed = np.uint64(0)
        hi, lo = point.identity
        name = self._plan.salts[place[0]]
        numbers = (hi, lo, point.start_time_unix_nano, point.time_unix_nano, place[1])
        for number in (int(name), *numbers):
            hashed = np.uint64(combine(hashed, np.uint64(number)))
        seconds = self._plan.config.traces.dedupe // SECOND
        self._deltas.reserve(1)
        if remember(self._deltas.arrays, hashed, second, seconds):
            self.duplicates += 1
            return None
        return point.start_time_unix_nano or point.time_unix_nano, counts

    def _cumulative(
        self, point: Point, counts: _Counts, place: tuple[int, int], second: int
    ) -> tuple[int, _Counts] | None:
        """Since when, and what has been added; None where a point only sets the mark."""
        start, time = point.start_time_unix_nano, point.time_unix_nano
        row, is_new = self._stream(point, place, second)
        stream = self._rows[row]
        before = (int(stream["time"]), int(stream["total"]), int(stream["good"]))
        if not is_new and time <= before[0]:
            self.duplicates += 1
            return None
        overlaps = is_new and self._overlaps(point, place, row)
        stream["time"], stream["seen"], stream["total"] = time, second, counts.total
        uncertain, stream["uncertain"] = int(stream["uncertain"]), counts.uncertain
        if is_new:
            stream["good"] = counts.good
            if overlaps:
                raise _Refused("overlapping_writer")
            if not self._since[place[0]] * SECOND <= start < time:
                return None
            heard, _ = self._heard.get((place[0], point.replica), (start, second))
            return max(start, heard) if heard < time else start, counts
        if counts.total < before[1]:
            stream["good"] = counts.good
            return before[0], counts
        total = counts.total - before[1]
        # Wider buckets, after a histogram was scaled down, must not take back what was counted.
        good = min(max(counts.good - before[2], 0), total)
        stream["good"] = before[2] + good
        added = _Counts(total, good, max(min(counts.uncertain - uncertain, total), 0))
        return before[0], added

    def _gauge(
        self, point: Point, slo: int, second: int, *, told: bool
    ) -> Iterator[tuple[int, int, int, int]]:
        sli, time = self._slis[slo], point.time_unix_nano
        # A gauge has no start of its own: a stream of its own is enough.
        row, is_new = self._stream(point._replace(start_time_unix_nano=0), (slo, JUDGED), second)
        stream = self._rows[row]
        last, state = int(stream["time"]), int(stream["good"])
        if not is_new and time <= last:
            self.duplicates += 1
            return iter(())
        stream["time"], stream["seen"] = time, second
        if point.value is None:
            stream["good"] = -1
        else:
            assert not isinstance(point.value, Histogram)
            bound = _bound(sli.part, point)
            inside = point.value <= bound if sli.part.below is not None else point.value > bound
            stream["good"] = (inside and told) == (sli.good is not None)
        if is_new or state < 0:
            return iter(())
        return _state(slo, state, last, min(time, last + sli.hold))

    # Streams

    def _stream(self, point: Point, place: tuple[int, int], second: int) -> tuple[int, bool]:
        """Row of a point's stream, and whether it is new."""
        hi, lo = point.identity
        key = (*place, hi, lo, point.start_time_unix_nano)
        row = self._streams.get(key)
        if row is not None:
            return row, False
        if len(self._streams) >= self._plan.config.limits.metric_streams:
            raise _Refused("too_many_streams")
        if len(self._epochs.get((*key[:4], 0), ())) >= STARTS_MAX:
            raise _Refused("too_many_streams")
        if self._free:
            row = self._free.pop()
        else:
            row = self._used
            self._used += 1
            if row == self._rows.size:
                self._rows = np.concatenate([self._rows, np.zeros(row, _STREAM)])
        self._rows[row] = (hi, lo, key[-1], 0, 0, 0, 0, second, *place)
        self._remember(key, row)
        return row, True

    def _remember(self, key: _Key, row: int) -> None:
        self._streams[key] = row
        self._epochs.setdefault((*key[:4], 0), []).append(row)

    def _overlaps(self, point: Point, place: tuple[int, int], row: int) -> bool:
        """Whether another start of the same identity was alive at the same time."""
        start, time = point.start_time_unix_nano, point.time_unix_nano
        others = self._epochs[(*place, *point.identity, 0)]
        return any(
            start < self._rows["time"][other] and self._rows["start"][other] < time
            for other in others
            if other != row
        )

    def _sweep(self, second: int) -> None:
        """Forgets, once an hour, streams that have been silent for a day."""
        if second - self._swept < _HELD_SECONDS:
            return
        self._swept = second
        for key, row in list(self._streams.items()):
            if self._rows["seen"][row] < second - _FORGET_SECONDS:
                del self._streams[key]
                others = self._epochs[(*key[:4], 0)]
                others.remove(row)
                if not others:
                    del self._epochs[(*key[:4], 0)]
                self._free.append(row)
        self._heard = {
            sender: (time, seen)
            for sender, (time, seen) in self._heard.items()
            if seen >= second - _FORGET_SECONDS
        }

    # Two metrics

    def _wait(
        self, slo: int, role: int, weight: int, times: tuple[int, int], second: int
    ) -> Iterator[tuple[int, int, int, int]]:
        shares = [(time // MINUTE, share) for time, share in spread(weight, *times, 1)]
        new = {number for number, _ in shares if (slo, number) not in self._minutes}
        if self._waiting[slo] + len(new) > MINUTES_MAX:
            raise _Refused("too_many_minutes")
        due = second + max(self._plan.config.time.lateness // SECOND, 1)
        for number, share in shares:
            minute = self._minutes.get((slo, number)) or self._begin(slo, number, _Minute())
            if role == TOTAL:
                minute.total += share
            else:
                minute.part += share
            minute.until = second + _HELD_SECONDS
            if minute.due != due:
                minute.due = due
                heappush(self._dues, (due, slo, number))
        return iter(())

    def _begin(self, slo: int, number: int, minute: _Minute) -> _Minute:
        self._minutes[slo, number] = minute
        self._waiting[slo] += 1
        return minute

    def _first_due(self) -> tuple[int, int, int] | None:
        """When something happens to a minute next, and to which; drops what is out of date."""
        while self._dues:
            when, slo, number = self._dues[0]
            minute = self._minutes.get((slo, number))
            if minute is not None and when == (minute.due or minute.until):
                return self._dues[0]
            heappop(self._dues)
        return None

    def next_due(self, after: int, until: int) -> int:
        """First second in (after, until] at which a minute is counted, else `until`."""
        first = self._first_due()
        return until if first is None else min(max(first[0], after + 1), until)

    def settle(self, second: int) -> Table:
        """VERDICT rows of the minutes that are due."""
        verdicts: list[tuple[int, int, int, int]] = []
        while (first := self._first_due()) is not None and first[0] <= second:
            _, slo, number = heappop(self._dues)
            minute = self._minutes[slo, number]
            if minute.due:
                minute.due = 0
                heappush(self._dues, (minute.until, slo, number))
                verdicts += self._counted(slo, number, minute)
                continue
            if minute.part > minute.counted_part:
                self._refuse(slo, "part_without_total")
            del self._minutes[slo, number]
            self._waiting[slo] -= 1
        return _table(verdicts)

    def _counted(self, slo: int, number: int, minute: _Minute) -> list[tuple[int, int, int, int]]:
        time = (number + 1) * MINUTE - 1
        part, rest = _divide(minute)
        minute.counted_part += part
        minute.counted_rest += rest
        good, bad = (part, rest) if self._slis[slo].good is not None else (rest, part)
        return [(slo, time, good, 0), (slo, time, bad, 1)]

    # Checkpoints

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        minutes = np.zeros(len(self._minutes), _MINUTE_ROW)
        for at, ((slo, number), minute) in enumerate(self._minutes.items()):
            minutes[at] = (slo, number, *vars(minute).values())
        return {
            "streams": self._rows[list(self._streams.values())],
            "minutes": minutes,
            "heard": np.array([(*key, *value) for key, value in self._heard.items()], _HEARD),
            "since": self._since,
            "uncertain": self.uncertain,
            "refused": self.refused,
            "counts": np.array([self.duplicates, self.skewed, self._swept], np.int64),
            "salts": self._plan.salts,
            **{f"deltas.{key}": value for key, value in self._deltas.dump().items()},
        }

    def restore(self, arrays: Arrays, moved: Moved) -> None:
        """Takes over what `dump` gave. An SLO that reads something else now begins anew."""
        self.duplicates, self.skewed, self._swept = arrays["counts"].tolist()
        self._deltas = Recent.restore(
            self._plan.config.limits.remembered, part(arrays, "deltas"), self._plan.seed
        )
        same: dict[int, int] = {}
        for old, new in enumerate(moved.slos.tolist()):
            if new < 0:
                continue
            self.uncertain[new] = arrays["uncertain"][old]
            before = arrays["refused"][old]  # an older state knows fewer reasons, the first
            self.refused[new, : before.size] = before
            if new in self._slis and arrays["salts"][old] == self._plan.salts[new]:
                same[old] = new
                self._since[new] = arrays["since"][old]
        self._restore_streams(arrays["streams"], same)
        heard = arrays.get("heard", np.empty(0, _HEARD))  # a state of before does not say
        self._heard = {
            (same[slo], replica): (time, seen)
            for slo, replica, time, seen in heard.tolist()
            if slo in same
        }
        for row in arrays["minutes"].tolist():
            if row[0] in same:
                minute = self._begin(same[row[0]], row[1], _Minute(*row[2:]))
                heappush(self._dues, (minute.due or minute.until, same[row[0]], row[1]))

    def _restore_streams(self, rows: Table, same: dict[int, int]) -> None:
        for row in rows:
            if int(row["slo"]) in same:
                slo = same[int(row["slo"])]
                place = (slo, int(row["role"]))
                key = (*place, int(row["hi"]), int(row["lo"]), int(row["start"]))
                if self._used == self._rows.size:
                    self._rows = np.concatenate([self._rows, np.zeros(self._used, _STREAM)])
                self._rows[self._used] = row
                self._rows["slo"][self._used] = slo
                self._remember(key, self._used)
                self._used += 1


def _has(point: Point, globs: dict[str, str]) -> bool:
    return all(
        name in point.attributes and _fits(glob, point.attributes[name])
        for name, glob in globs.items()
    )


def _selected(point: Point, sli: MetricSli, role: int) -> bool:
    if not _fits(sli.service, point.service):
        return False
    return _has(point, sli.attributes | sli.part.attributes if role == PART else sli.attributes)


def _fits(glob: str, text: str) -> bool:
    pattern, source = (np.frombuffer(t.encode(errors="replace"), np.uint8) for t in (glob, text))
    return bool(matches(pattern, 0, pattern.size, source, 0, source.size))


def _bound(part: MetricPart, point: Point) -> float:
    """The bound in the metric's unit."""
    bound = part.bound
    assert bound is not None
    if isinstance(bound, float):
        return bound
    if point.unit not in _UNITS:
        raise _Refused("wrong_unit")
    return bound / _UNITS[point.unit]


def _measure(point: Point, sli: MetricSli, role: int, *, told: bool) -> _Counts:
    """How many events a point of a counter or a histogram stands for, and how many are good."""
    part, value = sli.part, point.value
    assert value is not None
    count = sum(value.counts) if isinstance(value, Histogram) else value
    total = _millionths(count)
    if role != JUDGED:
        return _Counts(total, total)
    if part.bound is None:
        return _Counts(total, total if told == (sli.good is not None) else 0)
    if not isinstance(value, Histogram):
        raise _Refused("wrong_type")
    if not told:
        return _Counts(total, 0 if sli.good is not None else total)
    below, straddling, share = _below(point, value, _bound(part, point), sli)
    inside_is_good = (part.below is not None) == (sli.good is not None)
    # `below` holds what is surely at most the bound.
    sure_good = below if inside_is_good else total - below - straddling
    good = {
        "refuse": sure_good,
        "bad": sure_good,
        "good": sure_good + straddling,
        "split": sure_good + (share if inside_is_good else straddling - share),
    }[sli.between]
    return _Counts(total, good, straddling)


def _below(
    point: Point, histogram: Histogram, bound: float, sli: MetricSli
) -> tuple[int, int, int]:
    """Events surely at most the bound, those of the bucket that holds it, and its share of them."""
    bounds = histogram.bounds
    at = sum(edge <= bound for edge in bounds)
    below = _millionths(([0, *accumulate(histogram.counts)])[at])
    if (at and bounds[at - 1] == bound) or _is_edge(bound, point.scale):
        return below, 0, 0
    if sli.between == "refuse":
        raise _Refused("bound_between_buckets")
    straddling = _millionths(histogram.counts[at])
    share = 0
    if 0 < at < len(bounds) or (at == 0 and bounds and bounds[0] > 0 <= bound):
        low = bounds[at - 1] if at else 0.0
        share = int(straddling * (bound - low) / (bounds[at] - low))
    return below, straddling, share


def _is_edge(bound: float, scale: int | None) -> bool:
    """Whether buckets of an exponential histogram end at a bound, so far as floats can tell."""
    if scale is None or bound <= 0:
        return False
    index = math.ldexp(math.log2(bound), min(scale, 64))
    return abs(index - round(index)) < 1e-9 * max(1.0, abs(index))


def _millionths(count: float) -> int:
    if not 0 <= count <= _COUNT_MAX:
        raise _Refused("impossible")
    return round(count * MILLIONTHS)


def _verdicts(
    slo: int, added: _Counts, times: tuple[int, int]
) -> Iterator[tuple[int, int, int, int]]:
    for bad, weight in enumerate((added.good, added.total - added.good)):
        unit = 1 if weight % MILLIONTHS else MILLIONTHS
        for time, share in spread(weight, *times, unit):
            yield slo, time, share, bad


def _state(slo: int, good: int, began: int, ended: int) -> Iterator[tuple[int, int, int, int]]:
    """A minute in a state is an event; what is rounded off here is added to the next."""
    while began < ended:
        end = min((began // MINUTE + 1) * MINUTE, ended)
        weight = end * MILLIONTHS // MINUTE - began * MILLIONTHS // MINUTE
        yield slo, end - 1, weight, 1 - good
        began = end


def _divide(minute: _Minute) -> tuple[int, int]:
    """What of a minute's part, and of the rest, is to be counted now; never less than nothing."""
    room = minute.total - minute.counted_part - minute.counted_rest
    part = min(max(min(minute.part, minute.total) - minute.counted_part, 0), max(room, 0))
    return part, max(room - part, 0)


def _table(verdicts: list[tuple[int, int, int, int]]) -> Table:
    rows = np.zeros(len(verdicts), VERDICT)
    if verdicts:
        for name, column in zip(
            ("slo", "time", "weight", "bad"), zip(*verdicts, strict=True), strict=True
        ):
            rows[name] = column
    return rows[rows["weight"] > 0]

"""Resources as evidence: how near its limits a service runs, against its own history.

State: of every stream of a resource metric what it said last; of every service and metric a ring
of minutes and a decayed mean and variance. Input: points of OTLP metrics, with their arrival.
Output: for a service that blame holds responsible, what its CPU, memory, pools and queues say to
it; and which services are saturated, of which blame then asks for less evidence. Saturation alone
never names a cause: half of nothing is nothing.

**A level** is what the busiest replica had at the end of a minute: a utilisation as it is; what is
used over its limit, where both are told; else an amount, such as the length of a queue. Replicas
are told apart by their resource, pools by their name, so that four pods at 25 % are not one at
100 %. Points that divide the same thing (CPU modes, memory pools) are summed first. A counter, such
as seconds of CPU, becomes a rate; one that fell has been reset, and counts from its start.

**It corroborates a cause** if the level of the last minutes is far above the usual, and where there
is a limit, near it:

    limit     now >= NEAR_LIMIT       and (now - mean) / spread >= FAR
    amount    now >= TIMES * mean     and (now - mean) / spread >= FAR

`now` is the lower median of `RECENT` minutes, so that one garbage collection is no evidence; the
spread is the standard deviation, at least `grain`. A service is **saturated** where a level with a
limit was that high in any one of them: a verdict cannot wait for a second one, and asks the spans
as well. A minute becomes history once it is `LAG` old, and at most as FAR above the mean as counts:
a fault pulls its own yardstick little, and what stays higher becomes usual within days. Half of
history is forgotten after a day.

Minutes close by the log's clock, each with what was known then, however the clock is moved there.

Memory: `limits.resources` rings, one a metric of a service, and `STREAMS_EACH` streams for each.
Beyond it points are left out and counted. A stream that is silent for an hour is forgotten, a
metric of a service after a day.

Known limits: a minute has one level, that of its end. Hosts (`system.*`) are nobody's. A point
whose resource names no service is not kept.

Source:
    OpenTelemetry semantic conventions 1.3x: process, JVM, .NET, Go, Node.js, HTTP and database
    client metrics; Collector, "kubeletstats receiver".
"""

from collections.abc import Iterable
from functools import lru_cache
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.model import Histogram, Point, Table
from outcome_exporter.plan import Arrays, Plan, text_hash
from outcome_exporter.points import UNKNOWN_SERVICE
from outcome_exporter.units import HOUR, MINUTE, SECOND

NEAR_LIMIT = 0.85
FAR = 3.0
TIMES = 2.0
RECENT = 3
LAG = 10
RING = 64
"""Minutes that are kept: for `explain`, of attempts that failed within the last hour."""
HISTORY_MIN = 10
"""Minutes from which something is usual."""
STREAMS_EACH = 64
_FRESH = 3 * MINUTE
"""How long a point says what is."""
_FORGET = HOUR
_FORGET_MINUTES = 24 * 60
_LEAP_MINUTES = _FORGET_MINUTES + RING + 120
"""After so many minutes without a point nothing is left to close."""
_KEEP = 0.5 ** (1 / _FORGET_MINUTES)
_LARGEST = 1e20
"""No share, count or size is larger, nor a limit smaller than its inverse; what says so, as a
largest float for "none", is not known. Its square would make history infinite, for ever."""
_BITS = 64
"""Minutes of which is kept whether there was saturation."""


class Resource(NamedTuple):
    """Something that a service can run out of."""

    name: str
    """As a label says it."""
    limited: bool
    """Whether its level is a share of a limit; otherwise it is an amount."""
    grain: float
    """Differences below it are noise."""


RESOURCES = (
    Resource("cpu", True, 0.05),
    Resource("memory", True, 0.05),
    Resource("heap", True, 0.05),
    Resource("event_loop", True, 0.05),
    Resource("connections", True, 0.05),
    Resource("cpu_cores", False, 0.1),
    Resource("connection_waits", False, 1.0),
    Resource("active_requests", False, 2.0),
    Resource("queue", False, 1.0),
)
"""By number, which is stored: append only."""
_NUMBERS = {resource.name: number for number, resource in enumerate(RESOURCES)}

USED, LIMIT = range(2)


class Meaning(NamedTuple):
    """What a metric says of a resource."""

    resource: str
    source: str
    """The metric whose level it is: itself, or the one that it limits."""
    role: int = USED
    paired: bool = False
    """Whether a level needs its limit."""
    only: tuple[str, str] = ("", "")
    """An attribute, and the one value that counts; points without it count."""
    apart: str = ""
    """An attribute that tells things apart that have a limit each: pools."""


_CPU_IDLE = frozenset({"idle", "wait", "iowait"})
_CPU_MODES = ("cpu.mode", "process.cpu.mode", "process.cpu.state", "state")


def _pair(
    resource: str, used: str, limit: str, only: tuple[str, str] = ("", ""), apart: str = ""
) -> dict[str, Meaning]:
    return {
        used: Meaning(resource, used, USED, True, only, apart),
        limit: Meaning(resource, used, LIMIT, True, only, apart),
    }


_METRICS: dict[str, Meaning] = {
    **{
        name: Meaning(resource, name)
        for resource, names in (
            (
                "cpu",
                (
                    "process.cpu.utilization",
                    "jvm.cpu.recent_utilization",
                    "process.runtime.jvm.cpu.utilization",
                    "k8s.pod.cpu_limit_utilization",
                    "k8s.container.cpu_limit_utilization",
                    "k8s.container.cpu.limit_utilization",
                    "k8s.container.cpu.limit.utilization",
                ),
            ),
            (
                "memory",
                ("k8s.pod.memory_limit_utilization", "k8s.container.memory_limit_utilization"),
            ),
            ("event_loop", ("nodejs.eventloop.utilization",)),
            ("cpu_cores", ("process.cpu.time", "container.cpu.time", "k8s.pod.cpu.time")),
            ("active_requests", ("http.server.active_requests",)),
            ("queue", ("kestrel.queued_requests", "kestrel.queued_connections")),
        )
        for name in names
    },
    **_pair("cpu", "jvm.cpu.time", "jvm.cpu.count"),
    **_pair("cpu", "dotnet.process.cpu.time", "dotnet.process.cpu.count"),
    **_pair("heap", "jvm.memory.used", "jvm.memory.limit", ("jvm.memory.type", "heap")),
    **_pair("memory", "go.memory.used", "go.memory.limit"),
    **_pair("heap", "v8js.memory.heap.used", "v8js.memory.heap.limit"),
    **_pair(
        "connections",
        "db.client.connection.count",
        "db.client.connection.max",
        ("db.client.connection.state", "used"),
        "db.client.connection.pool.name",
    ),
    **_pair(
        "connections",
        "db.client.connections.usage",
        "db.client.connections.max",
        ("state", "used"),
        "pool.name",
    ),
    "db.client.connection.pending_requests": Meaning(
        "connection_waits",
        "db.client.connection.pending_requests",
        apart="db.client.connection.pool.name",
    ),
    "db.client.connections.pending_requests": Meaning(
        "connection_waits", "db.client.connections.pending_requests", apart="pool.name"
    ),
}
_QUEUES = (".queue.size", ".queue.length", ".queue.depth")
"""How the names of metrics of a queue's length end, whoever's it is."""
_SERVICES = ("k8s.deployment.name", "k8s.statefulset.name", "k8s.daemonset.name")
"""What a service is called where nobody says: what the semantic conventions derive it from."""

_STREAM = np.dtype(
    [
        ("hi", np.uint64),
        ("lo", np.uint64),
        ("unit", np.uint64),  # hash of the replica, and of what is told apart in it
        ("time", np.int64),  # of its last point
        ("start", np.int64),
        ("total", np.float64),  # of a counter
        ("value", np.float64),  # NaN: not known yet
        ("row", np.int32),
        ("role", np.uint8),
        ("alive", np.uint8),
    ],
    align=True,
)
_ROW = np.dtype(
    [
        ("service", np.uint64),  # hash
        ("source", np.uint64),  # hash
        ("weight", np.float64),  # of history, in minutes
        ("sum", np.float64),
        ("squares", np.float64),
        ("seen", np.int64),  # last minute with a level
        ("saturated", np.uint64),  # one bit a closed minute, the last one's lowest
        ("resource", np.uint8),
        ("paired", np.uint8),
        ("alive", np.uint8),
    ],
    align=True,
)

Floats = npt.NDArray[np.float64]


class Evidence(NamedTuple):
    """What a resource of a service says."""

    resource: Resource
    now: float
    """Level of the last minutes: a share of the limit, or an amount."""
    usual: float
    deviations: float
    """By how many standard deviations it is above the usual."""

    @property
    def corroborates(self) -> bool:
        """Whether it speaks for the service being a cause."""
        high = self.now >= (NEAR_LIMIT if self.resource.limited else TIMES * self.usual)
        return high and self.deviations >= FAR


class Resources:
    """The stage's state."""

    def __init__(self, plan: Plan) -> None:
        """Nothing is known."""
        self._rows_max = plan.config.limits.resources if plan.journeys else 0
        self._streams = np.zeros(64, _STREAM)
        self._rows = np.zeros(16, _ROW)
        self._ring = np.full((16, RING), np.nan)
        self._free_streams = list(range(self._streams.size))
        self._free_rows = list(range(self._rows.size))
        self._stream_of: dict[tuple[int, int], int] = {}
        self._row_of: dict[tuple[int, int], int] = {}
        self.minute = -1
        """The one that runs; -1 before the first point."""
        self.overflow = {"resource": 0, "resource_stream": 0}
        """Points that were left out, by what there was no room for."""

    def wants(self, name: str) -> bool:
        """Whether a metric is one of a resource; without journeys there are no causes, nor that."""
        return self._rows_max > 0 and meaning_of(name) is not None

    # Points

    def take(self, points: Iterable[Point], arrival_unix_nano: int) -> None:
        """Remembers what resources said; other points are passed over."""
        for point in points:
            meaning = meaning_of(point.name) if self._rows_max else None
            if meaning is not None and _counts(meaning, point):
                self._take(point, meaning, arrival_unix_nano)

    def _take(self, point: Point, meaning: Meaning, arrival: int) -> None:
        assert self.minute >= 0, "the clock was not moved"
        at = self._stream_of.get(point.identity)
        if at is None:
            service = _service(point)
            at = None if service is None else self._new_stream(point, meaning, service)
        if at is None or isinstance(point.value, Histogram):
            return
        stream = self._streams[at]
        time = min(point.time_unix_nano, arrival)
        if time <= stream["time"]:
            return  # a duplicate, or late: what it says is over
        if point.value is None:
            stream["value"] = np.nan
        elif point.is_gauge:
            stream["value"] = point.value
        else:
            stream["value"] = _rate(stream, point, time)
            stream["total"], stream["start"] = point.value, point.start_time_unix_nano
        stream["time"] = time

    def _new_stream(self, point: Point, meaning: Meaning, service: str) -> int | None:
        if len(self._stream_of) >= STREAMS_EACH * self._rows_max:
            self.overflow["resource_stream"] += 1
            return None
        row = self._row(meaning, service)
        if row is None:
            self.overflow["resource"] += 1
            return None
        self._streams, at = _slot(self._streams, self._free_streams)
        told = f"{point.replica}\0{point.attributes.get(meaning.apart, '')}"
        hi, lo = point.identity
        unit = text_hash(told)
        self._streams[at] = (hi, lo, unit, -1, 0, np.nan, np.nan, row, meaning.role, 1)
        self._stream_of[point.identity] = at
        return at

    def _row(self, meaning: Meaning, service: str) -> int | None:
        key = int(text_hash(service)), int(text_hash(meaning.source))
        row = self._row_of.get(key)
        if row is None and len(self._row_of) < self._rows_max:
            self._rows, row = _slot(self._rows, self._free_rows)
            more = self._rows.size - self._ring.shape[0]
            self._ring = np.pad(self._ring, ((0, more), (0, 0)), constant_values=np.nan)
            self._ring[row] = np.nan
            number = _NUMBERS[meaning.resource]
            self._rows[row] = (*key, 0.0, 0.0, 0.0, self.minute, 0, number, meaning.paired, 1)
            self._row_of[key] = row
        return row

    # Minutes

    def advance(self, second: int) -> None:
        """Closes the minutes before that of `second`."""
        minute = second // 60
        if self.minute < 0:
            self.minute = minute
        if self._row_of:
            for closing in range(self.minute, min(minute, self.minute + _LEAP_MINUTES)):
                self._close(closing)
        self.minute = max(self.minute, minute)

    def _close(self, minute: int) -> None:
        self._learn(minute - LAG)
        levels = self._levels((minute + 1) * MINUTE)
        self._ring[:, minute % RING] = levels
        self._rows["seen"][np.isfinite(levels)] = minute
        self._rows["saturated"] = self._rows["saturated"] << np.uint64(1) | self._high(levels)
        if (minute + 1) % 60 == 0:
            self._forget(minute)

    def _levels(self, end: int) -> Floats:
        """Of every row what its busiest replica has; NaN where nothing is known."""
        levels = np.full(self._rows.size, np.nan)
        every = self._streams
        fresh = every[
            (every["alive"] == 1)
            & (every["time"] > end - _FRESH)
            & (np.abs(every["value"]) < _LARGEST)
        ]
        if not fresh.size:
            return levels
        fresh = fresh[np.lexsort((fresh["unit"], fresh["row"]))]
        new = (np.diff(fresh["row"]) != 0) | (np.diff(fresh["unit"]) != 0)
        first = np.concatenate([[0], np.flatnonzero(new) + 1])
        parts = []
        for role in (USED, LIMIT):
            mine = fresh["role"] == role
            parts += [
                np.add.reduceat(np.where(mine, fresh["value"], 0.0), first),
                np.add.reduceat(mine.astype(np.int64), first),
            ]
        used, uses, limit, limits = parts
        rows = fresh["row"][first]
        paired = self._rows["paired"][rows] == 1
        known = (uses > 0) & (~paired | ((limits > 0) & (limit > 1 / _LARGEST)))
        level = used / np.where(paired & known, limit, 1.0)
        np.fmax.at(levels, rows[known], level[known])
        return levels

    def _learn(self, minute: int) -> None:
        """Makes a minute history."""
        level = self._ring[:, minute % RING].copy()
        rows, which = self._rows, np.isfinite(level)
        mean, spread = self._usual()
        known = rows["weight"] >= HISTORY_MIN
        level[known] = np.minimum(level[known], (mean + FAR * spread)[known])
        level = level[which]
        for name, value in (("weight", 1.0), ("sum", level), ("squares", level * level)):
            rows[name][which] = rows[name][which] * _KEEP + value

    def _usual(self) -> tuple[Floats, Floats]:
        """Mean of every row, and its spread."""
        rows = self._rows
        weight = np.maximum(rows["weight"], 1e-9)
        mean = rows["sum"] / weight
        variance = np.maximum(rows["squares"] / weight - mean * mean, 0.0)
        return mean, np.maximum(np.sqrt(variance), _GRAINS[rows["resource"]])

    def _high(self, levels: Floats) -> npt.NDArray[np.bool_]:
        """Which levels are those of something that is saturated."""
        mean, spread = self._usual()
        limited = _LIMITED[self._rows["resource"]] & (self._rows["weight"] >= HISTORY_MIN)
        # What is not known is not high.
        near, far = levels >= NEAR_LIMIT, levels >= mean + FAR * spread
        high: npt.NDArray[np.bool_] = limited & near & far
        return high

    def _forget(self, minute: int) -> None:
        silent = (self._streams["alive"] == 1) & (
            self._streams["time"] < (minute + 1) * MINUTE - _FORGET
        )
        for at in np.flatnonzero(silent).tolist():
            del self._stream_of[int(self._streams["hi"][at]), int(self._streams["lo"][at])]
            self._streams[at] = 0
            heappush(self._free_streams, at)
        alive = self._streams["alive"] == 1
        old = (self._rows["alive"] == 1) & (self._rows["seen"] < minute - _FORGET_MINUTES)
        old[self._streams["row"][alive]] = False
        for row in np.flatnonzero(old).tolist():
            del self._row_of[int(self._rows["service"][row]), int(self._rows["source"][row])]
            self._rows[row] = 0
            self._ring[row] = np.nan
            heappush(self._free_rows, row)

    # What is told

    def saturated(self, minute: int) -> set[int]:
        """Services that were saturated at the end of one of the `RECENT` minutes before `minute`.

        By `text_hash`. Empty where those minutes are not closed, or forgotten.
        """
        ago = self.minute - minute
        if not self._row_of or not 0 <= ago <= _BITS - RECENT:
            return set()
        bits = np.uint64((1 << RECENT) - 1 << ago)
        return set(self._rows["service"][self._rows["saturated"] & bits != 0].tolist())

    def evidence(self, service: str, minute: int) -> list[Evidence]:
        """What the resources of a service said in the minutes that end with `minute`.

        One of each kind, the one that speaks most for a cause; none without history, nor of
        minutes that are forgotten.
        """
        if not self.minute - RING + RECENT < minute < self.minute:
            return []
        mine = (self._rows["service"] == text_hash(service)) & (self._rows["alive"] == 1)
        mean, spread = self._usual()
        found: dict[int, Evidence] = {}
        for row in np.flatnonzero(mine & (self._rows["weight"] >= HISTORY_MIN)).tolist():
            recent = self._ring[row, (minute - np.arange(RECENT)) % RING]
            recent = np.sort(recent[np.isfinite(recent)])
            if recent.size < RECENT - 1:
                continue
            now, number = float(recent[(recent.size - 1) // 2]), int(self._rows["resource"][row])
            deviations = (now - float(mean[row])) / float(spread[row])
            one = Evidence(RESOURCES[number], now, float(mean[row]), deviations)
            if number not in found or _weight(one) > _weight(found[number]):
                found[number] = one
        return [found[number] for number in sorted(found)]

    # Checkpoints

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        return {
            "streams": self._streams,
            "rows": self._rows,
            "ring": self._ring,
            "counts": np.array([self.minute, *self.overflow.values()], np.int64),
        }

    def restore(self, arrays: Arrays) -> None:
        """Takes over what `dump` gave; nothing from before there were resources."""
        if not arrays or not self._rows_max:
            return
        self._streams, self._rows = arrays["streams"].copy(), arrays["rows"].copy()
        self._ring = arrays["ring"].copy()
        self.minute, *overflow = arrays["counts"].tolist()
        self.overflow = dict(zip(self.overflow, overflow, strict=True))
        self._free_streams = np.flatnonzero(self._streams["alive"] == 0).tolist()
        self._free_rows = np.flatnonzero(self._rows["alive"] == 0).tolist()
        heapify(self._free_streams)
        heapify(self._free_rows)
        streams, rows = self._streams, self._rows
        self._stream_of = {
            (int(streams["hi"][at]), int(streams["lo"][at])): at
            for at in np.flatnonzero(streams["alive"]).tolist()
        }
        self._row_of = {
            (int(rows["service"][at]), int(rows["source"][at])): at
            for at in np.flatnonzero(rows["alive"]).tolist()
        }


_GRAINS = np.array([resource.grain for resource in RESOURCES])
_LIMITED = np.array([resource.limited for resource in RESOURCES])


def _weight(evidence: Evidence) -> tuple[bool, float, float]:
    return evidence.corroborates, evidence.now, evidence.deviations


@lru_cache(maxsize=10_000)
def meaning_of(name: str) -> Meaning | None:
    """What a metric says of a resource, if anything."""
    if name.endswith(_QUEUES):
        return Meaning("queue", name)
    return _METRICS.get(name)


def _counts(meaning: Meaning, point: Point) -> bool:
    key, wanted = meaning.only
    if key and point.attributes.get(key, wanted) != wanted:
        return False
    if meaning.resource in ("cpu", "cpu_cores"):
        return not any(point.attributes.get(key) in _CPU_IDLE for key in _CPU_MODES)
    return True


def _service(point: Point) -> str | None:
    """Whose a point is."""
    if point.service != UNKNOWN_SERVICE:
        return point.service
    names = (point.attributes.get(key) for key in _SERVICES)
    return next((name for name in names if name), None)


def _rate(stream: Table, point: Point, time: int) -> float:
    """What a counter counted per second since its point before, or since it began."""
    assert isinstance(point.value, (int, float))
    start, before = point.start_time_unix_nano, int(stream["time"])
    began, added = start, point.value
    if point.cumulative:
        goes_on = start == stream["start"] and point.value >= stream["total"]
        if goes_on:
            began, added = before, point.value - float(stream["total"])
        elif before < 0 or start < before:
            # Its first point tells of all its life, not of now; without a start nothing is known.
            return np.nan
    return added * SECOND / (time - began) if 0 < began < time else np.nan


def _slot(table: Table, free: list[int]) -> tuple[Table, int]:
    """The first free place of a table, which grows where there is none.

    Which one it is must not depend on whether there was a restart: sums of floats follow it.
    """
    if not free:
        free.extend(range(table.size, 2 * table.size))
        table = np.concatenate([table, np.zeros(table.size, table.dtype)])
    return table, heappop(free)

"""`outcome-exporter replay`: what would have been, from a kept log or from recorded traces.

Feeds the pipeline as fast as it goes, with the time of what is read as the clock: the arrivals of
a log; of an OTLP file, which has none, the latest end of a span up to there. Once a simulated
minute the alert tiers of every SLO are evaluated as the generated rules evaluate them; but not in
minutes that cannot differ: a tier fires only while its short window holds something bad, which
comes by a verdict alone. So a gap, and the days that an attempt waits, cost next to nothing.

Nothing is stored. Memory is bounded by what waits, and by the buckets of the longest window.
"""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table as TextTable

from outcome_exporter import check, otlp_file, slo
from outcome_exporter.burn import Tier
from outcome_exporter.config import Config
from outcome_exporter.config.slos import Slo
from outcome_exporter.errors import DecodeError
from outcome_exporter.kernels.hashing import KNOWN_SEED, Seed
from outcome_exporter.log_file import SCHEMA, LogReader
from outcome_exporter.model import BUCKET, REASONS, Encoding, Kind, Record, SpanBatch, Table
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import STATES
from outcome_exporter.units import DAY, MILLIONTHS, MINUTE, SECOND, format_duration
from outcome_exporter.warmup import warm_up

_SQLITE_MAGIC = b"SQLite format 3\0"
_SQLITE_HEAD_BYTES = 100
_APPLICATION_ID = slice(68, 72)
_READ_BYTES = 8 << 20
_NO_BUCKETS = np.empty(0, BUCKET)
_WIDTH = 120
"""Columns where the output is no terminal."""

_NEVER = 200 * 365 * DAY
"""No span that is read here ended so late, in the year 2169; the largest number that there is does
not leave room for what follows it."""

Seconds = Callable[[], float]
"""A clock that only moves on."""
Tell = Callable[[int, int], object]
"""Told how far the reading is, and how far it goes."""


class RecentBuckets:
    """Buckets in memory, for as long as a window needs them."""

    def __init__(self, minutes: int) -> None:
        """Keeps so many minutes."""
        self._keep = minutes
        self._minutes: dict[int, list[Table]] = {}
        self._oldest: list[int] = []
        """The minutes that are held, as a heap."""
        self.latest = 0
        """The last minute of which there ever were any."""

    def add(self, rows: Table, now: int) -> None:
        """Takes buckets over, and drops those that no window holds at the minute `now`."""
        rows = rows[np.argsort(rows["minute"], kind="stable")]
        minutes, starts = np.unique(rows["minute"], return_index=True)
        # No rows are split into one part, empty: of no minute.
        for minute, added in zip(minutes.tolist(), np.split(rows, starts[1:]), strict=False):
            if minute not in self._minutes:
                self._minutes[minute] = []
                heappush(self._oldest, minute)
            self._minutes[minute].append(added)
            self.latest = max(self.latest, minute)
        while self._oldest and self._oldest[0] < now - self._keep:
            del self._minutes[heappop(self._oldest)]

    def read_minute(self, minute: int) -> Table:
        """BUCKET rows of one minute."""
        held = self._minutes.get(minute, [])
        return np.concatenate(held) if held else _NO_BUCKETS

    def sum_minutes(self, first: int, last: int) -> Table:
        """BUCKET rows of some minutes; more than one an SLO, which sums the same."""
        return self.read_minutes(first, last)

    def read_minutes(self, first: int, last: int) -> Table:
        """BUCKET rows of some minutes."""
        parts = (
            rows
            for minute, held in self._minutes.items()
            if first <= minute <= last
            for rows in held
        )
        return np.concatenate([_NO_BUCKETS, *parts])


@dataclass
class Alert:
    """A time during which a tier would have fired."""

    slo: str
    tier: Tier
    since: int
    """Minute since 1970."""
    until: int


@dataclass
class Replay:
    """A pipeline that is fed, and the alerts that its SLOs would have raised."""

    pipeline: Pipeline
    buckets: RecentBuckets
    tiers: list[list[tuple[Tier, float]]]
    """Of every SLO: those that can fire, each with the burn rate above which it does."""
    alerts: list[Alert] = field(default_factory=list)
    spans: int = 0
    records: int = 0
    first: int = 0
    """Arrival of the first record, ns."""
    last: int = 0
    """Arrival of the last record, ns."""
    _firing: dict[tuple[int, int], Alert] = field(default_factory=dict)
    _is_calm: bool = True
    """Nothing fires, nor can it before another verdict is given."""

    @classmethod
    def of(cls, config: Config, seed: Seed = KNOWN_SEED) -> "Replay":
        """One that has read nothing."""
        longest = max((max(s.windows) for _, s in config.slos), default=0) // MINUTE
        buckets = RecentBuckets(longest + 1)
        pipeline = Pipeline(config, buckets, seed)
        promises = [promise for _, promise in pipeline.plan.slos]
        tiers = [[(tier, tier.threshold(p.window)) for tier in p.tiers] for p in promises]
        return cls(pipeline, buckets, tiers)

    def ingest(self, record: Record) -> None:
        """Takes the next record in, after every minute up to it."""
        self.first = self.first or record.arrival_unix_nano
        self.last = record.arrival_unix_nano
        # The exporter was away before a START: nothing was judged meanwhile, nor did an alert fire.
        if record.kind is not Kind.START:
            self._advance(record.arrival_unix_nano)
        self.pipeline.ingest(record)
        self.records += 1
        self.spans = self.pipeline.received["traces"]

    def finish(self) -> None:
        """Lets time pass until every verdict is given."""
        self._advance(self.last + _settling(self.pipeline.config))

    def _advance(self, until: int) -> None:
        if self.pipeline.second is None:
            return
        slos = self.pipeline.slos
        while (minute := self._next_minute(until)) <= until // MINUTE:
            self.pipeline.advance(minute * MINUTE)
            if slos.fresh().size or not self._is_calm:
                is_clean = self._evaluate(minute)
                self.buckets.add(slos.fresh(), minute)
                slos.flushed()
                # What was judged ahead of its time comes into the windows later.
                self._is_calm = is_clean and self.buckets.latest <= minute
        self.pipeline.advance(until)

    def _next_minute(self, until: int) -> int:
        """The next one in which an alert may begin or end, or one after `until`."""
        assert self.pipeline.second is not None
        after = self.pipeline.second
        if self._is_calm and not self.pipeline.slos.fresh().size:
            after = max(self.pipeline.next_due(max(until // SECOND, after) + 1) - 1, after)
        return after // 60 + 1

    def _evaluate(self, minute: int) -> bool:
        """Notes which alerts fire; whether no short window holds anything bad."""
        is_clean = True
        for i, (_, promise) in enumerate(self.pipeline.plan.slos):
            for t, (tier, threshold) in enumerate(self.tiers[i]):
                good, bad = self.pipeline.slos.window(i, tier.short_window)
                is_clean = is_clean and not bad
                burns = slo.burn_rate(promise, good, bad) > threshold
                if not burns or not self._burns_long(i, promise, tier, threshold):
                    self._firing.pop((i, t), None)
                elif (i, t) in self._firing:
                    self._firing[i, t].until = minute
                else:
                    self._firing[i, t] = Alert(promise.name, tier, minute, minute)
                    self.alerts.append(self._firing[i, t])
        return is_clean

    def _burns_long(self, i: int, promise: Slo, tier: Tier, threshold: float) -> bool:
        """Whether the long window burns, too, by enough events."""
        config = self.pipeline.config
        good, bad = self.pipeline.slos.window(i, tier.long_window)
        is_enough = good + bad >= config.min_events(promise) and bad >= config.min_bad_events(
            promise
        )
        return is_enough and slo.burn_rate(promise, good, bad) > threshold


def _settling(config: Config) -> int:
    """How long after the last arrival the last verdict is given, at most."""
    within = max((j.outcome.within for j in config.journeys if j.outcome), default=0)
    traces, time = config.traces, config.time
    known = traces.max_age + traces.quiet + 2 * SECOND
    return known + time.future + within + time.lateness + time.grace


def replay(config_path: Path, log: Path, out: Console, now: Seconds, secret: bytes) -> Replay:
    """Judges what a file holds, and prints what follows from it.

    Args:
        config_path: The configuration.
        log: A kept `log.db`, or a length-delimited OTLP file.
        out: Where to print.
        now: Measures how long it takes.
        secret: 16 bytes that nobody knew who filled the log: where tables keep its keys.

    Raises:
        ConfigError: The configuration cannot work.
        DecodeError: The file holds something else.
        StorageError: The log cannot be read.
    """
    config = check.load(config_path).config
    run = Replay.of(config, Seed.of(secret))
    read = read_log if _is_log(log) else read_otlp
    with out.status("Making ready (the first time it compiles, for about a minute) …"):
        warm_up(config)
    began = now()
    with _bar(out) as bar:
        task = bar.add_task(log.name, total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        for record in read(log, run.pipeline, tell):
            run.ingest(record)
    run.finish()
    report(run, out, seconds=now() - began)
    return run


def _is_log(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_SQLITE_HEAD_BYTES)
    except OSError as error:
        problem = f"{path}: {error.strerror}; name a log.db or a length-delimited OTLP file"
        raise DecodeError(problem) from None
    if not head.startswith(_SQLITE_MAGIC):
        return False
    # 0 until the first copy from the write-ahead log.
    whose = int.from_bytes(head[_APPLICATION_ID])
    if whose not in (0, SCHEMA.application_id):
        raise DecodeError(f"{path}: another database than a log; name a log.db")
    return True


def read_log(path: Path, pipeline: Pipeline, tell: Tell) -> Iterator[Record]:
    """The records of a log that was kept; the pipeline decodes them itself."""
    del pipeline
    with closing(LogReader(path)) as reader:
        first, end = reader.first_offset, reader.next_offset
        offset = first
        while offset < end:
            for record in reader.read(offset, max_bytes=_READ_BYTES):
                yield record
                offset = record.offset + 1
            tell(offset - first, end - first)


def read_otlp(path: Path, pipeline: Pipeline, tell: Tell) -> Iterator[Record]:
    """The requests of a file as records: each arrived when its last span ended, or one before."""
    arrival, size = 0, path.stat().st_size
    requests = otlp_file.read(path, progress=lambda done: tell(done, size))
    for offset, payload in enumerate(requests):
        batch = pipeline.decode(Kind.TRACES, payload)
        assert isinstance(batch, SpanBatch)
        arrival = max(arrival + 1, _latest_end(batch, pipeline.config.time.future))
        yield Record(offset, arrival, Kind.TRACES, Encoding.NONE, payload, batch)


def _latest_end(batch: SpanBatch, future: int) -> int:
    # A sender whose clock runs a century ahead must not take everybody else's along, nor one that
    # never set the time, of whom a request may hold nothing else.
    ends = batch.spans["end"]
    ends = ends[ends < _NEVER]
    likely = ends[ends <= np.median(ends) + future] if ends.size else ends
    return int(likely.max(initial=0))


# What is printed


def _bar(out: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(*columns, TimeRemainingColumn(), console=out, disable=not out.is_terminal)


def report(run: Replay, out: Console, *, seconds: float) -> None:
    """Prints what the SLOs would have read, the alerts, the journeys, and what it took."""
    if not out.is_terminal:
        out.width = _WIDTH
    if not run.records:
        out.print("Nothing was recorded.")
        return
    out.print(f"From {_time(run.first)} to {_time(run.last)} UTC\n")
    for table in (_slos(run), _alerts(run), _journeys(run)):
        out.print(table)
    peak = _peak_bytes() / (1 << 20)
    out.print(
        f"{run.spans:,} spans in {run.records:,} records: "
        f"{run.spans / max(seconds, 1e-9):,.0f} spans/s, peak memory {peak:,.0f} MiB"
    )


def _table(title: str, *columns: str) -> TextTable:
    table = TextTable(title=title, title_justify="left")
    for n, column in enumerate(columns):
        table.add_column(column, justify="right" if n else "left", overflow="fold")
    return table


def _slos(run: Replay) -> TextTable:
    columns = ("SLO", "objective", "window", "good", "bad", "SLI", "budget left")
    table = _table("What the SLOs would have read", *columns)
    for i, (_, promise) in enumerate(run.pipeline.plan.slos):
        good, bad = run.pipeline.slos.window(i, promise.window)
        table.add_row(
            promise.name,
            f"{promise.objective}%",
            format_duration(promise.window),
            _count(good),
            _count(bad),
            f"{slo.sli(good, bad):.4%}",
            f"{slo.budget_remaining(promise, good, bad):.1%}",
        )
    return table


def _alerts(run: Replay) -> TextTable:
    columns = ("SLO", "severity", "windows", "from", "to", "minutes")
    table = _table("Alerts that would have fired", *columns)
    for alert in run.alerts:
        long, short = alert.tier.long_window, alert.tier.short_window
        table.add_row(
            alert.slo,
            alert.tier.severity,
            f"{format_duration(long)} / {format_duration(short)}",
            _time(alert.since * MINUTE),
            _time(alert.until * MINUTE),
            str(alert.until - alert.since + 1),
        )
    if not run.alerts:
        table.add_row("none", *[""] * (len(columns) - 1))
    return table


def _journeys(run: Replay) -> TextTable:
    columns = ("journey", *REASONS, "pending", "value " + STATES[0], *STATES[1:])
    table = _table("Journeys", *(column.replace("_", " ") for column in columns))
    outcomes = run.pipeline.outcomes
    for j, journey in enumerate(run.pipeline.plan.journeys):
        rows = outcomes.combinations
        reasons = rows["counts"][rows["journey"] == j].sum(axis=0) / MILLIONTHS
        money = ["-"] * len(STATES)
        if journey.value is not None:
            sums = (outcomes.value[j] / MILLIONTHS).tolist()
            money = [f"{value:,.2f} {journey.value.currency}" for value in sums]
        counts = (*reasons.tolist(), float(outcomes.pending[j]))
        table.add_row(journey.name, *map(_count, counts), *money)
    return table


def _count(count: float) -> str:
    return f"{count:,.0f}" if count.is_integer() else f"{count:,.3f}"


def _time(unix_nano: int) -> str:
    return f"{datetime.fromtimestamp(unix_nano // SECOND, UTC):%Y-%m-%d %H:%M:%S}"


def _peak_bytes() -> int:
    """Most memory that the process held; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10

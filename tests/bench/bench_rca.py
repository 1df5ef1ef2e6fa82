"""How often blame names the right service on recorded faults, and what it costs: prints tables.

    python tests/bench/bench_rca.py [FOLDER] [--robust | --cost] [--traces-only]

FOLDER holds recorded streams of two systems, a folder each: `traces.otlp.zst`, `metrics.otlp.zst`
with what their pods used, and `faults.json` with what was injected when. Each stream goes through
the whole pipeline in its order, with nothing but its own past as history; what is read is
`outcome_cause_share`, as a scrape would show it. `--traces-only` leaves the metrics out.

A fault counts as found where the service that was named most in its window is the one it was
injected into: over scrapes 15 s apart, by share, a later scrape weighing more than one that had
seen less of the fault (its number in the window). Beside it stands the same with all scrapes
alike. What a verdict leaves out as too little counts as not named. Top-3 counts the three most
named. Scrapes outside of every window that is listed are quiet ones, though not all are: where the
share of bad attempts is far above what it was, something did happen, listed or not. They are
counted apart.

`--robust` asks how much of that is luck. It moves each threshold by a quarter, leaves a fifth of
all traces out, and moves all times so that the faults begin elsewhere in a slot. Then each day is
held out: the thresholds that do best on the other days, of both systems, are measured on it.

`--cost` compares CPU time with and without blame, both in this process, of traces alone.
"""

import argparse
import heapq
import json
import os
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard
from rich.console import Console
from rich.table import Table

from outcome_exporter import blame, series
from outcome_exporter.config import Config
from outcome_exporter.kernels import steps, verdicts
from outcome_exporter.model import Encoding, Kind, MetricBatch, Record, SpanBatch
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND

SCRAPE_SECONDS = 15
SETTLE_SECONDS = 45
"""From an attempt's end until a scrape shows it: the recorded messages hold up to half a minute of
spans and arrive with their last one, then a trace is quiet for 10 s."""
BATCH_SECONDS = 10
"""Without a span, after which a sender would have sent what it has."""
QUIET_SECONDS = 600
"""Without a span, after which nobody looks until the next one."""
WINDOW = "5m"
Z = 1.96
BURNS = 2.0
"""How far above history's a quiet scrape's share of bad attempts is where something happened."""
APART_SECONDS = (4, 8, 13, 17)
"""By which all times are moved."""
SEEDS = (1, 2, 3, 4)
LEFT_OUT = 0.2
"""Share of traces that `--robust` leaves out."""
ROUNDS = 9
"""In which cost is measured, with and without by turns. The least counts: what else the machine
does only adds."""

SYSTEMS = {
    # No span says that it failed, so the promise is about time, and such that fault-free minutes
    # keep it: there 90 % of requests take less than 431 ms on one day, 591 ms on the other.
    "ob": {
        "name": "frontend",
        "attempt": {"span": {"service": "frontend", "name": "hipstershop.Frontend/Recv."}},
        "slow_above": "500ms",
        "slos": [{"name": "fast", "objective": 80, "good": {"duration_below": "500ms"}}],
    },
    # The gateway's span never fails, whatever fails behind it: for a fifth to a third of all
    # requests, before any fault as well.
    "tt": {
        "name": "gateway",
        "attempt": {
            "span": {"service": "ts-gateway-service", "name": "/*"},
            "errors_below": True,
        },
        "slow_above": "900ms",
        "slos": [
            {"name": "works", "objective": 60, "good": {"error": False}},
            {"name": "fast", "objective": 90, "good": {"duration_below": "900ms"}},
        ],
    },
}


class Scrape(NamedTuple):
    second: int
    shares: dict[str, float]
    """By service."""
    burns: bool


class Change(NamedTuple):
    """What is other than in the product, or than was recorded."""

    limits: verdicts.Limits = blame.LIMITS
    seed: int = 0
    """By which traces are left out; 0: none is."""
    seconds: int = 0
    """By which all times are moved."""
    metrics: bool = True
    """Whether there are any."""


class Fault(NamedTuple):
    day: str
    system: str
    service: str
    kind: str
    order: list[str]
    """Services as they were named, most first."""
    alike: list[str]
    """The same, with all scrapes alike."""
    named_after: int | None
    """Seconds."""

    def found(self, within: int) -> bool:
        return self.service in self.order[:within]


class Measured(NamedTuple):
    faults: list[Fault]
    quiet: dict[str, list[Scrape]]
    """By system."""


def messages(path: Path) -> Iterator[bytes]:
    """Payloads of a zstd stream of messages, each behind its length in 4 bytes."""
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        while len(header := reader.read(4)) == 4:
            yield reader.read(struct.unpack(">I", header)[0])


def spans_of(pipeline: Pipeline, path: Path, change: Change) -> Iterator[Record]:
    """Requests as they would have been; each arrives with its last span.

    The recording has gaps of minutes, and messages that reach from before one to behind it. No
    sender waits that long: such a message becomes two requests.
    """
    for payload in messages(path):
        batch = pipeline.decode(Kind.TRACES, payload)
        assert isinstance(batch, SpanBatch)
        spans = batch.spans
        if change.seconds:
            spans = spans.copy()
            spans["start"] += change.seconds * SECOND
            spans["end"] += change.seconds * SECOND
        if change.seed:
            # The same traces in every request, whatever part of them it holds.
            mixed = (spans["trace_lo"] ^ np.uint64(change.seed)) * np.uint64(0x9E3779B97F4A7C15)
            spans = spans[mixed / 2.0**64 >= LEFT_OUT]
        ends = np.sort(spans["end"])
        gaps = np.flatnonzero(np.diff(ends) > BATCH_SECONDS * SECOND)
        part = np.searchsorted(ends[gaps + 1], spans["end"], side="right")
        for number in range(gaps.size + 1 if spans.size else 0):
            request = spans[part == number]
            yield Record(
                0,
                int(request["end"].max()),
                Kind.TRACES,
                Encoding.NONE,
                payload,
                batch._replace(spans=request),
            )


def points_of(pipeline: Pipeline, path: Path, change: Change) -> Iterator[Record]:
    """The same of metrics; each arrives when it was measured."""
    for payload in messages(path):
        batch = pipeline.decode(Kind.METRICS, payload)
        assert isinstance(batch, MetricBatch)
        points = [
            point._replace(time_unix_nano=point.time_unix_nano + change.seconds * SECOND)
            for point in batch.points
        ]
        if points:
            arrival = max(point.time_unix_nano for point in points)
            yield Record(
                0, arrival, Kind.METRICS, Encoding.NONE, payload, batch._replace(points=points)
            )


def scrapes(config: Config, day: Path, change: Change) -> Iterator[Scrape]:
    """Runs a stream and looks at the verdict now and then, at times as they were recorded."""
    pipeline = Pipeline(config)
    pipeline.blame.limits = change.limits
    streams: list[Iterable[Record]] = [spans_of(pipeline, day / "traces.otlp.zst", change)]
    if change.metrics:
        streams.append(points_of(pipeline, day / "metrics.otlp.zst", change))
    following = last = 0
    for offset, record in enumerate(heapq.merge(*streams, key=lambda record: record[1])):
        while following * SECOND < record.arrival_unix_nano and following <= last + QUIET_SECONDS:
            pipeline.advance(following * SECOND)
            yield look(pipeline, following - change.seconds)
            following += SCRAPE_SECONDS
        pipeline.ingest(record._replace(offset=offset))
        if record.kind is Kind.TRACES:
            last = record.arrival_unix_nano // SECOND
            following = max(following, last)
    while following <= last + QUIET_SECONDS:
        pipeline.advance(following * SECOND)
        yield look(pipeline, following - change.seconds)
        following += SCRAPE_SECONDS


def look(pipeline: Pipeline, second: int) -> Scrape:
    shares: Counter[str] = Counter()
    for sample in snapshot(pipeline)[series.CAUSE_SHARE]:
        _, window, service, *_ = sample.labels
        if window == WINDOW:
            shares[service] += sample.value
    state = pipeline.blame.state
    now, past = state.journeys[0].sum(axis=0), state.past[0]
    usual = past[steps.BAD] / max(past[steps.TRIES], 1.0)
    return Scrape(second, dict(shares), bool(now[steps.BAD] > BURNS * usual * now[steps.TRIES]))


def measure(folder: Path, change: Change = Change(), console: Console | None = None) -> Measured:  # noqa: B008 - a tuple of numbers
    """Runs all streams; tells of each fault where there is a console."""
    faults: list[Fault] = []
    quiet: dict[str, list[Scrape]] = defaultdict(list)
    for day in days(folder):
        system = system_of(day)
        injected = json.loads((day / "faults.json").read_text())
        began = time.process_time()
        seen = list(scrapes(configured(system), day, change))
        if console is not None:
            console.print(f"{day.name}: {time.process_time() - began:.1f} CPU s")
        windows = []
        for fault in injected:
            start, end = (fault[name] // SECOND for name in ("start_unix_nano", "end_unix_nano"))
            windows.append((start, end))
            if not fault["usable"]:
                continue
            during = [s for s in seen if start < s.second <= end + SETTLE_SECONDS]
            found = Fault(
                day.name,
                system,
                fault["service"],
                fault["fault"],
                ranked(during, later_weighs_more=True),
                ranked(during, later_weighs_more=False),
                next((s.second - start for s in during if s.shares), None),
            )
            faults.append(found)
            if console is not None:
                mark = "ok " if found.found(1) else "-- "
                console.print(mark, found.service, found.kind, found.named_after, found.order[:4])
        quiet[system] += [
            s for s in seen if not any(start - 60 < s.second <= end + 360 for start, end in windows)
        ]
    return Measured(faults, quiet)


def days(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/faults.json"))


def system_of(day: Path) -> str:
    return "ob" if "-ob-" in day.name else "tt"


def configured(system: str) -> Config:
    return Config.model_validate({"journeys": [SYSTEMS[system]]})


def ranked(seen: list[Scrape], *, later_weighs_more: bool) -> list[str]:
    total: Counter[str] = Counter()
    for weight, scrape in enumerate(seen, start=1):
        for service, share in scrape.shares.items():
            total[service] += share * (weight if later_weighs_more else 1)
    return [service for service, _ in total.most_common()]


def wilson(hits: int, of: int) -> str:
    """95 % interval of a share."""
    if not of:
        return ""
    p, z2 = hits / of, Z * Z
    middle = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = Z * ((p * (1 - p) + z2 / (4 * of)) / of) ** 0.5 / (1 + z2 / of)
    return f"{middle - half:.0%}-{middle + half:.0%}"


def hits(faults: list[Fault], within: int = 1) -> int:
    return sum(fault.found(within) for fault in faults)


def rate(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else ""


def report(console: Console, measured: Measured) -> None:
    table = Table("system", "fault", "n", "top-1", "95 %", "top-3", "95 %", "top-1, all alike")
    for system in sorted({fault.system for fault in measured.faults}):
        mine = [fault for fault in measured.faults if fault.system == system]
        for kind in [None, *sorted({fault.kind for fault in mine})]:
            rows = [fault for fault in mine if kind in (None, fault.kind)]
            first, third = hits(rows, 1), hits(rows, 3)
            alike = sum(fault.service in fault.alike[:1] for fault in rows)
            cells = [rate(first, len(rows)), wilson(first, len(rows))]
            cells += [rate(third, len(rows)), wilson(third, len(rows)), rate(alike, len(rows))]
            table.add_row(system, kind or "all", str(len(rows)), *cells)
    console.print(table)
    for system, seen in sorted(measured.quiet.items()):
        named = [scrape for scrape in seen if scrape.shares]
        calm = sum(not scrape.burns for scrape in named)
        console.print(
            f"{system}: a cause is named in {rate(len(named), len(seen))} of {len(seen)} quiet "
            f"scrapes; in {rate(calm, len(seen))} while at most {BURNS:g} times as many attempts "
            "as usual were bad"
        )


def moved(limits: verdicts.Limits) -> Iterator[tuple[str, Change]]:
    """Each threshold a quarter lower and higher."""
    for name in verdicts.Limits._fields:
        for factor in (0.75, 1.25):
            value = getattr(limits, name) * factor
            yield f"{name} x {factor}", Change(limits._replace(**{name: value}))


def robust(console: Console, folder: Path, *, metrics: bool) -> None:
    """Says what becomes of the figures elsewhere, and on days that had no say in the thresholds."""
    base = measure(folder, Change(metrics=metrics))
    report(console, base)
    thresholds = {"as they are": base.faults}
    changes = list(moved(blame.LIMITS))
    changes += [(f"a fifth of traces left out, {seed}", Change(seed=seed)) for seed in SEEDS]
    changes += [(f"{seconds} s later", Change(seconds=seconds)) for seconds in APART_SECONDS]
    systems = sorted({fault.system for fault in base.faults})
    heads = [head for system in systems for head in (f"{system} top-1", f"{system} top-3")]
    table = Table("changed", *heads, *(f"{system} quiet" for system in systems))
    for name, change in [("nothing", Change()), *changes]:
        found = base if name == "nothing" else measure(folder, change._replace(metrics=metrics))
        if name != "nothing" and not change.seed and not change.seconds:
            thresholds[name] = found.faults
        cells = []
        for system in systems:
            mine = [fault for fault in found.faults if fault.system == system]
            cells += [f"{hits(mine, n)}/{len(mine)}" for n in (1, 3)]
        for system in systems:
            seen = found.quiet[system]
            cells.append(rate(sum(bool(s.shares) for s in seen), len(seen)))
        table.add_row(name, *cells)
    console.print(table)
    held_out(console, thresholds)


def held_out(console: Console, thresholds: dict[str, list[Fault]]) -> None:
    """Chooses thresholds without a day, and measures them on it."""
    table = Table("held out", "chosen on the others", "n", "top-1", "95 %", "top-3", "95 %")
    total: dict[str, list[Fault]] = defaultdict(list)
    for day in sorted({fault.day for fault in thresholds["as they are"]}):
        # Of equals the first one, which is what the product has.
        best = max(thresholds, key=lambda name: hits([f for f in thresholds[name] if f.day != day]))
        mine = [fault for fault in thresholds[best] if fault.day == day]
        total[mine[0].system] += mine
        table.add_row(day, best, *shares(mine))
    for system, mine in sorted(total.items()):
        table.add_row(system, "each day's own", *shares(mine))
    console.print(table)


def shares(faults: list[Fault]) -> list[str]:
    counts = [hits(faults, within) for within in (1, 3)]
    cells = [str(len(faults))]
    for count in counts:
        cells += [rate(count, len(faults)), wilson(count, len(faults))]
    return cells


def cost(console: Console, folder: Path) -> None:
    """CPU time of a span from bytes to settled traces, with and without blame."""
    table = Table("stream", "spans", "without blame", "with it", "more")
    for day in days(folder):
        config, payloads = configured(system_of(day)), list(messages(day / "traces.otlp.zst"))
        spans = 0
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for blamed, measured in seconds.items():
                took, spans = run(config, payloads, blamed=blamed)
                measured.append(took)
        without, with_it = (min(measured) / spans * 1e6 for measured in seconds.values())
        table.add_row(
            day.name,
            f"{spans:,}",
            f"{without:.2f} us",
            f"{with_it:.2f} us",
            f"{with_it / without - 1:+.0%}",
        )
    console.print(table)


def run(config: Config, payloads: list[bytes], *, blamed: bool) -> tuple[float, int]:
    """CPU seconds, and spans."""
    pipeline = Pipeline(config)
    if not blamed:
        for name in ("observe", "give", "advance"):
            setattr(pipeline.blame, name, lambda *_: None)
    spans = 0
    began = time.thread_time()
    for offset, payload in enumerate(payloads):
        batch = pipeline.decode(Kind.TRACES, payload)
        arrival = int(batch.spans["end"].max())
        pipeline.ingest(Record(offset, arrival, Kind.TRACES, Encoding.NONE, payload, batch))
        spans += batch.spans.size
    return time.thread_time() - began, spans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = os.environ.get("RCA_STREAMS", "../shared/rca")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(default))
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--robust", action="store_true", help="how much of it is luck")
    which.add_argument("--cost", action="store_true", help="CPU time that blame adds")
    parser.add_argument("--traces-only", action="store_true", help="leave the metrics out")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if not days(folder):
        sys.exit(f"{folder}: no recorded streams there; give their folder as an argument")
    console = Console(width=120)
    if arguments.robust:
        robust(console, folder, metrics=not arguments.traces_only)
    elif arguments.cost:
        cost(console, folder)
    else:
        change = Change(metrics=not arguments.traces_only)
        report(console, measure(folder, change, console))


if __name__ == "__main__":
    main()

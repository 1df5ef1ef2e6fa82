"""How often blame names the right service on recorded faults, and what it costs: prints tables.

    python tests/bench/bench_rca.py [FOLDER]

FOLDER holds recorded streams of two systems, a folder each: `traces.otlp.zst`, and `faults.json`
with what was injected when. Each stream goes through the whole pipeline in its order, with nothing
but its own past as history; what is read is `outcome_cause_share`, as a scrape would show it.

A fault counts as found where the service that was named most in its window is the one it was
injected into: over scrapes 15 s apart, by share, a later scrape weighing more than one that had
seen less of the fault (its number in the window). Beside it stands the same with all scrapes
alike. What a verdict leaves out as too little counts as not named. Top-3 counts the three most
named. The thresholds of blame and the promises below were chosen on these streams: on others
expect less.
"""

import json
import os
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard
from rich.console import Console
from rich.table import Table

from outcome_exporter import series
from outcome_exporter.config import Config
from outcome_exporter.model import Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND

SCRAPE_SECONDS = 15
SETTLE_SECONDS = 45
"""From an attempt's end until a scrape shows it: the recorded messages hold up to half a minute of
spans and arrive with their last one, then a trace is quiet for 10 s."""
QUIET_SECONDS = 600
"""Without a span, after which nobody looks until the next one."""
WINDOW = "5m"
Z = 1.96

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


def messages(path: Path) -> Iterator[bytes]:
    """Payloads of a zstd stream of messages, each behind its length in 4 bytes."""
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        while len(header := reader.read(4)) == 4:
            yield reader.read(struct.unpack(">I", header)[0])


def scrapes(config: Config, path: Path) -> Iterator[Scrape]:
    """Runs a stream and looks at the verdict now and then."""
    pipeline = Pipeline(config)
    following = last = 0
    for offset, payload in enumerate(messages(path)):
        batch = pipeline.decode(Kind.TRACES, payload)
        arrival = int(batch.spans["end"].max())
        while following * SECOND < arrival and following <= last + QUIET_SECONDS:
            pipeline.advance(following * SECOND)
            yield look(pipeline, following)
            following += SCRAPE_SECONDS
        pipeline.ingest(Record(offset, arrival, Kind.TRACES, Encoding.NONE, payload, batch))
        last = arrival // SECOND
        following = max(following, last)
    for _ in range(10):
        pipeline.advance(following * SECOND)
        yield look(pipeline, following)
        following += SCRAPE_SECONDS


def look(pipeline: Pipeline, second: int) -> Scrape:
    shares: Counter[str] = Counter()
    for sample in snapshot(pipeline)[series.CAUSE_SHARE]:
        _, window, service, *_ = sample.labels
        if window == WINDOW:
            shares[service] += sample.value
    return Scrape(second, dict(shares))


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


def main() -> None:
    default = os.environ.get("RCA_STREAMS", "../shared/rca")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    if not folder.is_dir():
        sys.exit(f"{folder}: no recorded streams there; give their folder as an argument")
    results = defaultdict(list)
    quiet = defaultdict(list)
    console = Console()
    for day in sorted(path.parent for path in folder.glob("*/faults.json")):
        system = "ob" if "-ob-" in day.name else "tt"
        config = Config.model_validate({"journeys": [SYSTEMS[system]]})
        faults = json.loads((day / "faults.json").read_text())
        began = time.process_time()
        seen = list(scrapes(config, day / "traces.otlp.zst"))
        console.print(f"{day.name}: {time.process_time() - began:.1f} CPU s")
        for fault in faults:
            start, end = (fault[name] // SECOND for name in ("start_unix_nano", "end_unix_nano"))
            during = [s for s in seen if start < s.second <= end + SETTLE_SECONDS]
            if fault["usable"]:
                order = ranked(during, later_weighs_more=True)
                alike = ranked(during, later_weighs_more=False)
                first = next((s.second - start for s in during if s.shares), None)
                results[system].append((fault, order, alike))
                mark = "ok " if order[:1] == [fault["service"]] else "-- "
                console.print(mark, fault["service"], fault["fault"], first, order[:4])
        apart = [(f["start_unix_nano"] // SECOND, f["end_unix_nano"] // SECOND) for f in faults]
        quiet[system] += [
            bool(s.shares)
            for s in seen
            if not any(start - 60 < s.second <= end + 360 for start, end in apart)
        ]
    report(console, results, quiet)


def report(console, results, quiet) -> None:
    table = Table("system", "fault", "n", "top-1", "95 %", "top-3", "95 %", "top-1, all alike")
    for system, found in sorted(results.items()):
        kinds = sorted({fault["fault"] for fault, *_ in found})
        for kind in [None, *kinds]:
            rows = [row for row in found if kind in (None, row[0]["fault"])]
            hits = [sum(fault["service"] in order[:n] for fault, order, _ in rows) for n in (1, 3)]
            cells = [
                text for hit in hits for text in (f"{hit / len(rows):.1%}", wilson(hit, len(rows)))
            ]
            alike = sum(fault["service"] in order[:1] for fault, _, order in rows)
            cells.append(f"{alike / len(rows):.1%}")
            table.add_row(system, kind or "all", str(len(rows)), *cells)
    console.print(table)
    for system, named in sorted(quiet.items()):
        share = sum(named) / len(named) if named else 0
        console.print(f"{system}: a cause is named in {share:.1%} of {len(named)} quiet scrapes")


if __name__ == "__main__":
    main()

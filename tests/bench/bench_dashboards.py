"""How long the dashboards' queries take over 28 days with 200 journeys and 1,000 SLOs.

    .venv/bin/python tests/bench/bench_dashboards.py [SECONDS_BETWEEN_SAMPLES [FOLDER]]

A real Prometheus, once it has compacted what promtool made. All series that are read over time
are there for 28 days, the others for the last minutes. Samples lie half an hour apart by default,
found by a lookback of that length, because making them as dense as scrapes takes hours; denser
ones cost more to read, by how much shows a smaller argument. A folder keeps the data for the next
time.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from outcome_exporter import dashboards, exposition, series

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.dashboards import fleet, tsdb  # noqa: E402
from tests.dashboards.grafana import Prometheus, Range, queries  # noqa: E402
from tests.programs import require  # noqa: E402

BLOCK_SECONDS = 7_200
RUNS = 3
BLOCKS_MAX = 20
COMPACTION_SECONDS_MAX = 1_800
LIMIT_SECONDS = 2.0
END = fleet.START + fleet.LONGEST
OVER_TIME = (
    series.ATTEMPTS,
    series.ATTEMPT_DURATION,
    series.VALUE,
    series.BLAME,
    series.BLAME_VALUE,
    series.PENDING_ATTEMPTS,
    series.SLO_INFO,
    series.SLO_OBJECTIVE,
    series.SLO_SLI,
    series.SLO_BURN_RATE,
    series.SLO_BUDGET_REMAINING,
    series.SLO_BUDGET_EXHAUSTION,
    series.SLO_ALERT_THRESHOLD,
    series.SLO_TRAFFIC_STATE,
    series.SPAN_CALLS,
    series.SPAN_DURATION,
)
_LEFT_OUT = ('state="low"', 'state="normal"', "service-1", "service-2", "service-3")
CHOSEN = {
    "outcome-journey.json": {"journey": "journey-004"},
    "outcome-service.json": {"service": "service-04"},
}


def main() -> None:
    """Makes the data, unless a folder has them, and measures."""
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1_800
    with tempfile.TemporaryDirectory() as name:
        work = Path(sys.argv[2] if len(sys.argv) > 2 else name)
        if not (work / "data").exists():
            before = time.monotonic()
            count = _make(work, every, END)
            say(f"{count:,} samples, one every {every} s, in {time.monotonic() - before:.0f} s")
        with tsdb.running(
            work / "data",
            work,
            f"--query.lookback-delta={max(300, every)}s",
        ) as found:
            _wait_until_compacted(work / "data")
            slowest = max(_measure(found, *board) for board in dashboards.generate(None).items())
    say(f"slowest: {slowest:.2f} s; at most {LIMIT_SECONDS:g} s wanted")
    sys.exit(slowest > LIMIT_SECONDS)


def _wait_until_compacted(data: Path) -> None:
    """As a Prometheus is that has run for 28 days: its blocks of two hours were merged long ago."""
    deadline = time.monotonic() + COMPACTION_SECONDS_MAX
    while len(list(data.glob("*/meta.json"))) > BLOCKS_MAX:
        assert time.monotonic() < deadline, "Prometheus does not compact its blocks"
        time.sleep(1)


def _measure(found: Prometheus, file: str, text: str) -> float:
    """Prints the slowest queries of a dashboard; seconds of the slowest."""
    board = json.loads(text)
    looked = Range(fleet.START, END, scrape=60)
    values = found.variables(board, looked, **CHOSEN.get(file, {}))
    took = []
    for asked in queries(board):
        runs = []
        for _ in range(RUNS):
            start = time.monotonic()
            found.ask(asked, values, looked)
            runs.append(time.monotonic() - start)
        # The least disturbed run: others may use the machine too.
        took.append((min(runs), asked.where))
    took.sort(reverse=True)
    say(f"{file}: {len(took)} queries, together {sum(seconds for seconds, _ in took):.2f} s")
    for seconds, where in took[:4]:
        say(f"  {seconds:6.2f} s  {where}")
    return took[0][0]


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _make(work: Path, every: int, end: float) -> int:
    """Blocks of all samples; how many samples."""
    kept = _lines({f: s for f, s in fleet.scraped(end).items() if f in OVER_TIME}, few=True)
    count = 0
    data = work / "data"
    data.mkdir()
    for first in range(round(fleet.START), round(end), BLOCK_SECONDS):
        times = range(first, min(first + BLOCK_SECONDS, round(end) - 700), every)
        count += _write(work, data, kept, times, end)
    times = range(round(end) - 600, round(end) + 1, 60)
    return count + _write(work, data, _lines(fleet.scraped(end), few=False), times, end)


Lines = dict[str, list[tuple[str, float]]]
"""By type line: the series, and its value at the end."""


def _lines(snapshot: dict[series.Family, list[object]], *, few: bool) -> Lines:
    found: Lines = {}
    family = ""
    for line in exposition.render(snapshot, openmetrics=True).decode().splitlines():
        if line.startswith("# TYPE"):
            family = line
            found[family] = []
        elif not line.startswith("#") and not (few and any(text in line for text in _LEFT_OUT)):
            name, value, _ = tsdb.timed(line, 0).rsplit(" ", 2)
            found[family].append((name, float(value)))
    return found


def _write(work: Path, data: Path, lines: Lines, times: range, end: float) -> int:
    if not times:
        return 0
    file = work / "samples.txt"
    count = 0
    with file.open("w", encoding="utf-8") as out:
        for kind, members in lines.items():
            out.write(f"{kind}\n")
            out.writelines(_samples(kind, members, times, end))
            count += len(members) * len(times)
        out.write("# EOF\n")
    subprocess.run(
        [require("promtool"), "tsdb", "create-blocks-from", "openmetrics", "-q", file, data],
        check=True,
        capture_output=True,
    )
    return count


def _samples(
    kind: str, members: list[tuple[str, float]], times: range, end: float
) -> Iterator[str]:
    grows = not kind.endswith("gauge")
    for at in times:
        # Counters grow evenly; gauges move, so that they do not compress to nothing.
        share = (at - fleet.START) / (end - fleet.START)
        factor = share if grows else 1 + 0.05 * math.sin(at / 9_000)
        for name, value in members:
            yield f"{name} {round(value * factor) if grows else value * factor} {at}\n"


if __name__ == "__main__":
    main()

"""How long the dashboards' queries take over 28 days with 200 journeys and 1,000 SLOs.

    .venv/bin/python tests/bench/bench_dashboards.py make FOLDER [SECONDS_BETWEEN_SAMPLES]
    .venv/bin/python tests/bench/bench_dashboards.py ask FOLDER

`make` takes minutes; it goes on where it was stopped. `ask` measures, on a real Prometheus with
blocks as long as one has that has run for 28 days. All series that are read over time are there for
28 days, the others for the last minutes. Samples lie half an hour apart by default, found by a
lookback of that length, because making them as dense as scrapes takes hours; denser ones cost more
to read, by how much shows a smaller number of seconds.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from outcome_exporter import dashboards, exposition, series

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.dashboards import fleet, tsdb  # noqa: E402
from tests.dashboards.grafana import Prometheus, Range, queries  # noqa: E402

BLOCK_SECONDS = 54 * 3_600
"""What Prometheus merges its blocks of two hours to by and by, if it keeps them for a month."""
RUNS = 3
LIMIT_SECONDS = 2.0
END = fleet.START + fleet.LONGEST
RECENT_SECONDS = 600
"""Of the end, in which every series is there, a sample a minute."""
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
    series.SLO_WINDOW_EVENTS,
    series.SLO_ALERT_THRESHOLD,
    series.SLO_ALERT_MIN_BAD,
    series.SLO_ALERT_MIN,
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
    """Makes the data, or measures."""
    folder = Path(sys.argv[2])
    if sys.argv[1] == "make":
        make(folder, int(sys.argv[3]) if len(sys.argv) > 3 else 1_800)
    else:
        ask(folder)


def make(folder: Path, every: int) -> None:
    """Blocks of all samples; those that are there already are left as they are."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    (folder / "every").write_text(f"{every}")
    over_time = {f: s for f, s in fleet.scraped(END).items() if f in OVER_TIME}
    kept = _lines(over_time, few=True)
    first = round(fleet.START) // BLOCK_SECONDS * BLOCK_SECONDS
    for begin in range(first, round(END) - RECENT_SECONDS, BLOCK_SECONDS):
        end = min(begin + BLOCK_SECONDS, round(END) - RECENT_SECONDS)
        start = max(begin, round(fleet.START))
        _write(folder, kept, range(start + -start % every, end, every))
    everything = _lines(fleet.scraped(END), few=False)
    _write(folder, everything, range(round(END) - RECENT_SECONDS, round(END) + 1, 60))


def ask(folder: Path) -> None:
    """Measures every query, and fails where one takes too long."""
    every = int((folder / "every").read_text())
    with tsdb.running(
        folder / "data", folder, f"--query.lookback-delta={max(300, every)}s"
    ) as found:
        slowest = max(_measure(found, *board) for board in dashboards.generate(None).items())
    say(f"slowest: {slowest:.2f} s; at most {LIMIT_SECONDS:g} s wanted")
    sys.exit(slowest > LIMIT_SECONDS)


def _measure(found: Prometheus, file: str, text: str) -> float:
    """Prints the slowest queries of a dashboard and its variables; seconds of the slowest."""
    board = json.loads(text)
    looked = Range(fleet.START, END, scrape=60)
    values = found.variables(board, looked, **CHOSEN.get(file, {}))
    took = [(_seconds(found.ask, asked, values, looked), asked.where) for asked in queries(board)]
    took += [
        (_seconds(found.options, variable, values, looked), f"variable {variable['name']}")
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]
    took.sort(reverse=True)
    say(f"{file}: {len(took)} queries, together {sum(seconds for seconds, _ in took):.2f} s")
    for seconds, where in took[:4]:
        say(f"  {seconds:6.2f} s  {where}")
    return took[0][0]


def _seconds(ask: Callable[..., object], *arguments: object) -> float:
    """The least disturbed of some runs: others may use the machine too."""
    runs = []
    for _ in range(RUNS):
        start = time.monotonic()
        ask(*arguments)
        runs.append(time.monotonic() - start)
    return min(runs)


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


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


def _write(folder: Path, lines: Lines, times: range) -> None:
    done = folder / f"done-{times.start}"
    if done.exists():
        return
    before = time.monotonic()
    file = folder / "samples.txt"
    with file.open("w", encoding="utf-8") as out:
        for kind, members in lines.items():
            out.write(f"{kind}\n")
            out.writelines(_samples(kind, members, times))
        out.write("# EOF\n")
    tsdb.make_blocks(file, folder / "data", f"--max-block-duration={BLOCK_SECONDS}s")
    done.touch()
    count = sum(map(len, lines.values())) * len(times)
    say(f"{count:,} samples in {time.monotonic() - before:.0f} s")


def _samples(kind: str, members: list[tuple[str, float]], times: range) -> Iterator[str]:
    grows = not kind.endswith("gauge")
    for at in times:
        # Counters grow evenly; gauges move, so that they do not compress to nothing.
        share = (at - fleet.START) / (END - fleet.START)
        factor = share if grows else 1 + 0.05 * math.sin(at / 9_000)
        for name, value in members:
            yield f"{name} {round(value * factor) if grows else value * factor} {at}\n"


if __name__ == "__main__":
    main()

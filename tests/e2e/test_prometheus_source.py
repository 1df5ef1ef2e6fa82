"""Backfill from a real Prometheus that holds two days of samples: budgets equal the exact counts.

The five cases that ratios of averages get wrong, each through a scrape gap of half an hour, a
restart of every process, and four pods that appear with their first sample at 1.
"""

import random
import re
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from tests.programs import require
from typer.testing import CliRunner

from outcome_exporter import check, cli, server

OBJECTIVE = 99.9
STEP = 30
DAYS = 2
DEADLINE_SECONDS = 120


@dataclass
class Series:
    """A counter as Prometheus scraped it, and what really happened."""

    labels: str
    samples: list[tuple[int, int]] = field(default_factory=list)
    total: int = 0
    value: int = 0

    def count(self, events: int) -> None:
        self.total += events
        self.value += events

    def scrape(self, now: int) -> None:
        self.samples.append((now, self.value))


def busy_hour(at: int) -> bool:
    return at % 86_400 < 3_600


def quiet_hour(at: int) -> bool:
    return 3 * 3_600 <= at % 86_400 < 4 * 3_600


def rates(case: str, at: int, end: int) -> tuple[float, float]:
    """Events in a step, and the share of them that fail."""
    match case:
        case "quiet-hour":  # half of a quiet hour's requests fail, every day
            return (0.2, 0.5) if quiet_hour(at) else (60.0, 0.0)
        case "busy-hour":  # 1 % of the busy hour's
            return (600.0, 0.01) if busy_hour(at) else (1.0, 0.0)
        case "idle":  # nothing at all in the last ten minutes
            return (0.0, 0.0) if at >= end - 600 else (30.0, 0.0)
        case "first-fails":  # the only failure is the first event of its series
            return 20.0, 0.0
        case _:  # never-fails
            return 20.0, 0.0


def story(case: str, begin: int, end: int, dice: random.Random) -> list[Series]:
    """What the pods of a case counted, and what was scraped of it."""
    series = []
    lives = [(pod, begin) for pod in ("a", "b")]
    # Four pods appear in the middle, each with its first event counted already.
    middle = begin + (end - begin) // 2 // STEP * STEP
    lives += [(f"late-{n}", middle) for n in range(4)]
    for pod, born in lives:
        good = Series(f'case="{case}",pod="{pod}",code="200"')
        bad = Series(f'case="{case}",pod="{pod}",code="500"')
        share = 1 / len(lives) if born == begin else 0.0
        restart = begin + (end - begin) // 3 // STEP * STEP
        gap = begin + (end - begin) // 4 // STEP * STEP
        seen = False
        for at in range(born, end, STEP):
            if at == restart:
                # What was counted after the last scrape is lost with the process: nothing was.
                good.value = bad.value = 0
            else:
                events, fails = rates(case, at, end)
                number = round(events * share * dice.uniform(0.5, 1.5)) if at > begin else 0
                number = dice.random() < events * share if events * share < 1 else number
                failed = sum(dice.random() < fails for _ in range(number)) if fails else 0
                good.count(int(number) - failed)
                bad.count(failed)
                if born == middle and at == born:
                    (bad if case == "first-fails" and pod == "late-0" else good).count(1)
            if gap <= at < gap + 1_800:
                continue
            good.scrape(at)
            # A client library makes a series with its first event.
            seen = seen or bad.value > 0
            if seen:
                bad.scrape(at)
        series += [good, bad]
    return series


def openmetrics(series: list[Series]) -> str:
    lines = ["# TYPE requests counter"]
    for one in series:
        lines += [f"requests_total{{{one.labels}}} {v} {t}" for t, v in one.samples]
    return "\n".join([*lines, "# EOF", ""])


CASES = ("quiet-hour", "busy-hour", "idle", "first-fails", "never-fails")


@pytest.fixture(scope="module")
def peers():
    return require("prometheus"), require("promtool")


@pytest.fixture(scope="module")
def world(peers, tmp_path_factory):
    """A Prometheus with two days of history: its address, and the truth of each case."""
    prometheus, promtool = peers
    folder = tmp_path_factory.mktemp("prometheus")
    end = int(time.time()) // 60 * 60 - 120
    begin = end - DAYS * 86_400
    dice = random.Random(6)
    truth = {case: story(case, begin, end, dice) for case in CASES}
    samples = folder / "samples.txt"
    samples.write_text(openmetrics([one for series in truth.values() for one in series]))
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", "-q", samples, folder / "data"],
        check=True,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
    )
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 1h}\n")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--storage.tsdb.retention.time=30d",
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=log,
            stdout=log,
        )
    try:
        yield f"http://{address(process, folder / 'log')}", truth
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def address(process: subprocess.Popen, log: Path) -> str:
    """Where it listens, once it is ready; port 0 is known from its log."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        found = re.search(r"[Ll]istening on.*?address=(127\.0\.0\.1:\d+)", log.read_text())
        if found:
            try:
                with urllib.request.urlopen(f"http://{found[1]}/-/ready", timeout=5):
                    return found[1]
            except OSError:
                pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_backfilled_budgets_equal_the_exact_counts(world, tmp_path, monkeypatch):
    url, truth = world
    config = {
        "receivers": {"otlp": {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"}},
        "metrics": {"listen": "127.0.0.1:0"},
        "storage": {"path": str(tmp_path / "data")},
        "prometheus": {"url": url},
        "slos": [
            {
                "name": case,
                "objective": OBJECTIVE,
                "window": "4d",
                "sli": {
                    "prometheus": {
                        "bad": f'requests_total{{case="{case}",code="500"}}',
                        "total": f'requests_total{{case="{case}"}}',
                    }
                },
            }
            for case in CASES
        ],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["backfill", "-c", str(tmp_path / "config.yaml")]
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert "5 SLOs have their history" in done.stdout
    again = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert again.exit_code == 0

    running = server.Server(tmp_path / "config.yaml")
    running.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{running.ports[0]}/metrics") as response:
            text = response.read().decode()
    finally:
        running.stop()
    for case in CASES:
        good = sum(one.total for one in truth[case] if 'code="200"' in one.labels)
        bad = sum(one.total for one in truth[case] if 'code="500"' in one.labels)
        exact = 1 - bad / (good + bad) / (1 - OBJECTIVE / 100)
        assert value(text, f'slo_events_total{{result="bad",slo="{case}"}}') == pytest.approx(bad)
        assert value(text, f'slo_events_total{{result="good",slo="{case}"}}') == pytest.approx(good)
        shown = value(text, f'slo_error_budget_remaining_ratio{{slo="{case}"}}')
        assert shown == pytest.approx(exact, abs=0.001), case
    assert value(text, 'slo_events_total{result="bad",slo="first-fails"}') == 1
    assert value(text, 'slo_traffic_state{slo="idle",state="none"}') == 1
    assert "NaN" not in text


SLOTH = """
version: prometheus/v1
service: shop
slos:
  - name: quiet
    objective: 99.9
    sli:
      events:
        error_query: sum(rate(requests_total{case="quiet-hour",code=~"5.."}[{{.window}}]))
        total_query: sum(rate(requests_total{case="quiet-hour"}[{{.window}}]))
"""


def test_an_imported_slo_reads_what_is_counted_by_hand_from_the_same_samples(world, tmp_path):
    url, truth = world
    (tmp_path / "sloth.yaml").write_text(SLOTH)
    config = tmp_path / "config.yaml"
    arguments = ["import", "sloth", str(tmp_path / "sloth.yaml"), "-o", str(config)]
    done = CliRunner().invoke(cli.app, [*arguments, "--prometheus", url], catch_exceptions=False)
    assert done.exit_code == 0
    config.write_text(f"{config.read_text()}\nstorage: {{path: {tmp_path / 'data'}}}\n")
    for _ in server.backfill(config):
        pass
    log, store, engine = server._opened(check.load(config).config, time.time_ns)
    try:
        good, bad = engine.pipeline.slos.events(0)
    finally:
        log.close()
        store.close()
    series = truth["quiet-hour"]
    assert bad == pytest.approx(sum(one.total for one in series if 'code="500"' in one.labels))
    assert good == pytest.approx(sum(one.total for one in series if 'code="200"' in one.labels))


def value(text: str, series: str) -> float:
    return float(re.search(f"^{re.escape(series)} (.*)$", text, re.MULTILINE)[1])


def test_what_prometheus_counts_with_increase_is_less(world):
    """Why samples are read: the same Prometheus, asked for `increase`, misses first samples."""
    url, truth = world
    query = 'sum(increase(requests_total{case="first-fails",code="500"}[3d]))'
    with urllib.request.urlopen(
        f"{url}/api/v1/query?query={urllib.request.quote(query)}"
    ) as response:
        assert b'"value":[' in (body := response.read())
    assert float(re.search(rb'"(\d[\d.]*)"\]', body)[1]) == 0
    assert sum(one.total for one in truth["first-fails"] if 'code="500"' in one.labels) == 1

"""What the rules cost and how soon they tell, beside Sloth's: prints two tables.

    python tests/bench/bench_rules.py [--slos 1000] [--hours 6] [cost|detection]

**Cost.** One Prometheus holds the history of every SLO's counters, scrapes the exporter's series
and evaluates three sets of rules side by side: ours, ours with --per-slo, and those that Sloth
generates for the same SLOs. Shown are the rules' own duration as Prometheus measures it (the sum
of the last evaluation of every group), and the samples that one evaluation reads, as the query
API counts them. Sloth reads two counters an SLO, the least there can be; it usually reads one per
instance and status code. Its windows of days find only the hours that were written, so that its
figures are too good. Durations are by the clock: where processors are busy, thousands of groups
wait for each other, which makes them longer than the work is; samples read do not depend on that.

**Detection.** Errors begin at once at one rate, for an SLO of 99.9 % over 30 days: minutes until
the rules fire, budget spent by then, minutes until they no longer would once the errors ended.
`Workbook` is the formula of Google's SRE Workbook, chapter 5, for the first tier that can fire.
Simulated with the arithmetic that tests/rules/test_detection.py holds against promtool.
"""

import argparse
import http.server
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.programs import Missing, ThisMachine, find
from tests.rules import detection

from outcome_exporter import burn
from outcome_exporter.config import Config
from outcome_exporter.exposition import render
from outcome_exporter.model import Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.rules import files
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import MINUTE

PER_JOURNEY = 50
STEP_SECONDS = 30
EVALUATION_SECONDS = 60
QUERIED_SLOS = 5
RULE_DEADLINE_SECONDS = 600


def configuration(slos: int, objective: float = 99.9) -> Config:
    journeys = [
        {
            "name": f"journey-{first // PER_JOURNEY}",
            "attempt": {"span": {"service": f"service-{first // PER_JOURNEY}"}},
            "slos": [
                {
                    "name": f"slo-{i}",
                    "objective": objective,
                    "window": "30d",
                    "good": {"error": False},
                }
                for i in range(first, min(first + PER_JOURNEY, slos))
            ],
        }
        for first in range(0, slos, PER_JOURNEY)
    ]
    return Config.model_validate({"journeys": journeys})


# Cost --------------------------------------------------------------------------------------------


def sloth_spec(config: Config) -> dict:
    def rate(name: str, more: str = "") -> str:
        return f'sum(rate(slo_events_total{{slo="{name}"{more}}}[{{{{.window}}}}]))'

    return {
        "version": "prometheus/v1",
        "service": "bench",
        "slos": [
            {
                "name": slo.name,
                "objective": float(slo.objective),
                "sli": {
                    "events": {
                        "error_query": rate(slo.name, ',result="bad"'),
                        "total_query": rate(slo.name),
                    }
                },
                "alerting": {
                    "name": f"Burns{slo.name}",
                    "page_alert": {"labels": {"severity": "page"}},
                    "ticket_alert": {"labels": {"severity": "ticket"}},
                },
            }
            for _, slo in config.slos
        ],
    }


def write_history(promtool: str, config: Config, folder: Path, port: int, hours: float) -> None:
    """Blocks with the counters of every SLO, up to now."""
    now = int(time.time())
    text = folder / "history.txt"
    target = f'job="outcome-exporter",instance="127.0.0.1:{port}"'
    with text.open("w") as out:
        out.write("# TYPE slo_events counter\n")
        for _, slo in config.slos:
            for result, each in (("good", 300), ("bad", 0.1)):
                name = f'slo_events_total{{slo="{slo.name}",result="{result}",{target}}}'
                for i, at in enumerate(range(int(now - hours * 3600), now, STEP_SECONDS)):
                    out.write(f"{name} {i * each:.1f} {at}\n")
        out.write("# EOF\n")
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"]
    subprocess.run(command, check=True, capture_output=True)
    text.unlink()


def serve(body: bytes) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.read().decode()


def samples_read(prometheus: str, exprs: list[str]) -> int:
    total = 0
    for expr in exprs:
        query = urllib.parse.urlencode({"query": expr, "stats": "all"})
        stats = json.loads(get(f"{prometheus}/api/v1/query?{query}"))["data"]["stats"]
        total += stats["samples"]["totalQueryableSamples"]
    return total


def exprs(text: str) -> list[str]:
    return [rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def durations(prometheus: str) -> dict[str, tuple[int, float]]:
    """By rule file: groups not evaluated twice yet, and the seconds that all groups take."""
    metrics = get(f"{prometheus}/metrics")

    def by_group(name: str) -> dict[str, float]:
        pattern = rf'^prometheus_rule_{name}\{{rule_group="(.+)"\}} (\S+)'
        return {g: float(value) for g, value in re.findall(pattern, metrics, re.MULTILINE)}

    evaluated, rules = by_group("evaluations_total"), by_group("group_rules")
    found: dict[str, tuple[int, float]] = {}
    for group, seconds in by_group("group_last_duration_seconds").items():
        name = Path(group.partition(";")[0]).stem
        done, total = found.get(name, (0, 0.0))
        twice = evaluated.get(group, 0) >= 2 * rules[group]
        found[name] = done + (not twice), total + seconds
    return found


def cost(out: Console, slos: int, hours: float) -> None:
    machine = ThisMachine()
    prometheus, promtool = find("prometheus", machine), find("promtool", machine)
    config = configuration(slos)
    pipeline = Pipeline(config)
    pipeline.ingest(Record(0, time.time_ns(), Kind.START, Encoding.NONE, b""))
    server = serve(render(snapshot(pipeline), openmetrics=False))
    sets = {
        "ours": files.rules(config)["outcomes.yaml"],
        "ours-per-slo": files.rules(config, per_slo=True)["outcomes.yaml"],
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            sloth = find("sloth", machine)
            (folder / "spec.yaml").write_text(yaml.safe_dump(sloth_spec(config)))
            subprocess.run(
                [sloth, "generate", "-i", folder / "spec.yaml", "-o", folder / "sloth.txt"],
                check=True,
                capture_output=True,
            )
            sets["sloth"] = (folder / "sloth.txt").read_text()
        except Missing as missing:
            out.print(f"Without Sloth: {missing}")
        (folder / "rules").mkdir()
        for name, text in sets.items():
            (folder / "rules" / f"{name}.yaml").write_text(text)
        write_history(promtool, config, folder, server.server_port, hours)
        rows = measure(prometheus, folder, server.server_port, sets, slos)
    server.shutdown()
    table = Table(title=f"{slos} SLOs, {hours:g} h of history, one evaluation of all rules")
    for column in (
        "rules of",
        "rules",
        "seconds",
        "samples read",
        "seconds / ours",
        "samples / ours",
    ):
        table.add_column(column, justify="left" if column == "rules of" else "right")
    first = rows[0]
    for name, count, seconds, samples in rows:
        table.add_row(
            name,
            f"{count:,}",
            f"{seconds:.3f}",
            f"{samples:,.0f}",
            f"{seconds / first[2]:.1f}",
            f"{samples / first[3]:.1f}",
        )
    out.print(table)


def measure(prometheus, folder, port, sets, slos):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "global": {"scrape_interval": "15s", "evaluation_interval": f"{EVALUATION_SECONDS}s"},
        "rule_files": [str(folder / "rules" / "*.yaml")],
        "scrape_configs": [
            {
                "job_name": "outcome-exporter",
                "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    command = [prometheus, f"--config.file={folder / 'prometheus.yaml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={url.removeprefix('http://')}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + RULE_DEADLINE_SECONDS
        while True:
            assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()[-2000:]
            try:
                found = durations(url)
            except OSError:
                found = {}
            if len(found) == len(sets) and not any(missing for missing, _ in found.values()):
                break
            time.sleep(1)
        return [
            (name, len(exprs(text)), found[name][1], read(url, name, text, slos))
            for name, text in sets.items()
        ]
    finally:
        process.terminate()
        process.wait()


def read(url, name, text, slos):
    """Samples of one evaluation; of rules by name, a few SLOs stand for all."""
    every = exprs(text)
    if name == "ours":
        return samples_read(url, every)
    few = [e for e in every if re.search(rf'"(bench-)?slo-[0-{QUERIED_SLOS - 1}]"', e)]
    shared = [e for e in every if "slo-" not in e and "vector(" not in e]
    constant = sum("vector(" in e for e in every)
    return samples_read(url, few) * slos / QUERIED_SLOS + samples_read(url, shared) + constant


# Detection ---------------------------------------------------------------------------------------


def workbook_minutes(slo, error_rate: float, severity: str) -> float:
    """Time to detect by the formula, of the tier that is first."""
    return min(
        (
            slo.budget_ratio / error_rate * tier.threshold(slo.window) * tier.long_window / MINUTE
            for tier in burn.TIERS
            if tier.severity == severity
            and error_rate > tier.threshold(slo.window) * slo.budget_ratio
        ),
        default=np.inf,
    )


def length(minutes: float) -> str:
    if not np.isfinite(minutes):
        return "never"
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def detect(out: Console) -> None:
    slo = configuration(1).slos[0][1]
    table = Table(title="SLO of 99.9 % over 30 days: detection")
    table.add_column("errors", justify="right")
    for severity in detection.SEVERITIES:
        for column in (f"{severity} after", "Workbook", "spent", "reset"):
            table.add_column(column, justify="right")
    for rate in (0.001, 0.0015, 0.002, 0.004, 0.007, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        row = [f"{rate:.2%}"]
        for severity in detection.SEVERITIES:
            found = detection.detect(slo, rate, severity)
            spent = "never" if np.isinf(found.minutes) else f"{found.spent:.1%}"
            row += [
                length(found.minutes),
                length(workbook_minutes(slo, rate, severity)),
                spent,
                length(found.reset),
            ]
        table.add_row(*row)
    out.print(table)
    table = Table(title="False alerts a month: half the budget is spent, evenly and by chance")
    for column in (
        "attempts",
        "page, gate of 3",
        "page, no gate",
        "ticket, gate of 3",
        "ticket, no gate",
    ):
        table.add_column(column, justify="right")
    for per_hour in (1, 6, 60, 600, 6_000, 60_000):
        row = [f"{per_hour:,}/h"]
        for severity in detection.SEVERITIES:
            for gate in (3, 1):
                number = detection.false_alerts(
                    slo, per_hour / 60, severity, min_bad=gate, months=12
                )
                row.append(f"{number:.2f}")
        table.add_row(*row)
    out.print(table)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=["cost", "detection"])
    parser.add_argument("--slos", type=int, default=1_000)
    parser.add_argument("--hours", type=float, default=6)
    arguments = parser.parse_args()
    out = Console(width=140)
    if "cost" in arguments.what:
        cost(out, arguments.slos, arguments.hours)
    if "detection" in arguments.what:
        detect(out)


if __name__ == "__main__":
    main()

"""A Prometheus that has scraped what a test gives it, without waiting: blocks made by promtool."""

import contextlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.dashboards.grafana import Prometheus
from tests.programs import require

from outcome_exporter import exposition
from outcome_exporter.model import Snapshot

JOB = "outcome-exporter"
_PLACE = "127.0.0.1:9464"
_TIMEOUT = 120


class History:
    """Scrapes over time, as OpenMetrics with timestamps: family by family, as the format wants."""

    def __init__(self) -> None:
        self._families: dict[str, list[bytes]] = {}
        self.start = self.end = 0.0

    def scrape(
        self, at_seconds: float, snapshot: Snapshot, more: str = "", *, instance: str = _PLACE
    ) -> None:
        """Adds what a scrape would have got; `more` are lines of other exporters."""
        self.start = self.start or at_seconds
        self.end = at_seconds
        text = exposition.render(snapshot, openmetrics=True).decode() + more
        family = ""
        for line in text.splitlines():
            if line.startswith("#"):
                if line.startswith("# TYPE "):
                    family = line.split(" ")[2]
                    self._families.setdefault(family, [f"{line}\n".encode()])
                continue
            self._families[family].append(f"{timed(line, at_seconds, instance)}\n".encode())

    def write(self, file: Path) -> None:
        with file.open("wb") as out:
            for lines in self._families.values():
                out.writelines(lines)
            out.write(b"# EOF\n")


def timed(line: str, at_seconds: float, instance: str = _PLACE) -> str:
    """A line of an exposition as a scrape would store it."""
    # Blocks hold no exemplars.
    series, _, value = line.partition(" # ")[0].rpartition(" ")
    name, brace, labels = series.partition("{")
    target = f'job="{JOB}",instance="{instance}"'
    target += "," if brace and labels != "}" else "}"
    if "job=" in labels:
        return f"{line} {at_seconds:.3f}"
    return f"{name}{{{target}{labels if labels != '}' else ''} {value} {at_seconds:.3f}"


@contextlib.contextmanager
def prometheus(history: History, folder: Path, *, every: int) -> Iterator[Prometheus]:
    """A running Prometheus that holds a history whose scrapes lie so many seconds apart."""
    file = folder / "history.txt"
    history.write(file)
    data = folder / "data"
    data.mkdir()
    make_blocks(file, data)
    # A series that a scrape no longer brings ends there at once. Blocks made from a text cannot
    # say so; a sample that is looked for no further back than to the last scrape comes to the same.
    with running(data, folder, f"--query.lookback-delta={1000 * every + 500}ms") as found:
        yield found


def make_blocks(file: Path, data: Path, *options: str) -> None:
    """Adds samples of an OpenMetrics text to a Prometheus' folder."""
    subprocess.run(
        [
            *(require("promtool"), "tsdb", "create-blocks-from", *options),
            *("openmetrics", "-q", file, data),
        ],
        check=True,
        capture_output=True,
    )


@contextlib.contextmanager
def running(data: Path, folder: Path, *options: str) -> Iterator[Prometheus]:
    """A Prometheus on a folder of blocks."""
    config = folder / "prometheus.yml"
    config.write_text("global: {}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [
                require("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                "--storage.tsdb.retention.time=10y",
                f"--web.listen-address=127.0.0.1:{port}",
                *options,
            ],
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + _TIMEOUT
            while not _ready(address):
                assert process.poll() is None, "prometheus ended early"
                assert time.monotonic() < deadline, "prometheus does not become ready"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
            yield Prometheus(address)
        finally:
            process.terminate()
            process.wait(_TIMEOUT)


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/-/ready", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False

"""Real exporter processes, to be started, killed and looked at."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SECONDS_MAX = 200
"""Until something that must happen has happened; a cold compile lies within."""
ZYGOTE = Path(__file__).with_name("zygote.py")

CONFIG = """
receivers: {{otlp: {{grpc: "127.0.0.1:0", http: "127.0.0.1:0", max_request: 1MiB}}}}
metrics: {{listen: "127.0.0.1:0"}}
storage: {{path: {folder}, checkpoint: {checkpoint}}}
traces: {{quiet: 100ms}}
time: {{grace: 1s, lateness: 0s}}
journeys:
  - name: pay
    attempt: {{span: {{name: "POST /pay"}}}}
    outcome: {{event: paid, within: 10m}}
    slow_above: 1s
    slos: [{{name: pay-success, objective: 99, good: {{achieved: true, error: false}}}}]
  - name: sign-up
    attempt: {{span: {{name: "POST /sign-up"}}}}
    outcome: {{event: signed-up, within: 1s}}
    slos: [{{name: sign-up-success, objective: 99, good: {{achieved: true}}}}]
  - name: search
    attempt: {{span: {{name: "GET /search"}}}}
    slow_above: 1s
    slos: [{{name: search-fast, objective: 95, good: {{error: false, duration_below: 1s}}}}]
"""

Series = dict[str, float]
"""Value of each series, by its name and labels in one order."""
_LABEL = r'\w+="(?:[^"\\]|\\.)*"'


def write_config(folder: Path, storage: Path, *, checkpoint: str = "100ms") -> Path:
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(folder=storage, checkpoint=checkpoint))
    return path


def eventually(condition: Callable[[], object], what: str, seconds: float = SECONDS_MAX) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)  # between two looks at another process


class Exporter:
    """One process of `outcome-exporter serve`, known by its log file."""

    def __init__(self, process_id: int, log: Path, wait: Callable[[], int]) -> None:
        self.process_id = process_id
        self.log = log
        self._wait = wait
        self._ports: dict[str, int] = {}

    def port(self, pattern: str) -> int | None:
        if pattern not in self._ports:
            found = re.search(pattern, self.said())
            if found is None:
                return None
            self._ports[pattern] = int(found[1])
        return self._ports[pattern]

    @property
    def page_port(self) -> int | None:
        return self.port(r"metrics and page on port (\d+)")

    @property
    def grpc_port(self) -> int | None:
        return self.port(r"OTLP on port (\d+) \(gRPC\)")

    @property
    def http_port(self) -> int | None:
        return self.port(r"OTLP on port \d+ \(gRPC\) and (\d+) \(HTTP\)")

    def get(self, path: str) -> tuple[int, str]:
        assert self.page_port is not None
        connection = http.client.HTTPConnection("127.0.0.1", self.page_port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def series(self) -> Series:
        status, text = self.get("/metrics")
        assert status == 200, text
        return parse(text)

    def until_ready(self) -> "Exporter":
        eventually(lambda: self.http_port is not None, f"{self.log} says where it listens")
        eventually(lambda: self.get("/readyz")[0] == 200, "ready")
        return self

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, number: int) -> None:
        os.kill(self.process_id, number)

    def wait(self) -> int:
        """Exit code; negative for the signal that ended it."""
        return self._wait()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL, f"it had ended before: {self.said()}"

    def terminate(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()


def parse(text: str) -> Series:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {series(name): float(value) for name, _, value in lines}


def series(shown: str) -> str:
    """A series as it is shown, with its labels in one order."""
    name, _, labels = shown.rstrip("}").partition("{")
    return f"{name}{{{','.join(sorted(re.findall(_LABEL, labels)))}}}"


class Zygote:
    """Starts exporters without waiting for Python's imports; see zygote.py."""

    def __init__(self, config: Path, environment: Mapping[str, str]) -> None:
        self._folder = config.parent
        self._started = 0
        self._process = subprocess.Popen(
            [sys.executable, str(ZYGOTE), str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _ask(self, question: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return int(self._answer())

    def start(self) -> Exporter:
        self._started += 1
        log = self._folder / f"exporter-{self._started}.log"
        process_id = self._ask(f"start {log}")
        return Exporter(
            process_id,
            log,
            lambda: os.waitstatus_to_exitcode(self._ask(f"wait {process_id}")),
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def zygote(config: Path, environment: Mapping[str, str] = {}) -> Iterator[Zygote]:
    started = Zygote(config, environment)
    try:
        yield started
    finally:
        started.close()


@contextmanager
def command(config: Path, environment: Mapping[str, str] = {}) -> Iterator[Exporter]:
    """The command as a user types it."""
    log = config.parent / f"command-{len(list(config.parent.glob('command-*')))}.log"
    program = Path(sys.executable).with_name("outcome-exporter")
    with log.open("a") as target:
        process = subprocess.Popen(
            [program, "serve", "-c", config],
            stdout=target,
            stderr=target,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
    try:
        yield Exporter(process.pid, log, lambda: process.wait(SECONDS_MAX))
    finally:
        process.kill()
        process.wait()

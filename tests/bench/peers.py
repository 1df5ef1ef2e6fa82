"""The programs that are measured, each a process of its own, and what they cost."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

DEADLINE_SECONDS = 120
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Peer:
    """A program that runs."""

    name: str
    process: subprocess.Popen[bytes]
    grpc: int
    http: int
    metrics: int
    ready_seconds: float = 0.0
    """From its start until it served."""

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_bytes(self, which: str = "VmRSS") -> int:
        """Memory that it holds, or by VmHWM held at the most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.search(rf"^{which}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """What its metrics port answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=DEADLINE_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()

    def value(self, series: str) -> float:
        """The sum over a series that it shows."""
        text = self.get("/metrics")[1].decode()
        found = re.findall(rf"^{series}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def wait(self, true, what: str, pause: float = 0.1) -> None:
        """Waits for a condition."""
        until = time.monotonic() + DEADLINE_SECONDS
        while not true():
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}"
            assert time.monotonic() < until, f"{self.name}: {what} after {DEADLINE_SECONDS} s"
            time.sleep(pause)


@contextlib.contextmanager
def _running(peer: Peer, ready_path: str) -> Iterator[Peer]:
    began = time.monotonic()

    def ready() -> bool:
        with contextlib.suppress(OSError):
            return peer.get(ready_path)[0] == 200
        return False

    try:
        peer.wait(ready, "not ready", 0.02)
        peer.ready_seconds = time.monotonic() - began
        yield peer
    finally:
        peer.process.send_signal(signal.SIGTERM)
        try:
            peer.process.wait(60)
        except subprocess.TimeoutExpired:
            peer.process.kill()
            peer.process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def exporter(
    folder: Path, config: dict, environment: dict[str, str] | None = None
) -> contextlib.AbstractContextManager[Peer]:
    """`outcome-exporter serve` on a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    grpc, web, metrics = free_ports(3)
    config = config | {
        "receivers": {"otlp": {"grpc": f"127.0.0.1:{grpc}", "http": f"127.0.0.1:{web}"}},
        "metrics": {"listen": f"127.0.0.1:{metrics}"},
        "storage": {"path": str(folder / "data")} | config.get("storage", {}),
    }
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "outcome_exporter", "serve", "-c", str(folder / "config.yaml")]
    env = os.environ | (environment or {})
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # or every start would compile numba's modules
    with (folder / "exporter.log").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=env)
    return _running(Peer("outcome-exporter", process, grpc, web, metrics), "/readyz")


COLLECTOR = {
    "receivers": {"otlp": {"protocols": {}}},
    "connectors": {
        "span_metrics": {"namespace": "traces.span.metrics", "metrics_flush_interval": "15s"}
    },
    "exporters": {"prometheus": {}},
    "service": {
        "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        "pipelines": {
            "traces": {"receivers": ["otlp"], "exporters": ["span_metrics"]},
            "metrics": {"receivers": ["span_metrics"], "exporters": ["prometheus"]},
        },
    },
}
"""OTLP in, span metrics as they come by default, out for Prometheus: nothing else."""


def collector(program: str, folder: Path) -> contextlib.AbstractContextManager[Peer]:
    """An OpenTelemetry Collector with the spanmetrics connector."""
    folder.mkdir(parents=True, exist_ok=True)
    grpc, web, metrics = free_ports(3)
    config = json.loads(json.dumps(COLLECTOR))
    config["receivers"]["otlp"]["protocols"] = {
        "grpc": {"endpoint": f"127.0.0.1:{grpc}", "max_recv_msg_size_mib": 64},
        "http": {"endpoint": f"127.0.0.1:{web}"},
    }
    config["exporters"]["prometheus"]["endpoint"] = f"127.0.0.1:{metrics}"
    file = folder / "collector.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with (folder / "collector.log").open("wb") as said:
        process = subprocess.Popen([program, "--config", str(file)], stdout=said, stderr=said)
    return _running(Peer("Collector", process, grpc, web, metrics), "/metrics")


def send(
    folder: Path, peer: Peer, protocol: str, *, events: bool = False, seconds: float = 0
) -> dict[str, object]:
    """Has a process of its own send what is in a folder; what that said."""
    port = peer.grpc if protocol.startswith("grpc") else peer.http
    command = [
        sys.executable,
        "-m",
        "tests.bench.send",
        str(folder),
        f"127.0.0.1:{port},127.0.0.1:{peer.http}",
        protocol,
        f"--seconds={seconds}",
        *(["--events"] if events else []),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)

"""A real exporter in a process of its own, and good requests for it."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
START_SECONDS_MAX = 240
"""The first one compiles."""
JOURNEY = {
    "name": "checkout",
    "attempt": {"span": {"service": "shop", "name": "pay"}},
    "labels": {"tier": "tier"},
    "slos": [{"name": "ok", "objective": 99, "good": {"error": False}}],
}
_PAGE = re.compile(r"page on port (\d+)")
_OTLP = re.compile(r"OTLP on port (\d+) \(gRPC\) and (\d+)")


def config(folder: Path, **more) -> dict:
    """Quick to settle and to show, on free ports."""
    return {
        "receivers": {"otlp": {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"}},
        "metrics": {"listen": "127.0.0.1:0"},
        "storage": {"path": str(folder / "data")},
        "traces": {"quiet": "1s", "max_age": "5s"},
        "exposition": {"birth": "0s"},
        "journeys": [JOURNEY],
    } | more


def spans(
    count: int, *, first: int = 1, service="shop", name="pay", start: int, error=False, tier=""
) -> bytes:
    """One attempt per span, each with a trace of its own."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    scope = resource.scope_spans.add()
    for number in range(first, first + count):
        span = scope.spans.add(
            trace_id=number.to_bytes(16),
            span_id=number.to_bytes(8),
            name=name,
            start_time_unix_nano=start,
            end_time_unix_nano=start + 1_000_000,
        )
        span.status.code = 2 if error else 0
        if tier:
            span.attributes.add(key="tier").value.string_value = tier
    return request.SerializeToString()


def free_ports(count: int) -> list[int]:
    """For programs that cannot say which one they took; none of them twice."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def get(port: int, path: str, method="GET", timeout=20) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def post(port: int, body: bytes, timeout=20) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request("POST", "/v1/traces", body, {"content-type": "application/x-protobuf"})
        answer = connection.getresponse()
        answer.read()
        return answer.status


def until(condition, seconds: float = 60):
    """What a condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return found


@dataclass
class Exporter:
    process: subprocess.Popen
    lines: list[str] = field(default_factory=list)
    """What it logged."""
    page: int = 0
    grpc: int = 0
    http: int = 0

    def read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    def logged(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def series(self) -> dict[str, float]:
        """Every series by its text."""
        status, text = get(self.page, "/metrics")
        assert status == 200
        lines = (line for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def total(self, family: str, *labels: str) -> float:
        return sum(
            value
            for name, value in self.series().items()
            if name.startswith(family) and all(label in name for label in labels)
        )

    def memory_peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024

    def ready(self) -> bool:
        assert self.process.poll() is None, self.lines
        return get(self.page, "/readyz")[0] == 200


@contextmanager
def exporting(file: Path, values: dict, *options: str):
    file.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "outcome_exporter", "serve", "-c", str(file)]
    process = subprocess.Popen(
        [*command, "--log-format=json", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    exporter = Exporter(process)
    reader = threading.Thread(target=exporter.read)
    reader.start()
    try:
        until(lambda: exporter.logged("OTLP on port") or process.poll(), START_SECONDS_MAX)
        said = "".join(exporter.lines)
        exporter.page = int(_PAGE.search(said)[1])
        exporter.grpc, exporter.http = (int(port) for port in _OTLP.search(said).groups())
        until(exporter.ready)
        yield exporter
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        finally:
            process.kill()
            reader.join()
            process.stderr.close()

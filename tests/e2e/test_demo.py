import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
import yaml
from cloudevents.core.v1.event import CloudEvent
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from outcome_exporter.demo import INTERRUPTED, screen, sending, settings
from outcome_exporter.demo.faults import script
from outcome_exporter.demo.ledger import REASONS
from outcome_exporter.demo.simulate import simulate
from outcome_exporter.model import Encoding, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND

CONFIG = settings.load()
_TIMEOUT = 120


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans over gRPC and events over HTTP, as the exporter would."""

    def __init__(self, answers=()):
        self.requests, self.events = [], []
        self.answers = list(answers)
        self.grpc = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.grpc)
        self.grpc_port = self.grpc.add_insecure_port("127.0.0.1:0")
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    receiver.events.append((self.path, self.headers["content-type"], body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def __enter__(self):
        self.grpc.start()
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
        self.grpc.stop(0).wait()

    @property
    def http_address(self):
        return f"127.0.0.1:{self.http.server_port}"

    def configuration(self, folder):
        values = settings.read()
        values["receivers"]["otlp"] = {
            "grpc": f"127.0.0.1:{self.grpc_port}",
            "http": self.http_address,
        }
        file = folder / "demo.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    def spans(self):
        return [
            span
            for request in self.requests
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def receiver():
    with Receiver() as running:
        yield running


def shop(file, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "outcome_exporter.demo.shop", "--config", str(file), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_the_live_shop_sends_what_the_simulated_one_sends(receiver, tmp_path):
    process = shop(receiver.configuration(tmp_path), "--seconds", "4", "--seed", "3")
    said, complaints = process.communicate(timeout=_TIMEOUT)
    assert (process.returncode, complaints) == (0, b"")
    messages = [json.loads(line) for line in said.splitlines()]
    simulation = simulate(seed=3, seconds=4, faults=script(4))
    simulated = list(simulation)
    expected = [row._asdict() for row in simulation.ledger.expected(CONFIG)]
    assert messages[-1] == {"expected": expected}
    assert [list(m) for m in messages[:-1]] == [["tell"]] * 6
    count = sum(
        len(scope.spans)
        for _, kind, payload in simulated
        if kind.name == "TRACES"
        for group in trace_service_pb2.ExportTraceServiceRequest.FromString(payload).resource_spans
        for scope in group.scope_spans
    )
    assert len(receiver.spans()) == count > 50
    ids = [e["id"] for _, kind, p in simulated if kind.name == "CLOUDEVENTS" for e in json.loads(p)]
    assert [json.loads(body)["id"] for _, _, body in receiver.events] == ids
    assert {kind for _, kind, _ in receiver.events} == {"application/cloudevents+json"}
    assert {path for path, _, _ in receiver.events} == {"/events"}


@pytest.mark.parametrize("how", ["sigterm", "stdin"])
def test_the_live_shop_ends_early_and_cleanly(receiver, tmp_path, how):
    process = shop(
        receiver.configuration(tmp_path), "--attached", "--seconds", "600", stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + _TIMEOUT
    while not receiver.events and time.monotonic() < deadline:
        select.select([], [], [], 0.05)
    if how == "sigterm":
        process.terminate()
    said, complaints = process.communicate(timeout=_TIMEOUT)
    assert (process.returncode, said, complaints) == (0, b"", b"")
    assert receiver.events


def event(id_="1"):
    return CloudEvent({"id": id_, "source": "/shop/test", "type": "t"}, {})


def test_an_event_that_is_refused_for_now_is_sent_again(monkeypatch):
    monkeypatch.setattr(sending, "_TRY_SECONDS", 0)
    with Receiver([503, 503]) as receiver:
        wire = sending.LiveWire(grpc="127.0.0.1:1", http=receiver.http_address)
        wire.post(event("1"))
        wire.post(event("2"))
        wire.close()
        assert [json.loads(body)["id"] for _, _, body in receiver.events] == ["1", "2"]


def test_an_event_that_is_refused_for_good_ends_the_shop(monkeypatch):
    with Receiver([400]) as receiver:
        wire = sending.LiveWire(grpc="127.0.0.1:1", http=receiver.http_address)
        wire.post(event())
        with pytest.raises(sending.DeliveryError, match=r"http://127.0.0.1:\d+/events: 400"):
            wire.close()


def test_an_exporter_that_never_answers_ends_the_shop(monkeypatch):
    monkeypatch.setattr(sending, "_TRY_SECONDS", 0)
    with Receiver() as receiver:
        address = receiver.http_address
    wire = sending.LiveWire(grpc="127.0.0.1:1", http=address)
    wire.post(event())
    with pytest.raises(sending.DeliveryError, match="refused"):
        wire.close()


# With the real exporter ---------------------------------------------------------------------------


def demo(folder, *arguments):
    """The command as a user starts it, with all its temporary files in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "outcome_exporter", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"TMPDIR": str(folder)},
        text=True,
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_exporter_counts_what_the_shop_knows(seed):
    simulation = simulate(seed=seed, seconds=60, faults=script(60))
    pipeline = Pipeline(CONFIG)
    arrival = 0
    for offset, (arrival, kind, payload) in enumerate(simulation):
        pipeline.ingest(Record(offset, arrival, kind, Encoding.NONE, payload))
    pipeline.advance(arrival + round(settings.settle_seconds(CONFIG)) * SECOND)
    expected = simulation.ledger.expected(CONFIG)
    assert screen.differences(expected, screen.read_snapshot(snapshot(pipeline))) == []
    assert sum(row.value for row in expected) > 500


def test_the_quick_demo_ends_well(tmp_path):
    process = demo(tmp_path, "--fast")
    text, _ = process.communicate(timeout=_TIMEOUT)
    assert process.returncode == 0, text
    assert "numbers agree" in text
    for reason in REASONS:
        assert f"checkout: attempts that ended {reason} " in text


@pytest.mark.slow
def test_the_live_demo_ends_well_and_leaves_nothing(tmp_path):
    process = demo(tmp_path, "--seconds", "45")
    text, _ = process.communicate(timeout=2 * _TIMEOUT)
    assert process.returncode == 0, text
    assert "numbers agree" in text
    for reason in REASONS:
        assert f"checkout: attempts that ended {reason} " in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ending_the_live_demo_early_ends_all_of_it(tmp_path, how):
    process = demo(tmp_path, "--seconds", "600")
    said = ""
    # It says so once the exporter is ready; the shop is started next.
    while "Ctrl-C" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    deadline = time.monotonic() + _TIMEOUT
    while b"demo.shop" not in b"".join((running := children(process.pid)).values()):
        assert time.monotonic() < deadline, running
        select.select([], [], [], 0.05)
    process.send_signal(how)
    text, _ = process.communicate(timeout=_TIMEOUT)
    assert process.returncode == INTERRUPTED, said + text
    assert "nothing is left behind" in text
    assert b"serve" in b"".join(running.values())
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)
    assert list(tmp_path.iterdir()) == []


def children(pid):
    """Processes that one has started, and the commands that they run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in found}

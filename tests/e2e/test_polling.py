"""The exporter as it runs: its own thread polls a Prometheus, loses it, and fills the gap."""

import json
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import yaml

from outcome_exporter.clock import SteadyClock
from outcome_exporter.server import Server
from outcome_exporter.units import MINUTE, SECOND

DEADLINE_SECONDS = 120
START = 1_790_000_040 * SECOND
"""The beginning of a minute."""
PER_MINUTE = 4
"""Requests: a sample each 15 seconds, one more request each time."""


class Clock(SteadyClock):
    """Stands still until it is told to go on."""

    def __init__(self):
        self.time = START
        super().__init__(wall=lambda: self.time, since_boot=lambda: self.time)

    def minutes(self, number):
        with self._lock:  # both clocks at once
            self.time = START + round(number * MINUTE)


class Prometheus:
    """A faithful answer to what the exporter asks of a counter, as long as it is up."""

    def __init__(self, port=0):
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                parameters = dict(urllib.parse.parse_qsl(body))
                asked.append(parameters)
                text = json.dumps({"status": "success", "data": {"result": result(parameters)}})
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.thread = Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def port(self):
        return self.server.server_port

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def result(parameters):
    """Of `requests_total`: a sample each 15 seconds since an hour before START, its number."""
    query, now = parameters["query"], int(parameters["time"])
    length = int(query.partition("[")[2].partition("s]")[0])
    begin = START // SECOND - 3600
    times = range(max(now - length, begin) // 15 * 15, now + 1, 15)
    values = [[t, str((t - begin) // 15)] for t in times if now - length <= t and t >= begin]
    if not values or 'code="500"' in query:
        return []
    metric = {"__name__": "requests_total", "code": "200"}
    if query.startswith("last_over_time("):
        return [{"metric": metric, "value": [now, values[-1][1]]}]
    return [{"metric": metric, "values": values}]


@pytest.fixture
def prometheus():
    running = [Prometheus()]
    yield running
    for one in running:
        one.stop()


@pytest.fixture
def exporter(prometheus, tmp_path):
    config = {
        "receivers": {"otlp": {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"}},
        "metrics": {"listen": "127.0.0.1:0"},
        "storage": {"path": str(tmp_path / "data")},
        "prometheus": {"url": f"http://127.0.0.1:{prometheus[0].port}"},
        "slos": [
            {
                "name": "requests",
                "objective": 99,
                "window": "1d",
                "sli": {
                    "prometheus": {
                        "bad": 'requests_total{code="500"}',
                        "total": "requests_total",
                    }
                },
            }
        ],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    clock = Clock()
    server = Server(tmp_path / "config.yaml", clock)
    server.start()
    yield server, clock
    server.stop()


def shown(server, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports[0]}/metrics") as response:
        lines = response.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.split()[-1]) for line in lines if name in line}


def until(what):
    """Looks again and again until it is so: threads of their own are at work."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if what():
            return
        time.sleep(0.05)
    raise AssertionError(what)


GOOD = 'slo_events_total{result="good",slo="requests"}'
READ = 'outcome_exporter_source_timestamp_seconds{slo="requests"}'
FAILED = 'outcome_exporter_source_polls_total{result="failed",source="prometheus"}'


def test_a_running_exporter_polls_loses_its_prometheus_and_fills_the_gap(exporter, prometheus):
    server, clock = exporter

    def read_up_to(minute):
        return shown(server, READ).get(READ) == START // SECOND + minute * 60

    clock.minutes(2.6)  # two minutes have closed, half a minute ago
    until(lambda: read_up_to(2))
    assert shown(server, GOOD)[GOOD] == PER_MINUTE, "the latest closed minute; older is backfill's"
    clock.minutes(5.6)
    until(lambda: read_up_to(5))
    assert shown(server, GOOD)[GOOD] == 4 * PER_MINUTE

    port = prometheus[0].port
    prometheus.pop().stop()
    for minute in (6.6, 7.6, 9.6):
        failed = shown(server, FAILED)[FAILED]
        clock.minutes(minute)
        until(lambda: shown(server, FAILED)[FAILED] > failed)  # noqa: B023 - called right here
    assert read_up_to(5), "nothing was read"
    assert shown(server, GOOD)[GOOD] == 4 * PER_MINUTE, "nothing is counted, nor lost"

    prometheus.append(Prometheus(port))
    clock.minutes(20.6)
    until(lambda: read_up_to(20))
    assert shown(server, GOOD)[GOOD] == 19 * PER_MINUTE, "the gap is filled, each minute once"
    assert server.failure is None

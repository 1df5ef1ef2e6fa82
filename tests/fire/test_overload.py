"""Ten times what the exporter can take: it asks to come again, answers, and loses nothing."""

import threading
import time

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.fire.process import EXPORT, config, exporting, get, spans, until

PENDING_SPANS = 30_000
"""With traces that settle after five seconds: what comes must wait for their places."""
SPANS_A_REQUEST = 500
OFFERED_A_SECOND = 150_000
SECONDS = 1.5
MEMORY_BYTES_MAX = 1 << 30


class Sender(threading.Thread):
    """Sends on schedule, and what is refused again, as OTLP says."""

    def __init__(self, port, batches):
        super().__init__()
        self.port, self.batches = port, batches
        self.offered = self.accepted = self.refused = 0
        self.failure = None

    def run(self):
        try:
            with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
                self.export = channel.unary_unary(EXPORT)
                self.send_all()
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error

    def send_all(self):
        again = []
        for due, batch in self.batches:
            time.sleep(max(due - time.monotonic(), 0))
            self.offered += SPANS_A_REQUEST
            self.send(batch, again)
        while again:
            when, batch = again.pop(0)
            time.sleep(max(when - time.monotonic(), 0))
            self.send(batch, again)

    def send(self, batch, again):
        try:
            self.export(batch, timeout=60)
            self.accepted += SPANS_A_REQUEST
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            self.refused += SPANS_A_REQUEST
            # Sooner than asked, at once where not asked: less merciful than a Collector.
            again.append((time.monotonic() + min(retry_delay_seconds(error), 0.5), batch))


def retry_delay_seconds(error) -> float:
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.retry_delay.seconds > 0
    return info.retry_delay.seconds


class Watcher(threading.Thread):
    """A Prometheus and a kubelet that want an answer meanwhile."""

    def __init__(self, port):
        super().__init__()
        self.port = port
        self.stopping = threading.Event()
        self.slowest_seconds = {"/metrics": 0.0, "/healthz": 0.0}
        self.answers = 0
        self.failure = None

    def run(self):
        try:
            while not self.stopping.wait(0.2):
                for path, slowest in self.slowest_seconds.items():
                    began = time.monotonic()
                    assert get(self.port, path)[0] == 200
                    self.answers += 1
                    self.slowest_seconds[path] = max(slowest, time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error


@pytest.mark.slow
def test_ten_times_the_sustainable_rate_is_refused_retryably_and_nothing_is_lost(tmp_path, capsys):
    offered = int(OFFERED_A_SECOND * SECONDS)
    start = time.time_ns()
    bodies = [
        spans(SPANS_A_REQUEST, first=1 + first, start=start, error=first % 1_000 == 0)
        for first in range(0, offered, SPANS_A_REQUEST)
    ]
    limits = {"pending_spans": PENDING_SPANS, "pending_attempts": 100_000}
    traces = {"quiet": "5s", "max_age": "8s"}
    values = config(tmp_path, limits=limits, traces=traces)
    with exporting(tmp_path / "c.yaml", values) as exporter:
        before = exporter.memory_peak_bytes()
        began = time.monotonic()
        pace = SPANS_A_REQUEST / OFFERED_A_SECOND
        schedule = [(began + i * pace, body) for i, body in enumerate(bodies)]
        senders = [Sender(exporter.grpc, schedule[i::16]) for i in range(16)]
        watcher = Watcher(exporter.page)
        for thread in (watcher, *senders):
            thread.start()
        for sender in senders:
            sender.join()
        took = time.monotonic() - began
        watcher.stopping.set()
        watcher.join()
        failures = [thread.failure for thread in (watcher, *senders) if thread.failure]
        assert not failures
        accepted = sum(sender.accepted for sender in senders)
        refused = sum(sender.refused for sender in senders)
        counted = until(
            lambda: (total := exporter.total("outcome_attempts_total")) >= offered and total
        )
        bad = exporter.total("outcome_attempts_total", 'outcome="bad"')
        peak = exporter.memory_peak_bytes()
        # Recovered: the next request is taken at once, and nothing waits any more.
        with grpc.insecure_channel(f"127.0.0.1:{exporter.grpc}") as channel:
            channel.unary_unary(EXPORT)(spans(1, first=10**9, start=time.time_ns()), timeout=20)
    sustained = accepted / took
    times = OFFERED_A_SECOND / sustained
    with capsys.disabled():
        print(
            f"\noverload: offered {offered} spans at {OFFERED_A_SECOND}/s, "
            f"{times:.0f} times the {sustained:.0f}/s that were sustained; "
            f"refused {refused} times, accepted {accepted} in {took:.1f} s, counted {counted:.0f}, "
            f"lost {offered - counted:.0f}; "
            f"memory before {before >> 20} MiB, peak {peak >> 20} MiB; "
            f"meanwhile {watcher.answers} answers, the slowest of /metrics "
            f"{watcher.slowest_seconds['/metrics']:.2f} s, of /healthz "
            f"{watcher.slowest_seconds['/healthz']:.2f} s"
        )
    assert times > 10
    assert accepted == offered == counted
    assert bad == offered / 2
    assert refused > 0, "there was no overload"
    assert peak < MEMORY_BYTES_MAX
    assert watcher.slowest_seconds["/healthz"] < 5
    assert watcher.slowest_seconds["/metrics"] < 10

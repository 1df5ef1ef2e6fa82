"""Ten times what the exporter can take: it asks to come again, answers, and loses nothing.

What it can take is set by how many spans may be pending, so that the senders can outdo it on the
same machine. `OVERLOAD_SECONDS=120` keeps it up for two minutes.
"""

import itertools
import math
import os
import threading
import time
from collections import deque

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.fire.process import EXPORT, config, exporting, get, spans, until

PENDING_SPANS = 30_000
"""With traces that settle after five seconds: what comes must wait for their places."""
SPANS_A_REQUEST = 500
OFFERED_A_SECOND = 150_000
"""First tries and later ones together."""
SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "12"))
SENDERS = 16
QUEUE = 4
"""Requests of a sender that wait to be sent again; while they are so many it makes no new ones."""
MEMORY_BYTES_MAX = 1 << 30


class Sender(threading.Thread):
    """Sends on schedule, and what is refused again, as OTLP says."""

    def __init__(self, port, number, began):
        super().__init__()
        self.port, self.number, self.began = port, number, began
        self.offered = self.accepted = self.bad = self.refused = self.on_schedule = 0
        self.again = deque()
        self.failure = None

    def run(self):
        try:
            with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
                self.export = channel.unary_unary(EXPORT)
                self.send_all()
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error

    def send_all(self):
        pace = SENDERS * SPANS_A_REQUEST / OFFERED_A_SECOND
        requests = (self.request(index) for index in itertools.count())
        for due in itertools.count(self.began, pace):
            if due > self.began + SECONDS:
                break
            time.sleep(max(due - time.monotonic(), 0))
            # Sooner than asked: less merciful than a Collector.
            crowded = len(self.again) >= QUEUE
            self.send(*(self.again.popleft()[1:] if crowded else next(requests)))
            self.on_schedule += SPANS_A_REQUEST
        while self.again:
            when, *request = self.again.popleft()
            time.sleep(max(when - time.monotonic(), 0))
            self.send(*request)

    def request(self, index):
        self.offered += SPANS_A_REQUEST
        bad = index % 2 == 0
        first = 1 + (index * SENDERS + self.number) * SPANS_A_REQUEST
        return spans(SPANS_A_REQUEST, first=first, start=time.time_ns(), error=bad), bad

    def send(self, body, bad):
        try:
            self.export(body, timeout=60)
            self.accepted += SPANS_A_REQUEST
            self.bad += SPANS_A_REQUEST * bad
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            self.refused += SPANS_A_REQUEST
            self.again.append((time.monotonic() + retry_delay_seconds(error), body, bad))


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
        self.took_seconds = {"/metrics": [], "/healthz": []}
        self.failure = None

    def run(self):
        try:
            while not self.stopping.wait(0.2):
                for path, took in self.took_seconds.items():
                    began = time.monotonic()
                    assert get(self.port, path)[0] == 200
                    took.append(time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error

    def said(self):
        return ", ".join(
            f"{path} {len(took)} times, p99 {percentile(took, 99) * 1e3:.0f} ms, "
            f"the slowest {max(took) * 1e3:.0f} ms"
            for path, took in self.took_seconds.items()
        )


def percentile(values, percent):
    """By rank."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@pytest.mark.slow
@pytest.mark.timeout(240 + 3 * SECONDS)
def test_ten_times_the_sustainable_rate_is_refused_retryably_and_nothing_is_lost(tmp_path, capsys):
    limits = {"pending_spans": PENDING_SPANS, "pending_attempts": 100_000}
    traces = {"quiet": "5s", "max_age": "8s"}
    values = config(tmp_path, limits=limits, traces=traces)
    with exporting(tmp_path / "c.yaml", values) as exporter:
        before = exporter.memory_peak_bytes()
        began = time.monotonic()
        senders = [Sender(exporter.grpc, number, began) for number in range(SENDERS)]
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
        offered, accepted, bad, refused, on_schedule = (
            sum(getattr(sender, name) for sender in senders)
            for name in ("offered", "accepted", "bad", "refused", "on_schedule")
        )
        counted = until(
            lambda: (total := exporter.total("outcome_attempts_total")) >= offered and total
        )
        counted_bad = exporter.total("outcome_attempts_total", 'outcome="bad"')
        peak = exporter.memory_peak_bytes()
        # Recovered: the next request is taken at once, and nothing waits any more.
        with grpc.insecure_channel(f"127.0.0.1:{exporter.grpc}") as channel:
            channel.unary_unary(EXPORT)(spans(1, first=10**9, start=time.time_ns()), timeout=20)
    rate, sustained = on_schedule / SECONDS, accepted / took
    with capsys.disabled():
        print(
            f"\noverload: {rate:.0f} spans/s sent for {SECONDS:.0f} s, {rate / sustained:.0f} "
            f"times the {sustained:.0f}/s that were sustained; offered {offered} spans, accepted "
            f"{accepted}, refused {refused} retryably on the way, counted {counted:.0f}, lost "
            f"{offered - counted:.0f}; memory before {before >> 20} MiB, peak {peak >> 20} MiB; "
            f"meanwhile {watcher.said()}"
        )
    assert rate > 10 * sustained
    assert accepted == offered == counted
    assert counted_bad == bad
    assert refused > 5 * accepted, "there was no overload"
    assert peak < MEMORY_BYTES_MAX
    assert percentile(watcher.took_seconds["/healthz"], 99) < 5
    assert percentile(watcher.took_seconds["/metrics"], 99) < 10

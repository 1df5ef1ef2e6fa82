"""SIGTERM: what was begun is finished, a checkpoint is left, exit code 0, in time."""

import http.client
import queue
import signal
import time
from contextlib import ExitStack

import grpc
import pytest
from tests.crash.exporters import command, eventually, write_config, zygote
from tests.crash.load import Books, Sender
from tests.fire.process import EXPORT

from outcome_exporter.checkpoint import StateStore
from outcome_exporter.log import DurableLog
from outcome_exporter.model import Encoding, Kind

SECONDS_MAX = 30
"""Kubernetes kills after that."""


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, tmp_path / "data")


def test_sigterm_under_load_finishes_checkpoints_and_exits_with_0(config):
    books = Books()
    with command(config) as exporter, ExitStack() as stack:
        exporter.until_ready()
        senders = [Sender(n, lambda: exporter.http_port, books) for n in range(3)]
        for sender in senders:
            sender.start()
        eventually(lambda: sum(books.attempts.values()) > 300, "some are accepted")
        # One more connection idles, and others never end their requests.
        idle = http.client.HTTPConnection("127.0.0.1", exporter.http_port)
        idle.connect()
        slow = http.client.HTTPConnection("127.0.0.1", exporter.http_port)
        slow.putrequest("POST", "/v1/traces")
        slow.putheader("Content-Type", "application/x-protobuf")
        slow.putheader("Content-Length", "1000")
        slow.endheaders(b"\n")
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{exporter.grpc_port}"))
        never = queue.SimpleQueue()
        stuck = channel.stream_unary(EXPORT).future(iter(never.get, None), timeout=60)
        began = time.monotonic()
        assert exporter.terminate() == 0
        assert time.monotonic() - began < SECONDS_MAX
        answer = slow.getresponse()
        assert (answer.status, answer.headers["Retry-After"], answer.read()) == (503, "1", b"")
        with pytest.raises(grpc.RpcError):
            stuck.result()
        never.put(None)
        assert "Traceback" not in exporter.said()
        assert "ERROR" not in exporter.said()
        for sender in senders:
            sender.give_up()
            sender.stop()
            sender.join()
            assert sender.problem is None
        idle.close()
        slow.close()
    assert what_is_left(config) == 0


def what_is_left(config):
    """Records that the last checkpoint does not account for."""
    folder = config.parent / "data"
    store = StateStore(folder)
    log = DurableLog(folder, max_bytes=1 << 30, keep_nanoseconds=0, now=time.time_ns)
    try:
        checkpoint = store.load()
        return log.next_offset - checkpoint.offset
    finally:
        log.close()
        store.close()


def fill_log(config, records):
    """A log that takes a while to replay."""
    folder = config.parent / "data"
    folder.mkdir()
    sender = Sender(1, lambda: None, Books())
    bodies = []
    sender._until_accepted = lambda path, _, body: bodies.append((path, body))
    for _ in range(records):
        sender._batch()
    log = DurableLog(folder, max_bytes=1 << 30, keep_nanoseconds=0, now=time.time_ns)
    for path, body in bodies:
        kind = Kind.TRACES if path == "/v1/traces" else Kind.CLOUDEVENTS
        log.append(kind, Encoding.NONE, body)
    log.close()


def test_sigterm_at_any_moment_of_a_start_ends_it_in_time_and_the_next_start_goes_on(config):
    fill_log(config, 300)
    with zygote(config) as started:
        for wait in (0.0, 0.05, 0.1, 0.2, 0.4):
            exporter = started.start()
            eventually(lambda e=exporter: e.page_port is not None, "it listens")
            time.sleep(wait)  # the moment is what is tested
            began = time.monotonic()
            assert exporter.terminate() == 0, exporter.said()
            assert time.monotonic() - began < SECONDS_MAX
            assert "Traceback" not in exporter.said()
        exporter = started.start().until_ready()
        assert exporter.terminate() == 0
    assert what_is_left(config) == 0


def test_sigterm_while_a_first_start_compiles_ends_it_in_time(config, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "nothing compiled"))
    with command(config) as exporter:
        eventually(lambda: exporter.page_port is not None, "it compiles")
        began = time.monotonic()
        assert exporter.terminate() == 0, exporter.said()
        assert time.monotonic() - began < SECONDS_MAX
        assert "stopped" in exporter.said()
        assert "Traceback" not in exporter.said()


@pytest.mark.slow
def test_a_log_that_is_damaged_ends_the_program_with_what_to_do(config):
    fill_log(config, 3)
    path = config.parent / "data" / "log.db"
    data = bytearray(path.read_bytes())
    at = data.index(b"POST /") if b"POST /" in data else data.index(b"GET /")
    data[at] ^= 1
    path.write_bytes(data)
    with command(config) as exporter:
        assert exporter.wait() == 3
        assert "log is damaged at offset" in exporter.said()
        assert "restore log.db from a backup; or move it away" in exporter.said()
        last = exporter.said().strip().splitlines()
        assert any(line.startswith("outcome-exporter: log is damaged") for line in last[-3:])
    for companion in path.parent.glob("log.db*"):
        companion.unlink()
    with command(config) as exporter:  # as it was told to
        exporter.until_ready()
        exporter.signal(signal.SIGTERM)
        assert exporter.wait() == 0

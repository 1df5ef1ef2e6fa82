"""What one client can cost the others: connections, headers and bodies that do not come."""

import http.client
import queue
import re
import selectors
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress

import grpc
import pytest
import trustme
from tests.fire.process import EXPORT, config, exporting, get, post, spans, until
from tests.receivers import LIMIT_BYTES, Inbox, running

from outcome_exporter.receive import grpc as receive_grpc
from outcome_exporter.receive import serving
from outcome_exporter.receive.access import Access, TlsFiles
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.receive.grpc import GrpcReceiver
from outcome_exporter.receive.http import app
from outcome_exporter.receive.serving import ThreadedServer

GOOD = spans(1, start=1)
HEAD = b"POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\n"


@contextmanager
def listening(*, inbox=None, connections_max=serving.CONNECTIONS_MAX, read_seconds=20.0, tls=None):
    web = ThreadedServer(
        app(
            inbox or Inbox(),
            ReceiverCounters(),
            max_request_bytes=LIMIT_BYTES,
            read_seconds=read_seconds,
        ),
        "127.0.0.1:0",
        tls=None if tls is None else Access("x", tls=tls).ssl_context(),
        connections_max=connections_max,
    )
    port = web.start()
    try:
        yield web, port
    finally:
        web.stop(1)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def read_until_closed(client: socket.socket) -> bytes:
    out = b""
    try:
        while piece := client.recv(65_536):
            out += piece
    except ConnectionError:
        pass
    return out


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority, tmp_path_factory):
    """Files of a listener."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    return TlsFiles(folder / "tls.crt", folder / "tls.key")


@pytest.fixture
def client_context(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@contextmanager
def grpc_listening(tls=None):
    receiver = GrpcReceiver(
        Inbox(),
        ReceiverCounters(),
        address="127.0.0.1:0",
        max_request_bytes=LIMIT_BYTES,
        access=Access("x", tls=tls),
    )
    port = receiver.start()
    try:
        yield port
    finally:
        receiver.stop(1)


HELLO = pytest.mark.parametrize(
    "hello", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "a beginning"]
)
"""What comes of a handshake before it stalls."""


@HELLO
def test_a_handshake_that_stalls_is_not_waited_for(hello, tls, monkeypatch):
    monkeypatch.setattr(serving, "HANDSHAKE_SECONDS", 0.2)
    with listening(tls=tls) as (web, port), closing(connect(port)) as stalled:
        stalled.sendall(hello)
        assert read_until_closed(stalled) == b""
        until(lambda: web.cut["slow_handshake"] == 1 and web.connections == 0)


@HELLO
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_handshake_that_stalls_over_grpc_is_not_waited_for(hello, encrypted, tls, monkeypatch):
    monkeypatch.setattr(receive_grpc, "HANDSHAKE_SECONDS", 1)
    with grpc_listening(tls if encrypted else None) as port, closing(connect(port)) as stalled:
        stalled.sendall(hello)
        read_until_closed(stalled)  # runs into its own time-out where it is kept


def test_handshakes_that_stall_make_room_for_those_that_send(tls, client_context):
    with listening(connections_max=10, tls=tls) as (web, port), ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(closing(connect(port)))
        for _ in range(5):
            assert post_encrypted(port, client_context) == 200
        until(lambda: web.cut["crowded"] >= 40)
        assert web.connections <= 10


def test_handshakes_that_stall_are_bounded_in_number_over_grpc(tls, monkeypatch):
    monkeypatch.setattr(receive_grpc, "CONNECTIONS_MAX", 10)
    with grpc_listening(tls) as port, ExitStack() as stack:
        stalled = [stack.enter_context(closing(connect(port))) for _ in range(30)]
        refused = set()
        selector = stack.enter_context(selectors.DefaultSelector())
        for client in stalled:
            selector.register(client, selectors.EVENT_READ)
        until(lambda: refused.update(key.fd for key, _ in selector.select(1)) or len(refused) >= 20)
        assert len(refused) == 20


def post_encrypted(port, context):
    client = http.client.HTTPSConnection("localhost", port, timeout=20, context=context)
    with closing(client):
        client.request("POST", "/v1/traces", GOOD, {"content-type": "application/x-protobuf"})
        answer = client.getresponse()
        answer.read()
        return answer.status


def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(tls, client_context):
    request = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(GOOD) + GOOD
    with listening(tls=tls) as (_, port), closing(connect(port)) as client:
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = client_context.wrap_bio(received, to_send, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            session.do_handshake()
        client.sendall(to_send.read())
        while True:
            received.write(client.recv(65_536))
            with suppress(ssl.SSLWantReadError):
                session.do_handshake()
                break
        session.write(request)
        client.sendall(to_send.read())  # the client's last word of the handshake is in it, too
        received.write(read_until_closed(client))
        assert session.read(65_536).startswith(b"HTTP/1.1 200")


def test_headers_that_do_not_come_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.2)
    with listening() as (web, port), closing(connect(port)) as idle, closing(connect(port)) as slow:
        slow.sendall(HEAD)
        assert read_until_closed(idle) == b""
        assert read_until_closed(slow) == b""
        assert web.cut["slow_headers"] == 2


@pytest.mark.parametrize(
    "headers",
    [b"x: " + b"a" * 400_000, b"".join(b"x%d: y\r\n" % i for i in range(40_000)) + b"\r\n"],
    ids=["one that never ends", "too many"],
)
def test_headers_are_bounded(headers):
    with listening() as (web, port), closing(connect(port)) as client:
        with suppress(ConnectionError):  # refused before all of it was sent
            client.sendall(HEAD + headers)
        answer = read_until_closed(client)
        # Where the client still writes, the answer may be lost with the connection.
        assert answer[:12] in (b"HTTP/1.1 431", b"")
        assert web.cut["large_headers"] == 1
        assert post(port, GOOD) == 200


def test_requests_that_are_sent_ahead_are_answered_in_order_and_bounded_in_number():
    one = HEAD + b"content-length: 0\r\n\r\n"
    with listening() as (web, port):
        with closing(connect(port)) as client:
            last = HEAD + b"connection: close\r\ncontent-length: 1\r\n\r\nx"
            client.sendall(one * serving.PIPELINED_MAX + last)
            answers = re.findall(rb"HTTP/1.1 (\d+)", read_until_closed(client))
            assert answers == [b"200"] * serving.PIPELINED_MAX + [b"400"]
        with closing(connect(port)) as client:
            with suppress(ConnectionError):
                client.sendall(one * 10_000)
            assert read_until_closed(client).count(b"HTTP/1.1 200") <= serving.PIPELINED_MAX + 1
        assert web.cut["pipelining"] == 1
        assert post(port, GOOD) == 200


def test_a_chunked_body_without_an_end_is_refused_and_then_cut(monkeypatch):
    monkeypatch.setattr(serving, "DRAIN_SECONDS", 0.3)
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with listening() as (web, port), closing(connect(port)) as client:
        client.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        sent = 0
        with pytest.raises(ConnectionError):  # noqa: PT012 - it goes on until it is cut
            while sent < 1 << 30:
                client.sendall(chunk)
                sent += len(chunk)
                time.sleep(0.001)
        assert sent > LIMIT_BYTES
        assert web.cut["slow_body"] == 1


def test_a_body_that_does_not_come_is_refused_and_its_connection_cut(monkeypatch):
    monkeypatch.setattr(serving, "DRAIN_SECONDS", 0.2)
    with listening(read_seconds=0.2) as (_, port), closing(connect(port)) as client:
        client.sendall(HEAD + b"content-length: 100\r\n\r\nabc")
        assert read_until_closed(client).startswith(b"HTTP/1.1 408")


def test_an_answer_that_is_not_read_is_not_kept(monkeypatch):
    monkeypatch.setattr(serving, "WRITE_SECONDS", 0.2)

    async def large(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (64 << 20)})

    web = ThreadedServer(large, "127.0.0.1:0")
    port = web.start()
    try:
        with closing(connect(port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            until(lambda: web.cut["slow_reader"])
    finally:
        web.stop(1)


def test_idle_connections_make_room_for_those_that_send():
    with listening(connections_max=10) as (web, port), ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(closing(connect(port)))
        for _ in range(5):
            assert post(port, GOOD) == 200
        assert web.connections <= 10
        assert web.cut["crowded"] >= 40


def test_slow_bodies_make_room_after_a_while(monkeypatch):
    monkeypatch.setattr(serving, "HURRY_SECONDS", 0.3)
    with listening(connections_max=10) as (web, port), ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(closing(connect(port)))
            client.sendall(HEAD + b"content-length: 100\r\n\r\nabc")
        until(lambda: web.connections == 10)

        def taken():
            try:
                return post(port, GOOD) == 200
            except ConnectionError:
                return False

        until(taken, 20)


def test_the_end_asks_for_bodies_that_have_not_come_once_more(caplog):
    with listening() as (web, port), closing(connect(port)) as client:
        client.sendall(HEAD + b"content-length: 100\r\n\r\nabc")
        until(lambda: web.connections == 1)
        web.stop(0.2)
        answer = read_until_closed(client)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer
        assert web.cut["stopping"] == 1
    assert not caplog.records


def test_the_end_waits_longer_for_what_waits_for_the_disk(caplog):
    begun, durable = threading.Event(), threading.Event()

    class Slow(Inbox):
        def submit(self, kind, encoding, payload):
            begun.set()
            assert durable.wait(20)
            return super().submit(kind, encoding, payload)

    with (
        listening(inbox=Slow()) as (web, port),
        closing(connect(port)) as stuck,
        ThreadPoolExecutor() as threads,
    ):
        stuck.sendall(HEAD + b"content-length: 100\r\n\r\nabc")
        answer = threads.submit(post, port, GOOD)
        assert begun.wait(20)
        until(lambda: web.connections == 2)
        ended = threads.submit(web.stop, 0.5)
        until(lambda: web.cut["stopping"] == 1)  # the grace is over
        durable.set()
        assert answer.result(20) == 200
        ended.result(20)
    assert not caplog.records


def test_grpc_requests_whose_message_does_not_come_shut_nobody_out(monkeypatch):
    monkeypatch.setattr(receive_grpc, "HURRY_SECONDS", 0.5)
    counters = ReceiverCounters()
    receiver = GrpcReceiver(
        Inbox(), counters, address="127.0.0.1:0", max_request_bytes=LIMIT_BYTES, places=8
    )
    port = receiver.start()
    never = queue.SimpleQueue()
    try:
        with ExitStack() as stack:
            calls = []
            for _ in range(4):
                channel = stack.enter_context(
                    grpc.insecure_channel(
                        f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
                    )
                )
                calls += [channel.stream_unary(EXPORT).future(iter(never.get, None)) for _ in "123"]
            until(lambda: len(receiver._waiting._since) == 8, 20)
            good = stack.enter_context(
                grpc.insecure_channel(
                    f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
                )
            )
            good.unary_unary(EXPORT)(GOOD, timeout=20)
            until(lambda: sum(call.done() for call in calls) >= 8, 20)
            for _ in calls:
                never.put(None)
            assert sum(call.exception() is not None for call in calls) >= 8
    finally:
        receiver.stop(1)


def test_a_message_too_many_is_asked_to_come_again():
    lease = receive_grpc._Lease(100)
    with lease.hold(60):
        with pytest.raises(receive_grpc.Overloaded), lease.hold(60):
            pass
        with lease.hold(40):
            pass
    with lease.hold(100):
        pass


def test_threads_do_not_grow_with_connections():
    with running() as exporter, ExitStack() as stack:
        assert exporter.request("/v1/logs", b"", {"content-type": "application/x-protobuf"})
        before = threading.active_count()
        for port in (exporter.http_port, exporter.grpc_port):
            for _ in range(200):
                stack.enter_context(closing(connect(port)))
        assert exporter.request("/v1/logs", b"", {"content-type": "application/x-protobuf"})
        assert threading.active_count() <= before + 4


@pytest.mark.slow
@pytest.mark.parametrize("where", ["http", "page", "grpc"])
def test_ten_thousand_idle_connections_keep_nobody_out(where, tmp_path):
    with exporting(tmp_path / "c.yaml", config(tmp_path)) as exporter, ExitStack() as stack:
        before = exporter.memory_peak_bytes()
        for _ in range(10_000):
            stack.enter_context(closing(connect(getattr(exporter, where))))
        began = time.monotonic()
        assert get(exporter.page, "/healthz")[0] == 200
        assert post(exporter.http, GOOD) == 200
        with grpc.insecure_channel(f"127.0.0.1:{exporter.grpc}") as channel:
            channel.unary_unary(EXPORT)(GOOD, timeout=60, wait_for_ready=True)
        print(
            f"10,000 idle connections to {where}: the next requests took "
            f"{time.monotonic() - began:.1f} s, memory {before >> 20} MiB before, peak "
            f"{exporter.memory_peak_bytes() >> 20} MiB"
        )
        assert exporter.memory_peak_bytes() - before < 400 << 20

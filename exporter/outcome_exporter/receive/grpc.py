"""OTLP over gRPC: the trace, logs and metrics services.

Requests stay bytes, and stay compressed: gRPC's own decompression is switched off, so that ours,
which is bounded and twice as fast, does it once, and the log keeps what came. The encoding's name
does not reach us; but every request begins with field 1, and none of the magic numbers of gzip,
zlib and zstd does, so the first bytes tell.

A pool of threads, not asyncio: handing over blocks until the disk has it, so asyncio would need
the same threads behind it. Measured with 8 callers and 3 ms of waiting per request: 2.6 ms of CPU
per request of 3 MB against 3.0 for `grpc.aio`, 0.40 against 0.58 for 30 KB.

A thread waits until the message has come whole. So there are more of them than hand over at once,
and a message has its time: `READ_SECONDS` while there is room, `HURRY_SECONDS` while every place is
taken. A sender that opens requests and sends nothing delays others by that, and shuts nobody out.

Requests beyond the places wait in the transport, bounded by HTTP/2's flow control. gRPC's own limit
of concurrent requests is not used: it answers RESOURCE_EXHAUSTED, which senders do not try again.
Requests that have come whole but are too many bytes together are asked to come again.

What is too large is refused where every request is, so that its sender is told the limit and it is
counted as what it is. The C core, which cuts a call off without our knowing why, gets a limit of
its own further up.

Known limit: the C core checks it only once a message has come whole, so that at the worst PLACES of
the largest messages that it lets in are in memory: 32 of the largest that are accepted. A message
above even the core's limit is refused in gRPC's words, and counted as aborted.

Known limit: of a call that sends several messages, against OTLP, whose Export takes one, the first
is taken and the others are not read. To know that no second one comes is one more receive for every
call: measured, three to five switches of threads beside the twelve that a request takes.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import grpc

from outcome_exporter.errors import DecodeError, InputError, ListenError, Overloaded
from outcome_exporter.model import Encoding, Intake
from outcome_exporter.receive.access import OPEN, Access
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.receive.refusals import Unauthenticated, refusal
from outcome_exporter.receive.serving import bind, split
from outcome_exporter.receive.signals import SIGNALS, Signal

WORKERS = 16
"""Requests that are handed over at once: as many share one write to the disk."""
PLACES = 25
"""Requests whose message is waited for, or waits to be handed over."""
CORE_LIMIT = 5 / 4
"""Of the largest request: what the C core lets in, to be refused here."""
CORE_BYTES_MAX = (1 << 31) - 1
"""The C core's limit is an int."""
READ_SECONDS = 60.0
"""Time for a message to come whole."""
HURRY_SECONDS = 2.0
"""The same while others wait for the place."""
OVER_SECONDS = 0.25
"""Time in which a call that was cut off is known to be over."""
IN_FLIGHT_REQUESTS = 8
"""Largest requests whose bytes may wait to be handed over, in all connections together."""
CONNECTIONS_MAX = 1_000
CONNECTION_IDLE_MINUTES = 5
HANDSHAKE_SECONDS = 10

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcReceiver:
    """One listening address."""

    def __init__(
        self,
        intake: Intake,
        counters: ReceiverCounters,
        *,
        address: str,
        max_request_bytes: int,
        workers: int = WORKERS,
        places: int = PLACES,
        read_seconds: float = READ_SECONDS,
        access: Access = OPEN,
    ) -> None:
        """Nothing is bound before `start`."""
        self._access = access
        self._waiting = _Waiting(places, read_seconds)
        self._handing_over = threading.BoundedSemaphore(workers)
        self._lease = _Lease(IN_FLIGHT_REQUESTS * max_request_bytes)
        self._intake = intake
        self._counters = counters
        self._address = address
        core_limit_bytes = min(int(CORE_LIMIT * max_request_bytes), CORE_BYTES_MAX)
        self._pool = ThreadPoolExecutor(places, thread_name_prefix=f"grpc {address}")
        self._server = grpc.server(
            self._pool,
            handlers=[_handler(signal, partial(self._export, signal)) for signal in SIGNALS],
            options=[
                ("grpc.max_receive_message_length", core_limit_bytes),
                ("grpc.per_message_decompression", 0),
                ("grpc.max_concurrent_streams", places),
                ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
                ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MINUTES * 60_000),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1_000),
                ("grpc.so_reuseport", 0),
                # The Collector's keepalive may ping every 10 s while it has nothing to send.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ],
        )

    def start(self) -> int:
        """Binds, begins to serve, and returns the port: the one chosen where it was 0.

        Raises:
            ListenError: The address is taken or is none.
        """
        bind(self._address).close()  # gRPC would not say why it cannot
        host, number = split(self._address)
        # Without brackets gRPC takes the port for the end of an address of version 6.
        address = f"[{host}]:{number}" if ":" in host else self._address
        credentials = self._access.grpc_credentials()
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ListenError(self._address, str(error)) from None
        self._server.start()
        self._waiting.start()
        return int(port)

    def stop(self, grace_seconds: float) -> None:
        """Takes no more requests, lets those that run finish within the grace, then cuts them."""
        self._server.stop(grace_seconds).wait()
        self._waiting.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _export(
        self, signal: Signal, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        try:
            if not self._access.allows(_authorization(context)):
                raise Unauthenticated  # noqa: TRY301 -- refused like any other
            payload = self._message(signal, messages, context)
        except InputError as error:
            return self._refuse(signal, error, context)
        except Exception:  # noqa: BLE001 -- gRPC's own tree, of private classes
            # Cancelled, too large, or gone: gRPC has answered already, if anyone is there.
            self._counters.refused("grpc", signal.name, "aborted")
            return b""
        try:
            with self._lease.hold(len(payload)), self._handing_over:
                accepted = self._intake.submit(signal.kind, encoding_of(payload), payload)
        except Exception as error:  # noqa: BLE001 -- every error becomes a status
            return self._refuse(signal, error, context)
        self._counters.accepted(
            "grpc", signal.name, body_bytes=len(payload), rejected=accepted.rejected
        )
        return signal.answer(accepted).SerializeToString()

    def _message(
        self, signal: Signal, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        with self._waiting.place(context):
            message = next(messages, None)
        if message is not None:
            return message
        # Either the sender ended its call, or the call was cut off: gRPC says so a little later.
        over = threading.Event()
        if not context.add_callback(over.set) or over.wait(OVER_SECONDS):
            raise grpc.RpcError
        raise DecodeError(f"no message came; send one {signal.request.__name__}")

    def _refuse(self, signal: Signal, error: Exception, context: grpc.ServicerContext) -> bytes:
        refused = refusal(error)
        self._counters.refused("grpc", signal.name, refused.result)
        context.set_code(_CODES[refused.code])
        context.set_details(refused.message)
        context.set_trailing_metadata(
            (("grpc-status-details-bin", refused.status().SerializeToString()),)
        )
        return b""


class _Waiting:
    """Requests whose message has not come: those that take too long are cancelled."""

    def __init__(self, places: int, read_seconds: float) -> None:
        self._places = places
        self._read_seconds = read_seconds
        self._since: dict[grpc.ServicerContext, float] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="grpc slow bodies", daemon=True)

    @contextmanager
    def place(self, context: grpc.ServicerContext) -> Iterator[None]:
        with self._lock:
            self._since[context] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._since[context]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(0.25):
            now = time.monotonic()
            with self._lock:
                # Handing over takes places too; half of them is as good as all.
                crowded = len(self._since) >= self._places / 2
                limit = min(self._read_seconds, HURRY_SECONDS) if crowded else self._read_seconds
                slow = [context for context, since in self._since.items() if now - since > limit]
            for context in slow:
                context.cancel()


class _Lease:
    """Bytes that may be in memory at once."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Raises Overloaded where there is no room."""
        with self._lock:
            if self._held_bytes + size > self._limit_bytes:
                raise Overloaded("too many requests at once")
            self._held_bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._held_bytes -= size


def _authorization(context: grpc.ServicerContext) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return None


def encoding_of(payload: bytes) -> Encoding:
    """How a gRPC message is compressed, by its first bytes."""
    if payload.startswith(b"\x1f\x8b"):
        return Encoding.GZIP
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return Encoding.ZSTD
    # RFC 1950: method 8 with a window of 32 KiB, and the first two bytes a multiple of 31.
    if payload.startswith(b"\x78") and int.from_bytes(payload[:2]) % 31 == 0:
        return Encoding.DEFLATE
    return Encoding.NONE


def _handler(
    signal: Signal, export: Callable[[Iterator[bytes], grpc.ServicerContext], bytes]
) -> grpc.GenericRpcHandler:
    # Without deserializer and serializer, gRPC hands bytes over as they are. On the wire a stream
    # of one message is what a single message is, but its handler begins before the message comes.
    return grpc.method_handlers_generic_handler(
        signal.service, {"Export": grpc.stream_unary_rpc_method_handler(export)}
    )

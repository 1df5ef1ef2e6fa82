"""OTLP over gRPC: the trace, logs and metrics services.

Requests stay bytes, and stay compressed: gRPC's own decompression is switched off, so that ours,
which is bounded and twice as fast, does it once, and the log keeps what came. The encoding's name
does not reach us; but every request begins with field 1, and none of the magic numbers of gzip,
zlib and zstd does, so the first bytes tell.

A pool of threads, not asyncio: handing over blocks until the disk has it, so asyncio would need
the same threads behind it. Measured with 8 callers and 3 ms of waiting per request: 2.6 ms of CPU
per request of 3 MB against 3.0 for `grpc.aio`, 0.40 against 0.58 for 30 KB.

Requests beyond the pool wait in the transport, bounded by HTTP/2's flow control. gRPC's own limit
of concurrent requests is not used: it answers RESOURCE_EXHAUSTED, which senders do not try again.

Known limit: the C core checks `max_receive_message_length` only once a message has come whole, and
what it then refuses (RESOURCE_EXHAUSTED) is not counted here.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc

from outcome_exporter.errors import ListenError
from outcome_exporter.model import Encoding, Intake
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.receive.refusals import refusal
from outcome_exporter.receive.serving import bind
from outcome_exporter.receive.signals import SIGNALS, Signal

WORKERS = 16
"""Requests that are handed over at once: as many share one write to the disk."""

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
    ) -> None:
        """Nothing is bound before `start`."""
        self._intake = intake
        self._counters = counters
        self._address = address
        self._max_request_bytes = max_request_bytes
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"grpc {address}")
        self._server = grpc.server(
            self._pool,
            handlers=[_handler(signal, partial(self._export, signal)) for signal in SIGNALS],
            options=[
                ("grpc.max_receive_message_length", max_request_bytes),
                ("grpc.per_message_decompression", 0),
                ("grpc.max_concurrent_streams", 4 * workers),
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
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise ListenError(self._address, str(error)) from None
        self._server.start()
        return int(port)

    def stop(self, grace_seconds: float) -> None:
        """Takes no more requests, lets those that run finish within the grace, then cuts them."""
        self._server.stop(grace_seconds).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _export(self, signal: Signal, payload: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            accepted = signal.submit(
                self._intake, encoding_of(payload), payload, self._max_request_bytes
            )
        except Exception as error:  # noqa: BLE001 -- every error becomes a status
            return self._refuse(signal, error, context)
        self._counters.accepted(
            "grpc", signal.name, body_bytes=len(payload), rejected=accepted.rejected
        )
        return signal.answer(accepted).SerializeToString()

    def _refuse(self, signal: Signal, error: Exception, context: grpc.ServicerContext) -> bytes:
        refused = refusal(error)
        self._counters.refused("grpc", signal.name, refused.result)
        context.set_code(_CODES[refused.code])
        context.set_details(refused.message)
        context.set_trailing_metadata(
            (("grpc-status-details-bin", refused.status().SerializeToString()),)
        )
        return b""


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
    signal: Signal, export: Callable[[bytes, grpc.ServicerContext], bytes]
) -> grpc.GenericRpcHandler:
    # Without deserializer and serializer, gRPC hands bytes over as they are.
    return grpc.method_handlers_generic_handler(
        signal.service, {"Export": grpc.unary_unary_rpc_method_handler(export)}
    )

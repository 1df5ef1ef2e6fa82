"""What every receiver delivers to: checks a payload, makes it durable, and only then says yes.

    admit ─▶ decompress ─▶ check ─▶ decode ─▶ append

`admit` comes first: where there is no room, no work is done. What becomes many objects is counted
before any of them is made, and large requests are decoded and stored in turn. A payload is appended
as it came, compressed, with what was decoded from it, so that nothing is decoded twice. A request
that holds nothing to count, because it is empty or everything in it was left out, is accepted
without being logged: a Collector that sends ordinary logs, or metrics that no SLO reads, fills no
disk.

Thread-safe: there is no state but buffers that are used again. A call holds at most two copies of a
request, one as it came and one decompressed, each at most `max_request_bytes`; callers bound their
threads.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from outcome_exporter.buffers import Buffers
from outcome_exporter.kernels.messages import check_messages
from outcome_exporter.model import Accepted, Batch, Bytes, Encoding, Kind, MetricBatch, SpanBatch
from outcome_exporter.receive.compression import decompress, decompress_into
from outcome_exporter.receive.signals import SIGNALS
from outcome_exporter.receive.turns import LARGE_BYTES, LARGE_COLUMNS_BYTES, Turns

_BUFFERS_BYTES = 64 << 20
"""Kept for decompressed requests."""

_PARSED = {signal.kind: signal.request for signal in SIGNALS if signal.kind is not Kind.TRACES}
"""Requests that the protobuf library makes objects of."""

WHY = {
    Kind.TRACES: "spans without a valid trace id and span id were left out",
    Kind.LOGS: "log records without an event name were left out; only events are counted here",
    Kind.CLOUDEVENTS: "events were left out",
    Kind.METRICS: "summaries, and points without a time or a number, or with more buckets than a "
    "request may have, were left out",
}
"""What a sender is told of items that were left out."""


class Append(Protocol):
    """The log's side: returns once the payload is durable."""

    def __call__(
        self, kind: Kind, encoding: Encoding, payload: bytes, decoded: Batch, /
    ) -> object: ...


class DurableIntake:
    """Implements `model.Intake`."""

    def __init__(
        self,
        append: Append,
        decode: Mapping[Kind, Callable[[Any], Batch]],
        *,
        max_request_bytes: int,
        admit: Callable[[], None],
    ) -> None:
        """Takes what it needs from outside.

        Args:
            append: Makes a payload durable; may raise Overloaded or StorageError.
            decode: Turns a decompressed payload of a kind into columns or events; may raise
                DecodeError. Traces come as bytes or as an array of them.
            max_request_bytes: Largest payload, as it came and decompressed.
            admit: Raises Overloaded while there is no room for more.
        """
        self._append = append
        self._decode = decode
        self._max_request_bytes = max_request_bytes
        self._admit = admit
        self._buffers = Buffers(_BUFFERS_BYTES)
        self._turns = dict.fromkeys(decode, Turns(LARGE_BYTES))
        self._turns[Kind.TRACES] = Turns(LARGE_COLUMNS_BYTES)

    def submit(self, kind: Kind, encoding: Encoding, payload: bytes) -> Accepted:
        """Returns once the payload is durable.

        Raises:
            DecodeError: It is not what it says it is, or has too many parts.
            TooLarge: It is above the limit, also after decompression.
            Overloaded: There is no room now; the sender is to try again.
            StorageError: The log does not work.
        """
        self._admit()
        plain = self._decompressed(kind, encoding, payload)
        if kind in _PARSED:
            check_messages(bytes(plain), _PARSED[kind])
        with self._turns[kind].of(len(plain)):
            batch = self._decode[kind](plain)
            # In turn until it is durable: while the disk hangs, each would hold what was decoded.
            if _items(batch):
                self._append(kind, encoding, payload, batch)
        return Accepted(batch.rejected, WHY[kind]) if batch.rejected else Accepted()

    def _decompressed(self, kind: Kind, encoding: Encoding, payload: bytes) -> bytes | Bytes:
        limit = self._max_request_bytes
        if kind is Kind.TRACES:
            return decompress_into(self._buffers, encoding, payload, limit)
        return decompress(encoding, payload, limit)


def _items(batch: Batch) -> int:
    match batch:
        case SpanBatch():
            return len(batch.spans)
        case MetricBatch():
            return len(batch.points)
        case _:
            return len(batch.events)

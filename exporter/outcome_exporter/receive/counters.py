"""What the receivers count about themselves.

They begin at 0 with the process and are not part of a checkpoint: a refused request leaves no
record to count again, and a counter restored to an older value would read as a reset to zero
followed by everything at once, where a plain reset is understood.
"""

import threading

from outcome_exporter import series
from outcome_exporter.model import Sample, Snapshot

RESULTS = (
    "accepted",
    "partial",
    "unauthenticated",
    "invalid",
    "unsupported",
    "too_large",
    "too_slow",
    "overloaded",
    "aborted",
    "failed",
)
"""`partial`: something was left out; `aborted`: the client went away; `failed`: our own fault."""

SIGNALS = {"grpc": ("traces", "logs", "metrics"), "http": ("traces", "logs", "metrics", "events")}
"""Signals of each receiver."""

_WHY = {"traces": "invalid_id", "logs": "no_event", "metrics": "no_count", "events": "no_event"}


class ReceiverCounters:
    """Thread-safe."""

    def __init__(self) -> None:
        """Everything exists from the start, at 0."""
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, ...], int] = {
            (receiver, signal, result): 0
            for receiver, signals in SIGNALS.items()
            for signal in signals
            for result in RESULTS
        }
        self._bytes: dict[tuple[str, ...], int] = {
            (receiver, signal): 0 for receiver, signals in SIGNALS.items() for signal in signals
        }
        self._rejected: dict[tuple[str, ...], int] = dict.fromkeys(_WHY.items(), 0)

    def accepted(self, receiver: str, signal: str, *, body_bytes: int, rejected: int) -> None:
        """A request was accepted: `body_bytes` as sent, `rejected` items of it left out."""
        with self._lock:
            self._requests[receiver, signal, "partial" if rejected else "accepted"] += 1
            self._bytes[receiver, signal] += body_bytes
            self._rejected[signal, _WHY[signal]] += rejected

    def refused(self, receiver: str, signal: str, result: str) -> None:
        """A request was refused."""
        with self._lock:
            self._requests[receiver, signal, result] += 1

    def snapshot(self) -> Snapshot:
        """Every series at one moment."""
        with self._lock:
            return {
                family: [Sample(labels, value) for labels, value in sorted(values.items())]
                for family, values in (
                    (series.REQUESTS, self._requests),
                    (series.RECEIVED_BYTES, self._bytes),
                    (series.REJECTED_ITEMS, self._rejected),
                )
            }

"""Memory that is used again: for what every request needs much of, and not for long.

Memory that the system hands out anew costs a page fault for every 4 KiB, on a virtual machine as
much as decoding what is put there. A buffer is free again when nobody but the pool refers to it,
be it through views; so nobody has to give it back, and nobody can give it back too early.

Thread-safe. Keeps at most `max_bytes`; what is beyond is left to the garbage.
"""

import sys
import threading

import numpy as np

from outcome_exporter.model import Bytes

_SMALLEST_BYTES = 1 << 16
_REFERENCES_WHEN_FREE = 2
"""The pool's list, and the call that counts."""


class Buffers:
    """A pool of arrays of bytes."""

    def __init__(self, max_bytes: int) -> None:
        """Nothing is kept yet."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: list[Bytes] = []

    def take(self, size: int) -> Bytes:
        """`size` bytes, of which nothing is known; theirs as long as anything refers to them."""
        if size < _SMALLEST_BYTES:
            return np.empty(size, np.uint8)
        # Powers of two, so that requests of about the same size fit into each other's buffers.
        room = 1 << (size - 1).bit_length()
        with self._lock:
            for place in range(len(self._kept)):
                if self._kept[place].size == room and self._is_free(place):
                    return self._kept[place][:size]
            fresh = np.empty(room, np.uint8)
            self._keep(fresh)
        return fresh[:size]

    def _is_free(self, place: int) -> bool:
        return sys.getrefcount(self._kept[place]) == _REFERENCES_WHEN_FREE

    def _keep(self, fresh: Bytes) -> None:
        """Keeps one more, in place of free ones of other sizes if need be."""
        kept = sum(buffer.size for buffer in self._kept)
        for place in reversed(range(len(self._kept))):
            if kept + fresh.size <= self._max_bytes:
                break
            if self._is_free(place):
                kept -= self._kept.pop(place).size
        if kept + fresh.size <= self._max_bytes:
            self._kept.append(fresh)

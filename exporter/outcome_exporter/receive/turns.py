"""Lets requests that become much in memory through one after the other.

What a receiver bounds is bytes as they came. A request of 64 KB may decompress to 64 MiB, and those
may become a gigabyte of objects; sixteen of them at once, as many as a receiver has threads, were
12 GB. Only what is large waits, and only for what is large: nothing is lost by that where the
interpreter makes the objects, for it makes one at a time anyway.
"""

import threading
from contextlib import AbstractContextManager, nullcontext

LARGE_BYTES = 1 << 20
"""Of what becomes objects; they take up to 65 times as much, e.g. in JSON 28 times."""
LARGE_COLUMNS_BYTES = 8 << 20
"""Of spans, which become columns: up to four times as much. Senders' batches are smaller."""


class Turns:
    """Thread-safe."""

    def __init__(self, large_bytes: int) -> None:
        """Nobody has a turn.

        Args:
            large_bytes: Decompressed size from which on requests wait for each other.
        """
        self._large_bytes = large_bytes
        self._turn = threading.Lock()

    def of(self, size: int) -> AbstractContextManager[object]:
        """To hold while a request of a decompressed size is made more of."""
        return self._turn if size >= self._large_bytes else nullcontext()

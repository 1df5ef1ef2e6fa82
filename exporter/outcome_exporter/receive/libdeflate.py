"""libdeflate's decompressor: into memory that is there, and never beyond it.

CPU seconds for the gzip of a million spans (423 MB) into a buffer that is used again: 0.20, where
isal takes 0.24 for a new object and 0.29 in pieces, and zlib 0.88.

The library comes with the package `deflate`, whose own functions tell neither how much they read,
so that a second member of a body would be lost, nor take a place to write to. So the library's
functions are called, by the names that its header gives them.

Source:
    https://github.com/ebiggers/libdeflate/blob/v1.24/libdeflate.h
"""

import ctypes
from collections.abc import Callable
from enum import IntEnum

from deflate import _deflate

from outcome_exporter.model import Bytes

_LIBRARY = ctypes.CDLL(_deflate.__file__)
_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DECOMPRESS = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    *(ctypes.c_void_p, ctypes.c_size_t),
    *(ctypes.c_void_p, ctypes.c_size_t),
    *(ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)),
)
_allocate = _ALLOCATE(("libdeflate_alloc_decompressor", _LIBRARY))
_free = _FREE(("libdeflate_free_decompressor", _LIBRARY))
_gzip = _DECOMPRESS(("libdeflate_gzip_decompress_ex", _LIBRARY))
_zlib = _DECOMPRESS(("libdeflate_zlib_decompress_ex", _LIBRARY))


class Result(IntEnum):
    """`libdeflate_result`, as far as decompression knows it."""

    SUCCESS = 0
    BAD_DATA = 1
    """Damaged, or cut short."""
    INSUFFICIENT_SPACE = 3


class Decompressor:
    """Memory of the library's own; for one thread at a time."""

    def __init__(self) -> None:
        self._decompressor = _allocate()
        if not self._decompressor:
            raise MemoryError

    def __del__(self) -> None:
        _free(self._decompressor)

    def gzip(self, body: Bytes, out: Bytes) -> tuple[Result, int, int]:
        """The first member of a gzip body, its checksum and size verified (RFC 1952).

        Other threads run meanwhile.

        Args:
            body: uint8, contiguous: what is compressed.
            out: uint8, contiguous: what is written to.

        Returns:
            The result; bytes that were read and bytes that were written if it is SUCCESS.
        """
        return self._run(_gzip, body, out)

    def zlib(self, body: Bytes, out: Bytes) -> tuple[Result, int, int]:
        """The same of a stream in zlib's format (RFC 1950), which HTTP calls deflate."""
        return self._run(_zlib, body, out)

    def _run(
        self, function: Callable[..., int], body: Bytes, out: Bytes
    ) -> tuple[Result, int, int]:
        read, written = ctypes.c_size_t(), ctypes.c_size_t()
        result = function(
            self._decompressor,
            body.ctypes.data,
            body.size,
            out.ctypes.data,
            out.size,
            ctypes.byref(read),
            ctypes.byref(written),
        )
        return Result(result), read.value, written.value

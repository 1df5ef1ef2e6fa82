"""Decompression, bounded while it happens: a bomb is refused before it fills the memory.

gzip and deflate go through libdeflate, zstd through its own library; both let other threads run
meanwhile. Everything after the end of the data, and data that ends too early, is an error: what
cannot be checked to be whole is not accepted.

libdeflate writes into memory of a size that is given. A gzip body says how large it will be; where
that is a lie, or nothing says it, the room grows fourfold until the data fits or the limit is
reached. Requests of traces are put into buffers that are used again, since page faults would cost
as much as decompression does.

gzip may have several members and zstd several frames, as both formats allow.
"""

import threading
from collections.abc import Callable

import numpy as np
import zstandard

from outcome_exporter.buffers import Buffers
from outcome_exporter.errors import DecodeError, TooLarge
from outcome_exporter.model import Bytes, Encoding
from outcome_exporter.receive.libdeflate import Decompressor, Result

MEMBERS_MAX = 1_000
"""Members of one gzip body: each costs a call, and millions of empty ones fit a body."""

_LIKELY_RATIO = 32
"""Traces compress to a fifth or a tenth; what says more of itself gets room once it needs it."""
_GROWTH = 4

_SENTINEL = b"end of the body."
_SENTINEL_FRAME = zstandard.ZstdCompressor(write_checksum=True).compress(_SENTINEL)


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.decompressor = Decompressor()


_of_thread = _OfThread()


def decompress(encoding: Encoding, body: bytes, limit_bytes: int) -> bytes:
    """The body without its compression; an empty body is empty in every encoding.

    Raises:
        DecodeError: It is damaged, cut short, or followed by something else.
        TooLarge: It has more than `limit_bytes`, compressed or not.
    """
    if len(body) > limit_bytes:
        raise TooLarge("the request", limit_bytes=limit_bytes)
    if not body or encoding is Encoding.NONE:
        return body
    if encoding is Encoding.ZSTD:
        return _unzstd(body, limit_bytes)
    return _inflated(_fresh, encoding, body, limit_bytes).tobytes()


def decompress_into(
    buffers: Buffers, encoding: Encoding, body: bytes, limit_bytes: int
) -> bytes | Bytes:
    """What `decompress` gives, in one of `buffers` where that pays.

    Raises:
        DecodeError, TooLarge: As `decompress`.
    """
    if not body or encoding not in (Encoding.GZIP, Encoding.DEFLATE):
        return decompress(encoding, body, limit_bytes)
    if len(body) > limit_bytes:
        raise TooLarge("the request", limit_bytes=limit_bytes)
    return _inflated(buffers.take, encoding, body, limit_bytes)


def _fresh(size: int) -> Bytes:
    return np.empty(size, np.uint8)


def _inflated(
    take: Callable[[int], Bytes], encoding: Encoding, body: bytes, limit_bytes: int
) -> Bytes:
    decompressor = _of_thread.decompressor
    member = decompressor.gzip if encoding is Encoding.GZIP else decompressor.zlib
    packed = np.frombuffer(body, np.uint8)
    out = take(min(_likely_bytes(encoding, body), limit_bytes))
    members = at = size = 0
    while at < packed.size:
        result, read, written = member(packed[at:], out[size:])
        if result is Result.INSUFFICIENT_SPACE:
            out = _larger(take, out, size, limit_bytes)
            continue
        if result is not Result.SUCCESS:
            raise DecodeError(f"damaged {encoding.name.lower()} body, or one that is cut short")
        at += read
        size += written
        members += 1
        if at < packed.size:
            _check_members(encoding, members + 1)
    return out[:size]


def _likely_bytes(encoding: Encoding, body: bytes) -> int:
    """Room to begin with: what a gzip body of one member says of itself, if that is likely."""
    said = int.from_bytes(body[-4:], "little") if encoding is Encoding.GZIP else _GROWTH * len(body)
    return min(max(said, 1), _LIKELY_RATIO * len(body))


def _larger(take: Callable[[int], Bytes], out: Bytes, size: int, limit_bytes: int) -> Bytes:
    if out.size >= limit_bytes:
        raise TooLarge("the decompressed request", limit_bytes=limit_bytes)
    larger = take(min(_GROWTH * out.size, limit_bytes))
    larger[:size] = out[:size]
    return larger


def _check_members(encoding: Encoding, members: int) -> None:
    if members > 1 and encoding is Encoding.DEFLATE:
        raise DecodeError("the deflate body is followed by something else")
    if members > MEMBERS_MAX:
        raise DecodeError(f"a gzip body of more than {MEMBERS_MAX} members")


def _unzstd(body: bytes, limit_bytes: int) -> bytes:
    # The reader, the one interface that is bounded and reads several frames, does not tell a body
    # that is cut short from one that is whole. So a frame of our own follows: only where the last
    # frame before it is whole does the output end with its content.
    reader = zstandard.ZstdDecompressor().stream_reader(
        body + _SENTINEL_FRAME, read_across_frames=True
    )
    try:
        out = reader.read(limit_bytes + len(_SENTINEL) + 1)
    except zstandard.ZstdError as error:
        raise DecodeError(f"damaged zstd body: {error}") from None
    if len(out) > limit_bytes + len(_SENTINEL):
        raise TooLarge("the decompressed request", limit_bytes=limit_bytes)
    if not out.endswith(_SENTINEL):
        raise DecodeError("the zstd body is cut short")
    return out[: -len(_SENTINEL)]

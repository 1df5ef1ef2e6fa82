"""Decompression, bounded while it happens: a bomb is refused before it fills the memory.

gzip and deflate go through isal (two to three times as fast as zlib), zstd through its own library;
both let other threads run meanwhile. Everything after the end of the data, and data that ends too
early, is an error: what cannot be checked to be whole is not accepted.

Requests of traces are put into buffers that are used again, piece by piece from the cache: 0.27 s
of CPU for 423 MB (a million spans), where a new object that grows took 0.49 s, most of the
difference in page faults.

gzip may have several members and zstd several frames, as both formats allow.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
import zstandard
from isal import igzip_lib

from outcome_exporter.buffers import Buffers
from outcome_exporter.errors import DecodeError, TooLarge
from outcome_exporter.model import Bytes, Encoding

MEMBERS_MAX = 1_000
"""Members of one gzip body: each costs a copy of a piece, and millions of empty ones fit a body."""

_INPUT_BYTES = 1 << 20
_LIKELY_RATIO = 32
"""Traces compress to a fifth or a tenth; what says more of itself gets room as it comes out."""
_PIECE_BYTES = 1 << 18
"""Of what comes out at a time: it stays in the cache until it is copied."""

# Its stub declares an instance where the library has a class.
_IsalError = cast("type[Exception]", igzip_lib.IsalError)

_SENTINEL = b"end of the body."
_SENTINEL_FRAME = zstandard.ZstdCompressor(write_checksum=True).compress(_SENTINEL)


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
    return b"".join(_inflated(encoding, body, limit_bytes))


def decompress_into(
    buffers: Buffers, encoding: Encoding, body: bytes, limit_bytes: int
) -> bytes | Bytes:
    """What `decompress` gives, in one of `buffers` where that pays.

    Raises:
        DecodeError, TooLarge: As `decompress`.
    """
    if encoding not in (Encoding.GZIP, Encoding.DEFLATE):
        return decompress(encoding, body, limit_bytes)
    out = buffers.take(_likely_bytes(encoding, body))
    size = 0
    for piece in _inflated(encoding, body, limit_bytes):
        end = size + len(piece)
        if end > out.size:
            larger = buffers.take(2 * end)
            larger[:size] = out[:size]
            out = larger
        out[size:end] = np.frombuffer(piece, np.uint8)
        size = end
    return out[:size]


def _likely_bytes(encoding: Encoding, body: bytes) -> int:
    """Room to begin with: what a gzip body of one member says of itself, if that is likely."""
    said = int.from_bytes(body[-4:], "little") if encoding is Encoding.GZIP else 0
    return min(max(said, 1), _LIKELY_RATIO * len(body))


def _inflated(encoding: Encoding, body: bytes, limit_bytes: int) -> Iterator[bytes]:
    if len(body) > limit_bytes:
        raise TooLarge("the request", limit_bytes=limit_bytes)
    gzip = encoding is Encoding.GZIP
    flag = igzip_lib.DECOMP_GZIP if gzip else igzip_lib.DECOMP_ZLIB
    room = limit_bytes
    members = at = 0
    stream = None
    view = memoryview(body)
    while at < len(body) or (stream is not None and not stream.needs_input):
        if stream is None:
            members += 1
            _check_members(encoding, members)
            stream = igzip_lib.IgzipDecompressor(flag=flag)
        # What did not come out yet is with the stream; it is asked for that first.
        piece = view[at : at + _INPUT_BYTES] if stream.needs_input else b""
        try:
            out = stream.decompress(piece, min(room + 1, _PIECE_BYTES))
        except _IsalError as error:
            raise DecodeError(f"damaged {encoding.name.lower()} body: {error}") from None
        room -= len(out)
        if room < 0:
            raise TooLarge("the decompressed request", limit_bytes=limit_bytes)
        yield out
        at += len(piece)
        if stream.eof:
            at -= len(stream.unused_data)
            stream = None
    if stream is not None:
        raise DecodeError(f"the {encoding.name.lower()} body is cut short")


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

"""OTLP files: requests one after the other, as the Collector's file exporter writes them.

    length    4 bytes, big-endian
    request   an ExportTraceServiceRequest in protobuf, so many bytes

That is its `format: proto`. With `compression: zstd` it compresses each request on its own; the
whole stream may be compressed, too. Both are told by their first bytes: no request begins with
those of zstd. Read as a stream: one request is in memory at a time.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from outcome_exporter.errors import DecodeError, InputError
from outcome_exporter.model import Encoding
from outcome_exporter.receive.compression import decompress

MESSAGE_BYTES_MAX = 1 << 28
"""A length above it means that this is no such file."""

_LENGTH = struct.Struct(">I")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW_MAX = 1 << 27
_END = b"\xff\xff\xff\xff"
"""Follows a compressed stream, in a frame of its own and as a length that no request has: the
library does not tell a frame that is cut short from one that is whole."""


def read(path: Path, *, progress: Callable[[int], object] = lambda _: None) -> Iterator[bytes]:
    """The requests of a file.

    Args:
        path: The file.
        progress: Told before each request how many bytes of the file were read.

    Raises:
        DecodeError: It is no such file, or is cut short; with the place in the decompressed stream.
    """
    with path.open("rb") as raw:
        compressed = raw.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        raw.seek(0)
        try:
            for request in _requests(path, _unpacked(raw) if compressed else raw, compressed):
                progress(raw.tell())
                yield request
        except zstandard.ZstdError as error:
            raise DecodeError(f"{path}: damaged zstd: {error}") from None


class _Marked:
    """A compressed file with the mark of its end behind it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._mark = zstandard.ZstdCompressor().compress(_END)

    def read(self, size: int = -1) -> bytes:
        piece = self._raw.read(size)
        if not piece:
            piece, self._mark = self._mark, b""
        return piece


def _unpacked(raw: BinaryIO) -> BinaryIO:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    marked: Any = _Marked(raw)  # reads are all that the library asks of a file
    stream: BinaryIO = decompressor.stream_reader(marked, read_across_frames=True)
    return stream


def _requests(path: Path, stream: BinaryIO, marked: bool) -> Iterator[bytes]:  # noqa: FBT001
    at = 0
    while (head := _read_exactly(stream, _LENGTH.size)) or marked:
        if marked and head == _END and not stream.read(1):
            return
        if len(head) < _LENGTH.size:
            raise DecodeError(f"{path} is cut short", offset=at)
        (length,) = _LENGTH.unpack(head)
        if length > MESSAGE_BYTES_MAX:
            problem = (
                f"{path} is no length-delimited OTLP file, as the Collector's file exporter writes "
                f"it with `format: proto`: a request of {length} bytes"
            )
            raise DecodeError(problem, offset=at)
        request = _read_exactly(stream, length)
        if len(request) < length:
            raise DecodeError(f"{path} is cut short", offset=at)
        yield _plain(path, request, at)
        at += _LENGTH.size + length


def _plain(path: Path, request: bytes, at: int) -> bytes:
    """A request without the compression that it has of its own."""
    if not request.startswith(_ZSTD_MAGIC):
        return request
    try:
        return decompress(Encoding.ZSTD, request, MESSAGE_BYTES_MAX)
    except InputError as error:
        raise DecodeError(f"{path}: {error}", offset=at) from None


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    pieces = []
    while size > 0 and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)

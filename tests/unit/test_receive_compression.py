import gzip
import random
import tracemalloc
import zlib
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from outcome_exporter.buffers import Buffers
from outcome_exporter.errors import DecodeError, TooLarge
from outcome_exporter.model import Encoding
from outcome_exporter.receive.compression import MEMBERS_MAX, decompress, decompress_into


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def zstd_without_size(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return stream.compress(data) + stream.flush()


PACKERS = [
    pytest.param(Encoding.NONE, bytes, id="none"),
    pytest.param(Encoding.GZIP, gzip.compress, id="gzip"),
    pytest.param(Encoding.DEFLATE, zlib.compress, id="deflate"),
    pytest.param(Encoding.ZSTD, zstd, id="zstd"),
    pytest.param(Encoding.ZSTD, zstd_without_size, id="zstd that does not say its size"),
]
COMPRESSED = PACKERS[1:]
DATA = random.Random(1).randbytes(2_000) + b"spans " * 10_000


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
@given(data=st.binary(max_size=5_000))
def test_what_was_compressed_comes_back(encoding, pack, data):
    assert decompress(encoding, pack(data), 5_000) == data


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
def test_a_body_of_several_pieces_comes_back(encoding, pack):
    data = random.Random(2).randbytes(3 << 20)
    assert decompress(encoding, pack(data), 4 << 20) == data


@pytest.mark.parametrize("encoding", list(Encoding))
def test_an_empty_body_is_empty_in_every_encoding(encoding):
    assert decompress(encoding, b"", 10) == b""


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
def test_the_limit_is_inclusive(encoding, pack):
    assert decompress(encoding, pack(DATA), len(DATA)) == DATA
    with pytest.raises(TooLarge, match=f"larger than {len(DATA) - 1} bytes"):
        decompress(encoding, pack(DATA), len(DATA) - 1)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_body_above_the_limit_is_not_even_looked_at(encoding):
    with pytest.raises(TooLarge):
        decompress(encoding, b"no format at all", 10)


@pytest.mark.parametrize(("encoding", "pack"), COMPRESSED)
def test_a_bomb_is_refused_without_filling_the_memory(encoding, pack):
    bomb = pack(bytes(256 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decompress(encoding, bomb, 2 << 20)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("encoding", "pack"), [(Encoding.GZIP, gzip.compress), (Encoding.ZSTD, zstd)]
)
def test_members_and_frames_are_joined(encoding, pack):
    assert decompress(encoding, pack(b"one ") + pack(b"") + pack(b"two"), 100) == b"one two"


@pytest.mark.parametrize(
    ("encoding", "pack"), [(Encoding.GZIP, gzip.compress), (Encoding.ZSTD, zstd)]
)
def test_the_limit_is_that_of_all_members_together(encoding, pack):
    with pytest.raises(TooLarge):
        decompress(encoding, pack(bytes(60)) + pack(bytes(60)), 119)


def test_a_million_empty_members_are_refused_early():
    body = gzip.compress(b"") * (MEMBERS_MAX + 1)
    with pytest.raises(DecodeError, match="more than 1000 members"):
        decompress(Encoding.GZIP, body, 1 << 20)


@pytest.mark.parametrize(("encoding", "pack"), COMPRESSED)
def test_a_body_that_is_cut_at_any_byte_is_refused(encoding, pack):
    whole = pack(DATA[:2_200])
    for cut in range(1, len(whole)):
        with pytest.raises(DecodeError):
            decompress(encoding, whole[:cut], 1 << 20)


@pytest.mark.parametrize(("encoding", "pack"), COMPRESSED)
def test_what_follows_the_end_is_refused(encoding, pack):
    for tail in (b"\0", b"garbage", b"\0" * 512):
        with pytest.raises(DecodeError):
            decompress(encoding, pack(DATA) + tail, 1 << 20)


@pytest.mark.parametrize(("encoding", "pack"), COMPRESSED)
def test_a_damaged_body_is_refused_or_reads_the_same(encoding, pack):
    whole = pack(DATA)
    chance = random.Random(3)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        with suppress(DecodeError, TooLarge):
            assert decompress(encoding, bytes(damaged), 1 << 20) == DATA


def test_raw_deflate_is_no_deflate():
    with pytest.raises(DecodeError, match="damaged deflate body"):
        decompress(Encoding.DEFLATE, zlib.compress(DATA)[2:-4], 1 << 20)


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
def test_what_is_put_into_a_buffer_is_what_was_compressed(encoding, pack):
    buffers = Buffers(1 << 30)
    for data in (b"", DATA, random.Random(3).randbytes(1 << 20), b"x" * (3 << 20), DATA):
        assert bytes(decompress_into(buffers, encoding, pack(data), 4 << 20)) == data
    with pytest.raises(TooLarge):
        decompress_into(buffers, encoding, pack(DATA), len(DATA) - 1)


def test_a_body_that_lies_about_its_size_gets_room_as_it_comes_out():
    for said in (0, 1, 1 << 31):
        body = gzip.compress(b"") + gzip.compress(DATA)[:-4] + said.to_bytes(4, "little")
        with pytest.raises(DecodeError, match="damaged gzip body"):
            decompress_into(Buffers(1 << 30), Encoding.GZIP, body, 1 << 20)
    members = gzip.compress(DATA * 20) + gzip.compress(b"end")
    whole = bytes(decompress_into(Buffers(1 << 30), Encoding.GZIP, members, 2 << 20))
    assert whole == DATA * 20 + b"end"

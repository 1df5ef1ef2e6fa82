"""Texts as codes: service names, span names, versions, label values.

State: the bytes of every text one after the other, where each begins, and an open-addressing
index over their hashes; equal codes mean equal texts, since a hit is compared byte by byte.
Bounded: above its capacity a new text becomes `OTHER` and is counted. Texts are cut at
`LENGTH_MAX` bytes, on a character's edge.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.hashing import KNOWN_SEED, Seed, home_of_bytes, same_bytes
from outcome_exporter.kernels.jit import inlined, kernel
from outcome_exporter.model import Bytes

NONE = 0
"""Code of the empty text."""
OTHER = 1
"""Code of every text beyond the capacity."""
LENGTH_MAX = 200
"""Bytes of a text that are kept."""

_COUNT = 0
_USED = 1
_OVERFLOW = 2


class TextArrays(NamedTuple):
    """What the kernels work on."""

    arena: Bytes
    """The texts, one after the other."""
    starts: npt.NDArray[np.int64]
    """Where each code's text begins; one more than the codes."""
    slots: npt.NDArray[np.int32]
    """Open addressing: a code, or -1. A power of two long, at most half full."""
    counts: npt.NDArray[np.int64]
    """Codes given, bytes of the arena used, texts that overflowed."""
    seed: Seed


@inlined
def _cut(source: Bytes, at: int, length: int) -> int:
    """Length of a text once it is cut at a character's edge."""
    if length > LENGTH_MAX:
        length = LENGTH_MAX
        while length > 0 and source[at + length] & 0xC0 == 0x80:
            length -= 1
    return length


@inlined
def _slot(texts: TextArrays, source: Bytes, at: int, length: int) -> int:
    """Where a text stands in the index, or would stand."""
    mask = texts.slots.size - 1
    slot = np.int64(home_of_bytes(texts.seed, source, at, length) & np.uint64(mask))
    while True:
        code = texts.slots[slot]
        if code < 0:
            return slot
        start = texts.starts[code]
        if texts.starts[code + 1] - start == length and same_bytes(
            texts.arena, start, source, at, length
        ):
            return slot
        slot = (slot + 1) & mask


@inlined
def find(texts: TextArrays, source: Bytes, at: int, length: int) -> int:
    """The code of `source[at : at + length]`, -1 where it has none."""
    if length == 0:
        return NONE
    return np.int64(texts.slots[_slot(texts, source, at, _cut(source, at, length))])


@inlined
def intern(texts: TextArrays, source: Bytes, at: int, length: int) -> int:
    """The code of `source[at : at + length]`, a new one if there is room."""
    if length == 0:
        return NONE
    length = _cut(source, at, length)
    slot = _slot(texts, source, at, length)
    code = np.int64(texts.slots[slot])
    if code >= 0:
        return code
    code = texts.counts[_COUNT]
    if code + 1 >= texts.starts.size:
        texts.counts[_OVERFLOW] += 1
        return OTHER
    start = texts.starts[code]
    for k in range(length):
        texts.arena[start + k] = source[at + k]
    texts.starts[code + 1] = start + length
    texts.counts[_COUNT] = code + 1
    texts.counts[_USED] = start + length
    texts.slots[slot] = code
    return code


@kernel
def _reindex(texts: TextArrays) -> None:
    texts.slots[:] = -1
    for code in range(OTHER, texts.counts[_COUNT]):
        start = texts.starts[code]
        texts.slots[_slot(texts, texts.arena, start, texts.starts[code + 1] - start)] = code


class Texts:
    """A bounded table of texts, seen from Python."""

    def __init__(self, capacity: int, seed: Seed = KNOWN_SEED) -> None:
        """Room for `capacity` texts beside the empty one and `other`."""
        codes = capacity + 2
        index = 1 << (2 * codes - 1).bit_length()
        self.arrays = TextArrays(
            arena=np.zeros(codes * LENGTH_MAX, np.uint8),
            starts=np.zeros(codes + 1, np.int64),
            slots=np.full(index, -1, np.int32),
            counts=np.zeros(3, np.int64),
            seed=seed,
        )
        other = np.frombuffer(b"other", np.uint8)
        self.arrays.arena[: other.size] = other
        self.arrays.starts[2] = self.arrays.counts[_USED] = other.size
        self.arrays.counts[_COUNT] = 2
        _reindex(self.arrays)

    def code(self, text: str) -> int:
        """The code of a text, a new one if there is room."""
        source = np.frombuffer(text.encode(errors="replace"), np.uint8)
        return intern(self.arrays, source, 0, source.size)

    def text(self, code: int) -> str:
        """The text of a code."""
        start, end = self.arrays.starts[code : code + 2]
        return self.arrays.arena[start:end].tobytes().decode(errors="replace")

    def __len__(self) -> int:
        return int(self.arrays.counts[_COUNT])

    @property
    def overflow(self) -> int:
        """How often a text became `other`."""
        return int(self.arrays.counts[_OVERFLOW])

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """What a checkpoint keeps; the index is rebuilt."""
        count, used = int(self.arrays.counts[_COUNT]), int(self.arrays.counts[_USED])
        return {
            "arena": self.arrays.arena[:used],
            "starts": self.arrays.starts[: count + 1],
            "counts": self.arrays.counts,
        }

    @classmethod
    def restore(
        cls, capacity: int, arrays: dict[str, npt.NDArray[Any]], seed: Seed = KNOWN_SEED
    ) -> Self:
        """The table that `dump` described, with room for `capacity` texts or what it holds."""
        count = int(arrays["counts"][_COUNT])
        texts = cls(max(capacity, count - 2), seed)
        texts.arrays.arena[: arrays["arena"].size] = arrays["arena"]
        texts.arrays.starts[: count + 1] = arrays["starts"]
        texts.arrays.counts[:] = arrays["counts"]
        _reindex(texts.arrays)
        return texts

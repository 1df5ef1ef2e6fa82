"""Hashes of ids, keys and texts.

Join keys are compared as 128 bits and nothing else: with 2^32 keys waiting, two of them are
mistaken for one another with a probability below 1e-19, and the business keys themselves need
not be kept, neither in memory nor on disk. (Rejected: 64 bits verified against the full key,
which costs an arena of texts that must be bounded, collected and checkpointed.)

The mixing is that of MurmurHash3's finaliser; a text is folded eight bytes at a time.
"""

import numpy as np

from outcome_exporter.kernels.jit import inlined, kernel
from outcome_exporter.kernels.words import load_word, pointer
from outcome_exporter.model import Bytes

_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S33 = np.uint64(33)
_S32 = np.uint64(32)
_EIGHT = np.uint64(8)
_ZERO = np.uint64(0)

SEED_HI = np.uint64(0x243F6A8885A308D3)
"""Seed of a key's upper half; digits of pi, so that nobody needs to trust them."""
SEED_LO = np.uint64(0x13198A2E03707344)
"""Seed of a key's lower half."""


@kernel
def mix(value: np.uint64) -> np.uint64:
    """Spreads every bit of a 64-bit value over all of them."""
    value ^= value >> _S33
    value *= _M1
    value ^= value >> _S33
    value *= _M2
    value ^= value >> _S33
    return value


@kernel
def combine(hashed: np.uint64, value: np.uint64) -> np.uint64:
    """Folds one more value into a hash."""
    return mix((hashed ^ mix(value + _GOLDEN)) * _GOLDEN + value)


@inlined
def hash_bytes(text: Bytes, at: int, length: int, seed: np.uint64) -> np.uint64:
    """64-bit hash of `text[at : at + length]`."""
    source = pointer(text)
    hashed = seed ^ (np.uint64(length) * _GOLDEN)
    end = at + length
    while at + 8 <= end:
        hashed = (hashed ^ load_word(source, at)) * _M1
        hashed ^= hashed >> _S32
        at += 8
    word = _ZERO
    while at < end:
        word = (word << _EIGHT) | np.uint64(source[at])
        at += 1
    return mix((hashed ^ word) * _M2)


@inlined
def same_bytes(one: Bytes, at: int, other: Bytes, other_at: int, length: int) -> bool:
    """Whether two runs of bytes are equal."""
    left, right = pointer(one), pointer(other)
    k = 0
    while k + 8 <= length:
        if load_word(left, at + k) != load_word(right, other_at + k):
            return False
        k += 8
    while k < length:
        if left[at + k] != right[other_at + k]:
            return False
        k += 1
    return True

"""Hashes of ids, keys and texts.

Join keys are compared as 128 bits and nothing else: with 2^32 keys waiting, two of them are
mistaken for one another with a probability below 1e-19, and the business keys themselves need
not be kept, neither in memory nor on disk. (Rejected: 64 bits verified against the full key,
which costs an arena of texts that must be bounded, collected and checkpointed.)

The mixing is that of MurmurHash3's finaliser; a text is folded eight bytes at a time.

Where a key lies in a table is chosen by other functions, `home` and `home_of_bytes`, which nobody
can work out who does not know their seed. Senders choose ids, keys and texts: with a function that
is known, 20,000 ids of theirs land in one slot, and each is looked for behind all others. A seed
decides about places alone: a table's order is never read, and a restored one is built anew.

Source:
    The product of two words whose halves are laid over one another, with secrets in both, is what
    wyhash, rapidhash and the hash tables of Rust (foldhash) use. It withstands floods, not somebody
    who may measure single lookups.
"""

from typing import NamedTuple

import numpy as np

from outcome_exporter.kernels.jit import inlined, kernel
from outcome_exporter.kernels.words import fold_product, load_word, pointer
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


class Seed(NamedTuple):
    """What decides where the keys of tables lie: two words that no sender knows."""

    first: np.uint64
    second: np.uint64

    @classmethod
    def of(cls, secret: bytes) -> "Seed":
        """The seed that 16 random bytes are."""
        first, second = np.frombuffer(secret, np.uint64)
        return cls(first, second)


KNOWN_SEED = Seed(SEED_HI, SEED_LO)
"""For those who read what they made themselves."""


@inlined
def home(seed: Seed, one: np.uint64, other: np.uint64) -> np.uint64:
    """Where a key of two words lies, once masked."""
    return fold_product(one ^ seed.first, other ^ seed.second)


@inlined
def _last_word(source: Bytes, at: int, end: int, length: int) -> np.uint64:
    """What is left of a text from `at` on, at most 8 bytes: where it can, with some before."""
    if length >= 8:
        return np.uint64(load_word(source, end - 8))
    return _few_bytes(source, at, end)


@inlined
def _few_bytes(source: Bytes, at: int, end: int) -> np.uint64:
    """Fewer than 8 bytes, the first of them highest."""
    word = _ZERO
    while at < end:
        word = (word << _EIGHT) | np.uint64(source[at])
        at += 1
    return word


@inlined
def home_of_bytes(seed: Seed, text: Bytes, at: int, length: int) -> np.uint64:
    """Where `text[at : at + length]` lies, once masked."""
    source = pointer(text)
    hashed = fold_product(seed.first ^ np.uint64(length), seed.second)
    end = at + length
    while at + 8 < end:
        hashed = fold_product(hashed ^ load_word(source, at), seed.second)
        at += 8
    return fold_product(hashed ^ _last_word(source, at, end, length), seed.second)


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
    return mix((hashed ^ _few_bytes(source, at, end)) * _M2)


@inlined
def same_bytes(one: Bytes, at: int, other: Bytes, other_at: int, length: int) -> bool:
    """Whether two runs of bytes are equal."""
    left, right = pointer(one), pointer(other)
    k = 0
    while k + 8 < length:
        if load_word(left, at + k) != load_word(right, other_at + k):
            return False
        k += 8
    return bool(
        _last_word(left, at + k, at + length, length)
        == _last_word(right, other_at + k, other_at + length, length)
    )

"""What was seen lately: 64-bit hashes that are forgotten after a time, or when memory is full.

A ring holds them in the order they came, an open-addressing set answers whether one is there.
Forgetting walks the ring's old end. At most `capacity` are remembered; beyond it the oldest is
forgotten before its time and counted. A false "seen" has a chance of n / 2^64 each.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.hashing import KNOWN_SEED, Seed, home
from outcome_exporter.kernels.jit import inlined, kernel
from outcome_exporter.kernels.words import prefetch

_FIRST = 0
_SIZE = 1
_OVERFLOW = 2


class RecentArrays(NamedTuple):
    """What the kernels work on."""

    ring: npt.NDArray[np.uint64]
    until: npt.NDArray[np.int64]
    """Second until which each is remembered."""
    slots: npt.NDArray[np.uint64]
    """The set; 0 is an empty slot. A power of two long, at most half full."""
    counts: npt.NDArray[np.int64]
    """Oldest place in the ring, how many, how many were forgotten early."""
    seed: Seed


@inlined
def _home(recent: RecentArrays, hashed: np.uint64) -> int:
    return np.int64(home(recent.seed, hashed, np.uint64(0)) & np.uint64(recent.slots.size - 1))


@kernel
def _slot(recent: RecentArrays, hashed: np.uint64) -> int:
    mask = recent.slots.size - 1
    slot = _home(recent, hashed)
    while recent.slots[slot] != 0 and recent.slots[slot] != hashed:
        slot = (slot + 1) & mask
    return slot


@inlined
def expect_memory(recent: RecentArrays, hashed: np.uint64) -> None:
    """Brings near what `seen` and `remember` will touch."""
    prefetch(recent.slots, _home(recent, hashed))


@kernel
def _drop_oldest(recent: RecentArrays) -> None:
    mask = recent.slots.size - 1
    hole = _slot(recent, recent.ring[recent.counts[_FIRST]])
    # Linear probing without tombstones: whatever probed past the hole moves into it.
    slot = hole
    while True:
        slot = (slot + 1) & mask
        hashed = recent.slots[slot]
        if hashed == 0:
            break
        if ((slot - _home(recent, hashed)) & mask) >= ((slot - hole) & mask):
            recent.slots[hole] = hashed
            hole = slot
    recent.slots[hole] = 0
    recent.counts[_FIRST] = (recent.counts[_FIRST] + 1) % recent.ring.size
    recent.counts[_SIZE] -= 1


@kernel
def _forget(recent: RecentArrays, second: int) -> None:
    while recent.counts[_SIZE] and recent.until[recent.counts[_FIRST]] <= second:
        _drop_oldest(recent)


@kernel
def seen(recent: RecentArrays, hashed: np.uint64, second: int) -> bool:
    """Whether a hash is remembered at `second`."""
    _forget(recent, second)
    hashed = max(hashed, np.uint64(1))
    return recent.slots[_slot(recent, hashed)] == hashed


@kernel
def remember(recent: RecentArrays, hashed: np.uint64, second: int, seconds: int) -> bool:
    """Remembers a hash from `second` on for `seconds`; True where it was remembered already."""
    _forget(recent, second)
    hashed = max(hashed, np.uint64(1))
    slot = _slot(recent, hashed)
    if recent.slots[slot] == hashed:
        return True
    if recent.counts[_SIZE] == recent.ring.size:
        _drop_oldest(recent)
        recent.counts[_OVERFLOW] += 1
        slot = _slot(recent, hashed)
    place = (recent.counts[_FIRST] + recent.counts[_SIZE]) % recent.ring.size
    recent.ring[place] = hashed
    recent.until[place] = second + seconds
    recent.slots[slot] = hashed
    recent.counts[_SIZE] += 1
    return False


@kernel
def remember_all(
    recent: RecentArrays,
    hashes: npt.NDArray[np.uint64],
    second: int,
    seconds: int,
    fresh: npt.NDArray[np.bool_],
) -> None:
    """Remembers hashes from `second` on for `seconds`; writes which of them were not yet."""
    for i in range(hashes.size):
        fresh[i] = not remember(recent, hashes[i], second, seconds)


@kernel
def _reinsert(old: RecentArrays, new: RecentArrays) -> None:
    for k in range(old.counts[_SIZE]):
        place = (old.counts[_FIRST] + k) % old.ring.size
        if new.counts[_SIZE] == new.ring.size:
            _drop_oldest(new)
            new.counts[_OVERFLOW] += 1
        end = (new.counts[_FIRST] + new.counts[_SIZE]) % new.ring.size
        new.ring[end] = old.ring[place]
        new.until[end] = old.until[place]
        new.slots[_slot(new, old.ring[place])] = old.ring[place]
        new.counts[_SIZE] += 1


class Recent:
    """A bounded memory of hashes that grows as it needs to."""

    def __init__(self, capacity: int, seed: Seed = KNOWN_SEED) -> None:
        """Remembers at most `capacity` hashes."""
        self.capacity = capacity
        self.arrays = _empty(min(capacity, 1024), seed)

    def reserve(self, count: int) -> None:
        """Makes room for so many more, within the capacity."""
        size = self.arrays.ring.size
        needed = int(self.arrays.counts[_SIZE]) + count
        if needed > size and size < self.capacity:
            old = self.arrays
            self.arrays = _empty(min(self.capacity, max(needed, 2 * size)), old.seed)
            self.arrays.counts[_OVERFLOW] = old.counts[_OVERFLOW]
            _reinsert(old, self.arrays)

    @property
    def overflow(self) -> int:
        """How many were forgotten before their time."""
        return int(self.arrays.counts[_OVERFLOW])

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """What a checkpoint keeps; the set is rebuilt."""
        return {name: getattr(self.arrays, name) for name in ("ring", "until", "counts")}

    @classmethod
    def restore(
        cls, capacity: int, arrays: dict[str, npt.NDArray[Any]], seed: Seed = KNOWN_SEED
    ) -> Self:
        """The memory that `dump` described."""
        recent = cls(capacity, seed)
        old = recent.arrays._replace(**arrays)
        recent.arrays = _empty(min(capacity, max(int(old.counts[_SIZE]), 1024)), seed)
        recent.arrays.counts[_OVERFLOW] = old.counts[_OVERFLOW]
        _reinsert(old, recent.arrays)
        return recent


def _empty(size: int, seed: Seed) -> RecentArrays:
    return RecentArrays(
        ring=np.zeros(size, np.uint64),
        until=np.zeros(size, np.int64),
        slots=np.zeros(1 << (2 * size).bit_length(), np.uint64),
        counts=np.zeros(3, np.int64),
        seed=seed,
    )

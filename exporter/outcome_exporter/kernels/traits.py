"""Traits: the attribute values by which attempts are compared.

A trait is one value of an allow-listed attribute (a dimension) at one service: "payment in pod
payment-7c9". A span has a set of them: those of its resource, and its own. Sets are interned, so
that a span carries one number and a resource's attributes are read once a request. The first
trait of a set says only that a span of the service is there.

State: rows of traits and of sets, and an index over each; a hit is compared in full. Bounded:
each dimension has its share of the rows, beyond which a value is the dimension's `other` and
counted; beyond the sets a span keeps those of its resource. Pods come and go, so what no request
had for `retain` seconds is forgotten as soon as its room is needed.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.attributes import Batch, text_of
from outcome_exporter.kernels.hashing import KNOWN_SEED, Seed, combine, home, home_of_bytes
from outcome_exporter.kernels.jit import kernel
from outcome_exporter.kernels.pool import NIL, Free, Pool, give, take
from outcome_exporter.model import Bytes, Table

VALUE_MAX = 96
"""Bytes of a value that are kept."""
SET_MAX = 33
"""Traits of a span: its service's, and two values of each of 16 dimensions, since a span may say
another one than its resource."""
THERE = -1
"""In place of a dimension: the service has a span."""
NO_TRAIT = 0xFFFF

TRAIT = np.dtype(
    [
        ("born", np.int64),  # second
        ("service", np.uint32),  # text code
        ("there", np.uint16),  # trait that says that the service is there; NO_TRAIT: none
        ("dimension", np.int16),
        ("length", np.uint8),
        ("alive", np.uint8),
        ("text", np.uint8, (VALUE_MAX,)),
    ],
    align=True,
)
SET = np.dtype(
    [
        ("hash", np.uint64),
        ("seen", np.int64),  # second at which a request had it last
        ("count", np.uint16),
        ("alive", np.uint8),
        ("traits", np.uint16, (SET_MAX,)),
    ],
    align=True,
)

# Places in `TraitArrays.counts`
OVERFLOW, SWEPT = range(2)
_SWEEP_SECONDS = 60
"""Between two searches for what can be forgotten."""
_DOUBTED = 2
"""In place of `alive`: no set that has it was found yet."""


class TraitArrays(NamedTuple):
    """What the kernels work on."""

    dimensions: npt.NDArray[np.int16]
    """Dimension of each wanted attribute, -1 for none; empty where nothing is compared."""
    rows: Table
    sets: Table
    """Row 0 is the empty set."""
    free_rows: Free
    free_sets: Free
    slots: npt.NDArray[np.int32]
    """Rows, open addressing, -1 where empty; a power of two, at most half full."""
    set_slots: npt.NDArray[np.int32]
    """Sets by hash, likewise."""
    shares: npt.NDArray[np.int64]
    """Shape (dimensions + 1, 2): rows that each has, and may have; the last: `THERE`."""
    counts: npt.NDArray[np.int64]
    retain: int
    """Seconds."""
    seed: Seed


@kernel
def _slot(
    rows: Table,
    slots: npt.NDArray[np.int32],
    seed: Seed,
    service: int,
    dimension: int,
    source: Bytes,
    at: int,
    length: int,
) -> int:
    """Where a trait stands in the index, or would stand."""
    # Two arrays rather than all of them: a span's traits are looked up one by one, and passing
    # the rest costs as much as the lookup.
    mask = slots.size - 1
    whose = np.uint64(service) << np.uint64(16) | np.uint64(dimension + 1)
    slot = np.int64(home(seed, home_of_bytes(seed, source, at, length), whose) & np.uint64(mask))
    while True:
        row = slots[slot]
        if row < 0:
            return slot
        known = rows[row]
        if known.service == service and known.dimension == dimension and known.length == length:
            same = True
            for k in range(length):
                same &= known.text[k] == source[at + k]
            if same:
                return slot
        slot = (slot + 1) & mask


@kernel
def _set_slot(
    sets: Table,
    slots: npt.NDArray[np.int32],
    seed: Seed,
    hashed: np.uint64,
    found: npt.NDArray[np.uint16],
    count: int,
) -> int:
    mask = slots.size - 1
    slot = np.int64(home(seed, hashed, np.uint64(count)) & np.uint64(mask))
    while True:
        row = slots[slot]
        if row < 0:
            return slot
        known = sets[row]
        if known.hash == hashed:
            same = known.count == count
            for k in range(count if same else 0):
                same &= known.traits[k] == found[k]
            if same:
                return slot
        slot = (slot + 1) & mask


@kernel
def reindex(traits: TraitArrays) -> None:
    """Builds both indexes, and what each dimension has, anew from the rows."""
    traits.slots[:] = NIL
    traits.set_slots[:] = NIL
    traits.shares[:, 0] = 0
    for row in range(traits.free_rows.counts[0]):
        known = traits.rows[row]
        if known.alive:
            slot = _slot(
                traits.rows,
                traits.slots,
                traits.seed,
                np.int64(known.service),
                np.int64(known.dimension),
                known.text,
                0,
                np.int64(known.length),
            )
            traits.slots[slot] = row
            traits.shares[known.dimension, 0] += 1
    for row in range(1, traits.free_sets.counts[0]):
        known_set = traits.sets[row]
        if known_set.alive:
            slot = _set_slot(
                traits.sets,
                traits.set_slots,
                traits.seed,
                known_set.hash,
                known_set.traits,
                np.int64(known_set.count),
            )
            traits.set_slots[slot] = row


@kernel
def make_room(traits: TraitArrays, second: int) -> None:
    """Forgets what no request had for long, where something is full.

    Only between requests: a trait that is in no set yet would be forgotten with its last one.
    """
    full = traits.free_sets.counts[0] - traits.free_sets.counts[1] == traits.sets.size
    for dimension in range(traits.shares.shape[0]):
        full |= traits.shares[dimension, 0] == traits.shares[dimension, 1]
    if not full or second < traits.counts[SWEPT] + _SWEEP_SECONDS:
        return
    traits.counts[SWEPT] = second
    others = traits.shares.shape[0] - 1
    for row in range(others, traits.free_rows.counts[0]):
        if traits.rows[row].alive:
            traits.rows[row].alive = _DOUBTED
    for row in range(1, traits.free_sets.counts[0]):
        known = traits.sets[row]
        if not known.alive:
            continue
        if known.seen < second - traits.retain:
            known.alive = 0
            give(traits.free_sets, row)
            continue
        for k in range(known.count):
            traits.rows[known.traits[k]].alive = 1
    for row in range(others, traits.free_rows.counts[0]):
        if traits.rows[row].alive == _DOUBTED:
            traits.rows[row].alive = 0
            give(traits.free_rows, row)
    reindex(traits)


@kernel
def _trait(
    traits: TraitArrays,
    service: int,
    dimension: int,
    there: int,
    source: Bytes,
    at: int,
    length: int,
    second: int,
) -> int:
    """The trait of a value at a service, a new one if there is room."""
    if length > VALUE_MAX:
        length = VALUE_MAX
        while length > 0 and source[at + length] & 0xC0 == 0x80:
            length -= 1
    slot = _slot(traits.rows, traits.slots, traits.seed, service, dimension, source, at, length)
    if traits.slots[slot] >= 0:
        return np.int64(traits.slots[slot])
    share = traits.shares[dimension]
    if share[0] >= share[1]:
        traits.counts[OVERFLOW] += 1
        return NO_TRAIT if dimension == THERE else dimension
    row = take(traits.free_rows)
    known = traits.rows[row]
    known.born = second
    known.service = service
    known.there = there
    known.dimension = dimension
    known.length = length
    known.alive = 1
    for k in range(length):
        known.text[k] = source[at + k]
    traits.slots[slot] = row
    share[0] += 1
    return row


@kernel
def _add(found: npt.NDArray[np.uint16], count: int, trait: int) -> int:
    if trait == NO_TRAIT:
        return count
    for k in range(count):
        if found[k] == trait:
            return count
    found[count] = trait
    return count + 1


@kernel
def _set_of(
    traits: TraitArrays,
    found: npt.NDArray[np.uint16],
    first: int,
    count: int,
    begun: int,
    second: int,
) -> int:
    """The set of some traits, a new one if there is room; otherwise `begun`, the first ones'."""
    hashed = traits.sets[begun].hash
    for k in range(first, count):
        hashed = combine(hashed, np.uint64(found[k]))
    slot = _set_slot(traits.sets, traits.set_slots, traits.seed, hashed, found, count)
    row = np.int64(traits.set_slots[slot])
    if row < 0:
        if traits.free_sets.counts[0] == traits.sets.size and traits.free_sets.counts[1] == 0:
            traits.counts[OVERFLOW] += 1
            return begun
        row = take(traits.free_sets)
        known = traits.sets[row]
        known.hash = hashed
        known.count = count
        known.alive = 1
        for k in range(count):
            known.traits[k] = found[k]
        traits.set_slots[slot] = row
    traits.sets[row].seen = second
    return row


@kernel
def _read(
    traits: TraitArrays,
    batch: Batch,
    at: int,
    end: int,
    service: int,
    found: npt.NDArray[np.uint16],
    count: int,
    second: int,
    scratch: Bytes,
) -> int:
    """Adds the traits among some attributes to `found`; returns how many there are."""
    there = NO_TRAIT
    if count > 0 and traits.rows[found[0]].dimension == THERE:
        there = np.int64(found[0])
    for row in range(at, end):
        dimension = np.int64(traits.dimensions[batch.attributes[row].key])
        if dimension >= 0:
            source, place, length = text_of(batch, row, scratch)
            if count == found.size:
                traits.counts[OVERFLOW] += 1
            elif length > 0:
                trait = _trait(traits, service, dimension, there, source, place, length, second)
                count = _add(found, count, trait)
    return count


@kernel
def of_resource(
    traits: TraitArrays,
    batch: Batch,
    resource: int,
    service: int,
    found: npt.NDArray[np.uint16],
    second: int,
    scratch: Bytes,
) -> int:
    """The set of a resource.

    Args:
        traits: What is known.
        batch: The request.
        resource: Which one.
        service: Text code of its service.
        found: Room for `SET_MAX`.
        second: The clock.
        scratch: Room for a number's text.
    """
    count = _add(found, 0, _trait(traits, service, THERE, NO_TRAIT, scratch, 0, 0, second))
    at = np.int64(batch.resources[resource].attributes_at)
    end = at + np.int64(batch.resources[resource].attributes_len)
    count = _read(traits, batch, at, end, service, found, count, second, scratch)
    return _set_of(traits, found, 0, count, 0, second)


@kernel
def of_span(
    traits: TraitArrays,
    batch: Batch,
    span: int,
    resource_set: int,
    service: int,
    found: npt.NDArray[np.uint16],
    second: int,
    scratch: Bytes,
) -> int:
    """The set of a span that says something itself: that of its resource, and more."""
    at = np.int64(batch.spans[span].attributes_at)
    end = at + np.int64(batch.spans[span].attributes_len)
    known = traits.sets[resource_set]
    count = np.int64(known.count)
    for k in range(count):
        found[k] = known.traits[k]
    more = _read(traits, batch, at, end, service, found, count, second, scratch)
    return _set_of(traits, found, count, more, resource_set, second)


class Traits:
    """Traits and their sets, seen from Python."""

    def __init__(
        self,
        dimensions: npt.NDArray[np.int16],
        count: int,
        capacity: int,
        retain: int,
        seed: Seed = KNOWN_SEED,
    ) -> None:
        """Nothing is known.

        Args:
            dimensions: Dimension of each wanted attribute, -1 for none; empty: nothing is compared.
            count: Dimensions.
            capacity: Traits, beside what is `other`.
            retain: Seconds that a trait is known at least.
            seed: Where the keys of its tables lie.
        """
        self._count = count
        capacity = capacity if count else 0
        self._rows = Pool(TRAIT, capacity + count, timed=False)
        self._sets = Pool(SET, 4 * capacity + 1, timed=False)
        shares = np.zeros((count + 1, 2), np.int64)
        shares[:, 1] = capacity // (count + 1) + 1
        shares[:-1, 1] += 1  # its `other`
        shares[-1, 1] = capacity + count - shares[:-1, 1].sum()
        self.arrays = TraitArrays(
            dimensions=dimensions,
            rows=self._rows.rows,
            sets=self._sets.rows,
            free_rows=self._rows.free,
            free_sets=self._sets.free,
            slots=np.full(1 << (2 * self._rows.rows.size + 1).bit_length(), NIL, np.int32),
            set_slots=np.full(1 << (2 * self._sets.rows.size + 1).bit_length(), NIL, np.int32),
            shares=shares,
            counts=np.zeros(2, np.int64),
            retain=retain,
            seed=seed,
        )
        self._plant()

    def _plant(self) -> None:
        """The empty set, and what each dimension counts beyond its share."""
        other = np.frombuffer(b"other", np.uint8)
        rows = self._rows.rows[: self._count]
        rows["dimension"] = np.arange(self._count)
        rows["there"] = NO_TRAIT
        rows["length"] = other.size
        rows["alive"] = 1
        rows["text"][:, : other.size] = other
        self._rows.free.counts[0] = self._count
        self._sets.free.counts[0] = 1
        reindex(self.arrays)

    def value(self, trait: int) -> str:
        """The value of a trait."""
        row = self.arrays.rows[trait]
        return row["text"][: row["length"]].tobytes().decode(errors="replace")

    @property
    def overflow(self) -> int:
        """How often there was no room for a value, or for a set of them."""
        return int(self.arrays.counts[OVERFLOW])

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """What a checkpoint keeps; the indexes are rebuilt."""
        return {
            "rows": self._rows.rows[: self._rows.used],
            "sets": self._sets.rows[: self._sets.used],
            "counts": self.arrays.counts,
        }

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Takes over what `dump` gave of the same dimensions and the same capacity."""
        self._rows.load(arrays["rows"])
        self._rows.release(arrays["rows"]["alive"] == 1)
        self._sets.load(arrays["sets"])
        alive = arrays["sets"]["alive"] == 1
        alive[0] = True
        self._sets.release(alive)
        self.arrays.counts[:] = arrays["counts"]
        reindex(self.arrays)

    def go_on_from(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Begins anew after what `dump` gave of others, but for what was counted."""
        self.arrays.counts[OVERFLOW] = arrays["counts"][OVERFLOW]

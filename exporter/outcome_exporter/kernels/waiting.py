"""Who waits under which join keys, so that whoever arrives finds the first of them.

An event wants the attempts that began last: those it came too late for began before all others.
An attempt wants the earliest event. So those who wait under one key are a heap, and an arrival
looks at whom it meets, and at one more. Were they a list, as they once were, each of M events that
came too late for N attempts would walk past all of them: N times M for a sender who repeats a key.

A pairing heap: to wait is O(1), to leave O(log n) amortised, also from the middle (Fredman,
Sedgewick, Sleator and Tarjan, "The pairing heap", 1986; here who leaves is replaced by the heap of
its children). A node is `row * JOIN_KEYS_MAX + key`, and lies in one doubly linked list: the tops
of the heaps whose keys share a bucket, or the children of a node, the `previous` of the first of
which is their parent.

The shape of a heap depends on the order of arrivals. Its top does not, and nothing else is seen.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.hashing import Seed, home
from outcome_exporter.kernels.jit import kernel
from outcome_exporter.kernels.pool import NIL, Free, Wheel
from outcome_exporter.model import JOIN_KEYS_MAX, Row, Table


class Heaps(NamedTuple):
    """Rows of a pool by each of their keys."""

    tops: npt.NDArray[np.int32]
    """First node of each bucket; a power of two long."""
    children: npt.NDArray[np.int32]
    following: npt.NDArray[np.int32]
    previous: npt.NDArray[np.int32]
    seed: Seed


class Side(NamedTuple):
    """Those who wait: attempts or claims."""

    rows: Table
    free: Free
    wheel: Wheel
    heaps: Heaps
    times: npt.NDArray[np.int64]
    """Of the rows: by what they are ordered under a key, and then by their sequence."""
    sign: int
    """1 where the earliest comes first, -1 where the latest does."""


@kernel
def _has_key(row: Row, k: int) -> bool:
    return row.keys[k, 0] != 0 or row.keys[k, 1] != 0


@kernel
def _bucket(heaps: Heaps, row: Row, k: int) -> int:
    return np.int64(
        home(heaps.seed, row.keys[k, 0], row.keys[k, 1]) & np.uint64(heaps.tops.size - 1)
    )


@kernel
def _top(side: Side, seeker: Row, k: int) -> int:
    """Node at the top of the heap of a seeker's key; NIL where nobody waits."""
    if not _has_key(seeker, k):
        return NIL
    node = np.int64(side.heaps.tops[_bucket(side.heaps, seeker, k)])
    while node >= 0:
        key = side.rows[node // JOIN_KEYS_MAX].keys[node % JOIN_KEYS_MAX]
        if key[0] == seeker.keys[k, 0] and key[1] == seeker.keys[k, 1]:
            return node
        node = np.int64(side.heaps.following[node])
    return NIL


@kernel
def first(side: Side, seeker: Row, k: int) -> int:
    """Row of who is first of those that wait under a seeker's key; NIL where nobody does."""
    node = _top(side, seeker, k)
    return NIL if node < 0 else node // JOIN_KEYS_MAX


@kernel
def has_mate(side: Side, row: int) -> bool:
    """Whether somebody else waits under one of the keys of a row that waits."""
    for k in range(JOIN_KEYS_MAX):
        top = _top(side, side.rows[row], k)
        if top >= 0 and (top // JOIN_KEYS_MAX != row or side.heaps.children[top] >= 0):
            return True
    return False


@kernel
def _is_before(side: Side, node: int, other: int) -> bool:
    row, that = node // JOIN_KEYS_MAX, other // JOIN_KEYS_MAX
    if side.times[row] != side.times[that]:
        return side.sign * side.times[row] < side.sign * side.times[that]
    return side.rows[row].sequence < side.rows[that].sequence


@kernel
def _point(side: Side, before: int, node: int, to: int) -> None:
    """What leads to a node, which lies after `before`, leads to another one now."""
    heaps = side.heaps
    if before < 0:
        row, k = node // JOIN_KEYS_MAX, node % JOIN_KEYS_MAX
        heaps.tops[_bucket(heaps, side.rows[row], k)] = to
    elif heaps.children[before] == node:
        heaps.children[before] = to
    else:
        heaps.following[before] = to


@kernel
def _cut(side: Side, node: int) -> None:
    """Takes a node out of its list."""
    after, before = side.heaps.following[node], side.heaps.previous[node]
    _point(side, before, node, after)
    if after >= 0:
        side.heaps.previous[after] = before


@kernel
def _replace(side: Side, node: int, other: int) -> None:
    """Puts another node where one is."""
    after, before = side.heaps.following[node], side.heaps.previous[node]
    _point(side, before, node, other)
    side.heaps.following[other], side.heaps.previous[other] = after, before
    if after >= 0:
        side.heaps.previous[after] = other


@kernel
def _adopt(heaps: Heaps, parent: int, node: int) -> None:
    """Makes a node that lies in no list the first child of another."""
    eldest = heaps.children[parent]
    heaps.following[node], heaps.previous[node] = eldest, parent
    if eldest >= 0:
        heaps.previous[eldest] = node
    heaps.children[parent] = node


@kernel
def _melded(side: Side, node: int, other: int) -> int:
    """The top of two heaps that lie in no list."""
    if _is_before(side, other, node):
        _adopt(side.heaps, other, node)
        return other
    _adopt(side.heaps, node, other)
    return node


@kernel
def _heir(side: Side, node: int) -> int:
    """The top of a heap of a node's children; NIL where it has none."""
    following = side.heaps.following
    child, pairs = np.int64(side.heaps.children[node]), np.int64(NIL)
    while child >= 0:
        pair, child = child, np.int64(following[child])
        if child >= 0:
            sibling, child = child, np.int64(following[child])
            pair = _melded(side, pair, sibling)
        following[pair] = pairs
        pairs = pair
    if pairs < 0:
        return NIL
    heir, pairs = pairs, np.int64(following[pairs])
    while pairs >= 0:
        pair, pairs = pairs, np.int64(following[pairs])
        heir = _melded(side, heir, pair)
    return heir


@kernel
def link(side: Side, row: int) -> None:
    """Lets a row wait under each of its keys."""
    heaps = side.heaps
    for k in range(JOIN_KEYS_MAX):
        if not _has_key(side.rows[row], k):
            continue
        node = row * JOIN_KEYS_MAX + k
        heaps.children[node] = heaps.following[node] = heaps.previous[node] = NIL
        top = _top(side, side.rows[row], k)
        if top < 0:
            bucket = _bucket(heaps, side.rows[row], k)
            head = heaps.tops[bucket]
            heaps.following[node] = head
            if head >= 0:
                heaps.previous[head] = node
            heaps.tops[bucket] = node
        elif _is_before(side, node, top):
            _replace(side, top, node)
            _adopt(heaps, node, top)
        else:
            _adopt(heaps, top, node)


@kernel
def unlink(side: Side, row: int) -> None:
    """Ends the waiting of a row."""
    for k in range(JOIN_KEYS_MAX):
        if _has_key(side.rows[row], k):
            node = row * JOIN_KEYS_MAX + k
            heir = _heir(side, node)
            if heir < 0:
                _cut(side, node)
            else:
                _replace(side, node, heir)


@kernel
def relink(side: Side) -> None:
    """Builds the heaps anew from the rows that are alive."""
    side.heaps.tops[:] = NIL
    for row in range(side.free.counts[0]):
        if side.rows[row].alive:
            link(side, row)

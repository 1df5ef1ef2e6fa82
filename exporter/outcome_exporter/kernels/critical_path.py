"""The critical path of one trace: which span the user waited for at every moment.

From the attempt's end backwards: the child that finishes last, then the child that ended before
that one began, and so on; what no child covers is the span's own time. Children are clipped to
their parents (Jaeger's algorithm). The times of all spans add up to the attempt's duration.

A child on another machine whose clock differs is moved into its parent first, where it fits: to
the middle of it, as Jaeger's clock skew adjuster does. What begins after its parent ended is
asynchronous, and nobody waited for it.

Cost: O(1) a span of the attempt, so that many attempts in one trace cost what one does; O(log
spans) where siblings that start later end earlier, or an attempt is a small part of its trace. A
cycle of parents cannot be entered, since only a span's children are walked to and each span has one
parent; only the root could come up again.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.jit import allocating, kernel
from outcome_exporter.kernels.pool import NIL
from outcome_exporter.model import Table

_CLIENT = 3
_SERVER = 2
_PASSED_MAX = 32
"""Siblings that a span may pass on its way to its place, on average."""


class Scratch(NamedTuple):
    """Room for the spans of one trace; `head`, `own` and `inside` are valid after a walk."""

    head: npt.NDArray[np.int64]
    """First child of a span, by end from the last; NIL where it has none."""
    following: npt.NDArray[np.int64]
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    shift: npt.NDArray[np.int64]
    stack: npt.NDArray[np.int64]
    own: npt.NDArray[np.int64]
    """Nanoseconds of the critical path that a span spent itself; -1 outside the attempt."""
    inside: npt.NDArray[np.int64]
    """The spans of the attempt."""
    size: npt.NDArray[np.int64]
    """Shape (1,): how many they are."""
    every: npt.NDArray[np.int64]
    """0, 1, 2 …: the spans of an attempt that is its whole trace."""


@allocating
def scratch(spans: int) -> Scratch:
    """Room for a trace of so many spans."""
    return Scratch(
        np.empty(spans, np.int64),
        np.empty(spans, np.int64),
        np.empty(spans, np.int64),
        np.empty(spans, np.int64),
        np.empty(spans, np.int64),
        np.empty(spans, np.int64),
        np.empty(spans, np.int64),
        np.empty(spans, np.int64),
        np.zeros(1, np.int64),
        np.arange(spans),
    )


@allocating
def link_children(spans: Table, first: int, count: int, room: Scratch) -> None:
    """Lists the children of every span of `spans[first : first + count]`, the last end first."""
    head, following, ends = room.head, room.following, room.low
    room.size[0] = 0
    for k in range(count):
        head[k] = NIL
        room.own[k] = -1
        ends[k] = spans[first + k].end
    # Spans come by their start, and siblings that start later mostly end later: then each goes to
    # the front. Sorting all spans by their end first took 7 of 54 ns a span.
    passed = 0
    for k in range(count):
        parent = spans[first + k].parent
        if parent >= 0:
            before, child = NIL, head[parent]
            while child >= 0 and ends[child] > ends[k]:
                before, child = child, following[child]
                passed += 1
            following[k] = child
            if before < 0:
                head[parent] = k
            else:
                following[before] = k
        if passed > _PASSED_MAX * count:
            _link_sorted(spans, first, count, room)
            return


@allocating
def _link_sorted(spans: Table, first: int, count: int, room: Scratch) -> None:
    """The same whatever the order: for very many siblings, of which later ones end earlier."""
    for k in range(count):
        room.head[k] = NIL
    order = np.argsort(room.low[:count], kind="mergesort")
    for n in range(count):
        k = order[n]
        parent = spans[first + k].parent
        if parent >= 0:
            room.following[k] = room.head[parent]
            room.head[parent] = k


@kernel
def _moved(spans: Table, first: int, parent: int, child: int, shift: int) -> int:
    """How far a child's clock is to be moved so that it lies in its parent."""
    of, by = spans[first + parent], spans[first + child]
    if of.service == by.service:
        return shift
    begin, end = of.start, of.end
    start, length = by.start, by.end - by.start
    if (start >= begin and start + length <= end) or length > end - begin:
        return shift
    # Wholly outside: another clock only where somebody waits for it by its kind.
    outside = start >= end or start + length <= begin
    if outside and not (of.kind == _CLIENT and by.kind == _SERVER):
        return shift
    return shift + begin + (end - begin - length) // 2 - start


@kernel
def walk(spans: Table, first: int, root: int, room: Scratch) -> int:
    """Writes to `room.own` what every span below `root` adds to the critical path.

    `link_children` must have been called for the trace.

    Returns:
        How many spans the attempt has: that much of `room.inside` is written, in no order.
    """
    own, low, high, inside = room.own, room.low, room.high, room.inside
    for n in range(room.size[0]):
        own[inside[n]] = -1
    low[root] = spans[first + root].start
    high[root] = spans[first + root].end
    room.shift[root] = 0
    own[root] = 0
    room.stack[0] = inside[0] = root
    waiting = size = 1
    while waiting > 0:
        waiting -= 1
        span = room.stack[waiting]
        cursor = high[span]
        child = room.head[span]
        while child >= 0:
            if child != root:
                shift = _moved(spans, first, span, child, room.shift[span])
                start = max(spans[first + child].start + shift, low[span])
                end = min(spans[first + child].end + shift, high[span])
                if end > start and end <= cursor:
                    own[span] += cursor - end
                    cursor = start
                    low[child], high[child] = start, end
                else:
                    # Nobody waited for it, yet it belongs to the attempt.
                    low[child] = high[child] = min(max(start, low[span]), high[span])
                own[child] = 0
                room.shift[child] = shift
                room.stack[waiting] = child
                waiting += 1
                inside[size] = child
                size += 1
            child = room.following[child]
        own[span] += cursor - low[span]
    room.size[0] = size
    return size


@allocating
def in_order(room: Scratch, count: int, size: int) -> npt.NDArray[np.int64]:
    """The spans of an attempt of `size` spans in their order in a trace of `count`."""
    if size == count:
        return room.every[:count]
    found = room.inside[:size]
    if 8 * size < count:
        found.sort()
        return found
    n = 0
    for k in range(count):
        if room.own[k] >= 0:
            found[n] = k
            n += 1
    return found

"""Memory that is used again, and never while somebody still looks at it."""

import random

import numpy as np

from outcome_exporter.buffers import Buffers

SIZE = 100_000


def owner(array):
    return array if array.base is None else owner(array.base)


def test_a_buffer_that_nobody_refers_to_is_used_again():
    buffers = Buffers(1 << 30)
    first = id(owner(buffers.take(SIZE)))
    assert id(owner(buffers.take(SIZE + 1))) == first


def test_a_buffer_is_not_used_again_while_any_view_of_it_is_there():
    buffers = Buffers(1 << 30)
    rows = buffers.take(SIZE)[100:].view(np.dtype([("a", np.uint32)]))
    column = np.frombuffer(rows["a"][:10].copy(), np.uint8)  # a copy does not count
    view = np.frombuffer(rows, np.uint8)
    held = owner(rows)
    del rows
    assert owner(buffers.take(SIZE)) is not held
    del view, held, column
    assert len({id(owner(buffers.take(SIZE))) for _ in range(3)}) == 1


def test_no_two_holders_share_a_byte_and_no_more_is_kept_than_may_be():
    rng = random.Random(1)
    buffers = Buffers(3 << 20)
    held = []
    for number in range(2_000):
        taken = buffers.take(rng.choice([10, SIZE, 2 * SIZE, 1 << 20, 5 << 20]))
        taken[:8] = np.frombuffer(number.to_bytes(8, "little"), np.uint8)
        held.append((number, taken))
        while len(held) > 8:
            known, array = held.pop(rng.randrange(len(held)))
            assert array[:8].tobytes() == known.to_bytes(8, "little")
        assert sum(buffer.size for buffer in buffers._kept) <= 3 << 20

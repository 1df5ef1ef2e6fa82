"""Hashes are stored in checkpoints: they must stay what they are, whatever computes them.

Where a key lies in a table is stored nowhere, and depends on a seed in all that there is of it.
"""

import random

import numpy as np

from outcome_exporter.kernels.hashing import (
    SEED_LO,
    Seed,
    hash_bytes,
    home,
    home_of_bytes,
    same_bytes,
)

MASK = (1 << 64) - 1


def mixed(value):
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * factor & MASK
    return value ^ value >> 33


def hashed(text, seed):
    value = seed ^ len(text) * 0x9E3779B97F4A7C15 & MASK
    whole = len(text) // 8 * 8
    for at in range(0, whole, 8):
        value = (value ^ int.from_bytes(text[at : at + 8], "little")) * 0xFF51AFD7ED558CCD & MASK
        value ^= value >> 32
    return mixed((value ^ int.from_bytes(text[whole:], "big")) * 0xC4CEB9FE1A85EC53 & MASK)


def test_a_hash_is_that_of_the_bytes_wherever_they_stand():
    rng = random.Random(1)
    for length in range(40):
        text = rng.randbytes(length)
        for before in range(9):
            place = np.frombuffer(rng.randbytes(before) + text + rng.randbytes(3), np.uint8)
            found = np.uint64(hash_bytes(place, before, length, SEED_LO))
            assert found == hashed(text, int(SEED_LO))


def test_runs_of_bytes_are_equal_where_every_byte_is():
    rng = random.Random(2)
    for length in range(30):
        one = np.frombuffer(rng.randbytes(length + 5), np.uint8)
        other = np.concatenate([one[:3], one])
        assert same_bytes(one, 2, other, 5, length)
        for flipped in range(length):
            damaged = other.copy()
            damaged[5 + flipped] ^= 1
            assert not same_bytes(one, 2, damaged, 5, length)


SEED = Seed(np.uint64(0xA5F152B9D0C3E781), np.uint64(0x9D2C6F3B18E745A1))


def folded(one, other):
    product = one * other
    return (product ^ product >> 64) & MASK


def placed(text):
    first, second = (int(word) for word in SEED)
    value = folded(first ^ len(text), second)
    for at in range(0, len(text) - 8, 8):
        value = folded(value ^ int.from_bytes(text[at : at + 8], "little"), second)
    # The last word overlaps the one before, where the text has a whole one.
    last = int.from_bytes(text[-8:], "little" if len(text) >= 8 else "big")
    return folded(value ^ last, second)


def test_a_key_lies_where_the_folded_product_with_the_seed_says():
    rng = random.Random(3)
    for _ in range(200):
        one, other = rng.getrandbits(64), rng.getrandbits(64)
        expected = folded(one ^ int(SEED.first), other ^ int(SEED.second))
        assert np.uint64(home(SEED, np.uint64(one), np.uint64(other))) == expected


def test_a_text_lies_where_its_bytes_say_wherever_they_stand():
    rng = random.Random(4)
    for length in range(40):
        text = rng.randbytes(length)
        for before in range(9):
            place = np.frombuffer(rng.randbytes(before) + text + rng.randbytes(3), np.uint8)
            assert np.uint64(home_of_bytes(SEED, place, before, length)) == placed(text)


def crowd(places, slots):
    """How many keys the fullest of some slots holds."""
    return int(np.bincount(np.array(places, np.uint64) % np.uint64(slots), minlength=slots).max())


def test_keys_that_differ_little_lie_apart():
    count, slots = 4_000, 8_192
    one = np.uint64(1)
    for shift in range(52):
        numbers = [np.uint64(n << shift) for n in range(count)]
        for places in (
            [home(SEED, number, one) for number in numbers],
            [home(SEED, one, number) for number in numbers],
            [home(SEED, number, number) for number in numbers],
        ):
            assert crowd(places, slots) < 16


def test_texts_that_collide_whatever_their_seed_do_not_lie_together():
    # Twice the highest bits, in words one after the other: without a second secret they cancel.
    texts = [
        b"".join(
            ((1 << 63) * (n >> bit & 1)).to_bytes(8, "little")
            + (((1 << 63) | (1 << 31)) * (n >> bit & 1)).to_bytes(8, "little")
            for bit in range(8)
        )
        for n in range(256)
    ]
    arrays = [np.frombuffer(text, np.uint8) for text in texts]
    assert len({int(np.uint64(hash_bytes(text, 0, text.size, SEED_LO))) for text in arrays}) == 1
    assert len({int(np.uint64(home_of_bytes(SEED, text, 0, text.size))) for text in arrays}) == 256

"""Hashes are stored in checkpoints: they must stay what they are, whatever computes them."""

import random

import numpy as np

from outcome_exporter.kernels.hashing import SEED_LO, hash_bytes, same_bytes

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

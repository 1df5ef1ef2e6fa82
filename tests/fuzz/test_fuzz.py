"""The bounded part of the fuzzing: every way in, repeatable.

`make fuzz` goes on for as long as asked.
"""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz import fuzz
from tests.fuzz.harness import WAYS, Eater, hostile

SEEDS = sorted((Path(__file__).parent / "seeds").iterdir())


@pytest.fixture(scope="module")
def eater():
    return Eater()


@pytest.mark.parametrize("way", range(len(WAYS)), ids=WAYS)
def test_what_means_harm_is_taken_or_refused_and_every_series_stays_finite(way, eater):
    before = eater.accepted
    rng = random.Random(way)
    for _ in range(500):
        eater.eat(bytes([0x80 + (way - 0x80) % len(WAYS), rng.randrange(64)]) + rng.randbytes(8))
    eater.settle()
    eater.check()
    assert eater.accepted > before, "nothing got in: the harm was done at the door"


@given(data=st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_by_any_way_are_taken_or_refused(data, eater):
    eater.eat(data)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_what_was_found_before_stays_found(seed, eater):
    eater.eat(seed.read_bytes())
    eater.settle()
    eater.check()


class Forgetful(Eater):
    """Keeps something of each request."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def eat(self, data):
        self.kept.append(bytearray(1 << 12))
        return super().eat(data)


@pytest.mark.slow
def test_memory_that_is_not_let_go_fails_the_fuzzing():
    assert fuzz.soak(6, Eater()) < fuzz.GROWTH_BYTES_MAX < fuzz.soak(6, Forgetful())


def test_the_harm_is_repeatable():
    one, other = (hostile(random.Random(7), "grpc traces", 10**18) for _ in range(2))
    assert one == other

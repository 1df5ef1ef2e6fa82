"""Who waits first under a key, compared with a look at everybody."""

import random

import numpy as np
import pytest

from outcome_exporter.kernels.hashing import Seed
from outcome_exporter.kernels.pool import Pool
from outcome_exporter.kernels.waiting import first, has_mate, link, relink, unlink
from outcome_exporter.model import ATTEMPT, CLAIM, JOIN_KEYS_MAX
from outcome_exporter.outcomes import _empty_heaps, _side

ROWS = 200


def seen(side, rows, key):
    """The row that is first under a key, as a look at everybody finds it."""
    under = [row for row in rows if key in side.rows[row]["keys"][:, 1]]
    rank = lambda row: (side.sign * side.times[row], side.rows[row]["sequence"])  # noqa: E731
    return min(under, key=rank, default=-1)


@pytest.mark.parametrize("dtype", [ATTEMPT, CLAIM])
@pytest.mark.parametrize("keys", [1, 3, 40])
def test_whoever_comes_and_goes_the_first_under_each_key_is_found(dtype, keys):
    rng = random.Random(keys)
    pool = Pool(dtype, ROWS)
    heaps = _empty_heaps(ROWS, Seed.of(b"nobody knows it."))
    side = _side(pool, heaps._replace(tops=heaps.tops[:4].copy()))  # several keys in a bucket
    pool.free.counts[:] = ROWS, 0
    seeker = np.zeros(1, dtype)
    waiting: list[int] = []
    for step in range(3_000):
        # Waves: up to everybody waits, down to nobody does.
        row = rng.randrange(ROWS)
        if row in waiting:
            if step // 500 % 2:
                unlink(side, row)
                waiting.remove(row)
                pool.rows[row]["alive"] = 0
        elif rng.random() < 0.8:
            pool.rows[row]["keys"] = 0
            places = rng.sample(range(JOIN_KEYS_MAX), rng.randint(1, JOIN_KEYS_MAX))
            for place in places:
                # As in earnest, a key belongs to one place.
                pool.rows[row]["keys"][place] = 1, 1 + place + 4 * rng.randrange(keys)
            side.times[row] = rng.randrange(20)
            pool.rows[row]["sequence"] = step
            pool.rows[row]["alive"] = 1
            link(side, row)
            waiting.append(row)
        if step % 700 == 0:
            relink(side)
        for _ in range(3):
            key = rng.randint(1, 4 * keys)
            seeker["keys"] = 0
            seeker["keys"][0, (key - 1) % 4] = 1, key
            assert first(side, seeker[0], (key - 1) % 4) == seen(side, waiting, key)
        if waiting:
            row = rng.choice(waiting)
            own = {int(key) for key in pool.rows[row]["keys"][:, 1] if key}
            mates = [other for other in waiting if other != row]
            held = {int(key) for other in mates for key in pool.rows[other]["keys"][:, 1]}
            assert has_mate(side, row) == bool(own & held)

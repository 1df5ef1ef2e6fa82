"""The bounded memories under everything: pools and timers, hashes seen lately, texts, globs."""

import re
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outcome_exporter.kernels.glob import matches
from outcome_exporter.kernels.hashing import mix
from outcome_exporter.kernels.pool import (
    WHEEL_SLOTS,
    Pool,
    cancel,
    collect,
    give,
    next_busy,
    schedule,
    take,
)
from outcome_exporter.kernels.recent import Recent, remember, seen
from outcome_exporter.kernels.sketch import REGISTERS, add, estimate
from outcome_exporter.kernels.texts import LENGTH_MAX, NONE, OTHER, Texts

ROW = np.dtype([("alive", np.uint8)])

# Pools and wheels -------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("tgsca"), st.integers(0, 3 * WHEEL_SLOTS)), max_size=60))
def test_rows_ring_at_their_second_and_are_never_handed_out_twice(steps):
    pool, now, held, due = Pool(ROW, 2), 0, set(), {}
    for what, number in steps:
        if what == "t":
            pool.reserve(1)
            row = take(pool.free)
            assert row not in held
            held.add(row)
            schedule(pool.wheel, row, now + 1 + number)
            due[row] = now + 1 + number
        elif what == "g" and held:
            row = sorted(held)[number % len(held)]
            if row in due:
                cancel(pool.wheel, row)
                del due[row]
            give(pool.free, row)
            held.remove(row)
        elif what == "a":
            until = now + number
            while now < until:
                now = next_busy(pool.wheel, now, until)
                rung = set(collect(pool.wheel, now).tolist())
                assert rung == {row for row, second in due.items() if second == now}
                for row in rung:
                    del due[row]
            assert not [row for row, second in due.items() if second <= now]
        assert len(pool) == len(held)


# What was seen lately ---------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=80),
    st.integers(1, 6),
)
def test_hashes_are_remembered_for_their_time_and_within_the_capacity(steps, capacity):
    recent, model, now, forgotten = Recent(capacity), OrderedDict(), 0, 0
    for number, pause in steps:
        now += pause
        for old in [old for old, until in model.items() if until <= now]:
            del model[old]
        recent.reserve(1)
        hashed = np.uint64(number)
        # 0 stands for an empty slot, and is taken as 1.
        known = max(number, 1) in model
        assert seen(recent.arrays, hashed, now) == known
        assert remember(recent.arrays, hashed, now, 5) == known
        if not known:
            if len(model) == capacity:
                model.popitem(last=False)
                forgotten += 1
            model[max(number, 1)] = now + 5
        assert recent.overflow == forgotten
        if number == 7:
            recent = Recent.restore(capacity, recent.dump())


# Texts ------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(st.lists(st.text(max_size=4), max_size=30), st.integers(1, 8))
def test_a_text_keeps_its_code_and_those_beyond_the_capacity_are_other(words, capacity):
    texts, model = Texts(capacity), {"": NONE, "other": OTHER}
    for word in words:
        clean = word.encode(errors="replace").decode()
        if clean not in model and len(model) < capacity + 2:
            model[clean] = len(model)
        assert texts.code(word) == model.get(clean, OTHER)
        assert texts.text(texts.code(word)) == (clean if clean in model else "other")
    again = Texts.restore(capacity, texts.dump())
    assert [again.code(word) for word in words] == [texts.code(word) for word in words]


def test_long_texts_are_cut_on_the_edge_of_a_character():
    texts = Texts(4)
    shown = texts.text(texts.code("é" * 150))
    assert shown == "é" * (LENGTH_MAX // 2)
    assert texts.text(texts.code("a" + "é" * 150)) == "a" + "é" * (LENGTH_MAX // 2 - 1)


@pytest.mark.slow
def test_a_million_distinct_names_take_no_more_room_than_the_capacity():
    texts = Texts(1_000)
    before = texts.arrays.arena.nbytes
    codes = {texts.code(f"name-{n}") for n in range(1_000_000)}
    assert len(codes) == 1_001
    assert texts.overflow == 999_000
    assert texts.arrays.arena.nbytes == before


# Globs ------------------------------------------------------------------------------------------

ALPHABET = st.sampled_from("ab/é*?")


@settings(max_examples=400)
@given(st.text(ALPHABET, min_size=1, max_size=8), st.text(st.sampled_from("ab/é"), max_size=10))
def test_globs_match_what_the_same_regular_expression_matches(pattern, text):
    expression = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    source = [np.frombuffer(t.encode() or b"-", np.uint8) for t in (pattern, text)]
    found = matches(source[0], 0, len(pattern.encode()), source[1], 0, len(text.encode()))
    assert found == bool(re.fullmatch(expression, text, re.DOTALL))


def test_a_pattern_full_of_stars_takes_no_exponential_time():
    pattern = np.frombuffer(b"*a" * 60 + b"b", np.uint8)
    text = np.frombuffer(b"a" * 5_000, np.uint8)
    assert not matches(pattern, 0, pattern.size, text, 0, text.size)


# Sketches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("users", [0, 1, 10, 100, 1_000, 20_000, 300_000])
def test_users_are_estimated_within_four_standard_errors(users):
    registers = np.zeros(REGISTERS, np.uint8)
    for user in range(users):
        add(registers, np.uint64(mix(np.uint64(user + 1))))
    assert estimate(registers) == pytest.approx(users, rel=0.065, abs=0.1)

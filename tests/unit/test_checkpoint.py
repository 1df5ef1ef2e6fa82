"""Checkpoints: state, buckets and offset together or not at all, whole or reported."""

import random
import shutil
import sqlite3
import string
from collections import Counter
from contextlib import closing, contextmanager
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from outcome_exporter.checkpoint import PAGE_BYTES, StateStore
from outcome_exporter.errors import StateCorrupt, StorageError
from outcome_exporter.kernels.storage import SUM_LIMIT, page_digests
from outcome_exporter.model import ATTEMPT, BUCKET, VERDICT

NO_BUCKETS = np.zeros(0, BUCKET)


@contextmanager
def opened(folder):
    store = StateStore(folder)
    try:
        yield store
    finally:
        store.close()


def buckets(*rows):
    return np.array(list(rows), BUCKET)


def save(store, arrays=None, *, offset=1, clock=2, meta=None, rows=NO_BUCKETS, keep_from=0):
    store.save(offset, clock, meta or {}, arrays or {}, rows, keep_from=keep_from)


def same(one, other):
    """Equal to the bit, padding and NaN included."""
    return (
        one.keys() == other.keys()
        and all(one[name].dtype == other[name].dtype for name in one)
        and all(one[name].shape == other[name].shape for name in one)
        and all(one[name].tobytes() == other[name].tobytes() for name in one)
    )


def titled(dtype):
    """Whether a field has a second name, which nobody uses."""
    if dtype.subdtype:
        return titled(dtype.subdtype[0])
    fields = (dtype.fields or {}).values()
    return any(len(field) > 2 or titled(field[0]) for field in fields)


scalars = hnp.scalar_dtypes() | hnp.byte_string_dtypes() | hnp.unicode_string_dtypes()
dtypes = (
    scalars
    | hnp.nested_dtypes(scalars).filter(lambda dtype: not titled(dtype))
    | st.sampled_from([ATTEMPT, VERDICT])
)
states = st.dictionaries(
    st.text(string.ascii_letters + "._ ", min_size=1),
    st.one_of(
        dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0))),
        # Several pages.
        st.integers(0, 3 * PAGE_BYTES).map(lambda n: (np.arange(n) % 251).astype(np.uint8)),
    ),
    max_size=4,
)


@settings(max_examples=15)
@given(
    saves=st.lists(states, min_size=1, max_size=2),
    offset=st.integers(0, 2**62),
    clock=st.integers(0, 2**62),
    meta=st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=3),
)
def test_what_was_saved_last_is_loaded_whatever_came_before(
    tmp_path_factory, saves, offset, clock, meta
):
    meta = {k.encode(errors="replace").decode(): v for k, v in meta.items()}
    folder = tmp_path_factory.mktemp("state")
    with opened(folder) as store:
        assert store.load() is None
        for state in saves:
            save(store, state, offset=offset, clock=clock, meta=meta)
            # Once more, from a process that comes later.
            with opened_beside(folder) as other:
                loaded = other.load()
            assert same(loaded.arrays, state)
            assert (loaded.offset, loaded.clock_unix_nano, loaded.meta) == (offset, clock, meta)
    with opened(folder) as store:
        assert same(store.load().arrays, saves[-1])


@contextmanager
def opened_beside(folder):
    """A copy of the files as a kill -9 would leave them."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in folder.glob("state.db*"):
        shutil.copy(path, copy)
    with opened(copy) as store:
        yield store


def test_a_checkpoint_writes_only_the_pages_that_changed(tmp_path):
    state = {"big": np.zeros(100 * PAGE_BYTES, np.uint8), "small": np.zeros(10, np.int64)}
    with opened(tmp_path) as store:
        save(store, state)
        assert pages_written(store, state) == 0
        state["big"][[5, 50 * PAGE_BYTES, 99 * PAGE_BYTES]] = 1
        assert pages_written(store, state) == 3
        state["small"][3] = 1
        assert pages_written(store, state) == 1
        state["big"] = state["big"][: 40 * PAGE_BYTES + 10]  # its end is cut, one page is short now
        assert pages_written(store, state) == 1
        with closing(sqlite3.connect(tmp_path / "state.db")) as other:
            assert other.execute("SELECT count(*) FROM page").fetchone() == (42,)
        state["new"] = np.ones(PAGE_BYTES, np.uint8)
        assert pages_written(store, state) == 1
        del state["big"]
        assert pages_written(store, state) == 0
    with opened(tmp_path) as store:
        assert same(store.load().arrays, state)
        assert pages_written(store, state) == 0  # the digests were found again


def pages_written(store, state):
    written = []
    store._writer.set_trace_callback(
        lambda statement: written.append(statement) if "INTO page" in statement else None
    )
    save(store, state)
    store._writer.set_trace_callback(None)
    return len(written)


def test_a_save_without_a_load_replaces_what_was_there(tmp_path):
    with opened(tmp_path) as store:
        save(store, {"a": np.arange(100_000), "b": np.arange(5)})
    with opened(tmp_path) as store:
        save(store, {"b": np.arange(7)})
    with opened(tmp_path) as store:
        assert same(store.load().arrays, {"b": np.arange(7)})


def test_a_save_that_fails_changes_nothing_and_can_be_tried_again(tmp_path):
    old, new = {"a": np.zeros(10, np.uint8)}, {"a": np.ones(50 * PAGE_BYTES, np.uint8)}
    rows = buckets((0, 7, 1, 2, 3))
    with opened(tmp_path) as store:
        save(store, old, offset=1, rows=rows)
        (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {pages}")
        for _ in range(2):
            with pytest.raises(StorageError, match="full; check space") as caught:
                save(store, new, offset=2, rows=rows)
            assert not isinstance(caught.value, StateCorrupt)
        with opened_beside(tmp_path) as other:
            loaded = other.load()
            assert loaded.offset == 1
            assert same(loaded.arrays, old)
            assert other.read_minute(7).tolist() == rows.tolist()
        store._writer.execute(f"PRAGMA max_page_count = {1 << 30}")
        save(store, new, offset=2, rows=rows)
        assert store.read_minute(7).tolist() == [(0, 7, 2, 4, 6)]
    with opened(tmp_path) as store:
        assert same(store.load().arrays, new)


def test_a_second_process_is_kept_out(tmp_path):
    with opened(tmp_path), pytest.raises(StorageError, match=r"state\.lock: in use by process"):
        StateStore(tmp_path)


# Buckets

counts = st.integers(-(2**40), 2**40)
many_buckets = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12), counts, counts, counts))


@settings(max_examples=25)
@given(saves=st.lists(many_buckets, max_size=4), first=st.integers(0, 12), size=st.integers(0, 12))
def test_buckets_add_up_exactly(tmp_path_factory, saves, first, size):
    sums = Counter()
    with opened(tmp_path_factory.mktemp("state")) as store:
        store.load()
        for rows in saves:
            save(store, rows=buckets(*rows))
            for slo, minute, *values in rows:
                for column, value in enumerate(values):
                    sums[slo, minute, column] += value
        seen = {(slo, minute) for slo, minute, _ in sums}
        for minute in range(13):
            assert store.read_minute(minute).tolist() == [
                (slo, minute, *(sums[slo, minute, column] for column in range(3)))
                for slo in range(6)
                if (slo, minute) in seen
            ]
        last = first + size
        assert store.sum_minutes(first, last).tolist() == [
            (
                slo,
                last,
                *(sum(sums[slo, m, c] for m in range(first, last + 1)) for c in range(3)),
            )
            for slo in range(6)
            if any((slo, m) in seen for m in range(first, last + 1))
        ]


def test_sums_stop_at_their_limit_instead_of_turning_negative(tmp_path):
    most = np.iinfo(np.int64).max
    with opened(tmp_path) as store:
        save(store, rows=buckets((0, 1, most, 1, -most), (0, 1, most, 1, -most)))
        save(store, rows=buckets((0, 1, most, 1, -most), (0, 2, most, 1, -most)))
        assert store.read_minute(1).tolist() == [(0, 1, SUM_LIMIT, 3, -SUM_LIMIT)]
        assert store.sum_minutes(0, 9).tolist() == [(0, 9, SUM_LIMIT, 4, -SUM_LIMIT)]


def test_old_buckets_are_pruned_the_oldest_first_and_a_bounded_number_at_a_time(tmp_path):
    with opened(tmp_path) as store:
        save(store, rows=buckets(*((0, minute, 1, 0, 0) for minute in range(5_000))))
        assert store.sum_minutes(0, 9_999)["good"] == [5_000]
        left = []
        for _ in range(4):
            save(store, keep_from=4_500)
            left.append(int(store.sum_minutes(0, 9_999)["good"][0]))
        assert left == [3_000, 1_000, 500, 500]
        assert store.read_minute(4_499).size == 0
        assert store.read_minute(4_500).size == 1
    with opened(tmp_path) as store:
        assert store.load() is not None  # and the minutes that are left are as many as there were


def test_an_slo_keeps_its_id_whatever_comes_and_goes(tmp_path):
    with opened(tmp_path) as store:
        assert store.slo_ids(["a", "b", "c"]).tolist() == [0, 1, 2]
        assert store.slo_ids(["c", "a"]).tolist() == [2, 0]
        assert store.slo_ids([]).tolist() == []
    with opened(tmp_path) as store:
        assert store.slo_ids(["d", "c", "é", "b"]).tolist() == [3, 2, 4, 1]
    with opened_beside(tmp_path) as store:
        assert store.slo_ids(["é", "a"]).tolist() == [4, 0]


# Digests


@settings(max_examples=30)
@given(data=st.binary(max_size=300), flip=st.integers(0, 10**9))
def test_any_flipped_bit_changes_the_digest(data, flip):
    if not data:
        return
    array = np.frombuffer(data, np.uint8).copy()
    before = page_digests(array, 64).tolist()
    array[flip % array.size] ^= 1 << flip % 8
    after = page_digests(array, 64).tolist()
    page = flip % array.size // 64
    assert [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [page]


@pytest.mark.parametrize(
    ("text", "digest"),
    [(b"a", 0xD24EC4F1A98C6E5B), (b"abc", 0x44BC2CF5AD770999), (b"", None)],
)
def test_digests_are_xxh64(text, digest):
    found = page_digests(np.frombuffer(text, np.uint8), 64).tolist()
    assert [value & (1 << 64) - 1 for value in found] == ([] if digest is None else [digest])


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    source = np.random.default_rng(1)
    state = {
        "rows": source.integers(0, 255, 5 * PAGE_BYTES // 2).astype(np.uint8),
        "counts": np.arange(100),
    }
    rows = buckets(*((slo, minute, 1, 2, 3) for slo in range(20) for minute in range(300)))
    with opened(folder) as store:
        store.slo_ids([f"slo-{n}" for n in range(20)])
        save(store, state, offset=5, meta={"second": 7}, rows=rows)
    return folder / "state.db", state, rows


def everything(path):
    """All that a store can be asked, or the error that comes first."""
    try:
        with opened(path.parent) as store:
            loaded = store.load()
            ids = store.slo_ids([f"slo-{n}" for n in range(20)]).tolist()
            minutes = [store.read_minute(minute).tolist() for minute in range(300)]
            sums = store.sum_minutes(0, 300).tolist()
            return (ids, loaded, minutes, sums), None
    except StorageError as error:
        return None, error


def damaged(whole, folder, damage):
    data = bytearray(whole[0].read_bytes())
    damage(data)
    for path in folder.glob("state.db*"):
        path.unlink()
    (folder / "state.db").write_bytes(data)
    return everything(folder / "state.db")


def test_no_flipped_byte_is_taken_for_state(whole, tmp_path):
    path, state, rows = whole
    size = path.stat().st_size
    source = random.Random(3)
    headers = [p for page in range(0, size, 16_384) for p in range(page, page + 12)]
    reported = harmless = 0
    for place in sorted({*range(100), *headers, *(source.randrange(size) for _ in range(80))}):

        def flip(data, place=place):
            data[place] ^= 0xFF

        found, error = damaged(whole, tmp_path, flip)
        if error is not None:
            assert isinstance(error, StateCorrupt), (place, error)
            reported += 1
            continue
        ids, loaded, minutes, sums = found
        assert (ids, loaded.offset, loaded.meta) == (list(range(20)), 5, {"second": 7}), place
        assert same(loaded.arrays, state), place
        assert list(chain(*minutes)) == sorted(rows.tolist(), key=lambda row: row[1]), place
        assert sums == [(slo, 300, 300, 600, 900) for slo in range(20)], place
        harmless += 1
    assert reported > 50
    assert harmless > 10


def test_a_file_cut_short_is_reported(whole, tmp_path):
    size = whole[0].stat().st_size
    for length in [1, 100, 512, 16_383, 16_384, *range(size // 7, size, size // 7)]:

        def cut(data, length=length):
            del data[length:]

        _, error = damaged(whole, tmp_path, cut)
        assert isinstance(error, StateCorrupt), (length, error)


def execute(*statements):
    def damage(path):
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"no database " * 1_000), "file is not a database"),
        (
            execute("PRAGMA application_id = 5"),
            r"not a file of outcome-exporter; move it out of storage\.path",
        ),
        (execute("PRAGMA user_version = 2"), "written by a newer version.*run that version"),
        (execute("DROP TABLE minute"), "no such table: minute"),
        (execute("DELETE FROM checkpoint"), "the checkpoint's head is damaged: it is missing"),
        (execute("UPDATE checkpoint SET log_offset = 4"), "head is damaged: its digest differs"),
        (execute("UPDATE checkpoint SET meta = CAST(x'ff' AS TEXT)"), "UTF-8"),
        (execute("DELETE FROM page WHERE id = 1"), "page 1 of 3 of array rows is damaged"),
        (execute("UPDATE page SET data = zeroblob(65472) WHERE id = 1"), "array rows is damaged"),
        (execute("UPDATE page SET data = 'text' WHERE id = 1"), "wrong length"),
        (
            execute(
                "UPDATE minute SET data = (SELECT data FROM minute WHERE minute = 8), "
                "crc = (SELECT crc FROM minute WHERE minute = 8) WHERE minute = 7"
            ),
            "minute 7 of the buckets is damaged: its checksum differs",
        ),
        (execute("DELETE FROM minute WHERE minute = 7"), "minutes of the buckets"),
        (execute("UPDATE slo SET name = 'slo-X' WHERE id = 3"), "SLO 3"),
        (execute("DELETE FROM slo WHERE id = 3"), "names of the SLOs is damaged: 19 of 20"),
        (execute("DELETE FROM slo WHERE id = 19"), "names of the SLOs is damaged: 19 of 20"),
    ],
)
def test_each_damage_is_named_with_the_way_on(whole, tmp_path, damage, said):
    shutil.copy(whole[0], tmp_path / "state.db")
    damage(tmp_path / "state.db")
    _, error = everything(tmp_path / "state.db")
    with pytest.raises(StateCorrupt, match=said):
        raise error
    assert "restore state.db from a backup; or move it away and start without it" in str(error)

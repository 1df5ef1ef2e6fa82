"""The durable log: acknowledged in order and for good, or refused; damage is never passed over."""

import random
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outcome_exporter.errors import LogCorrupt, Overloaded, StorageError
from outcome_exporter.log import DurableLog
from outcome_exporter.log_file import SCHEMA, LogReader
from outcome_exporter.model import Encoding, Kind

SECOND = 1_000_000_000
PLAIN = Encoding.NONE
DEADLINE_SECONDS = 60


class Clock:
    """Nanoseconds that a test sets."""

    def __init__(self, now=1_000 * SECOND):
        self.now = now

    def __call__(self):
        return self.now


@contextmanager
def opened(folder, *, clock=None, max_bytes=1 << 30, keep=0, **options):
    log = DurableLog(
        folder, max_bytes=max_bytes, keep_nanoseconds=keep, now=clock or Clock(), **options
    )
    try:
        yield log
    finally:
        log.close()


def append(log, payload, kind=Kind.TRACES, encoding=PLAIN, decoded=None):
    return log.append(kind, encoding, payload, decoded)


def read(log, offset, max_bytes=1 << 30):
    return log.read(offset, max_bytes=max_bytes, timeout_seconds=0)


def read_all(log, offset=0, max_bytes=1 << 30):
    records = []
    while got := read(log, offset + len(records), max_bytes):
        records += got
    return records


def until(condition):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def payloads(count, size=100, seed=0):
    source = random.Random(seed)
    return [source.randbytes(size) for _ in range(count)]


# Appending


def test_what_was_appended_is_read_back_in_order_from_memory_and_from_disk(tmp_path):
    sent = payloads(50)
    with opened(tmp_path) as log:
        for payload in sent:
            append(log, payload)
        from_memory = read_all(log)
    with opened(tmp_path) as log:
        from_disk = read_all(log)
    assert [record.payload for record in from_memory] == sent
    assert from_disk == from_memory
    assert [record.offset for record in from_disk] == list(range(50))


@settings(max_examples=25)
@given(
    records=st.lists(
        st.tuples(
            st.sampled_from([Kind.TRACES, Kind.LOGS, Kind.CLOUDEVENTS]),
            st.sampled_from(Encoding),
            st.binary(max_size=3_000) | st.binary(max_size=8).map(lambda part: part * 5_000),
        ),
        max_size=8,
    )
)
def test_any_payload_of_any_kind_comes_back_as_it_was(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("log")
    with opened(folder) as log:
        for kind, encoding, payload in records:
            append(log, payload, kind, encoding)
    with opened(folder) as log:
        found = read_all(log)
    assert [(r.kind, r.encoding, r.payload) for r in found] == records


def test_a_plain_payload_is_stored_packed_and_a_compressed_one_as_it_came(tmp_path):
    payload = b"the same again " * 10_000
    with opened(tmp_path) as log:
        append(log, payload)
        packed = log.size_bytes
        append(log, payload, encoding=Encoding.GZIP)
        assert packed < len(payload) // 50
        assert log.size_bytes - packed == len(payload)
    with opened(tmp_path) as log:
        assert [r.payload for r in read_all(log)] == [payload, payload]


def test_an_append_that_returned_is_in_the_file_whatever_becomes_of_the_process(tmp_path):
    with opened(tmp_path) as log:
        for payload in payloads(20):
            record = append(log, payload)
            # Another connection sees only what was committed.
            with closing(LogReader(tmp_path / "log.db")) as reader:
                assert reader.read(record.offset, max_bytes=1)[0].payload == payload


def test_those_who_wait_share_a_commit_and_each_is_told_its_own_place(tmp_path):
    threads, each = 16, 20
    with opened(tmp_path) as log:
        commits = count_commits(log)

        def send(number):
            return [(append(log, p), p) for p in payloads(each, seed=number)]

        with ThreadPoolExecutor(threads) as pool:
            with log._storing:  # the first commit has to wait
                futures = [pool.submit(send, number) for number in range(threads)]
                until(lambda: len(log._queue) + len(log._taken) == threads)
            told = [pair for future in futures for pair in future.result()]
        assert sorted(record.offset for record, _ in told) == list(range(threads * each))
        assert commits() < threads * each
        found = {record.offset: record for record in read_all(log)}
    for record, payload in told:
        assert found[record.offset].payload == payload
        assert found[record.offset].arrival_unix_nano == record.arrival_unix_nano


def count_commits(log):
    counted = []
    publish = log._publish

    def counting(group):
        counted.append(len(group))
        publish(group)

    log._publish = counting
    return lambda: len(counted)


@settings(max_examples=30)
@given(leaps=st.lists(st.integers(-5 * SECOND, 5 * SECOND), min_size=1, max_size=30))
def test_arrivals_increase_strictly_whatever_the_clock_does(tmp_path_factory, leaps):
    folder, clock = tmp_path_factory.mktemp("log"), Clock()
    arrivals, promised = [], 0
    for part in (leaps[::2], leaps[1::2]):  # with a restart between
        with opened(folder, clock=clock) as log:
            for leap in part:
                clock.now += leap
                if leap % 3 == 0 and log.quiesce(log.next_offset, clock.now):
                    promised = max(promised, clock.now)
                record = append(log, b"x")
                arrivals.append(record.arrival_unix_nano)
                assert record.arrival_unix_nano >= clock.now
                assert record.arrival_unix_nano > promised
            promised = 0  # a checkpoint keeps it; see `resume`
    assert arrivals == sorted(set(arrivals))


def test_no_promise_is_given_while_a_record_is_unread_or_on_its_way(tmp_path):
    clock = Clock()
    with opened(tmp_path, clock=clock) as log:
        assert log.quiesce(0, clock.now + 50)
        assert append(log, b"a").arrival_unix_nano == clock.now + 51
        assert not log.quiesce(0, clock.now + 99)
        assert log.quiesce(1, clock.now + 99)
        with ThreadPoolExecutor(1) as pool:
            with log._storing:
                on_its_way = pool.submit(append, log, b"b")
                until(lambda: log._queue or log._taken)
                assert not log.quiesce(1, clock.now + 1_000)
            assert on_its_way.result().arrival_unix_nano == clock.now + 100


# Reading


def test_a_reader_that_waits_gets_what_comes_and_one_that_waits_in_vain_nothing(tmp_path):
    with opened(tmp_path) as log, ThreadPoolExecutor(1) as pool:
        assert read(log, 0) == []
        waiting = pool.submit(log.read, 0, max_bytes=1, timeout_seconds=DEADLINE_SECONDS)
        append(log, b"x")
        assert [record.payload for record in waiting.result()] == [b"x"]
        waiting = pool.submit(log.read, 1, max_bytes=1, timeout_seconds=DEADLINE_SECONDS)
        log.close()
        assert waiting.result() == []


@pytest.mark.parametrize("tail_bytes", [0, 1 << 30])
def test_a_read_takes_about_as_much_as_asked_and_at_least_one(tmp_path, tail_bytes):
    with opened(tmp_path, tail_bytes=tail_bytes) as log:
        for payload in payloads(10, size=1_000):
            append(log, payload)
        assert len(read(log, 0, max_bytes=1)) == 1
        assert len(read(log, 0, max_bytes=3_500)) == 3 if tail_bytes else 4
        assert len(read_all(log, max_bytes=3_500)) == 10


def test_what_was_decoded_comes_with_the_record_while_the_reader_keeps_up(tmp_path):
    decoded = ("anything", 1)
    with opened(tmp_path, tail_bytes=5_000) as log:
        append(log, b"first", decoded=decoded)
        assert read(log, 0)[0].decoded is decoded
        for payload in payloads(10, size=1_000):
            append(log, payload)
        assert read(log, 0)[0].decoded is None
        assert read(log, 0)[0].payload == b"first"


def test_memory_holds_the_newest_records_up_to_its_limit(tmp_path):
    with opened(tmp_path, tail_bytes=100_000) as log:
        for payload in payloads(100, size=10_000):
            append(log, payload)
            assert log._tail._bytes <= 100_000
        assert 5 <= len(log._tail._held) <= 10
        assert len(read_all(log)) == 100


def test_a_log_that_runs_can_be_read_by_others_and_one_that_was_kept_too(tmp_path):
    sent = payloads(30)
    with opened(tmp_path) as log:
        for payload in sent[:20]:
            append(log, payload)
        with closing(LogReader(tmp_path / "log.db")) as reader:
            assert (reader.first_offset, reader.next_offset) == (0, 20)
            for payload in sent[20:]:
                append(log, payload)
            assert reader.next_offset == 30
    with closing(LogReader(tmp_path / "log.db")) as reader:
        assert [r.payload for r in reader.read(0, max_bytes=1 << 30)] == sent
        assert reader.read(30, max_bytes=1) == []
        reader.close()
        reader.close()


# Limits


def test_a_log_that_is_full_refuses_until_it_was_trimmed(tmp_path):
    with opened(tmp_path, max_bytes=10_000) as log:
        for payload in payloads(10, size=1_000):
            append(log, payload)
        with pytest.raises(Overloaded, match=r"storage\.max_log, 10000 bytes.*try again in"):
            append(log, bytes(1))
        log.trim(5)
        for payload in payloads(5, size=1_000):
            append(log, payload)
        with pytest.raises(Overloaded):
            append(log, bytes(1))
        assert [r.offset for r in read_all(log, 5)] == list(range(5, 15))


def test_a_full_log_takes_the_exporters_own_records(tmp_path):
    with opened(tmp_path, max_bytes=1_000) as log:
        append(log, payloads(1, size=1_000)[0])
        with pytest.raises(Overloaded):
            append(log, b"x")
        assert append(log, b"", Kind.START).offset == 1
        assert append(log, b"", Kind.CLOCK).offset == 2


def test_what_is_being_stored_is_bounded_and_one_request_always_fits(tmp_path):
    with opened(tmp_path, in_flight_bytes=10_000) as log:
        append(log, bytes(50_000))
        with ThreadPoolExecutor(2) as pool:
            with log._storing:
                first = pool.submit(append, log, bytes(8_000))
                until(lambda: log._queue or log._taken)
                with pytest.raises(Overloaded, match="too many requests are being stored at once"):
                    append(log, bytes(8_000))
            assert first.result().offset == 1
        until(lambda: log._in_flight == 0)


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path):
    with opened(tmp_path) as log:
        append(log, b"before")
        limit_pages(log, 0)
        for payload in payloads(3, size=200_000):
            with pytest.raises(Overloaded, match="full"):
                append(log, payload)
        assert log.next_offset == 1
        assert log._in_flight == 0
        limit_pages(log, 1 << 30)
        assert append(log, b"after").offset == 1
        assert [r.payload for r in read_all(log)] == [b"before", b"after"]


def limit_pages(log, more):
    with log._storing:
        (pages,) = log._connection.execute("PRAGMA page_count").fetchone()
        log._connection.execute(f"PRAGMA max_page_count = {pages + more}")


def test_a_log_that_was_closed_refuses_and_what_was_on_its_way_is_stored(tmp_path):
    log = DurableLog(tmp_path, max_bytes=1 << 30, keep_nanoseconds=0, now=Clock())
    with ThreadPoolExecutor(5) as pool:
        with log._storing:
            sent = [pool.submit(append, log, p) for p in payloads(4)]
            until(lambda: len(log._queue) + len(log._taken) == 4)
            closing_log = pool.submit(log.close)
            until(lambda: log._closed)
        closing_log.result()
        assert sorted(future.result().offset for future in sent) == [0, 1, 2, 3]
    with pytest.raises(Overloaded, match="shutting down"):
        append(log, b"late")
    log.close()
    with opened(tmp_path) as log:
        assert len(read_all(log)) == 4


def test_a_second_process_is_kept_out_and_told_by_whom(tmp_path):
    with opened(tmp_path), pytest.raises(StorageError, match=r"log\.lock: in use by process \d+"):
        opened(tmp_path).__enter__()
    with opened(tmp_path):
        pass


def test_a_writer_that_fails_leaves_nobody_waiting(tmp_path):
    with opened(tmp_path) as log, ThreadPoolExecutor(3) as pool:
        reader = pool.submit(log.read, 0, max_bytes=1, timeout_seconds=DEADLINE_SECONDS)
        log._store = None  # a defect
        with pytest.raises(Overloaded, match="the writer failed"):
            append(log, b"x")
        with pytest.raises(StorageError, match="the writer failed"):
            reader.result()
        with pytest.raises(Overloaded):
            append(log, b"y")


# Trimming


def test_what_was_trimmed_is_gone_and_its_space_is_used_again(tmp_path):
    with opened(tmp_path) as log:
        sizes = []
        for round_ in range(6):
            for payload in payloads(50, size=20_000, seed=round_):
                append(log, payload)
            log.trim(log.next_offset)
            until(lambda: stored_records(log) == 0)
            assert log.size_bytes == 0
            assert log.first_offset == log.next_offset == 50 * (round_ + 1)
            with log._storing:
                sizes.append(log._connection.execute("PRAGMA page_count").fetchone()[0])
        assert sizes[-1] <= sizes[1]
        with pytest.raises(LogCorrupt, match=r"begins at 300; state\.db is older"):
            read(log, 299)
    with opened(tmp_path) as log:
        assert (log.first_offset, log.next_offset, log.size_bytes) == (300, 300, 0)


def stored_records(log):
    with log._storing:
        return log._connection.execute("SELECT count(*) FROM record").fetchone()[0]


def test_an_arrival_stays_later_than_what_was_trimmed(tmp_path):
    clock = Clock()
    with opened(tmp_path, clock=clock) as log:
        last = append(log, b"x").arrival_unix_nano
        log.trim(1)
        until(lambda: stored_records(log) == 0)
    clock.now -= 100 * SECOND
    with opened(tmp_path, clock=clock) as log:
        assert append(log, b"y").arrival_unix_nano == last + 1


def test_records_for_replays_stay_as_long_as_configured_and_no_longer(tmp_path):
    clock = Clock()
    with opened(tmp_path, clock=clock, keep=60 * SECOND) as log:
        for _ in range(10):
            append(log, b"x")
            clock.now += 10 * SECOND
        log.trim(8)
        assert log.first_offset == 4  # arrived 60 s ago
        until(lambda: stored_records(log) == 6)
        clock.now += 1_000 * SECOND
        log.trim(8)
        assert log.first_offset == 8  # the rest is not accounted for
        until(lambda: stored_records(log) == 2)


def test_records_for_replays_take_half_of_the_log_at_most(tmp_path):
    with opened(tmp_path, max_bytes=100_000, keep=1 << 62) as log:
        for payload in payloads(150, size=1_000):
            append(log, payload)
            log.trim(log.next_offset)
            assert log.size_bytes <= 51_000
        assert log.first_offset == 100
        assert len(read_all(log, 100)) == 50


def test_sizes_are_true_whatever_is_appended_while_it_is_trimmed(tmp_path):
    with opened(tmp_path) as log:
        place = log._place

        def slow_place(offset):
            found = place(offset)
            append(log, payloads(1, size=1_000)[0])  # comes between looking and cutting
            return found

        append(log, payloads(1, size=1_000)[0])
        log._place = slow_place
        log.trim(1)
        log._place = place
        assert log.size_bytes == 1_000
        log.trim(2)
        assert log.size_bytes == 0


def test_trimming_that_was_interrupted_goes_on_with_the_next(tmp_path):
    with opened(tmp_path) as log:
        for payload in payloads(10):
            append(log, payload)
        slice_end, log._slice_end = log._slice_end, failing
        log.trim(10)
        until(lambda: not log._trimming)
        log._slice_end = slice_end
        assert stored_records(log) == 10
        log.trim(10)
        until(lambda: stored_records(log) == 0)


def failing(*_):
    raise sqlite3.OperationalError("disk I/O error")


def test_lag_is_what_the_reader_has_not_read(tmp_path):
    clock = Clock()
    with opened(tmp_path, clock=clock) as log:
        for payload in payloads(5, size=1_000):
            append(log, payload)
            clock.now += SECOND
        assert [log.lag_bytes(n) for n in (0, 4, 5)] == [5_000, 1_000, 0]
        assert log.oldest_unread_unix_nano(2) == 1_002 * SECOND
        assert log.oldest_unread_unix_nano(5) is None
        log.trim(3)
        assert log.size_bytes == 2_000


# Going on where a checkpoint ended


def test_a_log_goes_on_where_the_checkpoint_ended(tmp_path):
    clock = Clock()
    with opened(tmp_path, clock=clock) as log:
        for _ in range(5):
            append(log, b"x")
        log.trim(2)
        until(lambda: stored_records(log) == 3)
    with opened(tmp_path, clock=clock) as log:
        assert log.resume(3, clock.now + 7 * SECOND)
        assert [r.offset for r in read_all(log, 3)] == [3, 4]
        # Later than the clock of the checkpoint.
        assert append(log, b"y").arrival_unix_nano == clock.now + 7 * SECOND + 1
    said = r"begins at 2; state\.db is older than log\.db: restore both from the same moment"
    with opened(tmp_path) as log, pytest.raises(LogCorrupt, match=said):
        log.resume(1, 0)


def test_a_log_that_was_lost_begins_anew_where_the_checkpoint_ended(tmp_path):
    clock = Clock()
    with opened(tmp_path, clock=clock) as log:
        assert not log.resume(1_000, clock.now + SECOND)
        assert (log.first_offset, log.next_offset, log.size_bytes) == (1_000, 1_000, 0)
        record = append(log, b"x")
        assert (record.offset, record.arrival_unix_nano) == (1_000, clock.now + SECOND + 1)
        assert read_all(log, 1_000) == [record]
    with opened(tmp_path, clock=clock) as log:
        assert log.resume(1_000, 0)
        assert [r.offset for r in read_all(log, 1_000)] == [1_000]


def test_a_log_older_than_the_checkpoint_is_begun_anew_and_keeps_nothing(tmp_path):
    with opened(tmp_path) as log:
        for payload in payloads(5):
            append(log, payload)
    with opened(tmp_path) as log:
        assert not log.resume(9, 0)
        assert (log.first_offset, log.next_offset, log.size_bytes) == (9, 9, 0)
        append(log, b"y")
        assert [r.payload for r in read_all(log, 9)] == [b"y"]
    with opened(tmp_path) as log:
        assert [r.payload for r in read_all(log, 9)] == [b"y"]


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file with records, all copied out of the write-ahead log."""
    folder = tmp_path_factory.mktemp("whole")
    sent = payloads(30, size=200) + payloads(3, size=30_000) + [b"packed " * 3_000]
    with opened(folder) as log:
        for payload in sent:
            append(log, payload)
    assert [path.name for path in folder.iterdir() if path.stat().st_size > 100] == ["log.db"]
    return folder / "log.db", sent


def survivors(path):
    """What can be read before the first error, and the error; opens as the exporter does."""
    found = []
    try:
        with opened(path.parent) as log:
            while len(found) < log.next_offset:
                found += read(log, len(found), max_bytes=1)
    except StorageError as error:
        return found, error
    return found, None


def damaged(whole, folder, damage):
    path, sent = whole
    copy = folder / "log.db"
    data = bytearray(path.read_bytes())
    damage(data)
    copy.write_bytes(data)
    for companion in ("log.db-wal", "log.db-shm"):
        (folder / companion).unlink(missing_ok=True)
    found, error = survivors(copy)
    for n, record in enumerate(found):
        assert record.payload == sent[n], "damage was passed over"
        assert record.offset == n
    return found, error


def places(size, count):
    source = random.Random(size)
    page = SCHEMA.page_bytes
    headers = [*range(100), *range(page, page + 120)]
    return headers + [source.randrange(size) for _ in range(count)]


def test_no_flipped_byte_is_passed_over(whole, tmp_path):
    """Each flip is reported with a remedy, at the first record it hurts, or hurts nothing."""
    path, sent = whole
    reported = harmless = 0
    for place in places(path.stat().st_size, 120):

        def flip(data, place=place):
            data[place] ^= 0xFF

        found, error = damaged(whole, tmp_path, flip)
        if error is None:
            assert len(found) == len(sent), f"records are missing silently: byte {place}"
            harmless += 1
        else:
            assert isinstance(error, LogCorrupt), (place, error)
            assert "move it" in str(error) or "restore" in str(error), error
            reported += 1
    assert reported > 50
    assert harmless > 10


def test_a_damaged_payload_costs_the_records_from_it_on_and_says_so(whole, tmp_path):
    _, sent = whole

    def flip(data):
        at = -1
        # Wherever it stands: SQLite moves rows, and leaves what was there before.
        while (at := data.find(sent[12], at + 1)) >= 0:
            data[at + 50] ^= 1

    found, error = damaged(whole, tmp_path, flip)
    assert len(found) == 12
    assert error.offset == 12
    assert "log is damaged at offset 12" in str(error)
    assert "the record's checksum differs" in str(error)
    assert "restore log.db from a backup; or move it away and start without it" in str(error)


def test_a_file_cut_short_is_reported_or_lost_nothing(whole, tmp_path):
    path, _ = whole
    size = path.stat().st_size
    page = SCHEMA.page_bytes
    edges = [1, 50, 100, 512, page - 1, page, page + 3_616]
    for length in [*edges, *range(size // 9, size, size // 9)]:

        def cut(data, length=length):
            del data[length:]

        found, error = damaged(whole, tmp_path, cut)
        assert isinstance(error, LogCorrupt), (length, len(found), error)


def test_a_torn_write_ahead_log_ends_with_what_was_whole(tmp_path):
    """A power cut tears off its end: whatever whole commits are left are there, in order."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    sent = payloads(12, size=3_000)
    with opened(source) as log:
        for payload in sent:
            append(log, payload)
        with log._storing:
            database, wal = (source / name for name in ("log.db", "log.db-wal"))
            main, frames = database.read_bytes(), wal.read_bytes()
    counts = []
    for length in range(0, len(frames) + 1, 5_000):
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        (copy / "log.db").write_bytes(main)
        (copy / "log.db-wal").write_bytes(frames[:length])
        found, error = survivors(copy / "log.db")
        assert error is None
        assert [record.payload for record in found] == sent[: len(found)]
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[-1] >= 11
    assert counts[0] == 0


def foreign(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t(a)")
        connection.commit()


def newer(path):
    with opened(path.parent):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def without_its_table(path):
    with opened(path.parent):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE record")


def of_an_unknown_kind(path):
    with opened(path.parent) as log:
        append(log, b"x", kind=77)


def of_the_wrong_type(path):
    with opened(path.parent) as log:
        append(log, b"x")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE record SET payload = 5, position = 'far'")
        connection.commit()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"no database " * 1_000), "file is not a database"),
        (foreign, "not a file of outcome-exporter; move it out of storage.path"),
        (newer, "newer version of outcome-exporter .its format 99, this one knows 1.; run that"),
        (without_its_table, "no such table: record"),
        (of_an_unknown_kind, "newer version of outcome-exporter .*run that version"),
        (of_the_wrong_type, "a column holds what it cannot"),
    ],
)
def test_a_file_that_is_not_a_log_of_this_version_is_refused(tmp_path, make, said):
    make(tmp_path / "log.db")
    found, error = survivors(tmp_path / "log.db")
    assert found == []
    assert isinstance(error, LogCorrupt)
    with pytest.raises(LogCorrupt, match=said):
        raise error
    with pytest.raises(LogCorrupt), closing(LogReader(tmp_path / "log.db")) as reader:
        reader.read(0, max_bytes=1)


def test_a_record_that_vanished_is_missed(whole, tmp_path):
    path, _ = whole
    shutil.copy(path, tmp_path / "log.db")
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute("DELETE FROM record WHERE offset = 7")
        connection.commit()
    found, error = survivors(tmp_path / "log.db")
    assert len(found) == 7
    assert "the record is missing, the next one is 8" in str(error)


def test_damage_that_appears_while_it_runs_stops_the_log_for_good(tmp_path):
    with opened(tmp_path) as log:
        append(log, b"x")
        with log._storing:
            log._connection.execute("DROP TABLE record")
        with pytest.raises(Overloaded):
            append(log, b"y")
        with pytest.raises(LogCorrupt, match="no such table"):
            log.read(1, max_bytes=1, timeout_seconds=DEADLINE_SECONDS)
        with pytest.raises(Overloaded, match="damaged"):
            append(log, b"z")


def test_many_senders_and_a_reader_that_trims_lose_and_double_nothing(tmp_path):
    """The whole at work: the reader sees every accepted payload once, in the order of offsets."""
    with opened(tmp_path, max_bytes=200_000, tail_bytes=30_000) as log:
        accepted, lock = set(), threading.Lock()

        def send(number):
            for payload in payloads(60, size=1_000, seed=number):
                while True:
                    try:
                        append(log, payload)
                        break
                    except Overloaded:
                        time.sleep(0.001)
                with lock:
                    accepted.add(payload)

        seen = []
        with ThreadPoolExecutor(4) as pool:
            sending = [pool.submit(send, number) for number in range(4)]
            while len(seen) < 240:
                got = log.read(len(seen), max_bytes=9_000, timeout_seconds=DEADLINE_SECONDS)
                assert got
                seen += got
                log.trim(len(seen))
            for future in sending:
                future.result()
        assert [record.offset for record in seen] == list(range(240))
        assert {record.payload for record in seen} == accepted

"""The durable log: what was acknowledged is in it, in order, until it is accounted for.

Receivers append, the pipeline reads. `log.db`, a file of its own, holds one row a record:

    record   offset (key), position, arrival, kind, encoding, packed, crc, payload
    head     one row: offset, arrival and position to go on from when all records are gone

`position` is how many stored bytes came before the record since the log began: the difference of
two is the size of what lies between, without reading it. `packed` says that the payload came
uncompressed and is stored with zstd. The CRC-32 covers the row and the payload.

**Group commit.** One thread writes. While it commits, others queue; the next commit takes all of
them, so that the cost of an fsync is shared by as many as are waiting. An append returns when its
commit did. Payloads are compressed and summed before, in the caller's thread, without the
interpreter's lock.

**Arrival stamps** are given when the writer takes a record, so their order is that of the offsets:
strictly increasing, above every promise that `quiesce` gave, also when the system clock leaps back.

**Reading** is served from a bounded tail in memory while the reader keeps up, with what the
receiver decoded still attached; from the file otherwise. Whoever receives calls `wait_for_reader`
before it begins: what the reader has to decode again costs twice.

**Trimming** takes effect at once; rows are deleted by the writer a slice at a time between commits,
and their space is used again. The file does not shrink. If it is interrupted, the next `trim` goes
on. Records kept for replays may take half of `max_bytes`.

When the disk is full or fails, appends are refused as `Overloaded`, and work again once it is well.
What was refused may exist after a crash all the same (as with any sender that lost its reply): the
stages tell duplicates.
"""

import logging
import sqlite3
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard
from isal.isal_zlib import crc32  # four times as fast as zlib's

from outcome_exporter.database import (
    WAL_BYTES,
    FileLock,
    Schema,
    check_identity,
    connect,
    copy_wal,
    is_damage,
    open_database,
    reading,
    transaction,
    translated,
)
from outcome_exporter.errors import LogCorrupt, Overloaded, StorageError
from outcome_exporter.model import OWN_KINDS, Batch, Encoding, Kind, Record

logger = logging.getLogger(__name__)

_PACK_ABOVE_BYTES = 1 << 10
_PACK_LEVEL = -3
"""Of zstd. CPU seconds for a million spans of 423 bytes, and what remains of them, of synthetic
and of recorded spans: level 1 takes 0.35 s for 68 MB and 0.71 for 135, level -3 0.22 for 81 and
0.53 for 163, level -10 0.18 for 110 and 0.41 for 214. Storing a megabyte costs a millisecond."""
_GROUP_BYTES = 64 << 20
_SLICE_RECORDS = 4_096
_SLICE_BYTES = 32 << 20
_RECORD_OVERHEAD_BYTES = 512
"""About what a waiting record takes beside its payload."""
_OBJECT_BYTES = 2_048
"""About what a decoded event takes in memory."""

Decoded = Batch | None

_HEAD = struct.Struct("<qqqBBB")

SCHEMA = Schema(
    application_id=0x4F584C47,  # "OXLG"
    # SQLite's largest. CPU seconds for a million spans of 78 bytes, compressed: 0.43 with 4 KiB,
    # 0.32 with 16 KiB, 0.20 with 64 KiB. A lone small record costs a write of a whole page.
    page_bytes=65_536,
    create=(
        """CREATE TABLE record(
            offset INTEGER PRIMARY KEY, position INTEGER NOT NULL, arrival INTEGER NOT NULL,
            kind INTEGER NOT NULL, encoding INTEGER NOT NULL, packed INTEGER NOT NULL,
            crc INTEGER NOT NULL, payload BLOB NOT NULL)""",
        """CREATE TABLE head(
            id INTEGER PRIMARY KEY CHECK (id = 1), offset INTEGER NOT NULL,
            arrival INTEGER NOT NULL, position INTEGER NOT NULL)""",
        "INSERT INTO head VALUES (1, 0, 0, 0)",
    ),
)


class _Row(NamedTuple):
    """A record as it is stored."""

    offset: int
    position: int
    arrival: int
    kind: int
    encoding: int
    packed: int
    crc: int
    payload: bytes


class _Codec(threading.local):
    """A thread's zstd contexts: making one takes longer than packing 4 KB with it."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_PACK_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()

    def pack(self, payload: bytes) -> bytes:
        """The payload with zstd where that is worth it; otherwise the payload itself."""
        if len(payload) <= _PACK_ABOVE_BYTES:
            return payload
        packed = self.compressor.compress(payload)
        return packed if len(packed) < len(payload) - len(payload) // 8 else payload


class _Waiting:
    """An append on its way."""

    __slots__ = (
        "cost",
        "decoded",
        "done",
        "encoding",
        "kind",
        "payload",
        "payload_crc",
        "problem",
        "record",
        "stored",
    )

    def __init__(
        self, kind: Kind, encoding: Encoding, payload: bytes, stored: bytes, decoded: Decoded
    ) -> None:
        self.kind = kind
        self.encoding = encoding
        self.payload = payload
        self.decoded = decoded
        self.stored = stored
        self.payload_crc = crc32(stored)
        self.cost = len(payload) + _RECORD_OVERHEAD_BYTES
        self.done = threading.Event()
        self.record: Record | None = None
        self.problem = ""

    def row(self, offset: int, position: int, arrival: int) -> _Row:
        packed = int(self.stored is not self.payload)
        head = (offset, position, arrival, self.kind, self.encoding, packed)
        crc = crc32(_HEAD.pack(*head), self.payload_crc)
        return _Row(*head, crc, self.stored)


class _Held(NamedTuple):
    """A record in memory."""

    record: Record
    position: int
    bytes: int


class _Tail:
    """The newest records, up to so many bytes; the newest one always. Offsets are dense."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._held: dict[int, _Held] = {}

    def add(self, record: Record, position: int) -> None:
        held = _Held(record, position, _bytes_in_memory(record))
        self._held[record.offset] = held
        self._bytes += held.bytes
        while self._bytes > self._max_bytes and len(self._held) > 1:
            self._drop_oldest()

    def drop_before(self, offset: int) -> None:
        while self._held and next(iter(self._held)) < offset:
            self._drop_oldest()

    def get(self, offset: int) -> _Held | None:
        return self._held.get(offset)

    @property
    def is_half_full(self) -> bool:
        return 2 * self._bytes > self._max_bytes

    def _drop_oldest(self) -> None:
        self._bytes -= self._held.pop(next(iter(self._held))).bytes


class LogReader:
    """Reads a log's file: of a log that runs, or of one that was kept.

    Threads may share it. It sees what was committed when it is asked.

    Args:
        path: The file `log.db`.

    Raises:
        LogCorrupt: It is no log, or of a newer version.
        StorageError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._codec = _Codec()
        self._lock = threading.Lock()
        with translated(path, _corrupt_file):
            self._connection = connect(path, read_only=True)
            try:
                version = check_identity(self._connection, path, SCHEMA, _corrupt_file)
            except BaseException:
                self._connection.close()
                raise
        if version != SCHEMA.version:
            self._connection.close()
            raise _corrupt_file(f"{path}: format {version}, this version reads {SCHEMA.version}")

    @property
    def first_offset(self) -> int:
        """Of the oldest record, or `next_offset`."""
        return self._one("SELECT coalesce((SELECT min(offset) FROM record), offset) FROM head")

    @property
    def next_offset(self) -> int:
        """One more than that of the newest record."""
        return self._one(
            "SELECT max(offset, coalesce((SELECT max(offset) + 1 FROM record), 0)) FROM head"
        )

    def read(self, offset: int, *, max_bytes: int) -> list[Record]:
        """Records from `offset` on, at least one unless there are none, at most about `max_bytes`.

        Raises:
            LogCorrupt: The first of them is damaged or missing; those before damage are returned.
        """
        records: list[Record] = []
        budget = max_bytes
        for row in self._rows(offset, max_bytes):
            try:
                record = self._verified(row, offset + len(records), records[-1:])
            except LogCorrupt:
                if records:
                    return records
                raise
            budget -= len(record.payload)
            if records and budget < 0:
                return records
            records.append(record)
        return records

    def place(self, offset: int) -> tuple[int, int] | None:
        """Position and arrival of a record; None where there is none."""
        with self._lock, reading(self._path, _corrupt_at(offset)):
            row = self._connection.execute(
                "SELECT position, arrival FROM record WHERE offset = ?", (offset,)
            ).fetchone()
        return None if row is None else (int(row[0]), int(row[1]))

    def close(self) -> None:
        """Once more does nothing."""
        with self._lock:
            self._connection.close()

    def _one(self, query: str) -> int:
        with self._lock, reading(self._path, _corrupt_file):
            return int(self._connection.execute(query).fetchone()[0])

    def _rows(self, offset: int, max_bytes: int) -> list[_Row]:
        # All rows are taken before any is unpacked: a cursor that stays open keeps the writer
        # from using the start of its WAL again.
        rows: list[_Row] = []
        size = 0
        with self._lock, reading(self._path, _corrupt_at(offset)):
            query = "SELECT * FROM record WHERE offset >= ? ORDER BY offset"
            with closing(self._connection.execute(query, (offset,))) as cursor:
                try:
                    for values in cursor:
                        rows.append(_Row(*values))
                        size += len(rows[-1].payload)
                        if size >= max_bytes:
                            break
                except sqlite3.DatabaseError as error:
                    if not rows or not is_damage(error):
                        raise
        return rows

    def _verified(self, row: _Row, offset: int, before: Sequence[Record]) -> Record:
        corrupt = _corrupt_at(offset)
        if row.offset != offset:
            raise corrupt(f"{self._path}: the record is missing, the next one is {row.offset}")
        try:
            head = _HEAD.pack(*row[:6])
            good = crc32(head, crc32(row.payload)) == row.crc
        except (struct.error, TypeError):
            good = False
        if not good or (before and before[-1].arrival_unix_nano >= row.arrival):
            raise corrupt(f"{self._path}: the record's checksum differs")
        try:
            kind, encoding = Kind(row.kind), Encoding(row.encoding)
        except ValueError as error:
            raise corrupt(
                f"{self._path}: written by a newer version of outcome-exporter ({error}); "
                "run that version"
            ) from error
        payload = self._codec.decompressor.decompress(row.payload) if row.packed else row.payload
        return Record(offset, row.arrival, kind, encoding, payload)


class DurableLog:
    """Appends from many threads, one reader, one process.

    Args:
        folder: Where `log.db` is, or is to be made.
        max_bytes: Stored payload above which senders are asked to wait.
        keep_nanoseconds: How long records that are accounted for are kept for replays.
        now: The clock, nanoseconds since 1970.
        tail_bytes: Memory for what the reader has not read yet.
        in_flight_bytes: Memory for what is not durable yet; above it senders are asked to wait.

    Raises:
        LogCorrupt: The file is damaged, not ours, or of a newer version.
        StorageError: Another process has it, or it cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        keep_nanoseconds: int,
        now: Callable[[], int],
        tail_bytes: int = 128 << 20,
        in_flight_bytes: int = 128 << 20,
    ) -> None:
        self._path = folder / "log.db"
        self._max_bytes = max_bytes
        self._keep_nanoseconds = keep_nanoseconds
        self._in_flight_bytes = in_flight_bytes
        self._now = now
        self._file_lock = FileLock(folder / "log.lock")
        try:
            self._connection = open_database(self._path, SCHEMA, _corrupt_file)
            try:
                with reading(self._path, _corrupt_file):
                    self._take_stock()
                self._disk = LogReader(self._path)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._file_lock.release()
            raise

        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._arrived = threading.Condition(self._lock)
        self._read = threading.Condition(self._lock)
        self._codec = _Codec()
        self._storing = threading.Lock()  # who holds it may use `_connection`
        self._queue: deque[_Waiting] = deque()
        self._in_flight = 0
        self._taken: list[tuple[_Waiting, _Row]] = []
        self._trimming = False
        self._closed = False
        self._broken: StorageError | None = None
        self._problem = ""
        self._tail = _Tail(tail_bytes)
        self._uncopied_bytes = 0
        self._writer = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._writer.start()

    def _take_stock(self) -> None:
        one = self._connection.execute
        head_offset, head_arrival, head_position = one(
            "SELECT offset, arrival, position FROM head"
        ).fetchone()
        first = one("SELECT offset, position FROM record ORDER BY offset LIMIT 1").fetchone()
        last = one(
            "SELECT offset + 1, arrival, position + length(payload) FROM record "
            "ORDER BY offset DESC LIMIT 1"
        ).fetchone()
        newest = max((head_offset, head_arrival, head_position), last or (0, 0, 0))
        self._next_offset, self._arrival, self._next_position = (int(value) for value in newest)
        first = first or (self._next_offset, self._next_position)
        self._first_offset, self._first_position = (int(value) for value in first)
        self._stored_first = self._first_offset
        self._promise = 0

    @property
    def problem(self) -> str:
        """Why the last append could not be stored; empty where it could."""
        return self._problem

    # Sizes and places

    @property
    def next_offset(self) -> int:
        """Offset that the next record will get."""
        return self._next_offset

    @property
    def first_offset(self) -> int:
        """Of the oldest record that can be read, or `next_offset`."""
        return self._first_offset

    @property
    def size_bytes(self) -> int:
        """Payload in the log, as it is stored."""
        return self._next_position - self._first_position

    def lag_bytes(self, offset: int) -> int:
        """Payload from `offset` on, as it is stored."""
        with self._lock:
            end = self._next_position
        place = self._place(offset)
        return 0 if place is None else max(0, end - place[0])

    def oldest_unread_unix_nano(self, offset: int) -> int | None:
        """Arrival of the record at `offset`; None where it has not come yet."""
        place = self._place(offset)
        return None if place is None else place[1]

    def _place(self, offset: int) -> tuple[int, int] | None:
        with self._lock:
            if offset >= self._next_offset or self._closed:
                return None
            held = self._tail.get(offset)
        if held is not None:
            return held.position, held.record.arrival_unix_nano
        return self._disk.place(offset)

    # Appending

    def append(
        self, kind: Kind, encoding: Encoding, payload: bytes, decoded: Decoded = None
    ) -> Record:
        """Adds a record; returns once it is durable. Called from many threads.

        Args:
            kind: What it holds.
            encoding: How the payload is compressed, as it came.
            payload: As it came.
            decoded: What the receiver made of it, for a reader that keeps up.

        Raises:
            Overloaded: There is no room, the disk is full or fails, or the log is closed. It was
                not acknowledged; the sender is to try again. For want of configured room only
                senders are refused: the exporter's own records, which are empty, let it go on.
        """
        cost = len(payload) + _RECORD_OVERHEAD_BYTES
        with self._lock:
            self._refuse_if_stopped()
            if kind not in OWN_KINDS:
                self._refuse_if_full(len(payload), cost)
            self._in_flight += cost
        queued = False
        try:
            stored = self._codec.pack(payload) if encoding == Encoding.NONE else payload
            waiting = _Waiting(kind, encoding, payload, stored, decoded)
            with self._lock:
                self._refuse_if_stopped()
                self._queue.append(waiting)
                queued = True
                self._work.notify()
        finally:
            if not queued:
                with self._lock:
                    self._in_flight -= cost
        waiting.done.wait()
        if waiting.record is None:
            raise Overloaded(waiting.problem)
        return waiting.record

    def wait_for_reader(self, timeout_seconds: float) -> None:
        """Waits while what the reader has not read takes half of the tail, up to the timeout."""
        with self._lock:
            self._read.wait_for(
                lambda: not self._tail.is_half_full or self._closed, timeout_seconds
            )

    def _refuse_if_stopped(self) -> None:
        if self._closed:
            raise Overloaded("the exporter is shutting down")
        if self._broken is not None:
            raise Overloaded("the log is damaged and the exporter is stopping")

    def _refuse_if_full(self, size: int, cost: int) -> None:
        if self._in_flight and self._in_flight + cost > self._in_flight_bytes:
            raise Overloaded("too many requests are being stored at once", retry_after_seconds=1)
        if self.size_bytes + self._in_flight + size > self._max_bytes:
            raise Overloaded(f"the log is full (storage.max_log, {self._max_bytes} bytes)")

    # Reading

    def read(self, offset: int, *, max_bytes: int, timeout_seconds: float) -> list[Record]:
        """Records from `offset` on, in order; waits up to the timeout for the first.

        Args:
            offset: At most `next_offset`.
            max_bytes: About how much payload at most; one record is always returned.
            timeout_seconds: After which the list may be empty. It is at once after `close`.

        Raises:
            LogCorrupt: The record at `offset` is damaged or gone. Those before damage are returned
                first.
            StorageError: The log cannot be read.
        """
        with self._lock:
            assert offset <= self._next_offset, "resume() comes first"
            self._tail.drop_before(offset)
            self._read.notify_all()
            self._arrived.wait_for(
                lambda: self._next_offset > offset or self._closed or self._broken, timeout_seconds
            )
            if self._broken is not None:
                raise self._broken
            if offset >= self._next_offset or self._closed:
                return []
            if offset < self._first_offset:
                raise _gone(self._path, offset, self._first_offset)
            records = list(self._from_tail(offset, max_bytes))
        return records or self._read_disk(offset, max_bytes)

    def _from_tail(self, offset: int, max_bytes: int) -> Iterator[Record]:
        first = offset
        while (held := self._tail.get(offset)) is not None:
            max_bytes -= len(held.record.payload)
            if max_bytes < 0 and offset > first:
                return
            yield held.record
            offset += 1

    def _read_disk(self, offset: int, max_bytes: int) -> list[Record]:
        records = self._disk.read(offset, max_bytes=max_bytes)
        if not records:
            raise _corrupt_at(offset)(f"{self._path}: the record is missing")
        return records

    def quiesce(self, offset: int, now_unix_nano: int) -> bool:
        """Promises that every later record arrives after `now_unix_nano`.

        This is how the pipeline's clock moves on while nothing comes.

        Args:
            offset: Up to which the caller has read.
            now_unix_nano: Where its clock is to move.

        Returns:
            False, and no promise, if a record is unread or on its way.
        """
        with self._lock:
            if offset < self._next_offset or self._queue or self._taken:
                return False
            self._promise = max(self._promise, now_unix_nano)
            return True

    def resume(self, offset: int, floor_unix_nano: int) -> bool:
        """Makes the log go on where a checkpoint ends. Called once, before anything else.

        Args:
            offset: The checkpoint's: everything before it is accounted for.
            floor_unix_nano: The checkpoint's clock; later records arrive after it.

        Returns:
            False if the log ends before `offset`, as after its file was lost or replaced: then it
            holds nothing that is not accounted for, and is begun anew at `offset`.

        Raises:
            LogCorrupt: The log begins after `offset`: records are gone that the checkpoint lacks.
            StorageError: It could not be written.
        """
        with self._lock:
            self._promise = max(self._promise, floor_unix_nano)
            if offset < self._first_offset:
                raise _gone(self._path, offset, self._first_offset)
            if offset <= self._next_offset:
                return True
            assert not self._in_flight, "resume() comes before append()"
        head = (offset, max(self._arrival, floor_unix_nano), self._next_position)
        with self._storing, translated(self._path, _corrupt_file), transaction(self._connection):
            self._connection.execute("DELETE FROM record")
            self._connection.execute("UPDATE head SET offset = ?, arrival = ?, position = ?", head)
        with self._lock:
            self._next_offset = self._first_offset = self._stored_first = offset
            self._first_position = self._next_position
            self._tail.drop_before(offset)
        return False

    # Trimming

    def trim(self, before_offset: int) -> None:
        """Lets go of what is accounted for, and not to be kept. Called by one thread.

        Records stay on disk for the time they are to be kept, unless they take more than half of
        `max_bytes`.
        """
        with self._lock:
            before = min(before_offset, self._next_offset)
            end = self._next_position
            self._trimming = self._stored_first < self._first_offset  # where it was interrupted
            self._work.notify()
        cut = before
        if self._keep_nanoseconds:
            oldest = self._now() - self._keep_nanoseconds
            smallest = end - self._max_bytes // 2
            cut = self._bisect(
                before, lambda position, arrival: arrival >= oldest and position >= smallest
            )
        if cut <= self._first_offset:
            return
        place = self._place(cut)
        with self._lock:
            self._first_position = end if place is None else place[0]
            self._first_offset = cut
            self._trimming = True
            self._work.notify()

    def _bisect(self, before: int, keep: Callable[[int, int], bool]) -> int:
        """The first record before `before` to be kept: both position and arrival increase."""
        low, high = self._first_offset, before
        while low < high:
            middle = (low + high) // 2
            place = self._place(middle)
            if place is not None and keep(*place):
                high = middle
            else:
                low = middle + 1
        return low

    def close(self) -> None:
        """Stores what is on its way, and refuses what comes; once more does nothing."""
        with self._lock:
            self._closed = True
            self._work.notify()
            self._arrived.notify_all()
            self._read.notify_all()
        self._writer.join()
        with self._storing:
            self._disk.close()
            self._connection.close()
            self._file_lock.release()

    # The writer's thread

    def _run(self) -> None:
        try:
            while self._work_once():
                pass
        except BaseException as error:  # whatever it is, nobody may wait for ever
            logger.exception("the log's writer failed")
            self._give_up(StorageError(f"{self._path}: the writer failed: {error!r}"))

    def _work_once(self) -> bool:
        with self._lock:
            self._work.wait_for(self._has_work)
            if self._closed and not self._queue:
                return False
            group = self._take()
        if group:
            self._store(group)
        with self._storing:
            self._delete_slice()
            if self._uncopied_bytes > WAL_BYTES and copy_wal(self._connection):
                self._uncopied_bytes = 0
        return True

    def _has_work(self) -> bool:
        return bool(self._queue) or self._closed or self._trimming

    def _take(self) -> list[tuple[_Waiting, _Row]]:
        """What the next commit holds, stamped."""
        group = []
        offset, position, arrival = self._next_offset, self._next_position, self._arrival
        size = 0
        while self._queue and size < _GROUP_BYTES:
            waiting = self._queue.popleft()
            size += len(waiting.stored)
            arrival = max(self._now(), arrival + 1, self._promise + 1)
            group.append((waiting, waiting.row(offset, position, arrival)))
            offset += 1
            position += len(waiting.stored)
        self._taken = group
        return group

    def _store(self, group: list[tuple[_Waiting, _Row]]) -> None:
        try:
            with self._storing, transaction(self._connection):
                self._connection.executemany(
                    "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (row for _, row in group)
                )
        except sqlite3.Error as error:
            self._problem = problem = f"{self._path}: {error}"
            logger.error("%s; %d appends are refused", problem, len(group))  # noqa: TRY400 - no bug
            self._release(problem)
            if is_damage(error):
                self._give_up(_corrupt_file(problem))
            return
        self._problem = ""
        for waiting, row in group:
            waiting.record = Record(
                row.offset,
                row.arrival,
                waiting.kind,
                waiting.encoding,
                waiting.payload,
                waiting.decoded,
            )
        self._publish(group)
        self._release("")

    def _publish(self, group: list[tuple[_Waiting, _Row]]) -> None:
        last = group[-1][1]
        with self._lock:
            for waiting, row in group:
                assert waiting.record is not None
                self._tail.add(waiting.record, row.position)
            self._uncopied_bytes += last.position + len(last.payload) - self._next_position
            self._next_offset = last.offset + 1
            self._next_position = last.position + len(last.payload)
            self._arrival = last.arrival
            self._arrived.notify_all()

    def _release(self, problem: str) -> None:
        """Lets those go on whose append was stored, or was not because of a problem."""
        with self._lock:
            group, self._taken = self._taken, []
            self._in_flight -= sum(waiting.cost for waiting, _ in group)
        for waiting, _ in group:
            waiting.problem = problem
            waiting.done.set()

    def _give_up(self, broken: StorageError) -> None:
        with self._lock:
            self._broken = broken
            queued = [(waiting, None) for waiting in self._queue]
            self._queue.clear()
            self._arrived.notify_all()
        for waiting, _ in [*self._taken, *queued]:
            waiting.problem = str(broken)
            waiting.done.set()

    def _delete_slice(self) -> None:
        """Deletes some of what was trimmed. Little at a time: appends wait meanwhile."""
        with self._lock:
            first, end = self._stored_first, self._first_offset
            head = (self._next_offset, self._arrival, self._next_position)
            self._trimming = first < end
        if first >= end:
            return
        try:
            with transaction(self._connection):
                cut = self._slice_end(first, end)
                self._connection.execute("DELETE FROM record WHERE offset < ?", (cut,))
                self._connection.execute(
                    "UPDATE head SET offset = ?, arrival = ?, position = ?", head
                )
        except sqlite3.Error as error:
            logger.warning("%s: trimming waits until it is called again: %s", self._path, error)
            with self._lock:
                self._trimming = False
            return
        self._uncopied_bytes += SCHEMA.page_bytes
        with self._lock:
            self._stored_first = cut
            self._trimming = cut < self._first_offset

    def _slice_end(self, first: int, end: int) -> int:
        limit = min(end, first + _SLICE_RECORDS)
        (start,) = self._connection.execute(
            "SELECT position FROM record WHERE offset >= ? ORDER BY offset LIMIT 1", (first,)
        ).fetchone() or (0,)
        (last,) = self._connection.execute(
            "SELECT max(offset) FROM record WHERE offset < ? AND position < ?",
            (limit, start + _SLICE_BYTES),
        ).fetchone()
        return limit if last is None else int(last) + 1


def _bytes_in_memory(record: Record) -> int:
    size = len(record.payload) + _RECORD_OVERHEAD_BYTES
    for part in record.decoded or ():
        if isinstance(part, np.ndarray):
            size += part.nbytes
        elif isinstance(part, Sequence):
            size += len(part) * _OBJECT_BYTES
    return size


_GO_ON = (
    "restore log.db from a backup; or move it away and start without it: "
    "what it held and the last checkpoint lacks is lost, all else goes on"
)


def _corrupt_at(offset: int) -> Callable[[str], LogCorrupt]:
    return lambda problem: LogCorrupt(f"{problem}\n{_GO_ON}", offset=offset)


def _corrupt_file(problem: str) -> LogCorrupt:
    return LogCorrupt(f"{problem}\n{_GO_ON}", offset=0)


def _gone(path: Path, offset: int, first_offset: int) -> LogCorrupt:
    return LogCorrupt(
        f"{path} begins at {first_offset}; state.db is older than log.db: restore both from the "
        "same moment, or move both away to start anew",
        offset=offset,
    )

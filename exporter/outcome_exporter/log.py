"""The durable log: what was acknowledged is in it, in order, until it is accounted for.

Receivers append, the pipeline reads. `log.db`, a file of its own, holds it; see `log_file`.

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
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from isal.isal_zlib import crc32

from outcome_exporter.database import (
    WAL_BYTES,
    FileLock,
    copy_wal,
    is_damage,
    open_database,
    reading,
    transaction,
    translated,
)
from outcome_exporter.errors import Overloaded, StorageError
from outcome_exporter.log_file import (
    SCHEMA,
    Codec,
    LogReader,
    Row,
    checksum,
    corrupt_at,
    corrupt_file,
    gone,
)
from outcome_exporter.model import OWN_KINDS, Batch, Encoding, Kind, Record

logger = logging.getLogger(__name__)

_GROUP_BYTES = 64 << 20
_SLICE_RECORDS = 4_096
_SLICE_BYTES = 32 << 20
_RECORD_OVERHEAD_BYTES = 512
"""About what a waiting record takes beside its payload."""
_OBJECT_BYTES = 2_048
"""About what a decoded event takes in memory."""

Decoded = Batch | None


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

    def row(self, offset: int, position: int, arrival: int) -> Row:
        packed = int(self.stored is not self.payload)
        head = (offset, position, arrival, self.kind, self.encoding, packed)
        return Row(*head, checksum(head, self.payload_crc), self.stored)


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
            self._connection = open_database(self._path, SCHEMA, corrupt_file)
            try:
                with reading(self._path, corrupt_file):
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
        self._codec = Codec()
        self._storing = threading.Lock()  # who holds it may use `_connection`
        self._queue: deque[_Waiting] = deque()
        self._in_flight = 0
        self._taken: list[tuple[_Waiting, Row]] = []
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
                senders are refused: the exporter's own records, which are small, let it go on.
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
                raise gone(self._path, offset, self._first_offset)
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
            raise corrupt_at(offset)(f"{self._path}: the record is missing")
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
                raise gone(self._path, offset, self._first_offset)
            if offset <= self._next_offset:
                return True
            assert not self._in_flight, "resume() comes before append()"
        head = (offset, max(self._arrival, floor_unix_nano), self._next_position)
        with self._storing, translated(self._path, corrupt_file), transaction(self._connection):
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

    def _take(self) -> list[tuple[_Waiting, Row]]:
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

    def _store(self, group: list[tuple[_Waiting, Row]]) -> None:
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
                self._give_up(corrupt_file(problem))
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

    def _publish(self, group: list[tuple[_Waiting, Row]]) -> None:
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

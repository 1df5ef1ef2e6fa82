"""The file of the durable log: what its rows hold, and who reads them.

    record   offset (key), position, arrival, kind, encoding, packed, crc, payload
    head     one row: offset, arrival and position to go on from when all records are gone

`position` is how many stored bytes came before the record since the log began: the difference of
two is the size of what lies between, without reading it. `packed` says that the payload came
uncompressed and is stored with zstd. The CRC-32 covers the row and the payload.
"""

import sqlite3
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import zstandard
from isal.isal_zlib import crc32  # four times as fast as zlib's

from outcome_exporter.database import (
    Schema,
    check_identity,
    connect,
    is_damage,
    reading,
    translated,
)
from outcome_exporter.errors import LogCorrupt
from outcome_exporter.model import Encoding, Kind, Record

_PACK_ABOVE_BYTES = 1 << 10
_PACK_LEVEL = -3
"""Of zstd. CPU seconds for a million spans of 423 bytes, and what remains of them, of synthetic
and of recorded spans: level 1 takes 0.35 s for 68 MB and 0.71 for 135, level -3 0.22 for 81 and
0.53 for 163, level -10 0.18 for 110 and 0.41 for 214. Storing a megabyte costs a millisecond."""

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


class Row(NamedTuple):
    """A record as it is stored."""

    offset: int
    position: int
    arrival: int
    kind: int
    encoding: int
    packed: int
    crc: int
    payload: bytes


def checksum(head: tuple[int, ...], payload_crc: int) -> int:
    """CRC-32 of a row, from what stands before it in the row and that of the payload."""
    return crc32(_HEAD.pack(*head), payload_crc)


class Codec(threading.local):
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
        self._codec = Codec()
        self._lock = threading.Lock()
        with translated(path, corrupt_file):
            self._connection = connect(path, read_only=True)
            try:
                version = check_identity(self._connection, path, SCHEMA, corrupt_file)
            except BaseException:
                self._connection.close()
                raise
        if version != SCHEMA.version:
            self._connection.close()
            raise corrupt_file(f"{path}: format {version}, this version reads {SCHEMA.version}")

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
        with self._lock, reading(self._path, corrupt_at(offset)):
            row = self._connection.execute(
                "SELECT position, arrival FROM record WHERE offset = ?", (offset,)
            ).fetchone()
        return None if row is None else (int(row[0]), int(row[1]))

    def close(self) -> None:
        """Once more does nothing."""
        with self._lock:
            self._connection.close()

    def _one(self, query: str) -> int:
        with self._lock, reading(self._path, corrupt_file):
            return int(self._connection.execute(query).fetchone()[0])

    def _rows(self, offset: int, max_bytes: int) -> list[Row]:
        # All rows are taken before any is unpacked: a cursor that stays open keeps the writer
        # from using the start of its WAL again.
        rows: list[Row] = []
        size = 0
        with self._lock, reading(self._path, corrupt_at(offset)):
            query = "SELECT * FROM record WHERE offset >= ? ORDER BY offset"
            with closing(self._connection.execute(query, (offset,))) as cursor:
                try:
                    for values in cursor:
                        rows.append(Row(*values))
                        size += len(rows[-1].payload)
                        if size >= max_bytes:
                            break
                except sqlite3.DatabaseError as error:
                    if not rows or not is_damage(error):
                        raise
        return rows

    def _verified(self, row: Row, offset: int, before: Sequence[Record]) -> Record:
        corrupt = corrupt_at(offset)
        if row.offset != offset:
            raise corrupt(f"{self._path}: the record is missing, the next one is {row.offset}")
        try:
            good = checksum(row[:6], crc32(row.payload)) == row.crc
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


_GO_ON = (
    "restore log.db from a backup; or move it away and start without it: "
    "what it held and the last checkpoint lacks is lost, all else goes on"
)


def corrupt_at(offset: int) -> Callable[[str], LogCorrupt]:
    """Makes the error of a record from the problem."""
    return lambda problem: LogCorrupt(f"{problem}\n{_GO_ON}", offset=offset)


def corrupt_file(problem: str) -> LogCorrupt:
    """The error of the whole file."""
    return LogCorrupt(f"{problem}\n{_GO_ON}", offset=0)


def gone(path: Path, offset: int, first_offset: int) -> LogCorrupt:
    """The error of a file that begins behind the checkpoint."""
    return LogCorrupt(
        f"{path} begins at {first_offset}; state.db is older than log.db: restore both from the "
        "same moment, or move both away to start anew",
        offset=offset,
    )

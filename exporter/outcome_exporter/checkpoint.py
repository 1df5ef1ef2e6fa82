"""The state that survives: `state.db`, one transaction a checkpoint.

A checkpoint holds the state of all stages, the SLO buckets, and the offset up to which both account
for the log. Because they change together or not at all, going on from the offset counts everything
once, whenever the process died.

Tables, all integers in SQLite's own encoding:

    checkpoint   one row: offset, clock, `meta` as JSON, and of each array as JSON: name,
                 id, dtype, shape, digest over its pages' digests; how many minutes and SLOs
                 there are; a digest over all of this
    page         arrays cut into pages of 65,472 bytes; key = array id << 32 | number of the page
    minute       the buckets of one minute: rows of (slo u32, good, bad, value i64), by slo, little
                 endian, with a CRC-32
    slo          name → id, dense, never taken back, with a CRC-32

**A checkpoint costs what changed.** `save` digests every page (XXH64, 28 MB in 5 ms) and writes
those whose digest differs from the last save's, which are kept in memory: 8 bytes a page. What
`load` verifies covers every byte and its place, so pages of different checkpoints, or a page that
the disk lost, are never taken for a state.
65,472 bytes fill four of SQLite's pages of 16 KiB without a remainder. Smaller pages pay only where
changes are few and far between: with 1 % of 64-byte rows changed at random, 200 MB in pages of
8 KiB write 72 % of themselves, in more time than larger pages take for all (0.5 s against 0.3 s).

**Buckets are packed by minute**, not a row of SQLite for each SLO and minute. Two reasons: a sum
over a range becomes one scan over the primary key and a compiled loop instead of a sort by SLO, and
the counts carry a checksum, which SQLite's rows do not.

Known limits: one array holds at most 2^32 pages; a bucket stops at ±(2^62 - 1) millionths.
"""

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.database import (
    FileLock,
    Schema,
    connect,
    copy_wal,
    open_database,
    transaction,
    translated,
)
from outcome_exporter.errors import StateCorrupt
from outcome_exporter.kernels.storage import SUM_LIMIT, add_rows, page_digests
from outcome_exporter.model import BUCKET, Bytes, Table

PAGE_BYTES = 65_472
"""Length of a page of state; see the module's text."""
_PRUNE_MINUTES = 2_000
_COUNTS = 3
_ROW = np.dtype([("slo", "<u4"), ("counts", "<i8", (_COUNTS,))])
_MINUTES_AT_ONCE = 256
_ID_SHIFT = 32

SCHEMA = Schema(
    application_id=0x4F584353,  # "OXCS"
    page_bytes=16_384,
    create=(
        """CREATE TABLE checkpoint(
            id INTEGER PRIMARY KEY CHECK (id = 1), log_offset INTEGER NOT NULL,
            clock_unix_nano INTEGER NOT NULL, meta TEXT NOT NULL, arrays TEXT NOT NULL,
            minutes INTEGER NOT NULL, slos INTEGER NOT NULL, digest INTEGER NOT NULL)""",
        "CREATE TABLE page(id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
        "CREATE TABLE minute(minute INTEGER PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL)",
        "CREATE TABLE slo(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, crc INTEGER NOT NULL)",
    ),
)


class Checkpoint(NamedTuple):
    """What `save` was given last."""

    offset: int
    """Records before it are accounted for."""
    clock_unix_nano: int
    meta: dict[str, Any]
    """JSON."""
    arrays: dict[str, npt.NDArray[Any]]


class _Paged(NamedTuple):
    """An array as it is stored."""

    id: int
    digests: npt.NDArray[np.uint64]
    """Of its pages."""


class StateStore:
    """Keeps checkpoints and buckets. Threads may share it; reading never waits for a save.

    Args:
        folder: Where `state.db` is, or is to be made.

    Raises:
        StateCorrupt: The file is damaged, not ours, or of a newer version.
        StorageError: Another process has it, or it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.db"
        self._lock = FileLock(folder / "state.lock")
        try:
            self._writer = open_database(self._path, SCHEMA, _corrupt)
            try:
                with translated(self._path, _corrupt):
                    self._reader = connect(self._path, read_only=True)
            except BaseException:
                self._writer.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        # What the file holds now. Unknown until `load`: a save before it writes everything.
        self._stored: dict[str, _Paged] = {}
        self._loaded = False
        self._minutes = 0

    def load(self) -> Checkpoint | None:
        """The last checkpoint; None where there was none. Time and memory grow with its size.

        Raises:
            StateCorrupt: It is damaged.
        """
        with self._writing, self._errors():
            row = self._writer.execute(
                "SELECT log_offset, clock_unix_nano, meta, arrays, minutes, slos, digest "
                "FROM checkpoint"
            ).fetchone()
            if row is None:
                self._refuse_remains()
                self._loaded = True
                return None
            if row[-1] != _row_digest(*row[:-1]):
                raise self._damaged("the checkpoint's head", "its digest differs")
            offset, clock, meta_text, arrays_text, minutes, slos, _ = row
            self._refuse_losses(minutes, slos)
            arrays = {}
            stored = {}
            for entry in json.loads(arrays_text):
                arrays[entry["name"]], stored[entry["name"]] = self._read_array(entry)
            self._stored = stored
            self._minutes = minutes
            self._loaded = True
            return Checkpoint(offset, clock, json.loads(meta_text), arrays)

    def _refuse_remains(self) -> None:
        """Pages and buckets without a checkpoint: it was lost, and counting anew counts twice."""
        (remains,) = self._writer.execute(
            "SELECT EXISTS(SELECT 1 FROM page) OR EXISTS(SELECT 1 FROM minute)"
        ).fetchone()
        if remains:
            raise self._damaged("the checkpoint's head", "it is missing")

    def _refuse_losses(self, minutes: int, slos: int) -> None:
        """A row that is damaged says so itself; one that is gone is missed here."""
        if (found := self._count("minute")) != minutes:
            raise self._damaged("minutes of the buckets", f"{found} of {minutes} are there")
        if (found := self._count("slo")) < slos:
            raise self._damaged("names of the SLOs", f"{found} of {slos} are there")

    def _count(self, table: str) -> int:
        return int(self._writer.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608

    def save(
        self,
        offset: int,
        clock_unix_nano: int,
        meta: Mapping[str, Any],
        arrays: Mapping[str, npt.NDArray[Any]],
        buckets: Table,
        *,
        keep_from: int = 0,
    ) -> None:
        """Replaces the checkpoint and adds to the buckets, durably: all of it or nothing.

        Args:
            offset: Of the log: everything before it is accounted for in the rest.
            clock_unix_nano: The pipeline's clock.
            meta: JSON; small.
            arrays: State, of any shape and any dtype without objects. Whatever the last save had
                and this one does not is gone. They must not change before this returns.
            buckets: BUCKET, changes since the last save in any order; rows of the same SLO and
                minute add up.
            keep_from: Buckets of minutes before this are dropped, the oldest first, a day or so
                at a time.

        Raises:
            StateCorrupt: A bucket's minute is damaged.
            StorageError: It could not be written; nothing changed, so it may be tried again with
                the same buckets.
        """
        with self._writing, self._errors():
            paged = {name: _bytes_of(array) for name, array in arrays.items()}
            stored = self._plan(paged)
            meta_text = json.dumps(meta, separators=(",", ":"))
            arrays_text = json.dumps(
                [
                    {
                        "name": name,
                        "id": stored[name].id,
                        "dtype": _describe(array.dtype),
                        "shape": array.shape,
                        "digest": _digest(stored[name].digests),
                    }
                    for name, array in arrays.items()
                ],
                separators=(",", ":"),
            )
            with transaction(self._writer):
                if not self._loaded:
                    self._writer.execute("DELETE FROM page")
                    self._minutes = self._count("minute")
                self._write_pages(paged, stored)
                minutes = self._minutes + self._add_buckets(buckets) - self._drop_before(keep_from)
                slos = self._count("slo")
                head = (offset, clock_unix_nano, meta_text, arrays_text, minutes, slos)
                self._writer.execute(
                    "INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                    (*head, _row_digest(*head)),
                )
            self._stored = stored
            self._minutes = minutes
            self._loaded = True
            copy_wal(self._writer)

    def slo_ids(self, names: Sequence[str]) -> npt.NDArray[np.uint32]:
        """Small ids of SLOs by name, the same ones for ever; new names get the next ones.

        They are durable when this returns: what is known in memory by such an id is never found
        under another after a crash.
        """
        with self._writing, self._errors():
            known = self._known_slos()
            new = [name for name in dict.fromkeys(names) if name not in known]
            fresh = {name: len(known) + at for at, name in enumerate(new)}
            if fresh:
                with transaction(self._writer):
                    self._writer.executemany(
                        "INSERT INTO slo VALUES (?, ?, ?)",
                        ((slo, name, _slo_crc(slo, name)) for name, slo in fresh.items()),
                    )
            known |= fresh
            return np.array([known[name] for name in names], np.uint32)

    def _known_slos(self) -> dict[str, int]:
        known = {}
        rows = self._writer.execute("SELECT id, name, crc FROM slo ORDER BY id")
        for number, (slo, name, crc) in enumerate(rows):
            if slo != number or crc != _slo_crc(slo, name):
                raise self._damaged(f"the name of SLO {number}", "it is missing or another")
            known[name] = slo
        return known

    def read_minute(self, minute: int) -> Table:
        """BUCKET of one minute, by slo."""
        return self.read_minutes(minute, minute)

    def read_minutes(self, first: int, last: int) -> Table:
        """BUCKET of the minutes from `first` to `last`, both included, by minute and slo."""
        with self._reading, self._errors():
            found = list(self._minutes_of(self._reader, first, last))
        sizes = [len(data) // _ROW.itemsize for _, data in found]
        rows = _joined(data for _, data in found)
        return _table(rows, np.repeat([minute for minute, _ in found], sizes))

    def sum_minutes(self, first: int, last: int) -> Table:
        """Sums per SLO over the minutes from `first` to `last`, both included.

        Returns:
            BUCKET, by slo, with `last` as their minute; SLOs without a bucket there are left out.
        """
        sums = np.zeros((0, _COUNTS), np.int64)
        seen = np.zeros(0, np.bool_)
        with self._reading, self._errors():
            rows = self._rows(self._reader, first, last)
            while True:
                chunk = _joined(islice(rows, _MINUTES_AT_ONCE))
                if not chunk.size:
                    break
                slos = int(chunk["slo"].max()) + 1
                if slos > seen.size:
                    sums = np.pad(sums, ((0, slos - seen.size), (0, 0)))
                    seen = np.pad(seen, (0, slos - seen.size))
                add_rows(chunk["slo"].copy(), chunk["counts"].copy(), sums, seen)
        total = np.empty(np.count_nonzero(seen), _ROW)
        total["slo"] = np.flatnonzero(seen)
        total["counts"] = sums[seen]
        return _table(total, last)

    def close(self) -> None:
        """Leaves a single file behind; once more does nothing."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()
            self._lock.release()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with translated(self._path, _corrupt):
            yield

    def _damaged(self, what: str, why: str) -> StateCorrupt:
        return _corrupt(f"{self._path}: {what} is damaged: {why}")

    # Arrays

    def _read_array(self, entry: dict[str, Any]) -> tuple[npt.NDArray[Any], _Paged]:
        array = np.empty(tuple(entry["shape"]), _revive(entry["dtype"]))
        data = _bytes_of(array)
        first, last = _page_ids(entry["id"], 0)
        pages = self._writer.execute(
            "SELECT id, data FROM page WHERE id BETWEEN ? AND ? ORDER BY id", (first, last)
        )
        count = _page_count(data.size)
        for number in range(count):
            room = data[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
            page_id, page = next(pages, (-1, b""))
            whole = isinstance(page, bytes) and len(page) == room.size
            if page_id != first + number or not whole:
                what = f"page {number} of {count} of array {entry['name']}"
                raise self._damaged(what, "it is missing or of the wrong length")
            room[:] = np.frombuffer(page, np.uint8)
        pages.close()
        digests = page_digests(data, PAGE_BYTES)
        if _digest(digests) != entry["digest"]:
            raise self._damaged(f"array {entry['name']}", "its digest differs")
        return array, _Paged(entry["id"], digests)

    def _plan(self, paged: dict[str, Bytes]) -> dict[str, _Paged]:
        """Ids and digests of what is to be stored; arrays that stay keep their ids."""
        taken = {self._stored[name].id for name in paged if name in self._stored}
        free = (number for number in range(len(taken) + len(paged)) if number not in taken)
        return {
            name: _Paged(
                self._stored[name].id if name in self._stored else next(free),
                page_digests(data, PAGE_BYTES),
            )
            for name, data in paged.items()
        }

    def _write_pages(self, paged: dict[str, Bytes], stored: dict[str, _Paged]) -> None:
        # Those that vanish go first: their ids may have been given to new ones.
        for name, old in self._stored.items():
            keep = stored[name].digests.size if name in stored else 0
            if keep < old.digests.size:
                self._writer.execute(
                    "DELETE FROM page WHERE id BETWEEN ? AND ?", _page_ids(old.id, keep)
                )
        for name, data in paged.items():
            array_id, digests = stored[name]
            old_digests = self._stored[name].digests if name in self._stored else digests[:0]
            both = min(digests.size, old_digests.size)
            changed = np.append(
                np.flatnonzero(digests[:both] != old_digests[:both]), np.arange(both, digests.size)
            )
            self._writer.executemany(
                "INSERT OR REPLACE INTO page VALUES (?, ?)",
                (
                    (
                        _page_ids(array_id, number)[0],
                        data[number * PAGE_BYTES : (number + 1) * PAGE_BYTES].data,
                    )
                    for number in changed.tolist()
                ),
            )

    # Buckets

    def _rows(self, connection: sqlite3.Connection, first: int, last: int) -> Iterator[bytes]:
        return (data for _, data in self._minutes_of(connection, first, last))

    def _minutes_of(
        self, connection: sqlite3.Connection, first: int, last: int
    ) -> Iterator[tuple[int, bytes]]:
        for minute, crc, data in connection.execute(
            "SELECT minute, crc, data FROM minute WHERE minute BETWEEN ? AND ? ORDER BY minute",
            (first, last),
        ):
            if not isinstance(data, bytes) or zlib.crc32(data, minute & 0xFFFF_FFFF) != crc:
                raise self._damaged(f"minute {minute} of the buckets", "its checksum differs")
            yield minute, data

    def _add_buckets(self, buckets: Table) -> int:
        """How many minutes had none before."""
        rows = np.empty(buckets.size, _ROW)
        rows["slo"] = buckets["slo"]
        for column, name in enumerate(("good", "bad", "value")):
            rows["counts"][:, column] = buckets[name].clip(-SUM_LIMIT, SUM_LIMIT)
        order = np.argsort(buckets["minute"], kind="stable")
        minutes, starts = np.unique(buckets["minute"][order], return_index=True)
        ends = np.append(starts, buckets.size)[1:]
        new = 0
        for minute, start, end in zip(minutes.tolist(), starts.tolist(), ends, strict=True):
            group = rows[order[start:end]]
            old = _joined(self._rows(self._writer, minute, minute))
            new += not old.size
            data = _merged(np.concatenate([old, group])).tobytes()
            self._writer.execute(
                "INSERT OR REPLACE INTO minute VALUES (?, ?, ?)",
                (minute, zlib.crc32(data, minute & 0xFFFF_FFFF), data),
            )
        return new

    def _drop_before(self, minute: int) -> int:
        """How many minutes were dropped."""
        return self._writer.execute(
            """DELETE FROM minute WHERE minute IN (
                SELECT minute FROM minute WHERE minute < ? ORDER BY minute LIMIT ?)""",
            (minute, _PRUNE_MINUTES),
        ).rowcount


def _corrupt(problem: str) -> StateCorrupt:
    return StateCorrupt(
        f"{problem}\nrestore state.db from a backup; or move it away and start without it: "
        "counters begin at 0 and budgets are untouched, then the log that was kept is counted again"
    )


def _joined(rows: Iterable[bytes]) -> Table:
    return np.frombuffer(b"".join(rows), _ROW)


def _merged(rows: Table) -> Table:
    """One row per SLO, ascending."""
    slos, at = np.unique(rows["slo"], return_inverse=True)
    merged = np.zeros(slos.size, _ROW)
    merged["slo"] = slos
    sums = np.zeros((slos.size, _COUNTS), np.int64)
    add_rows(at.astype(np.uint32), rows["counts"].copy(), sums, np.zeros(slos.size, np.bool_))
    merged["counts"] = sums
    return merged


def _table(rows: Table, minute: int | npt.NDArray[np.int64]) -> Table:
    table = np.empty(rows.size, BUCKET)
    table["slo"] = rows["slo"]
    table["minute"] = minute
    for column, name in enumerate(("good", "bad", "value")):
        table[name] = rows["counts"][:, column]
    return table


def _page_count(size: int) -> int:
    return -(-size // PAGE_BYTES)


def _page_ids(array_id: int, number: int) -> tuple[int, int]:
    """Keys of an array's page `number` and of the last one it could have."""
    return (array_id << _ID_SHIFT) + number, ((array_id + 1) << _ID_SHIFT) - 1


def _digest(data: npt.NDArray[Any]) -> int:
    raw = _bytes_of(data)
    # One page that holds all of it; a seed and an empty array have a digest too.
    return int(page_digests(np.append(raw, np.uint8(0)), (raw.size + 8) // 8 * 8)[0].view(np.int64))


def _slo_crc(slo: object, name: object) -> int:
    return zlib.crc32(repr((slo, name)).encode(errors="replace"))  # whatever damage made them


def _row_digest(*head: object) -> int:
    text = repr(head)  # of whatever type damage made them
    return _digest(np.frombuffer(text.encode(errors="replace"), np.uint8))


def _bytes_of(array: npt.NDArray[Any]) -> Bytes:
    assert not array.dtype.hasobject, "state is plain data"
    data: Bytes = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return data


def _describe(dtype: np.dtype[Any]) -> Any:  # noqa: ANN401 - JSON
    """A dtype as JSON, alignment and padding included: `dtype.descr` loses both."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": _describe(base), "shape": shape}
    if dtype.names is None or dtype.fields is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    return {
        "names": dtype.names,
        "formats": [_describe(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def _revive(described: Any) -> np.dtype[Any]:  # noqa: ANN401 - JSON
    if isinstance(described, str):
        return np.dtype(described)
    if "base" in described:
        return np.dtype((_revive(described["base"]), tuple(described["shape"])))
    return np.dtype(
        {
            "names": described["names"],
            "formats": [_revive(field) for field in described["formats"]],
            "offsets": described["offsets"],
            "itemsize": described["itemsize"],
        },
        align=described["aligned"],
    )

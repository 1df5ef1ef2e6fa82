"""Files of older and newer versions: brought up to date, whole or not at all, or refused.

And what deleting costs, and copying the write-ahead log.
"""

import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import pytest

from outcome_exporter.checkpoint import SCHEMA as STATE
from outcome_exporter.database import BUSY_SECONDS, Schema, connect, copy_wal, open_database
from outcome_exporter.errors import StorageError
from outcome_exporter.log_file import SCHEMA as LOG

FIRST = Schema(0x0E0E0E0E, 4096, ("CREATE TABLE span (name TEXT) STRICT",))
SECOND = replace(
    FIRST,
    create=("CREATE TABLE span (name TEXT, version TEXT NOT NULL DEFAULT '?') STRICT",),
    version=2,
    migrations={1: ("ALTER TABLE span ADD COLUMN version TEXT NOT NULL DEFAULT '?'",)},
)
THIRD = replace(
    SECOND,
    version=3,
    migrations={
        **SECOND.migrations,
        2: ("UPDATE span SET version = '0'", "CREATE INDEX by_name ON span (name)"),
    },
)
BROKEN = replace(
    THIRD, migrations={**THIRD.migrations, 2: ("UPDATE span SET version = '0'", "no statement")}
)


@pytest.fixture
def file(tmp_path):
    """Of the first version, with a row."""
    path = tmp_path / "state.db"
    with closing(open_database(path, FIRST, StorageError)) as connection:
        connection.execute("INSERT INTO span VALUES ('pay')")
    return path


def content(path):
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return version, connection.execute("SELECT * FROM span").fetchall()


@pytest.mark.parametrize(
    ("schema", "expected"), [(SECOND, (2, [("pay", "?")])), (THIRD, (3, [("pay", "0")]))]
)
def test_a_file_of_an_older_version_is_brought_up_to_date_with_what_it_holds(
    file, schema, expected
):
    for _ in range(2):  # the second time there is nothing to do
        open_database(file, schema, StorageError).close()
        assert content(file) == expected


def test_a_migration_that_fails_leaves_the_version_before_it_whole(file):
    with pytest.raises(StorageError):
        open_database(file, BROKEN, StorageError)
    assert content(file) == (2, [("pay", "?")])
    open_database(file, THIRD, StorageError).close()
    assert content(file) == (3, [("pay", "0")])


def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(file):
    open_database(file, THIRD, StorageError).close()
    with pytest.raises(StorageError, match=r"newer version .*its format 3, this one knows 2"):
        open_database(file, SECOND, StorageError)
    assert content(file) == (3, [("pay", "0")])


@pytest.mark.parametrize("schema", [LOG, STATE], ids=["log.db", "state.db"])
def test_every_released_version_of_our_files_has_a_way_up(schema):
    assert set(schema.migrations) == set(range(1, schema.version))


def test_what_is_deleted_is_not_written_once_more(file):
    wal = file.with_name("state.db-wal")
    with closing(open_database(file, FIRST, StorageError)) as connection:
        connection.execute("INSERT INTO span VALUES (?)", ("x" * 4_000_000,))
        written = wal.stat().st_size
        assert copy_wal(connection)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("DELETE FROM span")
        assert wal.stat().st_size < written / 10


def test_a_long_read_by_someone_else_holds_up_no_copy_of_the_write_ahead_log(file):
    with (
        closing(open_database(file, FIRST, StorageError)) as connection,
        closing(connect(file, read_only=True)) as other,
    ):
        other.execute("BEGIN")
        other.execute("SELECT * FROM span").fetchall()
        connection.execute("INSERT INTO span VALUES ('a')")
        began = time.monotonic()
        assert not copy_wal(connection)
        assert time.monotonic() - began < BUSY_SECONDS / 2
        other.execute("COMMIT")
        assert copy_wal(connection)

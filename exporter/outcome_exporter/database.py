"""Opens SQLite files so that nothing acknowledged is lost and nobody else writes them.

The log and the state are one file each (`log.db`, `state.db`): neither waits for the other's
writes. Both are opened alike:

- WAL with ``synchronous=FULL``: a commit is one sequential write and one fsync. What a power cut
  tears off the end of the WAL was not acknowledged; SQLite drops it by its checksums.
- An exclusive `flock` beside each file. It goes with its process, also after kill -9.
- `application_id` tells our files from others, `user_version` is the schema's version. An older
  file is migrated, one version per transaction; a newer one is refused.

There is no ``PRAGMA quick_check``: it reads the whole file, which takes minutes where a log holds
gigabytes, and finds no flipped bit in a payload. Instead every stored row carries a checksum that
is verified when it is read, and rows are checked to be complete. SQLite reports a damaged tree
where it meets one; either way the caller gets a `StorageError`.

Known limit: a WAL that is damaged (not torn) before it was copied into its file ends at the
damage, as if what follows had never been written.
"""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from outcome_exporter.errors import StorageError

logger = logging.getLogger(__name__)

BUSY_SECONDS = 2.0
"""How long a statement waits for another connection, e.g. an operator's shell."""
WAL_BYTES = 32 << 20
"""The WAL is copied into its file when about so much was written to it."""
_WAL_FILE_BYTES = 64 << 20
"""A WAL that had to grow beyond this is cut back once it has been copied."""
_HEADER_BYTES = 512
"""SQLite's smallest page, which holds the file's header."""
_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    # Our statements are right, so the file lacks what they name, or holds what must not be there.
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
}


@dataclass(frozen=True)
class Schema:
    """What a file must look like."""

    application_id: int
    """Four bytes by which our files are known."""
    page_bytes: int
    """SQLite's page size; takes effect when a file is created."""
    create: tuple[str, ...]
    """Statements that make the newest version from nothing."""
    version: int = 1
    """Stored as `user_version`; a file of a newer one is refused."""
    migrations: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Version → statements that make the next one of it. Never change one that was released."""


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, so that a power cut leaves them.

    SQLite syncs its files into their folder, but not the folder into the one that holds it.

    Raises:
        OSError: It cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        holder = os.open(made.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(holder)
        finally:
            os.close(holder)


class FileLock:
    """Keeps a second process off a file, for as long as this one lives.

    Args:
        path: The lock's own file; it stays behind, empty of meaning.

    Raises:
        StorageError: Someone else holds it, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            make_folder(path.parent)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"{path}: {error.strerror}; make storage.path a folder this user may write"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise StorageError(
                f"{path}: in use by process {holder or '(unknown)'}; "
                "stop it, or give storage.path another folder"
            ) from error
        # On a full disk the lock still holds; only its message knows less.
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets others in; once more does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file is not well-formed, rather than that it cannot now."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    # Python itself reports text that is no UTF-8, as an OperationalError without a code.
    return isinstance(error, sqlite3.OperationalError) if code is None else code & 0xFF in _DAMAGE


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection without implicit transactions, to be used by one thread at a time."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def open_database(
    path: Path, schema: Schema, corrupt: Callable[[str], StorageError]
) -> sqlite3.Connection:
    """Opens a file for writing; creates it, or brings it up to the schema's version.

    Args:
        path: The file; its folder exists.
        schema: What it must look like.
        corrupt: Makes the error for a file that is damaged, foreign, or of a newer version.

    Raises:
        StorageError: What `corrupt` makes, or the file cannot be opened or written.
    """
    _refuse_stump(path, corrupt)
    with translated(path, corrupt):
        connection = connect(path)
        try:
            connection.execute(f"PRAGMA page_size = {schema.page_bytes:d}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            # Debian's SQLite would write zeros over what is deleted: all of the log once more.
            connection.execute("PRAGMA secure_delete = OFF")
            # Copying the WAL is called for where nobody waits for it.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_FILE_BYTES:d}")
            _bring_up_to_date(connection, path, schema, corrupt)
        except BaseException:
            connection.close()
            raise
    return connection


def _refuse_stump(path: Path, corrupt: Callable[[str], StorageError]) -> None:
    """SQLite takes a file that was cut within its header for an empty one."""
    size = path.stat().st_size if path.exists() else 0
    if 0 < size < _HEADER_BYTES:
        raise corrupt(f"{path}: cut short to {size} bytes")


def check_identity(
    connection: sqlite3.Connection,
    path: Path,
    schema: Schema,
    corrupt: Callable[[str], StorageError],
) -> int:
    """The version of a file that is ours; 0 where it is empty.

    Raises:
        StorageError: What `corrupt` makes, for a foreign file or one of a newer version.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables == 0 and version == 0:
        return 0
    if application_id != schema.application_id:
        raise corrupt(f"{path}: not a file of outcome-exporter; move it out of storage.path")
    if version < 0:
        raise corrupt(f"{path}: its format {version} never was")
    if version > schema.version:
        raise corrupt(
            f"{path}: written by a newer version of outcome-exporter (its format {version}, "
            f"this one knows {schema.version}); run that version, or restore an older backup"
        )
    return int(version)


def _bring_up_to_date(
    connection: sqlite3.Connection,
    path: Path,
    schema: Schema,
    corrupt: Callable[[str], StorageError],
) -> None:
    version = check_identity(connection, path, schema, corrupt)
    if version == 0:
        with transaction(connection):
            for statement in schema.create:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {schema.application_id:d}")
            connection.execute(f"PRAGMA user_version = {schema.version:d}")
        return
    for old in range(version, schema.version):
        with transaction(connection):
            for statement in schema.migrations[old]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {old + 1:d}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits, durably, what happens inside; on any error nothing of it happened."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors, a full disk among them, have rolled back already.
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path, corrupt: Callable[[str], StorageError]) -> Iterator[None]:
    """Turns SQLite's errors into ours, with the place and the way on."""
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise corrupt(f"{path}: {error}") from error
        raise StorageError(
            f"{path}: {error}; check space, permissions and the health of the disk"
        ) from error


@contextmanager
def reading(path: Path, corrupt: Callable[[str], StorageError]) -> Iterator[None]:
    """As `translated`, around statements that read columns without a look at their types.

    Damage may turn a column's type into another: what then fails is damage.
    """
    with translated(path, corrupt):
        try:
            yield
        except (TypeError, ValueError) as error:
            raise corrupt(f"{path}: a column holds what it cannot: {error}") from error


def copy_wal(connection: sqlite3.Connection) -> bool:
    """Copies the WAL into its file, so that the next commit writes it from its start again.

    What was committed is durable either way, so an error here is none for who committed; if the
    disk is full, the next commit will say so. Nor is a long read by someone else, a backup's for
    instance: it is not waited for, which would hold up every commit meanwhile.

    Returns:
        Whether it was all copied; such a read may keep it from that.
    """
    try:
        (_, pages, copied) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error as error:
        logger.warning("the write-ahead log could not be copied yet: %s", error)
        return False
    return bool(pages == copied)

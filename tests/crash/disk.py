"""A disk that fails when told to, and that loses what was not synced when its power is cut.

A small library between the exporter and the kernel (disk.c) writes down what is done to the files
of one folder. From that a power cut is told: what each file held at its last sync is there; of
what was done to it since, any part may be, sector by sector and in any order; a file whose folder
was not synced since it was made may be gone, one that was removed may be back. This is what POSIX
leaves open, and more than most file systems do. Not modelled: a disk that loses what it said was
durable.

Written down are positioned writes, cuts, removals and syncs, which is all that SQLite uses. That
nothing is missed is checked at each cut: all of it together must be what lies on the real disk.
SQLite's index of its write-ahead log (`-shm`) lives in memory, and is made anew.
"""

import random
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")
SECTOR_BYTES = 512
_HEAD = struct.Struct("<cHIQ")


@dataclass
class _File:
    """One file of the folder, since the power last came."""

    synced: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    """What was done after the last sync: position and data; or where it was cut, and None."""

    def sync(self) -> None:
        self.synced, self.since = self.whole(), []

    def whole(self) -> bytes:
        return self.after(lambda: True)

    def after(self, keeps) -> bytes:
        """With those sectors and cuts that are kept."""
        content = bytearray(self.synced)
        for at, data in self.since:
            if data is None:
                if keeps():
                    del content[at:]
                    content.extend(bytes(at - len(content)))
                continue
            for first in range(0, len(data), SECTOR_BYTES):
                if keeps():
                    sector = data[first : first + SECTOR_BYTES]
                    content.extend(bytes(max(at + first - len(content), 0)))
                    content[at + first : at + first + len(sector)] = sector
        return bytes(content)


class Disk:
    """The disk of a folder that does not exist yet."""

    def __init__(self, compiler: str, folder: Path, place: Path) -> None:
        """Builds the library in `place`, which is not below the folder."""
        self._folder = folder
        self._journal = place / "disk.journal"
        self._fails = place / "disk.fails"
        library = place / "disk.so"
        command = [compiler, "-Wall", "-Werror", "-O2", "-fPIC", "-shared", "-o", library, SOURCE]
        subprocess.run(command, check=True)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "DISK_FOLDER": str(folder),
            "DISK_JOURNAL": str(self._journal),
            "DISK_FAILS": str(self._fails),
        }
        self._before: dict[str, bytes] | None = None
        """What lay there when the power last came; None: not even the folder."""
        self.lost_bytes = 0
        """How much was written and not synced, in all cuts."""

    def fail(self, what: str, error: int) -> None:
        """From now on "w"rites or "s"yncs fail."""
        fresh = self._fails.with_suffix(".new")
        fresh.write_text(f"{what}{error}")
        fresh.rename(self._fails)

    def heal(self) -> None:
        self._fails.unlink()

    def cut(self, rng: random.Random, keeping: float | None = None) -> None:
        """Cuts the power of a disk that no process uses any more, and brings it back.

        Args:
            rng: Draws what is left of what was not synced.
            keeping: How much of it that is, from 0 to 1; drawn where it is not given.
        """
        files = {name: _File(content) for name, content in (self._before or {}).items()}
        removed: dict[str, bytes] = {}
        lasting = set(files)
        folder_lasts = self._before is not None
        for what, path, at, data in self._records():
            name = path.name
            if path == self._folder.parent:
                folder_lasts = True
            elif path == self._folder:
                lasting = set(files)
                removed.clear()
            elif what == b"u":
                if name in lasting:
                    removed[name] = files[name].synced
                files.pop(name, None)
                lasting.discard(name)
            elif what == b"s":
                files.setdefault(name, _File()).sync()
            else:
                content = data if what == b"w" else None
                files.setdefault(name, _File()).since.append((at, content))
        self._compare({name: file.whole() for name, file in files.items()})
        if keeping is None:
            keeping = rng.choice((0.0, 0.5, 0.9, 1.0))
        keeps = lambda: rng.random() < keeping  # noqa: E731 - one line
        self.lost_bytes += sum(
            len(data or b"") for file in files.values() for _, data in file.since
        )
        self._before = None
        if folder_lasts or keeps():
            self._before = {n: f.after(keeps) for n, f in files.items() if n in lasting or keeps()}
            self._before |= {n: content for n, content in removed.items() if not keeps()}
        self._write()
        self._journal.write_bytes(b"")

    def _records(self):
        journal = self._journal.read_bytes()
        at = 0
        while at + _HEAD.size <= len(journal):
            what, path_bytes, data_bytes, where = _HEAD.unpack_from(journal, at)
            data_at = at + _HEAD.size + path_bytes
            at = data_at + data_bytes
            if at > len(journal):
                return  # the end came while it was written, so it was not done
            path = Path(journal[data_at - path_bytes : data_at].decode())
            if not path.name.endswith("-shm"):
                yield what, path, where, journal[data_at:at]

    def _compare(self, told: Mapping[str, bytes]) -> None:
        """All that was written down is all that was done; the very last may not have been."""
        there = {
            path.name: path.read_bytes()
            for path in (self._folder.iterdir() if self._folder.exists() else ())
            if not path.name.endswith("-shm")
        }
        for name in told.keys() | there.keys():
            one, other = told.get(name, b""), there.get(name, b"")
            differing = [
                at
                for at in range(0, max(len(one), len(other)), SECTOR_BYTES)
                if one[at : at + SECTOR_BYTES] != other[at : at + SECTOR_BYTES]
            ]
            spread = differing[-1] - differing[0] if differing else 0
            assert spread <= 1 << 16, f"{name}: not all that is done to it is written down"

    def _write(self) -> None:
        for path in self._folder.iterdir() if self._folder.exists() else ():
            path.unlink()
        if self._before is None:
            if self._folder.exists():
                self._folder.rmdir()
            return
        self._folder.mkdir(exist_ok=True)
        for name, content in self._before.items():
            (self._folder / name).write_bytes(content)

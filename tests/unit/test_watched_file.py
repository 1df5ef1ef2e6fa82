"""Whether a file has changed, as an exporter that watches its configuration asks, and what then."""

import os

import pytest

from outcome_exporter.errors import ConfigError, Problem, StateCorrupt, StorageError
from outcome_exporter.server import Reloading, WatchedFile


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("first")
    return path


def written(file):
    file.write_text("second")


def replaced(file):
    new = file.with_suffix(".new")
    new.write_text("second")
    new.rename(file)


@pytest.mark.parametrize("change", [written, replaced])
def test_another_content_is_a_change_once(file, change):
    watched = WatchedFile(file)
    assert not watched.changed()
    change(file)
    assert watched.changed()
    assert not watched.changed()


def test_the_same_content_is_none_whatever_its_time(file):
    watched = WatchedFile(file)
    os.utime(file, (1, 1))
    assert not watched.changed()
    file.write_text("first")
    assert not watched.changed()


def test_the_swapped_link_of_a_config_map_is_one(tmp_path):
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "config.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("..1")
    file = tmp_path / "config.yaml"
    file.symlink_to("..data/config.yaml")
    watched = WatchedFile(file)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert watched.changed()


def test_a_file_that_is_gone_is_waited_for(file):
    watched = WatchedFile(file)
    file.unlink()
    assert not watched.changed()
    file.write_text("first")
    assert not watched.changed()
    file.unlink()
    file.write_text("second")
    assert watched.changed()


class Reloads:
    """Of an exporter that watches a file: how many there were, and what was logged."""

    def __init__(self, file, log, *, watch=True):
        self.fails = None
        self.count = 0
        self.checkpoint = 1
        self._log = log
        watched = WatchedFile(file) if watch else None
        self._reloading = Reloading(self._reload, watched, lambda: self.checkpoint)

    def _reload(self):
        self.count += 1
        if self.fails:
            raise self.fails

    def look(self, *, asked=False):
        """Reloads at a look, and what it logged."""
        before = self.count
        self._log.clear()
        self._reloading.look(asked=asked)
        return self.count - before, [record.getMessage() for record in self._log.records]


@pytest.fixture
def reloads(file, caplog):
    return Reloads(file, caplog)


def test_what_the_storage_refused_is_tried_again_once_it_took_a_checkpoint(file, reloads):
    reloads.fails = StorageError("the disk is full")
    assert reloads.look() == (0, [])
    written(file)
    assert reloads.look() == (1, ["not reloaded: the disk is full"])
    for _ in range(3):
        assert reloads.look() == (0, [])
    reloads.checkpoint += 1
    assert reloads.look() == (1, ["not reloaded: the disk is full"])
    assert reloads.look() == (0, [])
    reloads.fails = None
    reloads.checkpoint += 1
    assert reloads.look() == (1, [])
    reloads.checkpoint += 1
    assert reloads.look() == (0, [])


def test_another_content_is_tried_at_once_whatever_the_storage_refused(file, reloads):
    reloads.fails = StorageError("the disk is full")
    written(file)
    assert reloads.look() == (1, ["not reloaded: the disk is full"])
    file.write_text("third")
    reloads.fails = ConfigError("c.yaml", [Problem("slos", "are wrong", "")])
    assert reloads.look() == (1, ["not reloaded: c.yaml: slos: are wrong"])
    reloads.checkpoint += 1
    assert reloads.look() == (0, [])


def test_a_file_that_is_gone_when_the_storage_has_room_again_is_waited_for(file, reloads):
    reloads.fails = StorageError("the disk is full")
    written(file)
    assert reloads.look() == (1, ["not reloaded: the disk is full"])
    reloads.fails = None
    file.unlink()
    reloads.checkpoint += 1
    assert reloads.look() == (0, [])
    file.write_text("second")
    assert reloads.look() == (1, [])


def test_who_asks_is_told_each_time_and_a_file_nobody_watches_is_not_tried_again(file, caplog):
    for watch in (True, False):
        reloads = Reloads(file, caplog, watch=watch)
        reloads.fails = StorageError("the disk is full")
        for _ in range(2):
            assert reloads.look(asked=True) == (1, ["not reloaded: the disk is full"])
        assert reloads.look() == (0, [])
        reloads.checkpoint += 1
        assert reloads.look() == (int(watch), ["not reloaded: the disk is full"][: int(watch)])


def test_an_error_of_the_file_waits_for_another_content_and_so_does_damage(file, reloads):
    for fails, said in (
        (ConfigError("c.yaml", [Problem("slos", "are wrong", "")]), "c.yaml: slos: are wrong"),
        (StateCorrupt("it is damaged"), "it is damaged"),
    ):
        reloads.fails = fails
        file.write_text(said)
        assert reloads.look() == (1, [f"not reloaded: {said}"])
        reloads.checkpoint += 1
        assert reloads.look() == (0, [])


def test_what_nobody_foresaw_is_said_and_stops_nothing(file, reloads):
    reloads.fails = MemoryError()
    assert reloads.look(asked=True) == (1, ["not reloaded because of a defect"])
    reloads.fails = None
    assert reloads.look(asked=True) == (1, [])

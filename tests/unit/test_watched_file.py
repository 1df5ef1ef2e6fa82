"""Whether a file has changed, as an exporter that watches its configuration asks."""

import os

import pytest

from outcome_exporter.server import WatchedFile


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

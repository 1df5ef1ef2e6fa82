"""Disks that are full, read-only or failing: senders are asked to wait, the series stay, and work
goes on once the disk is well.

On a small file system of its own, which takes root, elsewhere these are skipped; or on a disk that
fails when told to, see disk.py.
"""

import errno
import os
import random
import subprocess
from contextlib import contextmanager

import pytest
from tests.crash.disk import Disk
from tests.crash.exporters import command, eventually, write_config
from tests.crash.load import Books, Sender
from tests.programs import require


@contextmanager
def mounted(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def sending(exporter, books):
    senders = [Sender(n, lambda: exporter.http_port, books) for n in range(2)]
    for sender in senders:
        sender.start()
    try:
        yield senders
    finally:
        for sender in senders:
            sender.give_up()
            sender.stop()
            sender.join()


def settled(exporter, books):
    """Everything that was accepted is counted."""
    expected = books.series()
    eventually(
        lambda: {k: v for k, v in exporter.series().items() if k in expected} == expected,
        "all is counted once",
        60,
    )


def test_a_full_disk_refuses_until_there_is_room_and_loses_nothing(tmp_path):
    with (
        mounted(tmp_path / "disk", "16m") as disk,
        command(write_config(tmp_path, disk / "data")) as exporter,
    ):
        exporter.until_ready()
        books = Books()
        with sending(exporter, books) as senders:
            eventually(lambda: sum(books.attempts.values()) > 200, "some are accepted")
            fill(disk / "ballast")
            refused = books.refused
            eventually(lambda: books.refused > refused + 20, "the full disk refuses")
            seen = exporter.series()
            assert seen["outcome_exporter_ready{}"] == 1
            status, ails = exporter.get("/healthz")
            assert status == 200
            assert "the log was not written" in ails
            assert "database or disk is full" in ails
            (disk / "ballast").unlink()
            accepted = sum(books.attempts.values())
            eventually(lambda: sum(books.attempts.values()) > accepted + 200, "it goes on")
            for sender in senders:
                sender.stop()
            for sender in senders:
                sender.join()
                assert sender.problem is None
        settled(exporter, books)
        assert exporter.terminate() == 0
        assert "database or disk is full" in exporter.said()


@pytest.fixture
def breakable(tmp_path):
    return Disk(require("cc"), tmp_path / "data", tmp_path)


@pytest.mark.parametrize(
    ("what", "error", "said"),
    [
        ("w", errno.EROFS, "disk I/O error"),
        pytest.param("w", errno.ENOSPC, "database or disk is full", marks=pytest.mark.slow),
        pytest.param("s", errno.EIO, "disk I/O error", marks=pytest.mark.slow),
    ],
    ids=["turns read-only", "fills", "does not sync"],
)
def test_a_disk_that_fails_for_a_while_refuses_and_loses_nothing(
    what, error, said, tmp_path, breakable
):
    config = write_config(tmp_path, tmp_path / "data")
    books = Books()
    with command(config, breakable.environment) as exporter:
        exporter.until_ready()
        with sending(exporter, books) as senders:
            eventually(lambda: sum(books.attempts.values()) > 200, "some are accepted")
            assert exporter.get("/healthz") == (200, "ok\n")
            breakable.fail(what, error)
            refused = books.refused
            eventually(lambda: books.refused > refused + 20, "requests are refused")
            eventually(lambda: "the checkpoint" in exporter.get("/healthz")[1], "no checkpoint")
            status, ails = exporter.get("/healthz")
            assert status == 200
            assert f"the log was not written: {tmp_path / 'data' / 'log.db'}: {said}" in ails
            assert exporter.get("/readyz")[0] == 200
            breakable.heal()
            accepted = sum(books.attempts.values())
            eventually(lambda: sum(books.attempts.values()) > accepted + 200, "it goes on")
            eventually(lambda: exporter.get("/healthz") == (200, "ok\n"), "it is well")
            for sender in senders:
                sender.stop()
            for sender in senders:
                sender.join()
                assert sender.problem is None
        settled(exporter, books)
        exporter.kill()
    # What was not synced while it failed is gone; nothing acknowledged was among it.
    breakable.cut(random.Random(1))
    with command(config, breakable.environment) as exporter:
        exporter.until_ready()
        settled(exporter, books)


def test_the_first_requests_outlive_a_power_cut_right_after_the_first_start(tmp_path, breakable):
    config = write_config(tmp_path, tmp_path / "data", checkpoint="1h")
    books = Books()
    with command(config, breakable.environment) as exporter:
        exporter.until_ready()
        with sending(exporter, books):
            eventually(lambda: books.attempts, "one is accepted")
        exporter.kill()
    breakable.cut(random.Random(1), keeping=0)
    with command(config, breakable.environment) as exporter:
        exporter.until_ready()
        settled(exporter, books)


def fill(path):
    with path.open("wb") as ballast:
        try:
            while True:
                ballast.write(bytes(1 << 14))
                ballast.flush()
        except OSError:
            pass


@pytest.mark.slow
def test_a_start_on_a_read_only_disk_ends_with_what_to_do(tmp_path):
    with mounted(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with command(write_config(tmp_path, disk / "data")) as exporter:
            assert exporter.wait() == 3
            assert "Read-only file system" in exporter.said()
            assert "storage.path" in exporter.said()
            assert "Traceback" not in exporter.said()


@pytest.mark.slow
def test_a_start_on_a_full_disk_ends_with_what_to_do(tmp_path):
    with mounted(tmp_path / "disk", "1m") as disk:
        (disk / "data").mkdir()
        fill(disk / "ballast")
        with command(write_config(tmp_path, disk / "data")) as exporter:
            assert exporter.wait() == 3
            assert "check space, permissions and the health of the disk" in exporter.said()
            assert "Traceback" not in exporter.said()

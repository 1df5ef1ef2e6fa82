"""kill -9 at random moments under load: what was accepted is counted once, and nothing goes back.

Likewise where the power goes at the same moment, and with it what was not synced: see disk.py.

The moments are drawn between the start of the process and 0.5 s after it accepts requests. With
checkpoints every 100 ms or 2 s, as it comes, that covers opening the files, short and long replays,
group commits, checkpoints, trimming and copying of the write-ahead log. Now and then the senders
pause before the kill, so that what is settled and shown was settled by the clock alone.
"""

import http.client
import os
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.disk import Disk
from tests.crash.exporters import SECONDS_MAX, Exporter, Series, Zygote, eventually, write_config
from tests.crash.exporters import zygote as running_zygote
from tests.crash.load import Books, Sender
from tests.programs import require

SENDERS = 3
MANY = int(os.environ.get("KILLS", "50"))
"""Kills of the long run: KILLS=200 makes it longer."""
MONOTONIC = re.compile(r"(outcome_(?!exporter_)|slo_|traces_)\w+(_total|_bucket|_count|_sum)(\{|$)")


class Scraper(threading.Thread):
    """Looks all the time, and remembers every counter that went back."""

    def __init__(self, current: Callable[[], Exporter]) -> None:
        super().__init__(name="scraper", daemon=True)
        self._current = current
        self._stopping = threading.Event()
        self.highest: Series = {}
        self.went_back: list[str] = []
        self.scrapes = 0

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        while not self._stopping.wait(0.005):
            exporter = self._current()
            if exporter.page_port is None:
                continue
            try:
                seen = exporter.series()
            except (OSError, http.client.HTTPException):
                continue
            self.look(seen, exporter.log.name)

    def look(self, seen: Series, where: str) -> None:
        self.scrapes += 1
        for name, value in seen.items():
            if not MONOTONIC.match(name):
                continue
            before = self.highest.get(name, 0)
            if value < before:
                self.went_back.append(f"{where}: {name} from {before} to {value}")
            self.highest[name] = max(value, before)


class Run:
    """Kills an exporter again and again while it works."""

    def __init__(self, folder: Path, zygote: Zygote, seed: int, disk: Disk | None) -> None:
        self._folder = folder
        self._zygote = zygote
        self._disk = disk
        self._random = random.Random(seed)
        self.exporter = self._start()
        self.books = Books()
        self.scraper = Scraper(lambda: self.exporter)
        self.senders = [
            Sender(seed * 1000 + n, lambda: self.exporter.http_port, self.books)
            for n in range(SENDERS)
        ]
        self.killed_before_ready = 0

    def _start(self) -> Exporter:
        checkpoint = self._random.choice(["100ms", "2s"])
        write_config(self._folder, self._folder / "data", checkpoint=checkpoint)
        return self._zygote.start()

    def kills(self, count: int) -> None:
        self.scraper.start()
        for sender in self.senders:
            sender.start()
        for _ in range(count):
            self._kill_once()
            assert not self.scraper.went_back
            assert not any(sender.problem for sender in self.senders)
        self.exporter.until_ready()
        for sender in self.senders:
            sender.stop()
        for sender in self.senders:
            sender.join(SECONDS_MAX)
            assert not sender.is_alive()

    def _kill_once(self) -> None:
        if self._random.random() < 0.3:
            # Somewhere on the way up.
            time.sleep(self._random.random() * 0.4)  # the moment is what is tested
        else:
            self.exporter.until_ready()
            time.sleep(self._random.random() * 0.5)
            if self._random.random() < 0.15:
                self._pause()
        self.killed_before_ready += self.exporter.http_port is None
        self._kill()
        self.exporter = self._start()

    def _kill(self) -> None:
        self.exporter.kill()
        if self._disk is not None:
            self._disk.cut(self._random)

    def _pause(self) -> None:
        for sender in self.senders:
            sender.awake.clear()
        time.sleep(2.5)  # within, and the clock's seconds
        for sender in self.senders:
            sender.awake.set()

    def compare(self) -> None:
        """What is counted is what was accepted, also after one more kill."""
        expected = self.books.series()
        self._until_settled(expected)
        self._kill()
        self.exporter = self._start().until_ready()
        self._until_settled(expected)
        self.scraper.stop()
        assert not self.scraper.went_back

    def _until_settled(self, expected: Series) -> None:
        total = sum(self.books.attempts.values())

        def settled() -> bool:
            seen = self.exporter.series()
            counted = sum(v for k, v in seen.items() if k.startswith("outcome_attempts_total"))
            waiting = sum(v for k, v in seen.items() if k.startswith("outcome_pending_attempts"))
            return counted >= total and waiting == 0

        eventually(settled, "all settled", 60)
        seen = self.exporter.series()
        assert {name: seen[name] for name in expected} == expected
        counted = sum(v for k, v in seen.items() if k.startswith("outcome_attempts_total"))
        assert counted == total


def run(folder: Path, kills: int, seed: int, disk: Disk | None = None) -> None:
    config = write_config(folder, folder / "data")
    began = time.monotonic()
    with running_zygote(config, {} if disk is None else disk.environment) as zygote:
        run = Run(folder, zygote, seed, disk)
        try:
            run.kills(kills)
            run.compare()
        finally:
            for sender in run.senders:
                sender.give_up()
            run.exporter.signal(9)
            run.exporter.wait()
    books = run.books
    print(
        f"{kills} kills in {time.monotonic() - began:.0f} s, {run.killed_before_ready} of them "
        f"before it listened: {sum(books.attempts.values())} attempts accepted and counted once, "
        f"{books.refused} of {books.tries} requests failed and were sent again, "
        f"{run.scraper.scrapes} scrapes"
        + ("" if disk is None else f"; {disk.lost_bytes >> 10} KiB were written but not synced")
    )


def test_what_was_accepted_is_counted_once_through_20_kills(tmp_path):
    run(tmp_path, 20, seed=1)


@pytest.fixture
def disk(tmp_path):
    return Disk(require("cc"), tmp_path / "data", tmp_path)


def test_what_was_accepted_is_counted_once_through_5_power_cuts(tmp_path, disk):
    run(tmp_path, 5, seed=3, disk=disk)


@pytest.mark.slow
@pytest.mark.timeout(120 + 6 * MANY)
def test_what_was_accepted_is_counted_once_through_many_power_cuts(tmp_path, disk):
    run(tmp_path, MANY // 2, seed=4, disk=disk)


@pytest.mark.slow
@pytest.mark.timeout(120 + 6 * MANY)
def test_what_was_accepted_is_counted_once_through_many_kills(tmp_path):
    run(tmp_path, MANY, seed=2)

"""How the log slows down those who receive, so that the reader keeps up in memory."""

import threading
import time

import pytest

from outcome_exporter.log import DurableLog
from outcome_exporter.model import Encoding, Kind

PAYLOAD = b"x" * 10_000


@pytest.fixture
def log(tmp_path):
    log = DurableLog(
        tmp_path, max_bytes=1 << 30, keep_nanoseconds=0, now=time.time_ns, tail_bytes=50_000
    )
    yield log
    log.close()


def fill(log, records):
    for _ in range(records):
        log.append(Kind.TRACES, Encoding.GZIP, PAYLOAD)


def waits(log, seconds):
    begun = time.monotonic()
    log.wait_for_reader(seconds)
    return time.monotonic() - begun >= seconds


def test_nobody_waits_while_less_than_half_of_the_tail_is_unread(log):
    fill(log, 2)
    assert not waits(log, 5)


def test_who_receives_waits_for_the_reader_and_no_longer_than_it_may(log):
    fill(log, 3)
    assert waits(log, 0.05)


@pytest.mark.parametrize(
    "release", [lambda log: log.read(3, max_bytes=1, timeout_seconds=0), lambda log: log.close()]
)
def test_who_waits_goes_on_once_the_reader_has_read_or_the_log_closes(log, release):
    fill(log, 3)
    waiting = threading.Thread(target=log.wait_for_reader, args=(60,))
    waiting.start()
    release(log)
    waiting.join(30)
    assert not waiting.is_alive()


def test_what_was_read_leaves_the_memory_and_can_be_read_again_from_the_file(log):
    fill(log, 3)
    log.read(3, max_bytes=1, timeout_seconds=0)
    [record] = log.read(1, max_bytes=1, timeout_seconds=0)
    assert (record.offset, record.payload) == (1, PAYLOAD)

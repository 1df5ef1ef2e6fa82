"""What the exporter logs: one line each, whatever is in it, and no flood."""

import io
import json
import logging

import pytest

from outcome_exporter import diagnostics


@pytest.fixture
def log(monkeypatch):
    """Sets logging up and gives the lines."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()

    def setup(form):
        monkeypatch.setattr("sys.stderr", out)
        diagnostics.setup(form)
        return lambda: out.getvalue().splitlines()

    yield setup
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message="said", *args, level=logging.WARNING, created=0.0):
    made = logging.LogRecord("here", level, __file__, 1, message, args, None)
    made.created = created
    return made


def test_a_line_of_text(log):
    lines = log("text")
    logging.getLogger("a").info("ready on %d", 1)
    (line,) = lines()
    time, level, message = line.split(" ", 2)
    assert (level, message) == ("INFO", "ready on 1")
    assert time.endswith("Z")
    assert len(time) == 24


def test_a_line_of_json(log):
    lines = log("json")
    logging.getLogger("a").warning("größe %s", "\ud800")
    (line,) = lines()
    said = json.loads(line)
    assert said.keys() == {"time", "level", "logger", "message"}
    assert (said["level"], said["logger"], said["message"]) == ("WARNING", "a", "größe \ud800")


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_a_sender_wrote_begins_a_line(form, log):
    lines = log(form)
    logging.getLogger("a").error("refused: %s", "x\n2026 INFO all is well\r\x1b[2J\u2028\x85")
    (line,) = lines()
    assert "all is well" in line
    assert not any(ord(character) < 0x20 for character in line)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_is_part_of_its_line(form, log):
    lines = log(form)
    try:
        int("broken\nin two")
    except ValueError:
        logging.getLogger("a").exception("a defect")
    (line,) = lines()
    assert "Traceback" in line
    assert "in two" in line


def test_what_repeats_is_said_a_few_times_a_minute_and_then_how_often():
    limit = diagnostics.RateLimit()
    said = [limit.filter(record("bad request %d", i, created=i / 100)) for i in range(1_000)]
    assert said == [True] * diagnostics.BURST + [False] * (1_000 - diagnostics.BURST)
    assert limit.filter(record("something else", created=10.0)), "each template for itself"
    later = record("bad request %d", 1, created=61.0)
    assert limit.filter(later)
    assert diagnostics._message(later) == "bad request 1 (995 more like it were left out)"
    last = record("bad request %d", 2, created=62.0)
    assert limit.filter(last)
    assert diagnostics._message(last) == "bad request 2"


def test_information_is_never_left_out():
    limit = diagnostics.RateLimit()
    assert all(limit.filter(record(level=logging.INFO)) for _ in range(100))


def test_what_is_remembered_of_repetition_is_bounded():
    limit = diagnostics.RateLimit()
    for i in range(diagnostics.TEMPLATES_MAX * 3):
        limit.filter(record(f"template {i}"))
    assert len(limit._seen) <= diagnostics.TEMPLATES_MAX

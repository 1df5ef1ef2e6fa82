"""What the exporter says about itself while it runs: one line each, as text or JSON.

    2026-01-02T03:04:05.678Z INFO metrics and page on port 9464, …
    {"time": "2026-01-02T03:04:05.678Z", "level": "INFO", "logger": "…", "message": "…"}

Line breaks and control characters in a message are escaped: what a sender wrote into its request
cannot pretend to be a line of its own. A message that repeats is said `BURST` times a minute; the
first one after that says how many were left out. What repeats is told by its template, not its
text, so that a flood of differing requests is one repetition.
"""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Literal

Format = Literal["text", "json"]

BURST = 5
PERIOD_SECONDS = 60.0
TEMPLATES_MAX = 1_000
"""Templates that are remembered: there are as many as places in the code that log."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def setup(form: Format, level: int = logging.INFO) -> None:
    """Sends every logger's lines to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    handler.addFilter(RateLimit())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class RateLimit(logging.Filter):
    """Lets a template through `BURST` times in `PERIOD_SECONDS`, by the records' own time."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}
        """Template → the period's begin, and how often it came in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is said; a handler's lock lets one thread in at a time."""
        if record.levelno < logging.WARNING:
            return True
        template = (record.name, record.levelno, str(record.msg))
        begin, count = self._seen.get(template, (record.created, 0))
        left_out = 0
        if abs(record.created - begin) >= PERIOD_SECONDS:
            left_out, begin, count = max(count - BURST, 0), record.created, 0
        if len(self._seen) >= TEMPLATES_MAX and template not in self._seen:
            self._seen.clear()
        self._seen[template] = begin, count + 1
        record.left_out = left_out
        return count < BURST


def printable(text: str) -> str:
    """A text in which line breaks and control characters are written out."""
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


def _message(record: logging.LogRecord) -> str:
    left_out = getattr(record, "left_out", 0)
    return record.getMessage() + (f" ({left_out} more like it were left out)" if left_out else "")


def _time(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = f"{_time(record)} {record.levelname} {_message(record)}"
        if record.exc_info:
            said += f" | {self.formatException(record.exc_info)}"
        return printable(said)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        # ASCII: no character breaks the line, and a lone surrogate harms nobody.
        return json.dumps(said)

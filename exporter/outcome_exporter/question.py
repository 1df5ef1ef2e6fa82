"""What somebody wants to have explained, read from texts: apart from whoever answers it."""

import re
from typing import NamedTuple

from outcome_exporter.units import parse_duration

_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)


class Asked(NamedTuple):
    """What somebody wants to have explained: a trace, else a journey."""

    trace_id: str
    """32 hex digits, or empty."""
    journey: str
    since: int
    """Nanoseconds back from now."""

    @property
    def unknown(self) -> str:
        """What to do where nothing is known of it."""
        if self.journey:
            return f"no journey {self.journey!r} is configured; /config names them"
        return (
            f"no bad attempt with trace {self.trace_id} is remembered: it was good, or waits for "
            "its verdict, or was no attempt, or more than limits.explained bad ones came since, or "
            "the exporter was started or reloaded since; ask `explain --journey` for recent ones"
        )


def read_question(trace_id: str, journey: str, since: str) -> Asked:
    """A question as texts.

    Raises:
        ValueError: It is none; says what to write.
    """
    if not trace_id and not journey:
        raise ValueError("explain what? give a trace id, or a journey")
    if trace_id and not _TRACE_ID.fullmatch(trace_id):
        raise ValueError(f"{trace_id[:60]!r} is no trace id: it has 32 hexadecimal digits")
    return Asked(trace_id.lower(), journey, parse_duration(since))

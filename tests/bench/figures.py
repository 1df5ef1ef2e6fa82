"""What a benchmark found out: a line of the table."""

from typing import NamedTuple


class Figure(NamedTuple):
    """One measurement."""

    what: str
    value: str
    beside: str = ""
    """The same of what it is compared with, and what that is."""
    ratio: float | None = None
    """How many times better than that it is."""

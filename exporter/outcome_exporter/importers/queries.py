"""PromQL that other tools divide, as events that we count.

Other formats write ratios of rates: `sum(rate(http_requests_total{code=~"5.."}[5m]))`. Where a
query is a sum of the rate or increase of one selector, we read that selector's samples, which is
exact. Everything else stays an expression, made to give the events of a minute: a rate is
multiplied by 60, an increase over a window by 60 s / window; both are read over two minutes, so
that scrapes a minute apart suffice. Samples (`sum_over_time`, `count_over_time`) are those of one.

A ratio that nobody can divide says no number of events: a minute of each of its series is one, as
good as the ratio says. That is how Sloth weighs it, too.
"""

import re
from typing import NamedTuple

from outcome_exporter.promql import is_selector, split

_WINDOW = r"\[\s*(\{\{\s*\.window\s*\}\}|\$\{?window\}?|\d[\dsmhdwy]*)\s*\]"
_TEMPLATE = re.compile(r"\{\{|\$\{?window")
_SUBQUERY = re.compile(_WINDOW.replace(r"\s*\]", r"\s*:[^\]]*\]"))
_RANGE = re.compile(_WINDOW)
_SUM = re.compile(r"sum\s*(?:(?:by|without)\s*\([^)]*\)\s*)?(?=\()")
_SUM_BY_AFTER = re.compile(r"(?:by|without)\s*\([^)]*\)\s*$")
_RATE = re.compile(rf"(?:rate|increase|irate)\s*\(\s*(.*?)\s*{_WINDOW}\s*\)", re.DOTALL)
_OR_ZERO = re.compile(r"\s+or\s+(?:on\s*\(\s*\)\s*)?vector\s*\(\s*0\s*\)\s*$", re.IGNORECASE)
_OFFSET = re.compile(r"(?<=[\]}\w])\s+(offset\s+-?\d[\dsmhdwy]*)(?=[\s)]*$)", re.IGNORECASE)
_FUNCTIONS = re.compile(r"\b(rate|irate|increase|[a-z]+_over_time)\s*\(")
_SAMPLES = {"sum_over_time", "count_over_time"}
"""What they give for a minute adds up over minutes."""
_READ_OVER_SECONDS = 120


class Events(NamedTuple):
    """A query of ours."""

    query: str
    why: str = ""
    """Why it is an expression; empty for a selector, which is exact."""
    offset: str = ""
    """What it was shifted by, which is left out: a selector is read by the samples' own times."""


class NoCount(Exception):
    """A query that gives no number of events."""


def events_of(query: str, *, counter: bool = False) -> Events:
    """What counts the events of a query.

    Args:
        query: Rates, increases, or counters.
        counter: It is a counter that only rises, rather than what happened in a window.

    Raises:
        NoCount: It gives no number of events.
    """
    plain = bare(query)
    _refuse_templates(_RANGE.sub("", _SUBQUERY.sub("", plain)))
    shifted = _OFFSET.search(plain)
    selector = _selector(_OFFSET.sub("", plain), counter=counter)
    if selector is not None:
        return Events(selector, offset=shifted[1] if shifted else "")
    return Events(_per_minute(plain), "it is more than a sum of one selector's rate")


def _selector(query: str, *, counter: bool) -> str | None:
    """The selector whose rate a query sums, if it is no more than that."""
    inner = bare(_without_sum(query))
    rate = _RATE.fullmatch(inner)
    if rate is not None and is_selector(rate[1]):
        return rate[1]
    return inner if counter and is_selector(inner) else None


def _refuse_templates(query: str) -> None:
    """A window that is part of a name, as in `errors:ratio_rate{{.window}}`, is none we know."""
    if _TEMPLATE.search(query):
        raise NoCount(f"{query[:60]!r} has its window elsewhere than in brackets")


def _per_minute(query: str) -> str:
    functions = set(_FUNCTIONS.findall(query))
    windows = set(_RANGE.findall(query))
    if functions and functions <= {"rate", "irate"}:
        return f"60 * ({_RANGE.sub('[2m]', query)})"
    if functions == {"increase"} and len(windows) == 1:
        return f"{60 / _READ_OVER_SECONDS:g} * ({_RANGE.sub('[2m]', query)})"
    if functions and functions <= _SAMPLES:
        return _SUBQUERY.sub("[1m:1m]", _RANGE.sub("[1m]", query))
    raise NoCount(f"{query[:60]!r} is no rate or increase, whose events can be counted")


def bare(query: str) -> str:
    """Without what changes nothing: spaces, outer parentheses, `or vector(0)`."""
    text = " ".join(query.split())
    while True:
        before = text
        text = _OR_ZERO.sub("", text).strip()
        if text.startswith("(") and _closes(text, 0) == len(text) - 1:
            text = text[1:-1].strip()
        if text == before:
            return text


def _without_sum(text: str) -> str:
    found = _SUM.match(text)
    if found is None:
        return text
    rest = text[found.end() :]
    closing = _closes(rest, 0)
    tail = rest[closing + 1 :].strip()
    if tail and not _SUM_BY_AFTER.fullmatch(tail):
        return text
    return rest[1:closing]


def _closes(text: str, opening: int) -> int:
    """Place of the parenthesis that closes the one at `opening`; -1 where none does."""
    depth = 0
    quote = ""
    for at in range(opening, len(text)):
        symbol = text[at]
        if quote:
            if symbol == quote and text[at - 1] != "\\":
                quote = ""
        elif symbol in "\"'`":
            quote = symbol
        elif symbol in "([{":
            depth += 1
        elif symbol in ")]}":
            depth -= 1
            if not depth:
                return at
    return -1


def rest_of(error: str, total: str) -> str | None:
    """The good events where an error query is `total - good`."""
    match split(bare(error), "-"):
        case [whole, good] if bare(whole) == bare(total):
            return good
        case _:
            return None


class Minutes(NamedTuple):
    """A ratio as events: the minutes of its series, each of them so far as the ratio says."""

    part: str
    total: str


def minutes_of(query: str) -> Minutes:
    """What counts the minutes of a ratio; those in which it has no value are none.

    Raises:
        NoCount: Its window is more than a range.
    """
    ratio = bare(_RANGE.sub("[2m]", _SUBQUERY.sub("[2m:1m]", query)))
    _refuse_templates(ratio)
    return Minutes(f"sum(clamp_max(({ratio}) >= 0, 1))", f"count(({ratio}) >= 0)")


class Ratio(NamedTuple):
    """A ratio of two queries."""

    is_good: bool
    """Whether the part is the good events."""
    part: str
    total: str


def ratio_of(query: str) -> Ratio:
    """What an error ratio divides: `bad / total`, or `1 - good / total`.

    Raises:
        NoCount: It divides nothing, so that no events can be counted.
    """
    text = bare(query)
    match split(text, "-"):
        case [one, good] if bare(one) == "1":
            is_good, text = True, bare(good)
        case _:
            is_good = False
    match split(text, "/"):
        case [part, total]:
            return Ratio(is_good, part, total)
        case _:
            raise NoCount("it is a ratio already: how many events it stands for is not said")

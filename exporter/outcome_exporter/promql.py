"""As much of PromQL as is needed to tell what a text is: a selector of series, or more."""

import re
from itertools import pairwise

_QUOTED = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)"""
_LABELS = rf"""\{{(?:[^"'`{{}}]|{_QUOTED})*\}}"""
_SELECTOR = re.compile(
    rf"""\s*(?:[a-zA-Z_:][a-zA-Z0-9_:]*\s*(?:{_LABELS})?|(?=\{{[^}}]*["'`]){_LABELS})\s*"""
)
_BINDS = re.compile(r"(?<![\w:])(?:and|or|unless|atan2|on|ignoring)(?![\w:])", re.IGNORECASE)
"""Operators that are words, and what says which series an operator takes together."""
_ONE_BUCKET = re.compile(r"""[{,\s]le\s*=\s*["'`]""")


def is_selector(text: str) -> bool:
    """Whether a text names series, rather than computing something from them."""
    return _SELECTOR.fullmatch(text) is not None


def counts_every_bucket(selector: str) -> bool:
    """Whether it selects all buckets of a histogram, each of which holds those below it, too."""
    name = selector.partition("{")[0].strip()
    return name.endswith("_bucket") and _ONE_BUCKET.search(selector) is None


def split(text: str, operator: str) -> list[str]:
    """The operands of an operator that stands outside of all brackets and quotes.

    Only where no other binary operator does, so that nothing is split that binds otherwise, and
    where it takes series together by all of their labels; else the whole text.
    """
    places: list[int] = []
    depth, quote, outside = 0, "", ""
    for at, symbol in enumerate(text):
        outside += " " if depth or quote else symbol
        if quote:
            quote = "" if symbol == quote and text[at - 1] != "\\" else quote
        elif symbol in "\"'`":
            quote = symbol
        elif symbol in "([{":
            depth += 1
        elif symbol in ")]}":
            depth -= 1
        elif symbol in "+-*/%^<>=!" and not depth:
            if symbol != operator:
                return [text]
            places.append(at)
    if _BINDS.search(outside):
        return [text]
    edges = [-1, *places, len(text)]
    return [text[a + 1 : b].strip() for a, b in pairwise(edges)]

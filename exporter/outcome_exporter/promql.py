"""As much of PromQL as is needed to tell what a text is: a selector of series, or more."""

import re

_QUOTED = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)"""
_LABELS = rf"""\{{(?:[^"'`{{}}]|{_QUOTED})*\}}"""
_SELECTOR = re.compile(
    rf"""\s*(?:[a-zA-Z_:][a-zA-Z0-9_:]*\s*(?:{_LABELS})?|(?=\{{[^}}]*["'`]){_LABELS})\s*"""
)


def is_selector(text: str) -> bool:
    """Whether a text names series, rather than computing something from them."""
    return _SELECTOR.fullmatch(text) is not None

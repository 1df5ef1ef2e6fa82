"""Globs over bytes: `*` is any run, `?` any one character, everything else itself."""

from outcome_exporter.kernels.jit import kernel
from outcome_exporter.model import Bytes

_STAR = ord("*")
_MARK = ord("?")


@kernel
def matches(
    pattern: Bytes, pattern_at: int, pattern_end: int, text: Bytes, at: int, end: int
) -> bool:
    """Whether the whole of `text[at:end]` matches `pattern[pattern_at:pattern_end]`.

    Takes O(pattern x text) steps at worst, and no stack: only the last star is tried again.
    """
    star, retry = -1, at
    while at < end:
        symbol = pattern[pattern_at] if pattern_at < pattern_end else 0
        if pattern_at < pattern_end and symbol == _STAR:
            star, retry = pattern_at, at
            pattern_at += 1
        elif pattern_at < pattern_end and (symbol == _MARK or symbol == text[at]):
            # One character may be several bytes of UTF-8: take what continues it too.
            at += 1
            if symbol == _MARK:
                while at < end and text[at] & 0xC0 == 0x80:
                    at += 1
            pattern_at += 1
        elif star >= 0:
            retry += 1
            pattern_at, at = star + 1, retry
        else:
            return False
    while pattern_at < pattern_end and pattern[pattern_at] == _STAR:
        pattern_at += 1
    return pattern_at == pattern_end

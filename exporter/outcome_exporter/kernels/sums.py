"""Sums of money and time that stay within 64 bits, whatever a sender says.

In rupiah a marketplace turns over in days what 64 bits hold of millionths. A sum that stopped there
would hide all that is lost from then on. So it begins anew, as a counter of a process that was
restarted does: Prometheus' `rate` and `increase` go on, and lose nothing but what was added since
the last scrape.
"""

from outcome_exporter.kernels.jit import kernel

SUM_MAX = (1 << 62) - 1
"""Millionths, or microseconds. Two of them fit 64 bits."""

_MILLIONTHS = 1_000_000


@kernel
def weighted(value: int, weight: int) -> int:
    """Value times weight, both in millionths, without leaving 62 bits on the way."""
    if weight == _MILLIONTHS:
        return min(value, SUM_MAX)
    whole, rest = value // _MILLIONTHS, value % _MILLIONTHS
    if whole >= SUM_MAX // weight - 1:
        return SUM_MAX
    return whole * weight + rest * weight // _MILLIONTHS


@kernel
def added(total: int, more: int) -> int:
    """A sum and what comes to it; that alone where both together leave the range."""
    together = total + more
    return together if together <= SUM_MAX else more

"""Sums of money and time that stop at a limit: no counter goes back, whatever a sender says."""

from outcome_exporter.kernels.jit import kernel

SUM_MAX = (1 << 62) - 1
"""Where they stop. Two of them fit 64 bits."""

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
    """Two such numbers together."""
    return min(total + more, SUM_MAX)

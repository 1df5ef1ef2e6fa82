"""Numbers as people read them: rounded to what matters, with thousands separators and units.

Rounding never hides what counts. A share is cut off rather than rounded up, so that 99.496 % does
not look like the promised 99.5 %; it reads 100 % only where nothing is bad, and 0 only where there
is nothing. No text holds `nan`, `-0` or `1e-12`. Numbers and units are joined by no-break spaces.
"""

from decimal import Decimal
from math import floor

_NBSP = "\u00a0"
_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_SPAN_UNITS = ((_DAY, "day"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s"))
_TIMES = "\u00d7"
_CENTS_BELOW = 1_000
_WITHOUT_CENTS = frozenset({"CLP", "ISK", "JPY", "KRW", "PYG", "UGX", "VND", "XAF", "XOF"})
"""Currencies that have no hundredths; ISO 4217 lists a few more, all rare."""
_NOISE = 1e-9
"""What floating point may have left on a number that should be whole."""


def count(number: float) -> str:
    """How many: ``1,234,567``; ``<1`` for a fraction of one, which sampling makes."""
    if 0 < number < 1:
        return "<1"
    return f"{round(number):,}"


def share(ratio: float, *, decimals: int) -> str:
    """A share of one as percent, cut off after `decimals`: ``99.49 %``."""
    return f"{_cut(ratio * 100, decimals)}{_NBSP}%"


def fine_share(ratio: float) -> str:
    """A share as percent with two decimals, for columns: ``99.20 %``, ``0.05 %``."""
    return small_share(ratio) if ratio < 0.01 else share(ratio, decimals=2)  # noqa: PLR2004 1 %


def small_share(ratio: float) -> str:
    """A share as percent with two digits that matter: ``21 %``, ``4.2 %``, ``0.03 %``."""
    percent = ratio * 100
    if percent >= 10:  # noqa: PLR2004 two digits stand before the point
        return share(ratio, decimals=0)
    if percent >= 1:
        return share(ratio, decimals=1)
    if 0 < percent < 0.01:  # noqa: PLR2004 two digits stand after the point
        return f"<0.01{_NBSP}%"
    return share(ratio, decimals=2) if percent > 0 else f"0{_NBSP}%"


def objective(percent: Decimal) -> str:
    """An objective as it was written, without trailing zeros: ``99.5 %``."""
    text = f"{percent:f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{_NBSP}%"


def decimals_of(percent: Decimal) -> int:
    """Decimals of an objective, so that what is measured can show one more."""
    exponent = percent.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _cut(number: float, decimals: int) -> str:
    scale = 10**decimals
    return f"{floor(number * scale + _NOISE * scale) / scale:,.{decimals}f}"


def money(amount: float, currency: str) -> str:
    """An amount with its currency: ``USD 88,123,456``; cents only where they matter."""
    decimals = 2 if abs(amount) < _CENTS_BELOW and currency not in _WITHOUT_CENTS else 0
    if abs(amount) < _NOISE:
        decimals = 0
    # Adding 0 makes a rounded -0 a plain 0.
    return f"{currency}{_NBSP}{round(amount, decimals) + 0.0:,.{decimals}f}"


def times(rate: float) -> str:
    """A burn rate, with a sign of multiplication: 0.3, 14, 1,000."""
    if rate >= 10:  # noqa: PLR2004 two digits stand before the point
        return f"{round(rate):,}{_TIMES}"
    if 0 < rate < 0.05:  # noqa: PLR2004 would read 0.0
        return f"<0.1{_TIMES}"
    return f"{rate:.1f}{_TIMES}" if rate > 0 else f"0{_TIMES}"


def span(seconds: float) -> str:
    """A length of time in its two largest units: ``27 days 3 h``, ``12 min``, ``800 ms``."""
    if seconds <= 0:
        return f"0{_NBSP}s"
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))}{_NBSP}ms"
    left = round(seconds)
    parts = []
    for length, unit in _SPAN_UNITS:
        number, left = divmod(left, length)
        if number:
            plural = "s" if unit == "day" and number > 1 else ""
            parts.append(f"{number}{_NBSP}{unit}{plural}")
        if parts and (len(parts) == 2 or not left or unit == "min"):  # noqa: PLR2004 two units
            break
    return _NBSP.join(parts)


def resource(name: str, now: float, usual: float, *, limited: bool) -> str:
    """What a resource says: ``its CPU stood at 97 % of its limit, usual 31 %``."""
    what = _RESOURCES.get(name, name)
    if limited:
        return f"its {what} stood at {small_share(now)} of its limit, usual {small_share(usual)}"
    return f"its {what} stood at {_amount(now)}, usual {_amount(usual)}"


_RESOURCES = {
    "cpu": "CPU",
    "event_loop": "event loop",
    "connections": "pool of database connections",
    "cpu_cores": "use of CPU cores",
    "connection_waits": "number of requests waiting for a connection",
    "active_requests": "number of requests in flight",
}
"""Of resources whose name is no word."""


def _amount(number: float) -> str:
    return count(number) if number >= 10 else f"{number:.1f}"  # noqa: PLR2004 two digits


def size(number_bytes: float) -> str:
    """A size: ``18 MiB``, ``512 B``."""
    amount, unit = number_bytes, "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:  # noqa: PLR2004 a KiB
            break
        amount, unit = amount / 1024, larger
    decimals = 1 if unit != "B" and amount < 10 else 0  # noqa: PLR2004 two digits
    return f"{amount:,.{decimals}f}{_NBSP}{unit}"

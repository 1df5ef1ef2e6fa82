"""Colours, units and thresholds: what a look at a panel says before one has read it.

Colour never stands alone: states have words, since one man in twelve does not tell red from green.
"""

from dataclasses import dataclass

FINE = "green"
WARN = "orange"
SPENT = "orange"
SMOULDERING = "yellow"
BAD = "red"
IDLE = "#8e8e8e"
"""Grey: nothing is known, which is not the same as fine."""
PLAIN = "text"

PERCENT = "percentunit"
SECONDS = "s"
COUNT = "locale"
"""With thousands separators, not shortened: 1,621 and not 2 K."""
BYTES = "bytes"
PER_SECOND = "cps"
REQUESTS_PER_SECOND = "reqps"
DATE = "dateTimeFromNow"
TIMES = "suffix:\u00d7"
"""How many times faster than allowed."""

REASONS = {
    "ok": FINE,
    "recovered": "yellow",
    "slow": WARN,
    "missed": "purple",
    "error": BAD,
}
"""Colours of the reasons of outcomes."""
MONEY = {"achieved": FINE, "at_risk": WARN, "lost": BAD}
"""Colours of what becomes of money."""

_SYMBOLS = frozenset({"USD", "GBP", "EUR", "JPY", "RUB", "UAH", "BRL", "DKK", "ISK", "NOK", "SEK"})
"""Currencies for which Grafana has a unit of their own, with symbol and shortened thousands."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a number means."""

    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Step:
    """A colour from a value on."""

    colour: str
    value: float


Thresholds = tuple[str, tuple[Step, ...]]
"""The colour below all steps, and the steps, ascending."""

NEUTRAL: Thresholds = (PLAIN, ())
ANY_IS_BAD: Thresholds = (FINE, (Step(BAD, 1e-9),))
ANY_IS_A_WARNING: Thresholds = (FINE, (Step(WARN, 1e-9),))


def below(bad: float, warn: float) -> Thresholds:
    """Bad up to a value, a warning up to another, fine from there on."""
    return BAD, (Step(WARN, bad), Step(FINE, warn))


def above(warn: float, bad: float) -> Thresholds:
    """Fine, a warning from a value on, bad from another."""
    return FINE, (Step(WARN, warn), Step(BAD, bad))


def money_legend(currencies: frozenset[str], text: str) -> str:
    """A series' name, with its currency unless the unit shows it."""
    return text if len(currencies) == 1 else f"{text} {{{{currency}}}}"


def money_unit(currencies: frozenset[str]) -> str:
    """The unit of money: a currency's own where there is but one, else plain numbers."""
    if len(currencies) != 1:
        return COUNT
    (currency,) = currencies
    return f"currency{currency}" if currency in _SYMBOLS else f"prefix:{currency} "

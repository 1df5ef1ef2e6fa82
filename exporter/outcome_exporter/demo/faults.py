"""What breaks in the shop, when, and how to say it: the demo's script, as data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Kind(StrEnum):
    """Ways in which the shop can break."""

    PAYMENT_ERRORS = "payment_errors"
    """A share of all charges fails; customers try again, or give up."""
    SLOW_RELEASE = "slow_release"
    """A new version of inventory takes seconds for a share of its requests."""
    LOST_ORDERS = "lost_orders"
    """A share of all orders is never processed, though every request returned 200."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that breaks for a while."""

    kind: Kind
    start: float
    """Seconds after the shop opened."""
    end: float
    share: float
    """Of the requests that could be hit, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """What is to blame for a fault, as an honest investigation should find it."""

    journey: str
    service: str
    operation: str
    version: str
    cause_kind: str
    """As in the label `cause_kind`: error, latency or missing."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """Something a spectator should know at this moment."""

    elapsed: float
    """Seconds after the shop opened."""
    what: str
    """What happens."""
    expect: str
    """What to look at next."""


SLOW_VERSION = "2.4.0"
VERSIONS = {
    "frontend": "5.2.1",
    "cart": "1.4.0",
    "checkout": "4.0.3",
    "payment": "1.8.2",
    "inventory": "2.3.0",
    "email": "3.1.0",
}
"""The services, each with the version that the shop opens with."""

CULPRITS: dict[Kind, tuple[Culprit, ...]] = {
    Kind.PAYMENT_ERRORS: (
        Culprit("checkout", "payment", "POST /charge", VERSIONS["payment"], "error"),
    ),
    Kind.SLOW_RELEASE: (
        Culprit("checkout", "inventory", "POST /reserve", SLOW_VERSION, "latency"),
        Culprit("search", "inventory", "GET /stock", SLOW_VERSION, "latency"),
    ),
    Kind.LOST_ORDERS: (
        Culprit("checkout", "email", "orders process", VERSIONS["email"], "missing"),
    ),
}
"""Who is to be named for each fault."""

SCRIPT_SECONDS = 270
SCRIPT = (
    Fault(Kind.PAYMENT_ERRORS, start=60, end=105, share=0.2),
    Fault(Kind.SLOW_RELEASE, start=135, end=180, share=0.8),
    Fault(Kind.LOST_ORDERS, start=210, end=250, share=0.3),
)
"""The demo: five minutes with the half minute in which the last verdicts fall."""


@dataclass(frozen=True, slots=True)
class _Words:
    what: str
    expect: str


_BEGINS = {
    Kind.PAYMENT_ERRORS: _Words(
        what="Payment starts to fail {percent} of its charges.",
        expect="Some customers give up: `error`. Others try again and get their order: "
        "`recovered`, which hurts but loses no money. Watch `lost` stay below `at risk`, and the "
        "burn rate of checkout-success pass 1: now the error budget goes faster than promised.",
    ),
    Kind.SLOW_RELEASE: _Words(
        what=f"Inventory {SLOW_VERSION} is deployed (it was {VERSIONS['inventory']}), and most of "
        "its requests take seconds.",
        expect="Nothing fails, yet customers wait: `slow` grows for checkout and for search, and "
        "checkout-fast and search-fast burn.",
    ),
    Kind.LOST_ORDERS: _Words(
        what="Orders begin to vanish: {percent} are never processed. Every request still returns "
        "200, no error is logged, no latency moves.",
        expect="A monitor of requests sees a healthy shop. But for those orders the event "
        "`shop.order.completed` never comes, so {within} later their checkouts are `missed`, and "
        "their money is `lost`.",
    ),
}
_ENDS = {
    Kind.PAYMENT_ERRORS: _Words(
        what="Payment is repaired.",
        expect="New checkouts are `ok` again. The burn rate falls as the bad minutes leave its "
        "window of five.",
    ),
    Kind.SLOW_RELEASE: _Words(
        what=f"Inventory is rolled back to {VERSIONS['inventory']}.",
        expect="`slow` stops growing.",
    ),
    Kind.LOST_ORDERS: _Words(
        what="Orders are processed again.",
        expect="Those that vanished stay lost: nobody got an error to try again. `missed` grows "
        "for {within} more, until the last of their deadlines has passed.",
    ),
}


def announce(fault: Fault, *, begins: bool, within: str) -> Announcement:
    """What to say when a fault begins or ends.

    Args:
        fault: The fault.
        begins: It begins, else it ends.
        within: How long an order may take before it counts as missed, in words.
    """
    words = (_BEGINS if begins else _ENDS)[fault.kind]
    values = {"percent": f"{fault.share:.0%}".replace("%", " %"), "within": within}
    elapsed = fault.start if begins else fault.end
    return Announcement(elapsed, words.what.format(**values), words.expect.format(**values))


def script(seconds: float) -> tuple[Fault, ...]:
    """The demo's faults, stretched to last `seconds`."""
    factor = seconds / SCRIPT_SECONDS
    return tuple(replace(f, start=f.start * factor, end=f.end * factor) for f in SCRIPT)


def share(faults: Sequence[Fault], kind: Kind, elapsed: float) -> float:
    """The share that is hit by faults of a kind at a moment; 0 while there is none."""
    return max(
        (f.share for f in faults if f.kind is kind and f.start <= elapsed < f.end), default=0
    )

"""Scenarios for Hypothesis: a few senders, a few keys, and everything that may happen to them."""

from hypothesis import strategies as st
from tests.scenario import START, Event, Restart, Span, config

from outcome_exporter.units import MILLISECOND, SECOND

CHECKOUT = {
    "name": "checkout",
    "attempt": {"span": {"service": "front*", "name": "POST /pay"}},
    "join": ["trace_id", {"attribute": "order", "event": "data.order"}],
    "outcome": {"event": "paid", "within": "30s"},
    "slow_above": "2s",
    "value": {"event": "data.total", "attribute": "total", "currency": "USD"},
    "user": {"attribute": "user", "event": "data.user"},
    "labels": {"tier": "tier"},
    "slos": [
        {"name": "paid", "objective": 99, "good": {"achieved": True, "error": False}},
        {"name": "paid-soon", "objective": 90, "good": {"within": "10s"}},
        {"name": "pay-fast", "objective": 95, "good": {"duration_below": "1s", "error": False}},
    ],
}
BROWSE = {
    "name": "browse",
    "attempt": {"span": {"name": "GET *", "kind": "server", "attributes": {"tier": "*"}}},
    "slow_above": "1s",
    "value": {"attribute": "total", "currency": "EUR"},
    "labels": {"tier": "tier", "user": "user"},
    "slos": [{"name": "browse", "objective": 99.9, "window": "1d", "good": {"error": False}}],
}
SIGN_UP = {
    "name": "sign-up",
    "attempt": {"event": "signed-up"},
    "join": [{"attribute": "data.user", "event": "data.user"}],
    "outcome": {"event": "paid", "within": "1m"},
    "user": {"attribute": "data.user"},
    "labels": {"tier": "data.tier"},
    "slos": [{"name": "first-order", "objective": 80, "good": {"achieved": True}}],
}
CONFIG = config(
    CHECKOUT,
    BROWSE,
    SIGN_UP,
    traces={"quiet": "5s", "max_age": "20s", "dedupe": "2m"},
    time={"lateness": "3s", "grace": "10s", "future": "30s"},
    limits={"label_values": 2, "operations": 50},
)

DURATIONS = st.sampled_from([0, 1, 999 * MILLISECOND, SECOND, 2 * SECOND, 2 * SECOND + 1])
ORDERS = st.sampled_from(["o1", "o2", 3, True, 4.0, 4.5])
TOTALS = st.sampled_from([0, 10, 12.5, "7.25", "free", -1, 0.1])
TIERS = st.sampled_from(["gold", "basic", "new", 7])
USERS = st.sampled_from(["ann", "bob", "eve"])
TRACESTATES = st.sampled_from(["", "", "ot=th:8", "a=1, ot=rv:1;th:c", "ot=th:0", "ot=th:ff"])


def _some(**choices):
    return st.fixed_dictionaries({}, optional=choices)


@st.composite
def spans(draw, arrival):
    number = draw(st.integers(1, 6))
    start = arrival - draw(st.sampled_from([-60, -5, 0, 0, 1, 1, 3, 8, 40, 90])) * SECOND
    attributes = draw(
        _some(
            order=ORDERS,
            total=TOTALS,
            tier=TIERS,
            user=USERS,
            **{"http.response.status_code": st.sampled_from([200, 404, 500])},
        )
    )
    return Span(
        trace=draw(st.integers(1, 4)),
        id=number,
        start=start,
        end=start + draw(DURATIONS),
        parent=draw(st.integers(0, number - 1)),
        service=draw(st.sampled_from(["frontend", "frontend", "back"])),
        name=draw(st.sampled_from(["POST /pay", "POST /pay", "GET /", "GET /cart", "charge"])),
        kind=draw(st.sampled_from([2, 2, 3, 1])),
        status=draw(st.sampled_from([0, 0, 1, 2])),
        tracestate=draw(TRACESTATES),
        attributes=attributes,
    )


@st.composite
def events(draw, arrival):
    ago = draw(st.sampled_from([None, -60, -2, 0, 0, 1, 5, 20, 70, 10_000]))
    return Event(
        type=draw(st.sampled_from(["paid", "paid", "signed-up", "unheard-of"])),
        id=draw(st.sampled_from("abcdef")),
        time=None if ago is None else arrival - ago * SECOND,
        trace=draw(st.none() | st.integers(1, 4)),
        data=draw(_some(order=ORDERS, total=TOTALS, tier=TIERS, user=USERS)),
    )


@st.composite
def arrivals(draw, *, restarts=True):
    """A log: requests of spans or events, seconds to minutes apart."""
    now = START
    log = []
    for _ in range(draw(st.integers(1, 9))):
        now += draw(st.sampled_from([1, 10**8, 2 * SECOND, 4 * SECOND, 13 * SECOND, 41 * SECOND]))
        what = draw(st.sampled_from(["spans", "spans", "events", "events", "restart"]))
        if what == "spans":
            log.append((now, draw(st.lists(spans(now), min_size=1, max_size=5))))
        elif what == "events":
            log.append((now, draw(st.lists(events(now), min_size=1, max_size=3))))
        elif restarts:
            log.append((now, Restart()))
    return log

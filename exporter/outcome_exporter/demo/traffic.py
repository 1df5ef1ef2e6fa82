"""The shop's customers: who comes when, what they want, and how they take a failure.

Poisson arrivals, about `ATTEMPTS_PER_SECOND` attempts. What each customer went through is noted in
the ledger, from the customer's side of the counter: status codes seen, seconds waited, orders that
were completed.
"""

from collections.abc import Callable, Sequence

from outcome_exporter.demo.clock import World, pause
from outcome_exporter.demo.faults import Announcement, Fault, announce
from outcome_exporter.demo.ledger import Attempt, Ledger
from outcome_exporter.demo.services import (
    SERVER_ERRORS,
    WEAK_BANK_SHARE,
    Order,
    Shop,
    Wire,
)
from outcome_exporter.units import MILLIONTHS

ATTEMPTS_PER_SECOND = 5.0
CHECKOUT_SHARE, SEARCH_SHARE = 0.45, 0.45
"""Of all visits; the rest signs up."""

TIERS = ("basic", "basic", "basic", "silver", "silver", "gold")
RETRY_SHARE = 0.7
"""Share of customers who try again after a failure, each time."""
TRIES_MAX = 3
CONFIRM_SHARE = 0.98
"""Share of new customers who confirm their address."""


class Traffic:
    """Everything that goes on in and around the shop, from opening to closing time.

    Args:
        world: The clock, and where tasks run.
        wire: Where telemetry goes.
        seconds: How long visitors come.
        faults: What breaks, and when.
        within: How long an order may take before it counts as missed, in words.
        tell: Called with what a spectator should know.
        seeded_ids: Also trace and span ids are determined by the seed.
    """

    def __init__(
        self,
        world: World,
        wire: Wire,
        *,
        seconds: float,
        faults: Sequence[Fault],
        within: str,
        tell: Callable[[Announcement], None],
        seeded_ids: bool,
    ) -> None:
        self.ledger = Ledger()
        self._world = world
        self._seconds = seconds
        self._tell = tell
        self._random = world.random("customers")
        self._orders = 0
        self._customers = 1000
        self._shop = Shop(
            world,
            wire,
            faults=faults,
            on_completed=lambda order: self._note_reached("checkout", order.id),
            seeded_ids=seeded_ids,
        )
        for fault in faults:
            for begins in (True, False):
                world.spawn(self._announce(announce(fault, begins=begins, within=within)))
        world.spawn(self._arrivals())

    def shutdown(self) -> None:
        """Sends what has not been sent."""
        self._shop.shutdown()

    async def _announce(self, announcement: Announcement) -> None:
        await pause(announcement.elapsed)
        self._tell(announcement)

    async def _arrivals(self) -> None:
        while True:
            await pause(self._random.expovariate(ATTEMPTS_PER_SECOND))
            if self._world.elapsed >= self._seconds:
                return
            kind = self._random.random()
            if kind < CHECKOUT_SHARE:
                self._world.spawn(self._buy())
            elif kind < CHECKOUT_SHARE + SEARCH_SHARE:
                self._world.spawn(self._search())
            else:
                self._world.spawn(self._sign_up())

    async def _buy(self) -> None:
        """A customer checks out, and may try again with the same order if that fails."""
        order = self._order()
        for _ in range(TRIES_MAX):
            start = self._world.now
            failed = await self._shop.check_out(order) >= SERVER_ERRORS
            self.ledger.attempts.append(
                Attempt(
                    "checkout",
                    order.id,
                    start,
                    self._world.now,
                    failed=failed,
                    value=order.cents * MILLIONTHS // 100,
                )
            )
            if not failed or self._random.random() >= RETRY_SHARE:
                return
            await pause(self._random.uniform(1, 3))

    async def _search(self) -> None:
        start = self._world.now
        failed = await self._shop.search() >= SERVER_ERRORS
        self.ledger.attempts.append(Attempt("search", "", start, self._world.now, failed=failed))

    async def _sign_up(self) -> None:
        """A new customer, who may follow the link in the welcome mail."""
        customer = self._customer()
        now = self._world.now
        self.ledger.attempts.append(Attempt("signup", customer, now, now))
        data = {"customer_id": customer}
        self._shop.emit("frontend", "shop.customer.signed_up", data)
        if self._random.random() < CONFIRM_SHARE:
            await pause(self._random.uniform(2, 10))
            self._shop.emit("frontend", "shop.customer.confirmed", data)
            self._note_reached("signup", customer)

    def _note_reached(self, journey: str, key: str) -> None:
        self.ledger.achieved[journey, key] = self._world.now

    def _order(self) -> Order:
        self._orders += 1
        weak = self._random.random() < WEAK_BANK_SHARE
        return Order(
            id=f"order-{self._orders}",
            cents=round(self._random.lognormvariate(3.7, 0.6) * 100),
            customer=f"customer-{self._random.randrange(1, 400)}",
            tier=self._random.choice(TIERS),
            bank="northbank" if weak else "southbank",
        )

    def _customer(self) -> str:
        self._customers += 1
        return f"customer-{self._customers}"

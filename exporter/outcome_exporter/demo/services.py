"""The shop's six services, as clients of the real OpenTelemetry SDK.

    browser ─▶ frontend ─┬▶ cart ─▶ redis
                         ├▶ checkout ─┬▶ inventory ─▶ postgresql
                         │            ├▶ payment ─▶ a bank
                         │            └▶ queue `orders` ─▶ email ─▶ smtp, `shop.order.completed`
                         └▶ inventory ─▶ postgresql

Each pod has a TracerProvider with a resource of its own; a hop is a client span in the caller and a
server span in the callee, linked by nothing but the headers sent. Requests between services and
their work take time on the world's clock and start and end spans at it. How telemetry leaves the
shop is the `Wire`'s business.

Faults act where they would in life: in payment's charges, in what the slow version of inventory
does, on the queue. The shop knows nothing of journeys or verdicts.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Protocol

from cloudevents.core.v1.event import CloudEvent
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from outcome_exporter.demo.clock import Task, World, pause
from outcome_exporter.demo.faults import SLOW_VERSION, VERSIONS, Fault, Kind, share
from outcome_exporter.units import MICROSECOND

OK, BAD_GATEWAY, UNAVAILABLE = 200, 502, 503
SERVER_ERRORS = 500
"""Status codes from here on are the server's fault."""

NOISE = 0.003
"""Share of stock look-ups that fail on any day: no real system is free of errors."""

WEAK_BANK_SHARE = 0.4
"""Share of customers whose bank's charges are the ones that a payment fault hits."""

TRACED_SHARE = 0.5
"""Share of orders whose event says which trace it belongs to."""
REPEATED_SHARE = 0.02
"""Share of orders whose event is sent twice."""

_PROPAGATOR = TraceContextTextMapPropagator()
_PORT = 8080

Attributes = dict[str, AttributeValue]


class Wire(Protocol):
    """How telemetry and business events leave the shop."""

    def processor(self) -> SpanProcessor:
        """A span processor for a new pod."""

    def post(self, event: CloudEvent) -> None:
        """Delivers a business event; called once for every delivery, repeated ones included."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer wants to buy."""

    id: str
    cents: int
    customer: str
    tier: str
    bank: str


@dataclass(frozen=True, slots=True)
class _Pod:
    """A running instance of one version of a service."""

    service: str
    version: str
    provider: TracerProvider

    def start_span(
        self, name: str, context: Context, kind: SpanKind, attributes: Attributes, now: int
    ) -> Span:
        tracer = self.provider.get_tracer("shop")
        return tracer.start_span(name, context, kind, attributes, start_time=now)


class SeededIds(IdGenerator):
    """Trace and span ids that a seed determines."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1

    def is_trace_id_random(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Request:
    """A piece of work in a service: what it does becomes a child of its span."""

    shop: "Shop"
    pod: _Pod
    span: Span

    @property
    def traceparent(self) -> str:
        """The W3C header that continues this request's trace."""
        return _headers(self.span)["traceparent"]

    async def call(
        self,
        service: str,
        operation: str,
        handler: "Handler",
        attributes: Attributes | None = None,
    ) -> int:
        """Sends a request to another service and returns its status code."""
        method, route = operation.split(" ", 1)
        span = self._child(
            operation,
            SpanKind.CLIENT,
            {
                "http.request.method": method,
                "url.full": f"http://{service}:{_PORT}{route}",
                "server.address": service,
                "server.port": _PORT,
            },
        )
        await pause(self.shop.milliseconds(0.3, 1.5))
        status = await self.shop.serve(
            service, operation, handler, headers=_headers(span), attributes=attributes
        )
        await pause(self.shop.milliseconds(0.3, 1.5))
        _end_http(span, status, self.shop.world.now)
        return status

    async def query(self, system: str, statement: str, *, low: float, high: float) -> None:
        """Asks a database that reports no spans of its own."""
        span = self._child(
            statement,
            SpanKind.CLIENT,
            {
                "db.system": system,
                "db.system.name": system,  # the same by the newer conventions
                "db.query.summary": statement,
                "server.address": f"{system}.shop",
            },
        )
        await pause(self.shop.milliseconds(low, high))
        span.end(self.shop.world.now)

    async def remote(self, operation: str, host: str, *, low: float, high: float) -> None:
        """Sends a request to a host outside the shop."""
        method, route = operation.split(" ", 1)
        span = self._child(
            operation,
            SpanKind.CLIENT,
            {
                "http.request.method": method,
                "url.full": f"https://{host}{route}",
                "server.address": host,
                "server.port": 443,
            },
        )
        await pause(self.shop.milliseconds(low, high))
        _end_http(span, OK, self.shop.world.now)

    def publish(self, queue: str) -> dict[str, str]:
        """Puts a message on a queue and returns its headers."""
        span = self._child(
            f"{queue} publish",
            SpanKind.PRODUCER,
            {"messaging.system": "rabbitmq", "messaging.destination.name": queue},
        )
        span.end(self.shop.world.now)
        return _headers(span)

    def _child(self, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        context = set_span_in_context(self.span, Context())
        return self.pod.start_span(name, context, kind, attributes, self.shop.world.now)


Handler = Callable[[Request], Awaitable[int]]
"""What a service does with a request; returns the HTTP status code."""


class Shop:
    """The services and what runs between them.

    Args:
        world: The clock, and where tasks run.
        wire: Where telemetry goes.
        faults: What breaks, and when.
        on_completed: Called with an order when its event is sent.
        seeded_ids: Also trace and span ids are determined by the seed.
    """

    def __init__(
        self,
        world: World,
        wire: Wire,
        *,
        faults: Sequence[Fault],
        on_completed: Callable[[Order], None],
        seeded_ids: bool,
    ) -> None:
        self.world = world
        self._wire = wire
        self._faults = faults
        self._on_completed = on_completed
        self._random = world.random("services")
        self._ids = SeededIds(world.random("ids")) if seeded_ids else RandomIdGenerator()
        self._events = 0
        self._retired: list[TracerProvider] = []
        self._pods: dict[str, _Pod] = {}
        for service, version in VERSIONS.items():
            self._run(service, version)
        for fault in faults:
            if fault.kind is Kind.SLOW_RELEASE:
                world.spawn(self._release(fault))

    def shutdown(self) -> None:
        """Sends what has not been sent and stops the exporters' threads."""
        for provider in (*self._retired, *(pod.provider for pod in self._pods.values())):
            provider.shutdown()

    def milliseconds(self, low: float, high: float) -> float:
        """A random duration in seconds, between two bounds in milliseconds."""
        return self._random.uniform(low, high) / 1000

    def emit(
        self,
        service: str,
        kind: str,
        data: dict[str, Any],
        *,
        traceparent: str | None = None,
        deliveries: int = 1,
    ) -> None:
        """Sends a business event, once or repeatedly as a sender does that got no answer."""
        self._events += 1
        microseconds = self.world.now // MICROSECOND
        attributes: dict[str, Any] = {
            "id": f"{service}-{self._events}",
            "source": f"/shop/{service}",
            "type": kind,
            "time": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds),
            "datacontenttype": "application/json",
        }
        if traceparent is not None:
            attributes["traceparent"] = traceparent
        for _ in range(deliveries):
            self._wire.post(CloudEvent(attributes, data))

    # What a browser can ask for -----------------------------------------------------------------

    async def check_out(self, order: Order) -> int:
        """A browser's request to buy; returns the status code that the customer sees."""
        return await self.serve(
            "frontend",
            "POST /api/checkout",
            partial(self._frontend_checkout, order=order),
            attributes={
                "user.id": order.customer,
                "app.user.tier": order.tier,
                "app.order.id": order.id,
                "app.cart.total": order.cents / 100,
            },
        )

    async def search(self) -> int:
        """A browser's search; returns the status code that the visitor sees."""
        return await self.serve("frontend", "GET /api/search", self._frontend_search)

    # What the services do -----------------------------------------------------------------------

    async def _frontend_checkout(self, request: Request, order: Order) -> int:
        await pause(self.milliseconds(2, 8))
        await request.call("cart", "GET /cart", self._cart)
        status = await request.call(
            "checkout", "POST /orders", partial(self._checkout, order=order)
        )
        await pause(self.milliseconds(2, 8))
        return status if status < SERVER_ERRORS else BAD_GATEWAY

    async def _frontend_search(self, request: Request) -> int:
        await pause(self.milliseconds(2, 8))
        status = await request.call("inventory", "GET /stock", self._stock)
        await pause(self.milliseconds(2, 15))
        return status if status < SERVER_ERRORS else BAD_GATEWAY

    async def _cart(self, request: Request) -> int:
        await pause(self.milliseconds(1, 3))
        await request.query("redis", "GET cart", low=0.5, high=2)
        return OK

    async def _checkout(self, request: Request, order: Order) -> int:
        await pause(self.milliseconds(3, 10))
        await request.call("inventory", "POST /reserve", self._reserve)
        charge = partial(self._charge, order=order)
        bank: Attributes = {"app.payment.bank": order.bank}
        if await request.call("payment", "POST /charge", charge, bank) >= SERVER_ERRORS:
            return BAD_GATEWAY
        await request.query("postgresql", "INSERT orders", low=2, high=8)
        headers = request.publish("orders")
        if self._random.random() >= self._share(Kind.LOST_ORDERS):
            self.world.spawn(self._complete(order, headers))
        return OK

    async def _reserve(self, request: Request) -> int:
        await self._count_stock(request, low=2300, high=3400)
        await request.query("postgresql", "UPDATE stock", low=5, high=20)
        return OK

    async def _stock(self, request: Request) -> int:
        await self._count_stock(request, low=1200, high=1800)
        await request.query("postgresql", "SELECT stock", low=5, high=25)
        return UNAVAILABLE if self._random.random() < NOISE else OK

    async def _count_stock(self, request: Request, *, low: float, high: float) -> None:
        await pause(self.milliseconds(5, 20))
        hit = self._random.random() < self._share(Kind.SLOW_RELEASE)
        # What is wrong is in the version: a pod of it that is still busy during the roll-back is
        # slow, one that replaces it is not.
        if hit and request.pod.version == SLOW_VERSION:
            await pause(self.milliseconds(low, high))

    async def _charge(self, request: Request, order: Order) -> int:
        await pause(self.milliseconds(5, 15))
        weak = order.bank == "northbank"
        chance = self._share(Kind.PAYMENT_ERRORS) / WEAK_BANK_SHARE
        if weak and self._random.random() < chance:
            return UNAVAILABLE
        await request.remote("POST /v1/charges", f"api.{order.bank}.example", low=60, high=180)
        return OK

    async def _complete(self, order: Order, headers: dict[str, str]) -> None:
        """Email takes the order from the queue, writes to the customer, and tells the business."""
        await pause(self.milliseconds(50, 250))
        pod = self._pods["email"]
        span = pod.start_span(
            "orders process",
            _PROPAGATOR.extract(headers, Context()),
            SpanKind.CONSUMER,
            {"messaging.system": "rabbitmq", "messaging.destination.name": "orders"},
            self.world.now,
        )
        request = Request(self, pod, span)
        await request.remote("POST /send", "smtp.example", low=20, high=60)
        self._on_completed(order)
        # Not every sender knows the trace; those orders are found by their id alone. And a
        # sender that got no answer in time sends the same event again.
        self.emit(
            "email",
            "shop.order.completed",
            {
                "order_id": order.id,
                "total": order.cents / 100,
                "currency": "USD",
                "customer_id": order.customer,
            },
            traceparent=request.traceparent if self._random.random() < TRACED_SHARE else None,
            deliveries=2 if self._random.random() < REPEATED_SHARE else 1,
        )
        span.end(self.world.now)

    # How it runs --------------------------------------------------------------------------------

    async def serve(
        self,
        service: str,
        operation: str,
        handler: Handler,
        *,
        headers: dict[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> int:
        """Lets a service answer a request; its span continues the trace in the headers."""
        method, route = operation.split(" ", 1)
        pod = self._pods[service]
        span = pod.start_span(
            operation,
            _PROPAGATOR.extract(headers or {}, Context()),
            SpanKind.SERVER,
            {
                "http.request.method": method,
                "http.route": route,
                "url.path": route,
                **(attributes or {}),
            },
            self.world.now,
        )
        status = await handler(Request(self, pod, span))
        _end_http(span, status, self.world.now)
        return status

    async def _release(self, fault: Fault) -> None:
        await pause(fault.start)
        self._deploy("inventory", SLOW_VERSION, "deployed")
        await pause(fault.end - fault.start)
        self._deploy("inventory", VERSIONS["inventory"], "rolledback")

    def _deploy(self, service: str, version: str, predicate: str) -> None:
        self._run(service, version)
        # As CDEvents 0.4 describes a deployment: https://cdevents.dev/docs/continuous-deployment/
        self.emit(
            "deployer",
            f"dev.cdevents.service.{predicate}.0.2.0",
            {
                "subject": {
                    "id": service,
                    "type": "service",
                    "content": {
                        "environment": {"id": "demo"},
                        "artifactId": f"pkg:oci/{service}@{version}",
                    },
                }
            },
        )

    def _run(self, service: str, version: str) -> None:
        """Replaces a service's pod; requests in flight end on the old one."""
        name = f"{service}-{version.replace('.', '')}-{self._random.getrandbits(20):05x}"
        resource = Resource(
            {
                "service.name": service,
                "service.version": version,
                "service.namespace": "shop",
                "deployment.environment.name": "demo",
                "k8s.pod.name": name,
                "k8s.node.name": f"node-{self._random.randrange(3)}",
            }
        )
        # Nothing is left to the environment, lest a variable set for something else change it.
        provider = TracerProvider(
            ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids
        )
        provider.add_span_processor(self._wire.processor())
        if service in self._pods:
            self._retired.append(self._pods[service].provider)
        self._pods[service] = _Pod(service, version, provider)

    def _share(self, kind: Kind) -> float:
        return share(self._faults, kind, self.world.elapsed)


def _headers(span: Span) -> dict[str, str]:
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers, set_span_in_context(span, Context()))
    return headers


def _end_http(span: Span, status: int, now: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= SERVER_ERRORS:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))
    span.end(now)


__all__ = ["Order", "Request", "SeededIds", "Shop", "Task", "Wire"]

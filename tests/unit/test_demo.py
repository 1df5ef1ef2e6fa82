import io
import json
import socket
import time
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from rich.console import Console

from outcome_exporter import demo, series
from outcome_exporter.demo import faults, live, quick, screen, settings
from outcome_exporter.demo.clock import World, pause
from outcome_exporter.demo.ledger import Attempt, Expected, Ledger
from outcome_exporter.demo.simulate import START_UNIX_NANO, simulate
from outcome_exporter.model import Histogram, Kind, Record, Sample
from outcome_exporter.units import MILLIONTHS, SECOND

CONFIG = settings.load()
KINDS = list(faults.Kind)


# What the shop sent, read back with nothing but the protobuf and JSON libraries ------------------


class Seen(NamedTuple):
    """A span as it was sent."""

    trace: bytes
    id: bytes
    parent: bytes
    service: str
    version: str
    pod: str
    name: str
    kind: int
    start: int
    end: int
    error: bool
    attributes: dict


def spans_of(payload):
    for group in ExportTraceServiceRequest.FromString(payload).resource_spans:
        resource = plain(group.resource.attributes)
        for span in group.scope_spans[0].spans:
            yield Seen(
                trace=span.trace_id,
                id=span.span_id,
                parent=span.parent_span_id,
                service=resource["service.name"],
                version=resource["service.version"],
                pod=resource["k8s.pod.name"],
                name=span.name,
                kind=span.kind,
                start=span.start_time_unix_nano,
                end=span.end_time_unix_nano,
                error=span.status.code == Status.STATUS_CODE_ERROR,
                attributes=plain(span.attributes),
            )


def plain(attributes):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


class Sent:
    """Everything a simulated shop sent, and its books."""

    def __init__(self, **arguments):
        simulation = simulate(**arguments)
        self.requests = list(simulation)
        self.ledger = simulation.ledger
        self.spans = [
            span
            for _, kind, payload in self.requests
            if kind is Kind.TRACES
            for span in spans_of(payload)
        ]
        self.by_id = {span.id: span for span in self.spans}
        self.events = [
            event
            for _, kind, payload in self.requests
            if kind is Kind.CLOUDEVENTS
            for event in json.loads(payload)
        ]

    def children(self):
        found = defaultdict(list)
        for span in self.spans:
            found[span.parent].append(span)
        return found


def fault(kind, *, start=10.0, end=30.0, share=0.6):
    return faults.Fault(kind, start=start, end=end, share=share)


@pytest.fixture(scope="module")
def whole():
    return Sent(seed=1)


class Naive:
    """The exporter as its glossary describes it, without any cleverness."""

    def __init__(self, config):
        self.config = config
        self.spans = {}
        self.events = {}

    def ingest(self, record: Record):
        if record.kind is Kind.TRACES:
            for span in spans_of(record.payload):
                self.spans[span.trace, span.id] = span
        else:
            for event in json.loads(record.payload):
                self.events[event["source"], event["id"]] = event

    def advance(self, now_unix_nano):
        pass

    def attempts(self, name):
        if name == "signup":
            for event in self.of_type("shop.customer.signed_up"):
                yield {event["data"]["customer_id"]}, 0, 0, False
            return
        operation = {"checkout": "POST /api/checkout", "search": "GET /api/search"}[name]
        for span in self.spans.values():
            if span.service == "frontend" and span.name == operation:
                keys = {span.trace.hex(), span.attributes.get("app.order.id")}
                value = span.attributes.get("app.cart.total", 0)
                yield keys, span.end - span.start, value, span.error

    def of_type(self, name):
        return [event for event in self.events.values() if event["type"] == name]

    def came(self, name):
        goal = {"checkout": "shop.order.completed", "signup": "shop.customer.confirmed"}
        for event in self.of_type(goal.get(name)):
            trace = event.get("traceparent", "--").split("-")[1]
            key = "order_id" if name == "checkout" else "customer_id"
            yield {event["data"][key], trace}

    def snapshot(self):
        reasons, money, results = Counter(), Counter(), Counter()
        for journey in self.config.journeys:
            events = list(self.came(journey.name))
            reached = {key for keys in events for key in keys}
            worth, lost = {}, {}
            for keys, duration, value, error in self.attempts(journey.name):
                came = bool(keys & reached)
                done = came or journey.outcome is None
                slow = journey.slow_above is not None and duration > journey.slow_above
                if error:
                    reason = "recovered" if came else "error"
                else:
                    reason = ("slow" if slow else "ok") if done else "missed"
                reasons[journey.name, reason] += 1
                order = max(keys - {None}, key=lambda k: k.startswith("order-"))
                (worth if came else lost)[order] = Fraction(str(value))
                if reason != "ok":
                    money[journey.name, "at_risk"] += Fraction(str(value))
                for slo in journey.slos:
                    good = (done or not slo.good.achieved) and not (
                        slo.good.error is False and error
                    )
                    if slo.good.duration_below is not None:
                        good = good and duration < slo.good.duration_below
                    results[slo.name, "good" if good else "bad"] += 1
            money[journey.name, "achieved"] = sum(worth.values())
            money[journey.name, "lost"] = sum(lost.values())
        return {
            series.ATTEMPTS: [
                Sample((name, "good" if reason == "ok" else "bad", reason), float(count))
                for (name, reason), count in reasons.items()
            ],
            series.VALUE: [
                Sample((name, "USD", state), float(value))
                for (name, state), value in money.items()
                if name == "checkout"
            ],
            series.SLO_EVENTS: [Sample(labels, float(count)) for labels, count in results.items()],
        }


# The shop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_books_agree_with_what_was_sent(seed):
    script = [fault(kind, start=5 + 25 * n, end=20 + 25 * n) for n, kind in enumerate(KINDS)]
    simulation = simulate(seed=seed, seconds=90, faults=script)
    naive = Naive(CONFIG)
    for offset, (arrival, kind, payload) in enumerate(simulation):
        naive.ingest(Record(offset, arrival, kind, 0, payload))
    expected = simulation.ledger.expected(CONFIG)
    assert sum(row.value for row in expected) > 500
    assert screen.differences(expected, screen.read_snapshot(naive.snapshot())) == []


def test_the_script_shows_every_reason(whole):
    rows = whole.ledger.expected(CONFIG)
    seen = {
        row.labels["reason"]: row.value
        for row in rows
        if row.labels.get("journey") == "checkout" and "reason" in row.labels
    }
    assert set(seen) == {"ok", "error", "missed", "recovered", "slow"}
    assert all(count >= 5 for count in seen.values()), seen


def test_traffic_is_light_and_as_asked(whole):
    attempts = len(whole.ledger.attempts)
    assert 4.3 < attempts / faults.SCRIPT_SECONDS < 6
    assert Counter(a.journey for a in whole.ledger.attempts).keys() == {
        "checkout",
        "search",
        "signup",
    }


def test_a_seed_determines_every_byte():
    first, again, other = (Sent(seed=seed, seconds=20).requests for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_arrivals_ascend_and_follow_what_they_report(whole):
    arrivals = [arrival for arrival, _, _ in whole.requests]
    assert all(a < b for a, b in pairwise(arrivals))
    for arrival, kind, payload in whole.requests:
        if kind is Kind.TRACES:
            assert all(span.end <= arrival for span in spans_of(payload))


def test_a_trace_is_one_tree_of_hops(whole):
    roots = Counter()
    for span in whole.spans:
        assert span.start <= span.end
        if not span.parent:
            assert (span.service, span.kind) == ("frontend", Span.SPAN_KIND_SERVER)
            roots[span.trace] += 1
            continue
        parent = whole.by_id[span.parent]
        assert parent.trace == span.trace
        assert parent.start <= span.start
        if span.kind == Span.SPAN_KIND_SERVER:
            assert parent.kind == Span.SPAN_KIND_CLIENT
            assert parent.service != span.service
            assert parent.attributes["server.address"] == span.service
            assert parent.end >= span.end
        elif span.kind == Span.SPAN_KIND_CONSUMER:
            assert parent.kind == Span.SPAN_KIND_PRODUCER
        else:
            assert parent.service == span.service
    assert set(roots.values()) == {1}
    assert roots.keys() == {span.trace for span in whole.spans}


def test_spans_say_what_conventions_ask(whole):
    for span in whole.spans:
        if "http.request.method" in span.attributes:
            assert span.name.startswith(span.attributes["http.request.method"] + " ")
            assert span.error == (span.attributes["http.response.status_code"] >= 500)
        else:
            assert {"db.system", "messaging.system"} & span.attributes.keys()
    checkouts = [s for s in whole.spans if s.name == "POST /api/checkout"]
    assert {s.attributes["app.user.tier"] for s in checkouts} == {"basic", "silver", "gold"}
    assert len({s.service for s in whole.spans}) == 6


def test_some_orders_name_their_trace_and_some_come_twice(whole):
    orders = [e for e in whole.events if e["type"] == "shop.order.completed"]
    traced = sum("traceparent" in e for e in orders)
    assert 0.4 < traced / len(orders) < 0.6
    copies = Counter((e["source"], e["id"]) for e in orders)
    assert set(copies.values()) == {1, 2}
    traces = {span.trace.hex() for span in whole.spans}
    assert all(e["traceparent"].split("-")[1] in traces for e in orders if "traceparent" in e)


def test_a_retry_is_a_new_trace_for_the_same_order(whole):
    tries = defaultdict(list)
    for span in whole.spans:
        if span.name == "POST /api/checkout":
            tries[span.attributes["app.order.id"]].append(span)
    repeated = [group for group in tries.values() if len(group) > 1]
    assert repeated
    for group in repeated:
        group.sort(key=lambda s: s.start)
        assert len({s.trace for s in group}) == len(group)
        assert all(s.error for s in group[:-1])


# Faults -------------------------------------------------------------------------------------------


def test_a_payment_fault_begins_in_payment():
    sent = Sent(seed=1, seconds=40, faults=[fault(faults.Kind.PAYMENT_ERRORS)])
    children = sent.children()
    origins = Counter(
        (s.service, s.name, s.version)
        for s in sent.spans
        if s.error and not any(c.error for c in children[s.id])
    )
    (culprit,) = faults.CULPRITS[faults.Kind.PAYMENT_ERRORS]
    named = (culprit.service, culprit.operation, culprit.version)
    assert origins[named] >= 10
    assert sum(origins.values()) - origins[named] <= 3  # any day's noise
    opened = START_UNIX_NANO
    for span in sent.spans:
        if span.error and (span.service, span.name) == named[:2]:
            assert opened + 10 * SECOND <= span.start < opened + 31 * SECOND
    charged = [s for s in sent.spans if s.name == "POST /charge" and s.service == "payment"]
    assert {s.attributes["app.payment.bank"] for s in charged if s.error} == {"northbank"}
    assert {s.attributes["app.payment.bank"] for s in charged} == {"northbank", "southbank"}


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_a_payment_fault_hits_its_share_of_charges(share):
    simulation = simulate(
        seed=1,
        seconds=200,
        faults=[fault(faults.Kind.PAYMENT_ERRORS, start=0, end=200, share=share)],
    )
    assert list(simulation)
    # Retries go to the same bank and would distort the share: first tries only.
    first = {}
    for attempt in simulation.ledger.attempts:
        if attempt.journey == "checkout":
            first.setdefault(attempt.key, attempt.failed)
    assert abs(sum(first.values()) / len(first) - share) < 0.05


def test_a_slow_release_is_slow_in_itself_and_in_its_version_only():
    sent = Sent(seed=1, seconds=40, faults=[fault(faults.Kind.SLOW_RELEASE)])
    children = sent.children()
    slow = Counter()
    for span in sent.spans:
        own = span.end - span.start - sum(c.end - c.start for c in children[span.id])
        if span.kind == Span.SPAN_KIND_SERVER and own > SECOND:
            slow[span.service, span.name, span.version] += 1
    culprits = faults.CULPRITS[faults.Kind.SLOW_RELEASE]
    assert slow.keys() == {(c.service, c.operation, c.version) for c in culprits}
    assert min(slow.values()) >= 10
    assert not any(span.error for span in sent.spans if span.service in ("checkout", "payment"))


def test_a_release_replaces_the_pod_and_is_rolled_back():
    sent = Sent(seed=1, seconds=40, faults=[fault(faults.Kind.SLOW_RELEASE)])
    opened = START_UNIX_NANO
    pods = defaultdict(set)
    for span in sent.spans:
        if span.service == "inventory" and span.kind == Span.SPAN_KIND_SERVER:
            released = opened + 10 * SECOND <= span.start < opened + 30 * SECOND
            assert span.version == (faults.SLOW_VERSION if released else "2.3.0")
            pods[span.version].add(span.pod)
    assert len(pods["2.3.0"]) == 2
    assert len(pods[faults.SLOW_VERSION]) == 1
    deployments = [e for e in sent.events if e["type"].startswith("dev.cdevents.service.")]
    assert [e["type"].split(".")[3] for e in deployments] == ["deployed", "rolledback"]


def test_lost_orders_return_200_and_miss_one_step():
    sent = Sent(seed=1, seconds=40, faults=[fault(faults.Kind.LOST_ORDERS)])
    tries = [s for s in sent.spans if s.name == "POST /api/checkout"]
    assert not any(s.error for s in tries)
    published = {s.trace for s in sent.spans if s.kind == Span.SPAN_KIND_PRODUCER}
    assert published == {s.trace for s in tries}
    processed = {s.trace for s in sent.spans if s.name == "orders process"}
    completed = {e["data"]["order_id"] for e in sent.events if e["type"] == "shop.order.completed"}
    lost = [s for s in tries if s.attributes["app.order.id"] not in completed]
    assert len(lost) >= 10
    assert {s.trace for s in lost} == published - processed
    steps = {(s.service, s.name, s.version) for s in sent.spans}
    (culprit,) = faults.CULPRITS[faults.Kind.LOST_ORDERS]
    assert (culprit.service, culprit.operation, culprit.version) in steps


def test_a_shop_without_faults_hardly_hurts():
    sent = Sent(seed=1, seconds=120, faults=[])
    rows = {
        (r.labels["journey"], r.labels["reason"]): r.value
        for r in sent.ledger.expected(CONFIG)
        if "reason" in r.labels
    }
    assert rows["checkout", "ok"] > 200
    assert (
        sum(n for (journey, _), n in rows.items() if journey == "checkout")
        == rows["checkout", "ok"]
    )
    assert 0 <= rows["search", "error"] <= 5


def test_the_script_stretches():
    half = faults.script(faults.SCRIPT_SECONDS / 2)
    assert [f.kind for f in half] == [f.kind for f in faults.SCRIPT]
    assert half[0].start == faults.SCRIPT[0].start / 2
    assert all(f.end < faults.SCRIPT_SECONDS / 2 for f in half)
    assert {f.kind for f in faults.SCRIPT} == set(faults.Kind) == faults.CULPRITS.keys()


def test_words_say_how_much_and_how_long():
    said = faults.announce(faults.SCRIPT[0], begins=True, within="20 s")
    assert (said.elapsed, said.what) == (60, "Payment starts to fail 20 % of its charges.")
    assert "20 s later" in faults.announce(faults.SCRIPT[2], begins=True, within="20 s").expect


# Books --------------------------------------------------------------------------------------------


def books(*attempts, achieved=()):
    ledger = Ledger(attempts=list(attempts))
    ledger.achieved.update({("checkout", key): when for key, when in achieved})
    return {
        next(reversed(row.labels.values())): row.value
        for row in ledger.expected(CONFIG)
        if row.labels.get("journey") == "checkout"
    }


def checkout(key="a", *, start=0, end=SECOND, failed=False):
    return Attempt("checkout", key, start, end, failed=failed, value=10 * MILLIONTHS)


def test_an_order_that_succeeds_at_last_loses_nothing():
    got = books(
        checkout(failed=True), checkout(start=2 * SECOND, end=3 * SECOND), achieved=[("a", 4)]
    )
    assert (got["recovered"], got["ok"], got["error"]) == (1, 1, 0)
    assert (got["achieved"], got["at_risk"], got["lost"]) == (10, 10, 0)


def test_an_order_is_lost_once_however_often_it_was_tried():
    got = books(checkout(failed=True), checkout(failed=True))
    assert (got["error"], got["at_risk"], got["lost"], got["achieved"]) == (2, 20, 10, 0)


def test_an_event_at_the_deadline_is_in_time_and_one_after_it_is_not():
    assert books(checkout(), achieved=[("a", 20 * SECOND)])["ok"] == 1
    assert books(checkout(), achieved=[("a", 20 * SECOND + 1)])["missed"] == 1


def test_slow_is_above_the_limit_and_only_when_achieved():
    assert books(checkout(end=2 * SECOND), achieved=[("a", 1)])["ok"] == 1
    assert books(checkout(end=2 * SECOND + 1), achieved=[("a", 1)])["slow"] == 1
    assert books(checkout(end=2 * SECOND + 1))["missed"] == 1


# Time ---------------------------------------------------------------------------------------------


def test_tasks_go_on_in_the_order_of_their_times_and_then_of_their_age():
    world, seen = World(5_000, seed=1), []

    async def task(name, *delays):
        for delay in delays:
            await pause(delay)
            seen.append((name, world.now))

    world.spawn(task("a", 2e-6, 2e-6))
    world.spawn(task("b", 2e-6))
    world.spawn(task("c", 1e-6))
    assert list(world.steps()) == [5_000, 5_000, 5_000, 6_000, 7_000, 7_000, 9_000]
    assert seen == [("c", 6_000), ("a", 7_000), ("b", 7_000), ("a", 9_000)]


def test_an_ended_world_leaves_no_task_behind():
    world, ended = World(0, seed=1), []

    async def task():
        try:
            await pause(10)
        finally:
            ended.append(True)

    world.spawn(task())
    world.spawn(task())
    steps = world.steps()
    next(steps), next(steps)  # the first task has begun, the second has not
    world.close()
    assert ended == [True]
    assert list(world.steps()) == []


# What is shown ------------------------------------------------------------------------------------


def recorded():
    return Console(record=True, width=100, highlight=False, file=io.StringIO())


def test_the_quick_demo_shows_the_script_and_agrees():
    out = recorded()
    assert quick.run(out, CONFIG, Naive, Naive.snapshot, seconds=faults.SCRIPT_SECONDS, seed=1)
    text = " ".join(out.export_text().split())
    for fault_ in faults.SCRIPT:
        for begins in (True, False):
            said = faults.announce(fault_, begins=begins, within="20 s")
            assert said.what in text
            assert said.expect in text
    assert "numbers agree" in text
    assert text.index("Payment starts") < text.index("Inventory 2.4.0") < text.index("vanish")


def test_who_waits_at_a_terminal_for_the_quick_demo_is_told_that_it_compiles():
    out = Console(force_terminal=True, width=100, file=io.StringIO(), _environ={"TERM": "xterm"})

    class Slow(Naive):
        def ingest(self, record):
            # The first record waits for the compiler, while another thread draws.
            deadline = time.monotonic() + 10
            while "it compiles" not in out.file.getvalue():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            super().ingest(record)

    assert quick.run(out, CONFIG, Slow, Naive.snapshot, seconds=60, seed=1)
    # Once something happens, it is gone.
    assert "it compiles" not in out.file.getvalue().partition("Payment starts")[2]


class Forgetful(Naive):
    """Loses one order's event."""

    def ingest(self, record):
        if record.kind is Kind.CLOUDEVENTS and b"order-40" in record.payload:
            return
        super().ingest(record)


def test_an_exporter_that_loses_an_event_is_found_out():
    out = recorded()
    assert not quick.run(out, CONFIG, Forgetful, Naive.snapshot, seconds=60, seed=1)
    assert "differ" in out.export_text()


def test_a_scrape_and_a_snapshot_read_alike():
    text = (
        "# TYPE outcome_attempts_total counter\n"
        'outcome_attempts_total{journey="checkout",outcome="good",reason="ok",tier="gold"} 3\n'
        'outcome_attempts_total{journey="checkout",outcome="good",reason="ok",tier="basic"} 4\n'
        "# TYPE outcome_attempt_duration_seconds histogram\n"
        'outcome_attempt_duration_seconds_bucket{journey="checkout",le="+Inf"} 7\n'
        'outcome_attempt_duration_seconds_count{journey="checkout"} 7\n'
        'outcome_attempt_duration_seconds_sum{journey="checkout"} 1.5\n'
    )
    snapshot = {
        series.ATTEMPTS: [
            Sample(("checkout", "good", "ok", tier), value, extra=("tier",))
            for tier, value in (("gold", 3.0), ("basic", 4.0))
        ],
        series.ATTEMPT_DURATION: [Sample(("checkout",), Histogram((), (7.0,), 1.5))],
    }
    for reading in (screen.read_exposition(text), screen.read_snapshot(snapshot)):
        name = series.ATTEMPTS.name
        assert reading.total(name, journey="checkout", reason="ok") == 7
        assert reading.total(name, tier="gold") == 3
        assert reading.total(name, tier="silver") == 0


def test_a_number_that_differs_by_one_is_told():
    reading = screen.read_exposition('slo_events_total{slo="a",result="good"} 3\n')
    same = Expected("slo_events_total", {"slo": "a", "result": "good"}, 3)
    other = Expected("slo_events_total", {"slo": "a", "result": "bad"}, 1)
    assert screen.differences([same, other], reading) == [other]


# The live demo's parts ----------------------------------------------------------------------------


def test_an_exporter_is_ready_only_if_it_is_the_demos_own(monkeypatch, tmp_path):
    ours = live._furnish(tmp_path, Console(file=io.StringIO()))
    said = {}
    monkeypatch.setattr(live, "_get", lambda _, path: said.get(path))
    assert not live._is_ready(ours)
    said |= {"/readyz": "ready", "/config": "storage:\n  path: /tmp/of-another-demo/data\n"}
    assert not live._is_ready(ours)
    said["/config"] = f"storage:\n  path: {tmp_path}/data\n"
    assert live._is_ready(ours)


def test_a_taken_port_is_said_and_another_is_used(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert live._free_port("127.0.0.1", port) != port
    assert live._free_port("127.0.0.1", port) == port


def test_the_programs_inherit_nothing_that_redirects_telemetry(monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("http_proxy", "http://proxy.invalid")
    monkeypatch.setenv("KEPT", "1")
    environment = live._environment()
    assert environment["KEPT"] == "1"
    assert not {"OTEL_SDK_DISABLED", "http_proxy"} & environment.keys()


def test_ctrl_c_is_no_failure(monkeypatch):
    def interrupted(out, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "run", interrupted)
    out = recorded()
    assert demo.run(fast=False, out=out) == demo.INTERRUPTED
    assert "nothing is left behind" in out.export_text()


def test_a_demo_that_does_not_run_says_why(monkeypatch):
    def broken(out, **_):
        raise live.DemoError("no free port on [127.0.0.1]")

    monkeypatch.setattr(live, "run", broken)
    out = recorded()
    assert demo.run(fast=False, out=out) == 1
    assert "no free port on [127.0.0.1]" in out.export_text()

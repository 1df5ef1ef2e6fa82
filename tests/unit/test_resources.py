"""Resources as evidence: what a service's CPU, pools and queues say, and when it counts."""

from io import StringIO

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from rich.console import Console
from tests.otlp_metrics import request_of
from tests.scenario import Span, read, trace_request

from outcome_exporter import evidence, explain, series, words
from outcome_exporter.config import Config
from outcome_exporter.exposition import render
from outcome_exporter.model import Encoding, Kind, Point, Record
from outcome_exporter.page import render_page
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.plan import Plan, text_hash
from outcome_exporter.points import decode_metrics
from outcome_exporter.question import read_question
from outcome_exporter.resources import RESOURCES, RING, STREAMS_EACH, Resources, meaning_of
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import MILLISECOND, MINUTE, SECOND

FIRST = 26_666_667
"""A minute."""
CPU = "process.cpu.utilization"


def plan(**limits):
    journey = {"name": "buy", "attempt": {"span": {"service": "shop"}}}
    return Plan(Config.model_validate({"limits": limits, "journeys": [journey]}))


class Watched:
    """The stage, fed with points of minutes after FIRST."""

    def __init__(self, **limits):
        self.stage = Resources(plan(**limits))
        self.stage.advance(FIRST * 60)

    def say(self, minute, value, name=CPU, *, service="shop", replica=1, since=0, **more):
        """A point of the middle of a minute, or of a counter since a minute."""
        time = (FIRST + minute) * MINUTE + 30 * SECOND
        attributes = more.pop("attributes", {})
        identity = hash((name, service, replica, *attributes.items())) % (1 << 63), replica
        fields = {"unit": "", "cumulative": False, "is_gauge": True} | more
        self.stage.advance(time // SECOND)
        point = Point(
            name=name,
            service=service,
            identity=identity,
            attributes=attributes,
            start_time_unix_nano=(FIRST + since) * MINUTE if since is not None else 0,
            time_unix_nano=time,
            value=value,
            replica=replica,
            **fields,
        )
        self.stage.take([point], time)

    def count(self, minute, value, name, **more):
        self.say(minute, value, name, is_gauge=False, cumulative=True, **more)

    def says(self, minute, service="shop"):
        """What is known once a minute has closed, by resource."""
        self.stage.advance((FIRST + minute + 1) * 60)
        found = self.stage.evidence(service, FIRST + minute)
        return {one.resource.name: one for one in found}

    def saturated(self, minute, service="shop"):
        """Whether it is told of a service when a minute begins."""
        self.stage.advance((FIRST + minute) * 60)
        return int(text_hash(service)) in self.stage.saturated(FIRST + minute)

    def level(self, minute, service="shop"):
        """The only level of a minute."""
        self.stage.advance((FIRST + minute + 1) * 60)
        [row] = [row for (whose, _), row in self.stage._row_of.items() if row is not None]
        return float(self.stage._ring[row, (FIRST + minute) % RING])


def usual(minutes=30, value=0.31, name=CPU, **more):
    """A service whose resource has been the same for a while."""
    watched = Watched()
    for minute in range(minutes):
        watched.say(minute, value, name, **more)
    return watched


def test_a_cpu_near_its_limit_and_far_above_its_history_corroborates():
    watched = usual()
    for minute in (30, 31, 32):
        watched.say(minute, 0.97)
    cpu = watched.says(32)["cpu"]
    assert (cpu.now, cpu.corroborates) == (0.97, True)
    assert cpu.usual == pytest.approx(0.31)
    assert not watched.says(29)["cpu"].corroborates


def test_near_the_limit_as_always_is_no_evidence():
    watched = usual(value=0.95)
    for minute in (30, 31, 32):
        watched.say(minute, 0.99)
    assert not watched.says(32)["cpu"].corroborates


def test_far_above_history_with_room_to_spare_is_no_evidence():
    watched = usual(value=0.1)
    for minute in (30, 31, 32):
        watched.say(minute, 0.6)
    cpu = watched.says(32)["cpu"]
    assert cpu.deviations > 5
    assert not cpu.corroborates


def test_a_single_minute_is_no_evidence_but_two_are():
    watched = usual()
    watched.say(30, 0.97)
    assert not watched.says(30)["cpu"].corroborates
    watched.say(31, 0.97)
    assert watched.says(31)["cpu"].corroborates


def test_of_one_saturated_minute_is_told_for_three_once_it_has_closed():
    watched = usual()
    for minute in range(30, 40):
        watched.say(minute, 0.97 if minute == 30 else 0.31)
    told = [watched.stage.saturated(FIRST + minute) for minute in range(29, 36)]
    assert told == [set(), set(), *[{int(text_hash("shop"))}] * 3, set(), set()]
    # Of what has not closed yet nothing is told.
    assert watched.stage.saturated(FIRST + 41) == set()


def test_busy_as_always_or_with_room_to_spare_or_without_a_limit_is_not_saturated():
    for usually, level, name in (
        (0.31, 0.97, CPU),
        (0.95, 0.97, CPU),
        (0.31, 0.7, CPU),
        (1.0, 50.0, "mail.queue.size"),
    ):
        watched = usual(value=usually, name=name)
        watched.say(30, level, name)
        assert watched.saturated(31) == (level == 0.97 and usually == 0.31), (usually, level, name)


def test_without_history_nothing_is_said():
    watched = usual(minutes=18)
    assert watched.says(17) == {}
    watched.say(19, 0.31)
    watched.say(20, 0.31)
    assert watched.says(20)["cpu"].usual == pytest.approx(0.31)


def test_a_fault_does_not_become_its_own_yardstick():
    watched = usual(minutes=120)
    for minute in range(120, 180):  # an hour
        watched.say(minute, 0.97)
    assert watched.says(179)["cpu"].corroborates
    plain = (120 * 0.31 + 50 * 0.97) / 170
    assert watched.says(179)["cpu"].usual < plain


def test_what_stays_higher_becomes_usual():
    watched = usual(minutes=60)
    for minute in range(60, 60 + 24 * 60):
        watched.say(minute, 0.9)
    cpu = watched.says(60 + 24 * 60 - 1)["cpu"]
    assert cpu.usual > 0.7
    assert not cpu.corroborates


def test_of_replicas_the_busiest_counts_and_they_are_not_summed():
    watched = Watched()
    for replica in range(4):
        watched.say(0, 0.25 + replica / 100, replica=replica)
    assert watched.level(0) == 0.28


def test_modes_of_one_replica_are_summed_and_idle_is_not_use():
    watched = Watched()
    for mode, value in (("user", 0.25), ("system", 0.125), ("wait", 0.5)):
        watched.say(0, value, attributes={"cpu.mode": mode})
    assert watched.level(0) == 0.375


def test_a_pool_is_used_against_its_own_limit():
    watched = Watched()
    name, state = "db.client.connection.pool.name", "db.client.connection.state"
    for pool, used, limit in (("orders", 9.0, 10.0), ("stock", 5.0, 50.0)):
        for is_used, value in (("used", used), ("idle", limit - used)):
            watched.say(
                0, value, "db.client.connection.count", attributes={name: pool, state: is_used}
            )
        watched.say(0, limit, "db.client.connection.max", attributes={name: pool})
    assert watched.level(0) == 0.9


def test_what_is_used_of_an_unknown_limit_is_no_level():
    watched = Watched()
    watched.say(0, 9.0, "jvm.memory.used", attributes={"jvm.memory.type": "heap"})
    assert watched.level(0) != watched.level(0)  # NaN
    watched.say(1, 10.0, "jvm.memory.limit", attributes={"jvm.memory.type": "heap"})
    assert watched.level(1) == 0.9


def test_a_counter_is_a_rate():
    watched = Watched()
    name, count = "jvm.cpu.time", "jvm.cpu.count"
    watched.say(0, 2.0, count)
    watched.count(0, 1000.0, name)  # of all its life: says nothing of now
    assert watched.level(0) != watched.level(0)
    watched.count(1, 1060.0, name)
    assert watched.level(1) == 0.5
    watched.count(2, 90.0, name, since=1)  # falls: it was reset when minute 1 began
    watched.say(2, 2.0, count)
    assert watched.level(2) != watched.level(2)  # it began before the last point: nobody knows
    watched.count(3, 150.0, name, since=1)
    assert watched.level(3) == 0.5
    watched.count(4, 30.0, name, since=4)  # a restart after the last point: since then
    assert watched.level(4) == 0.5


def test_a_delta_is_a_rate_over_its_own_time():
    watched = Watched()
    watched.say(2, 150.0, "process.cpu.time", is_gauge=False, since=0)
    assert watched.level(2) == 1.0


def test_a_queue_is_compared_with_its_own_length():
    watched = usual(value=20.0, name="mail.queue.size")
    for minute in (30, 31, 32):
        watched.say(minute, 900.0, "mail.queue.size")
    queue = watched.says(32)["queue"]
    assert queue.corroborates
    assert (queue.now, queue.resource.limited) == (900.0, False)


def test_a_few_more_in_a_queue_are_noise():
    watched = usual(value=0.0, name="mail.queue.size")
    for minute in (30, 31, 32):
        watched.say(minute, 2.0, "mail.queue.size")
    assert not watched.says(32)["queue"].corroborates


@pytest.mark.parametrize("slip", [1.7e308, -1.7e308, float("inf"), float("nan")])
def test_a_number_that_nothing_has_is_not_known_and_spoils_no_history(slip):
    watched = usual(5, 3, "jobs.queue.size")
    for replica in (1, 2):
        watched.say(5, slip, "jobs.queue.size", replica=replica)
    for minute in range(6, 33):
        watched.say(minute, 3 if minute < 30 else 90, "jobs.queue.size")
    queue = watched.says(32)["queue"]
    assert (queue.now, queue.usual, queue.corroborates) == (90, 3, True)


def test_a_limit_next_to_nothing_is_none():
    watched = Watched()
    for minute in range(5):
        watched.say(minute, 1e10, "go.memory.used")
        watched.say(minute, 1e-300, "go.memory.limit")
    assert str(watched.level(4)) == "nan"


def test_points_that_come_late_or_again_change_nothing():
    watched = Watched()
    watched.say(5, 0.5)
    watched.stage.take([], 0)
    before = {name: array.copy() for name, array in watched.stage.dump().items()}
    watched.say(4, 0.9)
    watched.say(5, 0.9)
    after = watched.stage.dump()
    for name, array in before.items():
        assert repr(array.tolist()) == repr(after[name].tolist()), name


def test_what_a_replica_said_is_over_after_three_minutes():
    watched = Watched()
    watched.say(0, 0.9)
    assert watched.level(2) == 0.9
    assert watched.level(4) != watched.level(4)


def test_a_stream_that_ends_says_nothing_more():
    watched = Watched()
    watched.say(0, 0.9)
    watched.say(1, None)
    assert watched.level(1) != watched.level(1)


def test_services_and_streams_are_bounded_and_what_is_left_out_is_counted():
    watched = Watched(resources=2)
    for number in range(4):
        watched.say(0, 0.5, service=f"s{number}")
    assert watched.stage.overflow == {"resource": 2, "resource_stream": 0}
    for replica in range(10, 10 + 2 * STREAMS_EACH):
        watched.say(0, 0.5, service="s0", replica=replica)
    assert watched.stage.overflow["resource_stream"] == 2
    assert len(watched.stage._stream_of) == 2 * STREAMS_EACH


def test_what_is_silent_is_forgotten_and_makes_room():
    watched = Watched(resources=1)
    watched.say(0, 0.5, service="old")
    watched.stage.advance((FIRST + 200) * 60)
    assert (watched.stage._stream_of, len(watched.stage._row_of)) == ({}, 1)
    watched.stage.advance((FIRST + 5 * 24 * 60) * 60)
    assert watched.stage._row_of == {}
    watched.say(5 * 24 * 60, 0.5, service="new")
    assert watched.stage.overflow["resource"] == 0


def test_without_journeys_or_room_no_resource_is_looked_at():
    assert not Resources(plan(resources=0)).wants(CPU)
    assert not Resources(Plan(Config.model_validate({}))).wants(CPU)
    assert Resources(plan()).wants(CPU)


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        (CPU, "cpu"),
        ("k8s.pod.cpu_limit_utilization", "cpu"),
        ("k8s.pod.memory_limit_utilization", "memory"),
        ("db.client.connections.usage", "connections"),
        ("db.client.connection.pending_requests", "connection_waits"),
        ("dotnet.thread_pool.queue.length", "queue"),
        ("orders.queue.depth", "queue"),
        ("go.memory.used", "memory"),
        ("http.server.request.duration", None),
        ("system.cpu.utilization", None),
    ],
)
def test_metrics_are_known_by_their_names(name, resource):
    meaning = meaning_of(name)
    assert (meaning.resource if meaning else None) == resource


def test_a_request_that_only_counts_what_cannot_be_is_not_rejected_for_a_resource():
    metric = Metric(name="jvm.memory.used")
    metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    metric.sum.data_points.add(as_double=1, time_unix_nano=MINUTE)
    payload = request_of(metric)
    assert decode_metrics(payload, set(), lambda name: True)[:2] == ([], 0)
    assert decode_metrics(payload, {"jvm.memory.used"})[:2] == ([], 1)


def test_every_resource_is_named_in_a_sentence():
    for resource in RESOURCES:
        said = words.resource(resource.name, 0.97, 0.31, limited=resource.limited)
        assert "_" not in said, said
    said = words.resource("cpu", 0.97, 0.31, limited=True).replace("\u00a0", " ")
    assert said == "its CPU stood at 97 % of its limit, usual 31 %"


# With blame


def journey():
    return {
        "name": "buy",
        "title": "A customer buys",
        "attempt": {"span": {"service": "shop"}},
        "slos": [{"name": "ok", "objective": 99, "good": {"error": False}}],
    }


def gauge(value, time):
    metric = Metric(name=CPU)
    metric.gauge.data_points.add(as_double=value, time_unix_nano=time)
    return metric


class Shop:
    """A shop that calls a bank; both tell their CPU each minute, both at the same level."""

    def __init__(self, saturated):
        self.saturated = saturated
        sections = {"exposition": {"birth": "0"}, "journeys": [journey()]}
        self.config = Config.model_validate(sections)
        self.pipeline = Pipeline(self.config)
        self.now = FIRST * MINUTE
        self.trace = 0

    def put(self, kind, payload):
        self.now += 1
        offset = self.pipeline.next_offset
        self.pipeline.ingest(Record(offset, self.now, kind, Encoding.NONE, payload))

    def minute(self, cpu, *, fails):
        for _ in range(6):
            self.now += 10 * SECOND
            self.trace += 1
            status = 2 if fails else 0
            start = self.now - 50 * MILLISECOND
            spans = [
                Span(self.trace, 1, start, self.now, service="shop", status=status),
                Span(
                    self.trace,
                    2,
                    start + MILLISECOND,
                    self.now - MILLISECOND,
                    parent=1,
                    service="bank",
                    name="POST /charge",
                    status=status,
                ),
            ]
            self.put(Kind.TRACES, trace_request(spans))
        for service in ("shop", "bank"):
            level = cpu if service in self.saturated else 0.31
            self.put(Kind.METRICS, request_of(gauge(level, self.now), service=service))

    def run(self, *, fails):
        for _ in range(30):
            self.minute(0.31, fails=False)
        for _ in range(4):
            self.minute(0.97, fails=fails)
        self.pipeline.advance(self.now + 30 * SECOND)
        return self.pipeline


def test_the_cause_that_a_saturated_cpu_corroborates_says_so_everywhere(monkeypatch):
    shop = Shop(saturated=("bank",))
    pipeline = shop.run(fails=True)
    found = read(pipeline, series.CAUSE_RESOURCE_RATIO)
    assert found["bank", "cpu", "now"] == 0.97
    assert found["bank", "cpu", "usual"] == pytest.approx(0.31)
    said = "its CPU stood at 97 % of its limit, usual 31 %"
    page = render_page(pipeline.config, snapshot(pipeline), shop.now)
    assert said in page.replace("\u00a0", " ").replace("&nbsp;", " ")
    asked = read_question(f"{shop.trace:032x}", "", "1h")
    answer = evidence.answer(pipeline, asked)
    monkeypatch.setattr(explain, "_ask", lambda *_: answer)
    out = StringIO()
    explain.explain(Console(file=out, width=120), "http://x", {"trace_id": f"{shop.trace:x}"}, None)
    assert f"I{said[1:]}." in out.getvalue().replace("\u00a0", " ")


def test_saturation_alone_never_names_a_cause():
    # The shop is saturated as well, yet it is the bank that fails: nobody speaks of the shop.
    both = Shop(saturated=("shop", "bank")).run(fails=True)
    services = {labels[0] for labels in read(both, series.CAUSE_RESOURCE_RATIO)}
    assert services == {"bank"}
    # Nobody fails: everything that is shown of causes is as it is without any metric of a resource.
    saturated = Shop(saturated=("shop", "bank")).run(fails=False)
    calm = Shop(saturated=()).run(fails=False)
    families = (series.BLAME, series.CAUSE_SHARE, series.CAUSE_SINCE, series.CAUSE_RESOURCE_RATIO)
    for family in families:
        assert read(saturated, family) == read(calm, family)
    assert read(saturated, series.CAUSE_RESOURCE_RATIO) == {}


def test_a_cause_whose_resources_are_as_usual_has_no_evidence_but_explain_tells_them(monkeypatch):
    shop = Shop(saturated=())
    pipeline = shop.run(fails=True)
    assert read(pipeline, series.CAUSE_SHARE)
    assert read(pipeline, series.CAUSE_RESOURCE_RATIO) == {}
    answer = evidence.answer(pipeline, read_question(f"{shop.trace:032x}", "", "1h"))
    monkeypatch.setattr(explain, "_ask", lambda *_: answer)
    out = StringIO()
    explain.explain(Console(file=out, width=120), "http://x", {"trace_id": f"{shop.trace:x}"}, None)
    text = out.getvalue().replace("\u00a0", " ")
    assert "Its other resources:\n  its CPU stood at 31 % of its limit, usual 31 %" in text


def test_a_checkpoint_between_changes_nothing():
    whole, cut = Shop(saturated=("bank",)), Shop(saturated=("bank",))
    for shop in (whole, cut):
        for minute in range(33):
            shop.minute(0.31 if minute < 30 else 0.97, fails=minute >= 30)
            if shop is cut and minute % 7 == 3:
                pipeline = Pipeline(shop.config)
                pipeline.restore(*shop.pipeline.dump(), shop.pipeline.next_offset)
                # Buckets are the store's; here there is none.
                pipeline.slos = shop.pipeline.slos
                shop.pipeline = pipeline
        shop.pipeline.advance(shop.now + 30 * SECOND)
    texts = [render(snapshot(shop.pipeline), openmetrics=False) for shop in (whole, cut)]
    assert texts[0] == texts[1]
    assert b'outcome_cause_resource_ratio{cause_service="bank"' in texts[0]

"""Deployments, roll-backs and feature flags, as events tell them."""

import math

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.scenario import START, Event, Span, config, read, records, run

from outcome_exporter import exposition, series
from outcome_exporter.changes import KEPT, followed
from outcome_exporter.model import Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import HOUR, SECOND

BUY = {
    "name": "buy",
    "attempt": {"span": {"service": "frontend"}},
    "slos": [{"name": "buying", "objective": 99, "good": {"error": False}}],
}


def cdevent(
    artifact, at=0, *, predicate="deployed", subject="deployment/payment", environment="production"
):
    """As the conformance files of CDEvents 0.5 have it, in a CloudEvent."""
    kind = f"dev.cdevents.service.{predicate}.0.3.0"
    data = {
        "context": {"version": "0.5.0", "id": f"{at}", "source": "/ci", "type": kind},
        "subject": {
            "id": subject,
            "type": "service",
            "content": {"environment": {"id": environment}, "artifactId": artifact},
        },
    }
    return Event(kind, f"{predicate}-{at}", time=START + at * SECOND, data=data, source="/ci")


def told(events, now=HOUR, **causes):
    """The changes after some events, as (service, kind, version, previous) -> seconds."""
    arrivals = [(event.time or START, [event]) for event in events]
    found = read(run(config(BUY, causes=causes), arrivals, START + now), series.CHANGE_INFO)
    return {labels: value - START // SECOND for labels, value in found.items()}


@pytest.mark.parametrize(
    ("artifact", "version"),
    [
        ("pkg:oci/payment@sha256%3A0b31b1c02ff458ad9b7b81cbdf8f028b?tag=1.8.2", "1.8.2"),
        (
            "pkg:oci/myapp@sha256%3A0b31b1c02ff458ad9b7b81cbdf8f028bd54699fa151f221d1e8de6817db93427",
            "0b31b1c02ff4",
        ),
        ("pkg:golang/mygit.com/myorg/myapp@234fd47e07d1004f0aed9c", "234fd47e07d1004f0aed9c"),
        ("pkg:npm/%40scope/payment@1.8.2-rc.1", "1.8.2-rc.1"),
        ("pkg:maven/org.example/payment@1.8.2?type=jar#path/at@all", "1.8.2"),
        ("six-1.14.0-py2.py3-none-any.whl", "six-1.14.0-py2.py3-none-any.whl"),
    ],
)
def test_the_version_of_an_artifact_is_read_from_its_package_url(artifact, version):
    assert told([cdevent(artifact)]) == {("payment", "deployment", version, ""): 0}


@pytest.mark.parametrize(
    ("predicate", "kind"),
    [("deployed", "deployment"), ("upgraded", "deployment"), ("rolledback", "rollback")],
)
def test_a_deployment_tells_what_was_there_before(predicate, kind):
    events = [
        cdevent("pkg:oci/payment?tag=1.8.1"),
        cdevent("pkg:oci/payment?tag=1.8.2", 60, predicate=predicate),
    ]
    assert told(events) == {
        ("payment", "deployment", "1.8.1", ""): 0,
        ("payment", kind, "1.8.2", "1.8.1"): 60,
    }


def test_a_rollback_is_the_last_word_on_its_version():
    versions = ("1.8.1", "deployed"), ("1.8.2", "upgraded"), ("1.8.1", "rolledback")
    events = [
        cdevent(f"pkg:oci/payment?tag={version}", 60 * k, predicate=predicate)
        for k, (version, predicate) in enumerate(versions)
    ]
    assert told(events) == {
        ("payment", "rollback", "1.8.1", "1.8.2"): 120,
        ("payment", "deployment", "1.8.2", "1.8.1"): 60,
    }


def test_what_tells_no_version_or_no_service_is_no_change():
    events = [
        cdevent("", 1),
        cdevent("pkg:oci/payment?tag=1", 2, predicate="removed"),
        cdevent("pkg:oci/payment?tag=1", 3, predicate="published"),
        cdevent("pkg:oci/payment?tag=1", 4, subject=""),
        Event("dev.cdevents.service.deployed.0.3.0", "5", data={"subject": [1]}),
        Event("dev.cdevents.build.finished.0.2.0", "6", data={}),
    ]
    assert told(events) == {}


def test_other_environments_are_left_out():
    events = [
        cdevent("pkg:oci/payment?tag=1", environment="staging"),
        cdevent("pkg:oci/payment?tag=2", 1, environment="production-eu"),
    ]
    shown = told(events, environment="production*")
    assert shown == {("payment", "deployment", "2", ""): 1}


def test_what_is_sent_twice_changes_nothing_and_order_does_not_matter_to_the_time():
    first = cdevent("pkg:oci/payment?tag=1", 10)
    assert told([first, first]) == {("payment", "deployment", "1", ""): 10}
    late = cdevent("pkg:oci/payment?tag=1", 5)
    assert told([first, late]) == {("payment", "deployment", "1", ""): 10}


def test_a_change_is_told_for_a_day():
    events = [cdevent("pkg:oci/payment?tag=1")]
    assert told(events, KEPT - SECOND)
    assert told(events, KEPT) == {}


def test_any_event_can_be_mapped_to_a_change():
    mapped = {
        "changes": [
            {
                "event": "com.example.released",
                "service": "data.app",
                "version": "data.tag",
                "previous": "data.from",
            },
            {
                "event": "com.example.flag",
                "kind": "flag",
                "service": "data.app",
                "flag": "data.key",
                "version": "data.on",
            },
        ]
    }
    events = [
        Event("com.example.released", "1", START, data={"app": "payment", "tag": 7, "from": 6}),
        Event("com.example.flag", "2", START, data={"app": "cart", "key": "new", "on": True}),
        Event(
            "com.example.flag", "3", START + SECOND, data={"app": "cart", "key": "new", "on": False}
        ),
    ]
    assert told(events, **mapped) == {
        ("payment", "deployment", "7", "6"): 0,
        ("cart", "flag", "new=true", ""): 0,
        ("cart", "flag", "new=false", "new=true"): 1,
    }


def evaluation(at, variant, *, key="checkout-v2", service="cart"):
    """An OTLP log event as the semantic conventions have it."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
    record = group.scope_logs.add().log_records.add(
        event_name="feature_flag.evaluation", time_unix_nano=START + at * SECOND
    )
    for name, value in (("feature_flag.key", key), ("feature_flag.result.variant", variant)):
        record.attributes.add(key=name).value.string_value = value
    return START + at * SECOND, request.SerializeToString()


def evaluation_in_a_span(at, variant, *, name="feature_flag", attribute="feature_flag.variant"):
    """An event of a span, as the hooks of OpenFeature add it."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "cart"
    began = START + at * SECOND
    span = group.scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, name="add")
    span.start_time_unix_nano, span.end_time_unix_nano = began, began + SECOND
    event = span.events.add(name=name, time_unix_nano=began)
    event.attributes.add(key="feature_flag.key").value.string_value = "checkout-v2"
    value = event.attributes.add(key=attribute).value
    if isinstance(variant, str):
        value.string_value = variant
    else:
        value.bool_value = variant
    return began, request.SerializeToString()


def evaluated(requests, now=2 * HOUR, kind=Kind.LOGS):
    pipeline = Pipeline(config(BUY))
    for offset, (arrival, payload) in enumerate(requests):
        pipeline.ingest(Record(offset, arrival, kind, Encoding.NONE, payload))
    pipeline.advance(START + now)
    shown = snapshot(pipeline)
    exposition.render(shown, openmetrics=False)
    found = read(shown, series.CHANGE_INFO)
    return {labels: value - START // SECOND for labels, value in found.items()}


def test_a_flag_that_gives_another_variant_is_a_change():
    requests = [
        *(evaluation(at, "off") for at in range(0, 600, 60)),
        *(evaluation(at, "on") for at in range(600, 1200, 60)),
    ]
    assert evaluated(requests) == {("cart", "flag", "checkout-v2=on", "checkout-v2=off"): 600}


def test_two_flags_that_read_alike_are_one_series():
    """A sender that calls its flags so would otherwise cost everybody /metrics for a day."""
    requests = [
        evaluation(at + later, variant if at < 600 else again, key=key)
        for at in range(0, 1200, 60)
        for later, key, variant, again in ((0, "a", "b=off", "b=on"), (1, "a=b", "off", "on"))
    ]
    assert evaluated(requests) == {("cart", "flag", "a=b=on", "a=b=off"): 601}


@pytest.mark.parametrize(
    ("name", "attribute", "off", "on"),
    [
        ("feature_flag", "feature_flag.variant", "off", "on"),
        ("feature_flag.evaluation", "feature_flag.result.variant", "off", "on"),
        ("feature_flag.evaluation", "feature_flag.result.value", False, True),
    ],
)
def test_a_flag_that_spans_tell_is_a_change_as_well(name, attribute, off, on):
    said = {"name": name, "attribute": attribute}
    requests = [
        *(evaluation_in_a_span(at, off, **said) for at in range(0, 600, 60)),
        *(evaluation_in_a_span(at, on, **said) for at in range(600, 1200, 60)),
    ]
    after, before = (f"checkout-v2={str(each).lower()}" for each in (on, off))
    changes = evaluated(requests, kind=Kind.TRACES)
    assert changes == {("cart", "flag", after, before): 600}


def test_other_events_of_spans_are_no_flags():
    requests = [
        evaluation_in_a_span(at, "off" if at < 600 else "on", name="feature_flags")
        for at in range(0, 1200, 60)
    ]
    assert evaluated(requests, kind=Kind.TRACES) == {}


def test_an_experiment_whose_variants_come_all_the_time_is_no_change():
    requests = [evaluation(at, "ab"[at // 30 % 2]) for at in range(0, 7200, 30)]
    assert evaluated(requests) == {}


def test_a_variant_that_comes_back_is_a_change_again():
    requests = [
        *(evaluation(at, "off") for at in range(0, 600, 60)),
        *(evaluation(at, "on") for at in range(600, 7800, 60)),
        *(evaluation(at, "off") for at in range(7800, 8400, 60)),
    ]
    changes = evaluated(requests, 3 * HOUR)
    assert changes["cart", "flag", "checkout-v2=off", "checkout-v2=on"] == 7800


def test_the_first_variant_of_a_flag_is_no_change():
    assert evaluated([evaluation(0, "on")]) == {}


def test_a_version_that_a_deployment_told_and_spans_showed_is_told_once():
    spans = [
        (
            START + at * SECOND,
            [
                Span(
                    at + 1,
                    1,
                    START + at * SECOND,
                    START + at * SECOND + 1,
                    resource={"service.version": "1.8.1" if at < 30 else "1.8.2"},
                )
            ],
        )
        for at in range(60)
    ]
    only_seen = run(config(BUY), spans, START + 90 * SECOND)
    assert {labels[1] for labels in read(only_seen, series.CHANGE_INFO)} == {"version"}
    event = cdevent("pkg:oci/frontend?tag=1.8.2", 25, subject="frontend")
    log = sorted([*spans, (event.time, [event])], key=lambda pair: pair[0])
    told_too = run(config(BUY), log, START + 90 * SECOND)
    assert read(told_too, series.CHANGE_INFO) == {
        ("frontend", "deployment", "1.8.2", "1.8.1"): START // SECOND + 25
    }


def test_what_was_told_longest_ago_makes_room_and_is_counted():
    events = [cdevent("pkg:oci/x?tag=1", at, subject=f"s{at}") for at in range(12)]
    events += [cdevent(f"pkg:oci/x?tag={at}", at, subject="s11") for at in range(20, 42)]
    arrivals = [(event.time, [event]) for event in events]
    pipeline = run(config(BUY, limits={"changes": 10}), arrivals, START + HOUR)
    shown = {labels[:3:2] for labels in read(pipeline, series.CHANGE_INFO)}
    assert shown == {(f"s{n}", "1") for n in range(2, 11)} | {
        ("s11", str(tag)) for tag in range(22, 42)
    }
    assert read(pipeline, series.OVERFLOW)["change",] == 2 + 3


def test_a_restart_forgets_no_change():
    arrivals = [
        (event.time, [event])
        for event in (cdevent(f"pkg:oci/payment?tag={n}", n) for n in range(3))
    ]
    whole = run(config(BUY), arrivals, START + HOUR)
    half = run(config(BUY), arrivals[:2])
    meta, arrays = half.dump()
    restored = Pipeline(config(BUY))
    restored.restore(meta, arrays, half.next_offset)
    for record in records(arrivals)[2:]:
        restored.ingest(record)
    restored.advance(START + HOUR)
    assert read(restored, series.CHANGE_INFO) == read(whole, series.CHANGE_INFO)
    assert (restored.changes.dump()["told"] == whole.changes.dump()["told"]).all()


def test_a_restart_makes_no_old_version_a_change_again():
    spans = [
        (at, [Span(n, 1, at, at + 1, resource={"service.version": f"1.8.{n // 30}"})])
        for n in range(60)
        for at in [START + n * SECOND]
    ]
    before = run(config(BUY), spans, START + 25 * HOUR)
    assert read(before, series.CHANGE_INFO) == {}
    restored = Pipeline(config(BUY))
    restored.restore(*before.dump(), before.next_offset)
    assert read(restored, series.CHANGE_INFO) == {}


@pytest.mark.parametrize(
    ("seconds_after", "may"),
    [(-61, False), (-60, True), (0, True), (7_200, True), (7_201, False), (-math.inf, False)],
)
def test_pain_may_come_of_a_change_for_two_hours(seconds_after, may):
    assert followed(1_000.0, 1_000.0 + seconds_after) is may

"""Feature flags that OpenFeature's own hook notes in spans of OpenTelemetry's own SDK."""

import pytest
from openfeature import api
from openfeature.contrib.hook.opentelemetry import TracingHook
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from outcome_exporter.config import Config
from outcome_exporter.flags import evaluations
from outcome_exporter.kernels.otlp_values import wanted_keys
from outcome_exporter.kernels.wire import decode_spans
from outcome_exporter.plan import Plan


@pytest.fixture
def client():
    flags = {
        "checkout-v2": InMemoryFlag("on", {"on": True, "off": False}),
        "layout": InMemoryFlag("wide", {"wide": {"columns": ["x" * 400] * 3}}),
    }
    api.set_provider(InMemoryProvider(flags))
    api.add_hooks([TracingHook()])
    yield api.get_client()
    api.clear_hooks()
    api.clear_providers()


def test_what_a_service_evaluates_is_read_once_with_its_last_time(client):
    exported = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "cart"}))
    provider.add_span_processor(SimpleSpanProcessor(exported))
    tracer = provider.get_tracer("shop")
    for _ in range(3):
        with tracer.start_as_current_span("add"):
            assert client.get_boolean_value("checkout-v2", default_value=False)
            client.get_object_value("layout", {})
    spans = exported.get_finished_spans()
    payload = encode_spans(spans).SerializeToString()
    batch = decode_spans(payload, wanted_keys(Plan(Config()).wanted))
    told = {event.fields["data"]["feature_flag.key"]: event for event in evaluations(batch)}
    assert {
        flag: event.fields["data"]["feature_flag.result.variant"] for flag, event in told.items()
    } == {"checkout-v2": "on", "layout": "wide"}
    assert {event.source for event in told.values()} == {"cart"}
    assert [event.time_unix_nano for event in told.values()] == [
        event.timestamp for event in spans[-1].events
    ]

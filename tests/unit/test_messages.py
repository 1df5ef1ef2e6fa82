"""How many messages a request has, compared with what the protobuf library parses."""

import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from outcome_exporter.errors import DecodeError
from outcome_exporter.kernels import messages
from outcome_exporter.kernels.messages import check_messages, count_messages

ANY = {"kvlist_value": {"values": [{"key": "k", "value": {"array_value": {"values": [{}, {}]}}}]}}
RESOURCE = {"attributes": [{"key": "é", "value": ANY}], "entity_refs": [{"type": "t"}]}
LOGS = ExportLogsServiceRequest(
    resource_logs=[
        {},
        {
            "resource": RESOURCE,
            "scope_logs": [{"scope": {"name": "s"}, "log_records": [{}, {"body": ANY}] * 3}],
        },
    ]
)
POINT = {"attributes": [{"key": "a", "value": {"int_value": 1}}], "exemplars": [{"as_int": 1}]}
METRICS = ExportMetricsServiceRequest(
    resource_metrics=[
        {
            "resource": RESOURCE,
            "scope_metrics": [
                {
                    "metrics": [
                        {"sum": {"data_points": [POINT] * 2}},
                        {"gauge": {"data_points": [POINT]}},
                        {"histogram": {"data_points": [{"bucket_counts": [1], "sum": 1}]}},
                        {"exponential_histogram": {"data_points": [{"negative": {}}]}},
                        {"summary": {"data_points": [{"quantile_values": [{}, {}]}]}},
                        {"metadata": [{"key": "m"}]},
                    ]
                }
            ],
        }
    ]
)


def parts(message: Message) -> int:
    """Messages within a message, told by the library."""
    found = 0
    for field, value in message.ListFields():
        if field.message_type is not None:
            inner = value if field.is_repeated else [value]
            found += len(inner) + sum(map(parts, inner))
    return found


@pytest.mark.parametrize("request_", [LOGS, METRICS], ids=["logs", "metrics"])
def test_messages_are_counted_as_the_library_finds_them(request_):
    assert parts(request_) > 20
    payload = request_.SerializeToString()
    assert count_messages(payload, type(request_), 1_000) == parts(request_)
    assert count_messages(payload, type(request_), 7) == 7


def test_what_comes_before_damage_is_counted():
    payload = LOGS.SerializeToString()
    assert count_messages(payload + b"\x0a\x00\xff", type(LOGS), 1_000) == parts(LOGS) + 1


def test_more_than_fit_are_refused(monkeypatch):
    monkeypatch.setattr(messages, "MESSAGES_MAX", 100)
    check_messages(b"\x0a\x00" * 100, type(LOGS))
    with pytest.raises(DecodeError, match="more than 100 messages; send fewer"):
        check_messages(b"\x0a\x00" * 101, type(LOGS))

"""Requests in OTLP/JSON, as the protocol's documentation shows them."""

RESOURCE = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
SCOPE = {
    "name": "library",
    "version": "1.0.0",
    "attributes": [{"key": "scope.attribute", "value": {"stringValue": "of a scope"}}],
}
TRACE_ID = "5B8EFFF798038103D269B633813FC60C"
START = 1544712660000000000

SPAN = {
    "traceId": TRACE_ID,
    "spanId": "EEE19B7EC3C1B174",
    "parentSpanId": "EEE19B7EC3C1B173",
    "name": "I'm a server span",
    "startTimeUnixNano": str(START),
    "endTimeUnixNano": str(START + 1_000_000_000),
    "kind": 2,
    "attributes": [{"key": "span.attribute", "value": {"stringValue": "some value"}}],
}
LOG = {
    "timeUnixNano": "1544712660300000000",
    "observedTimeUnixNano": "1544712660300000001",
    "severityNumber": 10,
    "severityText": "Information",
    "traceId": TRACE_ID,
    "spanId": "EEE19B7EC3C1B174",
    "body": {"stringValue": "Example log record"},
    "attributes": [
        {"key": "string", "value": {"stringValue": "some string"}},
        {"key": "boolean", "value": {"boolValue": True}},
        {"key": "int", "value": {"intValue": "10"}},
        {"key": "double", "value": {"doubleValue": 637.704}},
        {
            "key": "array",
            "value": {"arrayValue": {"values": [{"stringValue": "many"}, {"intValue": 2}]}},
        },
        {
            "key": "map",
            "value": {"kvlistValue": {"values": [{"key": "k", "value": {"stringValue": "v"}}]}},
        },
        {"key": "bytes", "value": {"bytesValue": "AAEC/w=="}},
    ],
}
EVENT = {
    "eventName": "browser.page_view",
    "timeUnixNano": "1544712660300000000",
    "observedTimeUnixNano": "1544712660300000000",
    "severityNumber": 9,
    "attributes": [{"key": "event.attribute", "value": {"stringValue": "of an event"}}],
    "body": {
        "kvlistValue": {
            "values": [
                {"key": "type", "value": {"intValue": "0"}},
                {"key": "url", "value": {"stringValue": "https://www.example.com/cart"}},
            ]
        }
    },
}
POINT = {"asDouble": 5, "startTimeUnixNano": str(START), "timeUnixNano": str(START)}
METRICS = [
    {
        "name": "my.counter",
        "unit": "1",
        "sum": {"aggregationTemporality": 1, "isMonotonic": True, "dataPoints": [POINT]},
    },
    {"name": "my.gauge", "gauge": {"dataPoints": [POINT]}},
    {
        "name": "my.histogram",
        "histogram": {
            "aggregationTemporality": 1,
            "dataPoints": [
                {
                    "startTimeUnixNano": str(START),
                    "timeUnixNano": str(START),
                    "count": "2",
                    "sum": 2,
                    "bucketCounts": ["1", "1"],
                    "explicitBounds": [1],
                    "min": 0,
                    "max": 2,
                }
            ],
        },
    },
    {
        "name": "my.exponential.histogram",
        "exponentialHistogram": {
            "aggregationTemporality": 1,
            "dataPoints": [
                {
                    "timeUnixNano": str(START),
                    "count": "3",
                    "sum": 10,
                    "scale": 0,
                    "zeroCount": "1",
                    "positive": {"offset": 1, "bucketCounts": ["0", "2"]},
                    "zeroThreshold": 0,
                }
            ],
        },
    },
]


def traces(*spans: dict) -> dict:
    scopes = [{"scope": SCOPE, "spans": list(spans)}]
    return {"resourceSpans": [{"resource": RESOURCE, "scopeSpans": scopes}]}


def logs(*records: dict) -> dict:
    scopes = [{"scope": SCOPE, "logRecords": list(records)}]
    return {"resourceLogs": [{"resource": RESOURCE, "scopeLogs": scopes}]}


def metrics() -> dict:
    scopes = [{"scope": SCOPE, "metrics": METRICS}]
    return {"resourceMetrics": [{"resource": RESOURCE, "scopeMetrics": scopes}]}

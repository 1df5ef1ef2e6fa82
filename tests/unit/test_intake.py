import gzip
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.receivers import decode_traces

from outcome_exporter.errors import DecodeError, Overloaded, StorageError, TooLarge
from outcome_exporter.events import decode_cloudevents, decode_logs
from outcome_exporter.intake import DurableIntake
from outcome_exporter.kernels.messages import MESSAGES_MAX
from outcome_exporter.model import Accepted, Encoding, EventBatch, Kind
from outcome_exporter.receive.turns import LARGE_BYTES, LARGE_COLUMNS_BYTES

EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
EVENTS = json.dumps([EVENT]).encode()


def trace_request(*trace_ids: bytes) -> bytes:
    spans = [{"trace_id": trace_id, "span_id": b"12345678"} for trace_id in trace_ids]
    request = ExportTraceServiceRequest(resource_spans=[{"scope_spans": [{"spans": spans}]}])
    return request.SerializeToString()


class Log:
    def __init__(self):
        self.records = []
        self.order = []
        self.error = None
        self.full = None

    def append(self, *record):
        self.order.append("append")
        if self.error is not None:
            raise self.error
        self.records.append(record)

    def admit(self):
        self.order.append("admit")
        if self.full is not None:
            raise self.full


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def intake(log):
    decode = {
        Kind.TRACES: decode_traces,
        Kind.LOGS: decode_logs,
        Kind.CLOUDEVENTS: decode_cloudevents,
    }
    return DurableIntake(log.append, decode, max_request_bytes=1_000, admit=log.admit)


def test_a_payload_is_logged_as_it_came_with_what_was_decoded(intake, log):
    body = gzip.compress(EVENTS)
    assert intake.submit(Kind.CLOUDEVENTS, Encoding.GZIP, body) == Accepted()
    assert log.records == [
        (Kind.CLOUDEVENTS, Encoding.GZIP, body, decode_cloudevents(EVENTS)),
    ]
    assert log.order == ["admit", "append"]


def test_the_sender_learns_what_was_left_out(intake, log):
    payload = trace_request(b"t" * 16, bytes(16), b"short")
    accepted = intake.submit(Kind.TRACES, Encoding.NONE, payload)
    assert accepted.rejected == 2
    assert "without a valid trace id" in accepted.why
    assert len(log.records) == 1


@pytest.mark.parametrize(
    ("kind", "payload", "rejected"),
    [
        (Kind.TRACES, b"", 0),
        (Kind.TRACES, trace_request(), 0),
        (Kind.TRACES, trace_request(bytes(16)), 1),
        (Kind.LOGS, b"", 0),
        (Kind.CLOUDEVENTS, b"[]", 0),
    ],
)
def test_a_request_with_nothing_to_count_is_accepted_without_being_logged(
    intake, log, kind, payload, rejected
):
    assert intake.submit(kind, Encoding.NONE, payload).rejected == rejected
    assert log.order == ["admit"]


@pytest.mark.parametrize(
    ("encoding", "payload", "error"),
    [
        (Encoding.NONE, b"\xff", DecodeError),
        (Encoding.GZIP, b"\xff", DecodeError),
        (Encoding.NONE, bytes(1_001), TooLarge),
        (Encoding.GZIP, gzip.compress(bytes(1_001), mtime=0), TooLarge),
    ],
)
def test_what_is_wrong_is_refused_and_not_logged(intake, log, encoding, payload, error):
    with pytest.raises(error):
        intake.submit(Kind.TRACES, encoding, payload)
    assert log.order == ["admit"]


@pytest.mark.parametrize("kind", [Kind.LOGS, Kind.METRICS])
def test_a_request_that_becomes_too_many_objects_is_refused_before_there_are_any(kind):
    def decode(_payload):
        raise AssertionError

    intake = DurableIntake(decode, {kind: decode}, max_request_bytes=8 << 20, admit=lambda: None)
    body = gzip.compress(b"\x0a\x00" * (MESSAGES_MAX + 1))
    with pytest.raises(DecodeError, match="messages; send fewer"):
        intake.submit(kind, Encoding.GZIP, body)


@pytest.mark.parametrize(
    ("kinds", "large", "small"),
    [
        ([Kind.LOGS, Kind.METRICS], LARGE_BYTES, LARGE_BYTES - 1),
        ([Kind.TRACES, Kind.TRACES], LARGE_COLUMNS_BYTES, LARGE_COLUMNS_BYTES - 1),
    ],
    ids=["objects", "columns"],
)
def test_large_requests_are_decoded_in_turn_and_others_at_once(kinds, large, small):
    begun = threading.Event()
    together = threading.Barrier(2)

    def decode(payload):
        if len(payload) >= large:
            begun.set()
            together.wait(0.5)
        return EventBatch([], 0)

    intake = DurableIntake(
        lambda *_: None, dict.fromkeys(kinds, decode), max_request_bytes=large, admit=lambda: None
    )
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(intake.submit, kind, Encoding.NONE, bytes(large)) for kind in kinds]
        assert begun.wait(20)
        assert intake.submit(kinds[0], Encoding.NONE, bytes(small)) == Accepted()
        for each in waiting:
            with pytest.raises(threading.BrokenBarrierError):
                each.result()


def test_of_what_a_hanging_disk_keeps_only_one_large_request_is_decoded():
    hangs, decoded, stored = threading.Event(), [], []

    def decode(payload):
        decoded.append(payload)
        return EventBatch([EVENT], 0)

    def append(*record):
        assert hangs.wait(20)
        stored.append(record)

    intake = DurableIntake(
        append, {Kind.LOGS: decode}, max_request_bytes=LARGE_BYTES, admit=lambda: None
    )
    large, small = bytes(LARGE_BYTES), bytes(LARGE_BYTES - 1)
    with ThreadPoolExecutor(4) as pool:
        for payload in (large, large, large, small):
            pool.submit(intake.submit, Kind.LOGS, Encoding.NONE, payload)
        deadline = time.monotonic() + 20
        while small not in decoded:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        waiting = sorted(map(len, decoded))
        hangs.set()
    assert waiting == [len(small), len(large)]
    assert len(stored) == 4


def test_without_room_nothing_is_done(intake, log):
    log.full = Overloaded("full")
    with pytest.raises(Overloaded):
        intake.submit(Kind.TRACES, Encoding.NONE, b"\xff")


def test_what_the_log_refuses_is_not_accepted(intake, log):
    log.error = StorageError("disk")
    with pytest.raises(StorageError):
        intake.submit(Kind.CLOUDEVENTS, Encoding.NONE, EVENTS)

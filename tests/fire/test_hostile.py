"""Hostile data through the whole exporter: caps hold, and others lose nothing."""

import math
import struct
import time

import grpc
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.fire.process import EXPORT, config, spans, until

from outcome_exporter import series
from outcome_exporter.clock import SteadyClock
from outcome_exporter.model import Histogram
from outcome_exporter.server import Server
from outcome_exporter.units import DAY, HOUR, SECOND

LIMITS = {"operations": 100, "label_values": 20}
YEAR_2200 = 7_258_118_400 * SECOND


class Machine:
    """The clocks of the machine that the exporter runs on; time passes, and may leap."""

    def __init__(self):
        self.leap = 0
        self.clock = SteadyClock(
            lambda: time.time_ns() + self.leap,
            lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        )


class Exporter:
    def __init__(self, folder, **more):
        self.machine = Machine()
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config(folder, limits=LIMITS) | more))
        self.server = Server(file, self.machine.clock)
        self.server.start()
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.server.ports[1]}",
            options=[("grpc.use_local_subchannel_pool", 1)],
        )
        self.export = self.channel.unary_unary(EXPORT)

    def stop(self):
        self.channel.close()
        self.server.stop()

    def send(self, body: bytes) -> None:
        self.export(body, timeout=60)

    def samples(self, family):
        return self.server._snapshot()[family]

    def value(self, family, *labels) -> float:
        return sum(
            sample.value for sample in self.samples(family) if set(labels) <= set(sample.labels)
        )

    def settled(self) -> bool:
        return not self.value(series.PENDING_SPANS) and not self.value(series.LOG_LAG)

    def check(self):
        """Every series is a finite number."""
        for family, samples in self.server._snapshot().items():
            for sample in samples:
                value = sample.value
                numbers = [*value.counts, value.sum] if isinstance(value, Histogram) else [value]
                assert all(map(math.isfinite, numbers)), family.name
                assert family.type == "gauge" or min(numbers) >= 0, family.name


@pytest.fixture(scope="module")
def exporter(tmp_path_factory):
    exporter = Exporter(tmp_path_factory.mktemp("hostile"))
    yield exporter
    exporter.stop()


@pytest.fixture
def good(exporter):
    """Attempts of a good sender, before and after; none of them may be missing."""
    start = time.time_ns()
    first = start // 1000
    before = exporter.value(series.ATTEMPTS)
    skewed = exporter.value(series.SKEWED_TIMES)
    exporter.send(spans(50, first=first, start=start, tier="gold"))
    yield
    exporter.send(spans(50, first=first + 50, start=start, error=True, tier="gold"))
    until(lambda: exporter.value(series.ATTEMPTS) >= before + 100)
    until(exporter.settled)
    assert exporter.value(series.ATTEMPTS) == before + 100
    assert skewed <= exporter.value(series.SKEWED_TIMES)
    exporter.check()


def sized(tag: int, content: bytes) -> bytes:
    length, out = len(content), bytearray([tag])
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out) + content


def raw_span(
    trace: int, span: int, name: bytes, start: int, *, parent: int = 0, attribute=b""
) -> bytes:
    """A span in a few microseconds: protobuf takes ten times as long."""
    body = b"\x0a\x10" + trace.to_bytes(16) + b"\x12\x08" + span.to_bytes(8)
    if parent:
        body += b"\x22\x08" + parent.to_bytes(8)
    body += sized(0x2A, name) + b"\x39" + struct.pack("<Q", start)
    body += b"\x41" + struct.pack("<Q", start + 1_000)
    if attribute:
        body += sized(0x4A, b"\x0a\x04tier" + sized(0x12, sized(0x0A, attribute)))
    return sized(0x12, body)


def raw_request(service: bytes, raw_spans) -> bytes:
    resource = sized(0x0A, sized(0x0A, b"\x0a\x0cservice.name" + sized(0x12, sized(0x0A, service))))
    return sized(0x0A, resource + sized(0x12, b"".join(raw_spans)))


def flood(exporter, total, make):
    size = 50_000
    for first in range(1, total, size):
        exporter.send(make(range(first, first + size)))
        until(lambda: not exporter.value(series.LOG_LAG))


@pytest.mark.parametrize("total", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_names_without_end_become_other(total, exporter, good):
    now = time.time_ns()
    flood(
        exporter,
        total,
        lambda numbers: raw_request(
            b"flood", [raw_span(n << 64, n, b"name %d" % n, now) for n in numbers]
        ),
    )
    until(exporter.settled)
    names = {sample.labels[1] for sample in exporter.samples(series.SPAN_CALLS)}
    assert len(names) <= LIMITS["operations"] + 1
    assert "other" in names
    assert exporter.value(series.OVERFLOW, "operation") + exporter.value(
        series.OVERFLOW, "text"
    ) >= (total - LIMITS["operations"])


@pytest.mark.parametrize("total", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_label_values_without_end_become_other(total, exporter):
    now = time.time_ns()
    before = exporter.value(series.ATTEMPTS)
    flood(
        exporter,
        total,
        lambda numbers: raw_request(
            b"shop",
            [raw_span((now + n) << 64, n, b"pay", now, attribute=b"value %d" % n) for n in numbers],
        ),
    )
    until(exporter.settled)
    until(lambda: exporter.value(series.ATTEMPTS) >= before + total)
    assert exporter.value(series.ATTEMPTS) == before + total, "each of them is counted all the same"
    tiers = {sample.labels[3] for sample in exporter.samples(series.ATTEMPTS)}
    assert len(tiers) <= LIMITS["label_values"] + 2
    assert "other" in tiers
    assert exporter.value(series.OVERFLOW, "label_value") >= total - LIMITS["label_values"] - 2


def test_a_trace_of_200_000_spans_is_one_trace(exporter, good):
    now = time.time_ns()
    trace = now << 64
    for first in range(1, 200_001, 50_000):
        numbers = range(first, first + 50_000)
        exporter.send(
            raw_request(b"deep", [raw_span(trace, n, b"n", now, parent=n - 1) for n in numbers])
        )
    until(exporter.settled)


def test_parents_in_a_circle_do_not_hang(exporter, good):
    now = time.time_ns()
    for trace, parents in enumerate(([2, 1], [1, 2, 3], [2, 3, 1], [9, 9])):
        exporter.send(
            raw_request(
                b"shop circle",
                [
                    raw_span((now + trace) << 64, n, b"pay", now, parent=parent)
                    for n, parent in enumerate(parents, 1)
                ],
            )
        )
    until(exporter.settled)


@pytest.mark.parametrize(
    "start", [0, 1, YEAR_2200, 2**63 - 1, 2**63, 2**64 - 2_000], ids=lambda start: f"{start:x}"
)
def test_times_that_cannot_be_settle_no_future(start, exporter, good):
    now = time.time_ns()
    exporter.send(raw_request(b"elsewhere", [raw_span(now << 64, 1, b"n", start)]))
    until(exporter.settled)
    assert exporter.value(series.WATERMARK) <= time.time_ns() / SECOND + 1


def test_zero_and_duplicate_ids_are_left_out_or_counted_once(exporter, good):
    now = time.time_ns()
    before = exporter.value(series.REJECTED_ITEMS, "invalid_id")
    duplicates = exporter.value(series.DUPLICATES, "span")
    twice = raw_span(now << 64, 1, b"n", now)
    exporter.send(
        raw_request(b"x", [twice, twice, raw_span(0, 1, b"n", now), raw_span(now, 0, b"n", now)])
    )
    until(exporter.settled)
    assert exporter.value(series.REJECTED_ITEMS, "invalid_id") == before + 2
    assert exporter.value(series.DUPLICATES, "span") == duplicates + 1


def test_bytes_that_are_nothing_cost_their_sender_only(exporter, good):
    for body in (b"\xff" * 1_000, b"\x0a\xff\xff\xff\xff\x7f", b"\x1f\x8b" + b"x" * 100):
        with pytest.raises(grpc.RpcError) as refused:
            exporter.send(body)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_services_whose_clocks_differ_have_no_negative_durations(exporter, good):
    now = time.time_ns()
    request = ExportTraceServiceRequest()
    for service, skew, parent in (("a", 0, b""), ("b", HOUR, b"\1" * 8), ("c", -HOUR, b"\1" * 8)):
        resource = request.resource_spans.add()
        resource.resource.attributes.add(key="service.name").value.string_value = service
        resource.scope_spans.add().spans.add(
            trace_id=now.to_bytes(16),
            span_id=service.encode() * 8 if parent else b"\1" * 8,
            parent_span_id=parent,
            name="n",
            start_time_unix_nano=now + skew,
            end_time_unix_nano=now + skew - 5 * SECOND,
        )
    exporter.send(request.SerializeToString())
    until(exporter.settled)


def test_a_leap_of_the_clock_settles_no_future_and_stops_nothing(exporter, good):
    true = time.time_ns()
    try:
        for leap in (DAY, 0, -DAY):
            exporter.machine.leap = leap
            watermark = exporter.value(series.WATERMARK)
            assert watermark <= true / SECOND + 60
            until(lambda was=watermark: exporter.value(series.WATERMARK) > was, 20)
        assert exporter.value(series.CLOCK_AHEAD) > DAY / SECOND - 60
    finally:
        exporter.machine.leap = 0
    until(lambda: abs(exporter.value(series.CLOCK_AHEAD)) < 1, 30)

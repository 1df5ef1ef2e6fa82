"""The exporter's own traces, sent through the real SDK to a real receiver."""

import subprocess
import sys

import pytest
from tests.receivers import running

from outcome_exporter.errors import DecodeError
from outcome_exporter.model import Accepted, Encoding, Kind
from outcome_exporter.selftracing import SelfTracing


class Taking:
    def submit(self, _kind, _encoding, payload):
        if payload == b"bad":
            raise DecodeError("order 4711 of Ms Smith is no event")
        return Accepted(1, "one was left out")


def test_requests_become_spans_that_tell_nothing_of_what_they_hold():
    with running() as exporter:
        tracing = SelfTracing(f"http://127.0.0.1:{exporter.http_port}/v1/traces", 1.0)
        intake = tracing.traced(Taking())
        taken = intake.submit(Kind.TRACES, Encoding.GZIP, b"good")
        with pytest.raises(DecodeError):
            intake.submit(Kind.LOGS, Encoding.NONE, b"bad")
        with tracing.span("reload"):
            pass
        tracing.stop()
        good, bad, reload = exporter.inbox.spans()
        sent = b"".join(payload for _, _, payload, _ in exporter.inbox.records)
    assert taken == Accepted(1, "one was left out")
    assert [span.name for span in (good, bad, reload)] == ["submit", "submit", "reload"]
    said = {
        attribute.key: attribute.value.string_value or attribute.value.int_value
        for attribute in bad.attributes
    }
    assert said == {"kind": "logs", "encoding": "none", "bytes": 3, "error.type": "DecodeError"}
    assert (good.status.code, bad.status.code) == (0, 2)
    assert not bad.events
    assert b"4711" not in sent


def test_where_it_is_off_the_sdk_is_not_even_imported():
    code = "import sys, outcome_exporter.server; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Assembly: which spans make a trace, when it settles, and which of them are attempts."""

import numpy as np
import pytest
from tests.scenario import START, Restart, Span, config, read, reasons, record, records, run

from outcome_exporter import series
from outcome_exporter.kernels import assembly
from outcome_exporter.model import Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.units import HOUR, MINUTE, SECOND

PAY = {"name": "pay", "attempt": {"span": {"name": "pay"}}}


def span(number: int, parent: int = 0, name: str = "step", trace: int = 1, **more) -> Span:
    time = more.pop("start", START + number)
    more.setdefault("end", time + SECOND)
    return Span(trace=trace, id=number, parent=parent, start=time, name=name, **more)


def late(pipeline) -> float:
    return read(pipeline, series.LATE_SPANS)[()]


def test_a_span_is_late_as_long_as_its_trace_is_remembered_and_no_longer():
    for after, expected in ((100, 1), (200, 0)):
        arrivals = [(START, [span(1)]), (START + after * SECOND, [span(2)])]
        assert late(run(config(PAY), arrivals)) == expected

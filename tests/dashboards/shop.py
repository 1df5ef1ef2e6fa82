"""The demo's shop in simulated time, through the real pipeline, scraped as it goes.

What the server around the pipeline adds is that of one at rest; the processor time is what the
pipeline took in truth.
"""

import time
from collections.abc import Sequence

from tests.dashboards.tsdb import History

from outcome_exporter import series
from outcome_exporter.config import Config
from outcome_exporter.demo import settings
from outcome_exporter.demo.faults import script
from outcome_exporter.demo.simulate import START_UNIX_NANO, simulate
from outcome_exporter.model import Encoding, Kind, Record, Sample
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND
from outcome_exporter.warmup import warm_up

CONFIG: Config = settings.load()


def run(*, seconds: int, every: int, seed: int = 1) -> History:
    """A whole demo of `seconds`, scraped every so many seconds."""
    history = History()
    warm_up(CONFIG)
    pipeline = Pipeline(CONFIG)
    cpu = Cpu()
    counters = ReceiverCounters()
    start = START_UNIX_NANO // SECOND
    due = start + every
    arrival = START_UNIX_NANO

    def scrape_until(second: int) -> None:
        nonlocal due
        while due <= second:
            with cpu:
                pipeline.advance(due * SECOND)
                own = snapshot(pipeline)
            more = {**counters.snapshot(), **_process(cpu.seconds, due)}
            history.scrape(due, {**own, **more})
            due += every

    simulation = simulate(seed=seed, seconds=seconds, faults=script(seconds))
    for offset, (arrival, kind, payload) in enumerate(simulation):
        scrape_until(arrival // SECOND)
        receiver = "grpc" if kind is Kind.TRACES else "http"
        signal = "traces" if kind is Kind.TRACES else "events"
        counters.accepted(receiver, signal, body_bytes=len(payload), rejected=0)
        with cpu:
            pipeline.ingest(Record(offset, arrival, kind, Encoding.NONE, payload))
    scrape_until(arrival // SECOND + int(settings.settle_seconds(CONFIG)) + every)
    return history


class Cpu:
    """Counts the processor time of what runs within it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.seconds -= time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time()


def _process(cpu_seconds: float, now: int) -> dict[series.Family, Sequence[Sample]]:
    """What the server around the pipeline adds, at rest."""

    def one(value: float) -> list[Sample]:
        return [Sample((), float(value))]

    return {
        series.BUILD_INFO: [Sample(("0.1.0",), 1.0)],
        series.READY: one(1),
        series.LOG_SIZE: one(1 << 20),
        series.LOG_LAG: one(0),
        series.LOG_LAG_SECONDS: one(0),
        series.CHECKPOINT_AGE: one(now - now % 10),
        series.CHECKPOINT_DURATION: one(0.012),
        series.CHECKPOINT_FAILURES: one(0),
        series.CONFIG_RELOAD_OK: one(1),
        series.PROCESS_CPU: one(cpu_seconds),
        series.PROCESS_MEMORY: one(180 << 20),
    }

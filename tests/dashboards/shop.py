"""The demo's shop in simulated time, through the real pipeline, scraped as it goes."""

from collections.abc import Sequence

from tests.dashboards.tsdb import History

from outcome_exporter import series
from outcome_exporter.config import Config
from outcome_exporter.demo import settings
from outcome_exporter.demo.faults import script
from outcome_exporter.demo.simulate import START_UNIX_NANO, simulate
from outcome_exporter.model import Encoding, Kind, Record, Sample, Snapshot
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND

CONFIG: Config = settings.load()


def run(*, seconds: int, every: int, seed: int = 1) -> History:
    """A whole demo of `seconds`, scraped every so many seconds."""
    history = History()
    pipeline = Pipeline(CONFIG)
    counters = ReceiverCounters()
    start = START_UNIX_NANO // SECOND
    due = start + every
    arrival = START_UNIX_NANO

    def scrape_until(second: int) -> None:
        nonlocal due
        while due <= second:
            pipeline.advance(due * SECOND)
            history.scrape(due, _scraped(pipeline, counters, due, due - start))
            due += every

    simulation = simulate(seed=seed, seconds=seconds, faults=script(seconds))
    for offset, (arrival, kind, payload) in enumerate(simulation):
        scrape_until(arrival // SECOND)
        receiver = "grpc" if kind is Kind.TRACES else "http"
        signal = "traces" if kind is Kind.TRACES else "events"
        counters.accepted(receiver, signal, body_bytes=len(payload), rejected=0)
        pipeline.ingest(Record(offset, arrival, kind, Encoding.NONE, payload))
    scrape_until(arrival // SECOND + int(settings.settle_seconds(CONFIG)) + every)
    return history


def _scraped(pipeline: Pipeline, counters: ReceiverCounters, now: int, elapsed: int) -> Snapshot:
    return {**snapshot(pipeline), **counters.snapshot(), **_process(elapsed, now)}


def _process(elapsed: int, now: int) -> dict[series.Family, Sequence[Sample]]:
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
        series.PROCESS_CPU: one(4 + elapsed * 0.02),
        series.PROCESS_MEMORY: one(180 << 20),
    }

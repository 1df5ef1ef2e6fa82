"""The demo's shop in simulated time, scraped as it goes."""

from collections import defaultdict
from collections.abc import Sequence

from tests.dashboards.tsdb import History

from outcome_exporter import series
from outcome_exporter.config import Config
from outcome_exporter.demo import settings
from outcome_exporter.demo.faults import SLOW_VERSION, VERSIONS, script
from outcome_exporter.demo.simulate import START_UNIX_NANO, simulate
from outcome_exporter.model import Encoding, Kind, Record, Sample, Snapshot
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import SECOND

CONFIG: Config = settings.load()

_PAYMENT = ("payment", "POST /charge", VERSIONS["payment"], "error")
_EMAIL = ("email", "orders process", VERSIONS["email"], "missing")
_RESERVE = ("inventory", "POST /reserve", SLOW_VERSION, "latency")
_STOCK = ("inventory", "GET /stock", SLOW_VERSION, "latency")
_UNKNOWN = ("", "", "", "unattributed")
_CULPRITS = {
    ("checkout", "error"): _PAYMENT,
    ("checkout", "recovered"): _PAYMENT,
    ("checkout", "missed"): _EMAIL,
    ("checkout", "slow"): _RESERVE,
    ("search", "slow"): _STOCK,
}


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
            history.scrape(due, _scraped(pipeline, counters, due, due - start, seconds))
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


def _scraped(
    pipeline: Pipeline, counters: ReceiverCounters, now: int, elapsed: int, seconds: int
) -> Snapshot:
    shown = dict(snapshot(pipeline))
    return {
        **shown,
        **counters.snapshot(),
        **_causes(shown, elapsed, seconds, now),
        **_process(elapsed, now),
    }


def _causes(
    shown: Snapshot, elapsed: int, seconds: int, now: int
) -> dict[series.Family, Sequence[Sample]]:
    """Blame, worked out from the reasons: what the shop's script knows to be the cause."""
    counts: dict[tuple[str, ...], float] = defaultdict(float)
    for sample in shown[series.ATTEMPTS]:
        journey, outcome, reason = sample.labels[:3]
        if outcome == "bad":
            cause = _CULPRITS.get((journey, reason), _UNKNOWN)
            counts[journey, *cause] += sample.value
    bad: dict[str, float] = defaultdict(float)
    for (journey, *_), count in counts.items():
        bad[journey] += count
    at_risk = {
        sample.labels[0]: sample.value
        for sample in shown[series.VALUE]
        if sample.labels[2] == "at_risk"
    }
    real = {key: count for key, count in counts.items() if count and key[1]}
    slow_since = now - elapsed + script(seconds)[1].start
    return {
        series.BLAME: [Sample(key, count) for key, count in counts.items()],
        series.BLAME_VALUE: [
            Sample((key[0], "USD", *key[1:]), at_risk[key[0]] * count / bad[key[0]])
            for key, count in counts.items()
            if key[0] in at_risk and bad[key[0]]
        ],
        series.CAUSE_SHARE: [
            Sample((key[0], window, *key[1:]), count / bad[key[0]])
            for key, count in real.items()
            for window in ("1h", "1d")
        ],
        series.CAUSE_SINCE: [Sample(key, float(elapsed)) for key in real],
        series.SUSPECT_SCORE: [
            Sample(("checkout", "service.version", SLOW_VERSION), 0.62),
            Sample(("checkout", "app.payment.method", "card"), 0.31),
            Sample(("checkout", "app.user.tier", "gold"), 0.04),
        ],
        series.CHANGE_INFO: [
            Sample(("inventory", "version", SLOW_VERSION, VERSIONS["inventory"]), slow_since)
        ]
        if now >= slow_since
        else [],
    }


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

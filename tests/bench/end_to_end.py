"""End to end: from the socket through the durable log to settled outcomes, beside a Collector.

Both get the same bytes from the same client. The exporter gets the business events too, and is
measured until the last trace is settled and the last outcome known; the Collector until it took
the last request. What counts is the CPU time of the process: on a machine of few cores the client
takes its share of the wall time, all the more where it compresses. Before the clock runs both took
as much as is measured: what a process pays once, for memory that it then keeps, is not in it.
"""

import contextlib
import gzip
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench import load, peers
from tests.bench.figures import Figure

CONFIG = {
    "traces": {"quiet": "1s", "max_age": "10s"},
    "time": {"lateness": "1s"},
    "journeys": [
        {
            "name": "checkout",
            "attempt": {"span": {"service": "frontend", "name": "POST /api/checkout"}},
            "join": ["trace_id", {"attribute": "app.order.id", "event": "data.order_id"}],
            "outcome": {"event": "shop.order.completed", "within": "5m"},
            "slow_above": "2s",
            "value": {"event": "data.total", "attribute": "app.cart.total", "currency": "USD"},
            "user": {"attribute": "user.id"},
            "slos": [
                {"name": "success", "objective": 99.5, "good": {"achieved": True, "error": False}},
                {"name": "fast", "objective": 95, "good": {"duration_below": "400ms"}},
            ],
        }
    ],
}


class Size(NamedTuple):
    """Requests before the clock runs, and as many after."""

    requests: int
    spans: int
    """Of each request."""
    said: str


LARGE = Size(125, load.SPANS, "a million spans and their events")
SMALL = Size(2_400, 100, "the same in requests of 100 spans")
ROUNDS = 3
SETTLE_SECONDS = 3.0
"""In which everything is settled as a rule; only then is it looked at, since that costs CPU too."""
STEADY_REQUESTS, STEADY_SECONDS = 400, 10
"""Of a load that leaves the machine time: 40 requests of 1,000 spans a second."""
CHECKOUTS = -(-load.TRACES // load.CHECKOUT_EVERY)
"""Of each whole request, and of each batch of events."""
PROTOCOLS = {
    "grpc": "gRPC",
    "grpc-gzip": "gRPC, gzip",
    "http": "HTTP, protobuf",
    "http-gzip": "HTTP, gzip",
}


def write(folder: Path, payloads: Iterable[bytes], events: Iterable[bytes | None] = ()) -> None:
    """Lays requests out for `tests.bench.send`, and the events of those that have some."""
    folder.mkdir(parents=True)
    for number, payload in enumerate(payloads):
        (folder / f"{number:05d}.pb").write_bytes(payload)
        (folder / f"{number:05d}.pb.gz").write_bytes(gzip.compress(payload, 6))
    for number, batch in enumerate(events):
        if batch is not None:
            (folder / f"{number:05d}.json").write_bytes(batch)


def prepare(folder: Path, size: Size) -> None:
    """Synthetic requests of now, some to warm up with and as many that are measured."""
    count = size.requests * size.spans // load.SPANS
    made = list(load.synthetic(2 * count, began=time.time_ns(), apart=load.SECOND // 100))
    for name, whole in (("warm", made[:count]), ("load", made[count:])):
        part = whole
        if size.spans < load.SPANS:
            part = [small for request in whole for small in load.split(request, size.spans)]
        write(folder / name, [r.payload for r in part], [r.events for r in part])


def journeys(count: int, slos: int = 2) -> list[dict]:
    """Journeys of which the first matches the checkouts, and the others no span."""
    (checkout,) = CONFIG["journeys"]
    return [
        checkout
        | {
            "name": f"journey-{number}",
            "attempt": {
                "span": {"service": "frontend", "name": f"POST /api/checkout{number or ''}"}
            },
            "slos": [
                {"name": f"slo-{number}-{slo}", "objective": 99, "good": {"error": False}}
                for slo in range(slos)
            ],
        }
        for number in range(count)
    ]


def settled_cpu_seconds(peer: peers.Peer) -> float:
    """CPU seconds so far, once no span waits for its trace any more."""
    used = 0.0

    def all_settled() -> bool:
        nonlocal used
        time.sleep(SETTLE_SECONDS)
        used = peer.cpu_seconds()
        return peer.value("outcome_exporter_pending_spans") == 0

    peer.wait(all_settled, "not settled")
    return used


def exporter_run(
    folder: Path,
    protocol: str,
    config: dict = CONFIG,
    environment: dict[str, str] | None = None,
) -> tuple[float, float]:
    """Seconds that sending took, and CPU seconds of the exporter until everything was settled."""
    with (
        tempfile.TemporaryDirectory() as home,
        peers.exporter(Path(home), config, environment) as peer,
    ):
        peers.send(folder / "warm", peer, protocol, events=True)
        settled_cpu_seconds(peer)
        begun = peer.cpu_seconds()
        said = peers.send(folder / "load", peer, protocol, events=True)
        used = settled_cpu_seconds(peer) - begun
        batches = sum(1 for _ in folder.glob("*/*.json"))
        assert peer.value("outcome_attempts_total") == CHECKOUTS * batches, "outcomes are missing"
    return said["seconds"], used


def collector_run(program: str, folder: Path, protocol: str) -> tuple[float, float]:
    """Likewise of a Collector."""
    with tempfile.TemporaryDirectory() as home, peers.collector(program, Path(home)) as peer:
        peers.send(folder / "warm", peer, protocol)
        begun = peer.cpu_seconds()
        said = peers.send(folder / "load", peer, protocol)
        return said["seconds"], peer.cpu_seconds() - begun


@contextlib.contextmanager
def requests(size: Size = LARGE) -> Iterator[Path]:
    """A folder of prepared requests."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "requests"
        prepare(folder, size)
        yield folder


def figures(
    collector: str | None, protocols: Sequence[str] = (), rounds: int = ROUNDS
) -> Iterator[Figure]:
    """Every protocol, or those that are named; medians of pairs of runs."""
    yield from _beside(collector, LARGE, protocols or PROTOCOLS, rounds)
    yield from _beside(collector, SMALL, protocols or ["grpc-gzip"], rounds)


def _beside(
    collector: str | None, size: Size, protocols: Iterable[str], rounds: int
) -> Iterator[Figure]:
    spans = size.requests * size.spans
    with requests(size) as folder:
        for protocol in protocols:
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(exporter_run(folder, protocol))
                if collector:
                    theirs.append(collector_run(collector, folder, protocol))
            seconds, cpu = (statistics.median(column) for column in zip(*ours, strict=True))
            beside, ratio = "", None
            if theirs:
                their_cpu = statistics.median(used for _, used in theirs)
                beside = f"Collector: {their_cpu / spans * 1e6:.2f} CPU s"
                ratio = their_cpu / cpu
            yield Figure(
                f"end to end: {PROTOCOLS[protocol]}, {size.said}",
                f"{cpu / spans * 1e6:.2f} CPU s ({spans / seconds:,.0f} spans/s)",
                beside,
                ratio,
            )


def growth(rounds: int = ROUNDS) -> Iterator[Figure]:
    """What SLOs, and code for any processor, add to the whole; medians of pairs of runs."""
    ten, thousand = ({**CONFIG, "journeys": journeys(*size)} for size in ((10, 1), (20, 50)))
    portable = {"NUMBA_CPU_NAME": "generic"}
    with requests() as folder:
        for what, before, after, environment in (
            ("1,000 SLOs instead of 10", ten, thousand, {}),
            ("compiled for any processor", CONFIG, CONFIG, portable),
        ):
            with (
                tempfile.TemporaryDirectory() as home,
                peers.exporter(Path(home), after, environment),
            ):
                pass  # compiled now, if it was not before
            ratios = []
            for _ in range(rounds):
                _, less = exporter_run(folder, "grpc", before)
                _, more = exporter_run(folder, "grpc", after, environment)
                ratios.append(more / less)
            ratio = statistics.median(ratios)
            yield Figure(f"end to end: {what}", f"{ratio:.2f} times a span's cost")


def scraping() -> Iterator[Figure]:
    """What a scrape of 100,000 series takes, and what those who send notice of it."""
    operations = 5_000
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        write(folder / "many", load.of_operations(operations, began=time.time_ns()))
        write(folder / "steady", load.small(STEADY_REQUESTS, began=time.time_ns()))
        with peers.exporter(folder, CONFIG) as peer:
            peers.send(folder / "many", peer, "grpc")
            settled_cpu_seconds(peer)
            took, lines = zip(*(_scrape(peer) for _ in range(2 * ROUNDS)), strict=True)
            yield Figure(
                f"/metrics, {lines[-1]:,} lines, as a client sees it",
                f"{statistics.median(took):.2f} s",
            )
            calm = _acknowledged(folder / "steady", peer)
            done = threading.Event()
            scraper = threading.Thread(target=_scrape_until, args=(done, peer))
            scraper.start()
            try:
                scraped = _acknowledged(folder / "steady", peer)
            finally:
                done.set()
                scraper.join()
    yield Figure(
        f"a request is acknowledged, {STEADY_REQUESTS / STEADY_SECONDS:.0f} of them a second",
        f"p99 {calm * 1e3:.0f} ms",
    )
    yield Figure(
        "the same while that is scraped every second",
        f"p99 {scraped * 1e3:.0f} ms",
    )


def _scrape(peer: peers.Peer) -> tuple[float, int]:
    """Seconds it took, and how many lines it has."""
    begun = time.perf_counter()
    _, body = peer.get("/metrics", {"Accept": "application/openmetrics-text"})
    return time.perf_counter() - begun, body.count(b"\n")


def _scrape_until(done: threading.Event, peer: peers.Peer) -> None:
    while not done.wait(1):
        _scrape(peer)


def _acknowledged(folder: Path, peer: peers.Peer) -> float:
    """Seconds within which 99 of 100 requests were acknowledged."""
    said = peers.send(folder, peer, "grpc", seconds=STEADY_SECONDS)
    return statistics.quantiles(said["latencies"], n=100)[-1]


def size() -> Iterator[Figure]:
    """What a small shop's exporter needs: the chart's requests of CPU and memory follow from it."""
    waiting, seconds = 100_000, 60
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        write(folder / "waiting", load.of_attempts(waiting, began=time.time_ns()))
        write(folder / "steady", load.small(seconds, began=time.time_ns()))
        with peers.exporter(folder, CONFIG) as peer:
            started = peer.resident_bytes()
            peers.send(folder / "waiting", peer, "grpc")
            peer.wait(lambda: peer.value("outcome_pending_attempts") == waiting, "not waiting")
            begun = peer.cpu_seconds()
            peers.send(folder / "steady", peer, "grpc", seconds=seconds)
            used = peer.cpu_seconds() - begun
            held, peak = peer.resident_bytes(), peer.resident_bytes("VmHWM")
    yield Figure(
        f"1,000 spans/s while {waiting:,} attempts wait",
        f"{used / seconds * 1e3:.0f} millicores, {held >> 20} MiB",
    )
    yield Figure(
        "memory once started", f"{started >> 20} MiB", f"peak with the above: {peak >> 20}"
    )


def start() -> Iterator[Figure]:
    """From the command to ready: with nothing compiled, and as it is from the second time on."""
    with tempfile.TemporaryDirectory() as home:
        kept = {"NUMBA_CACHE_DIR": f"{home}/numba"}
        seconds = []
        for number in range(1 + ROUNDS):
            with peers.exporter(Path(home) / str(number), CONFIG, kept) as peer:
                seconds.append(peer.ready_seconds)
    yield Figure("cold start to ready", f"{seconds[0]:.1f} s")
    yield Figure("warm start to ready", f"{statistics.median(seconds[1:]):.1f} s")

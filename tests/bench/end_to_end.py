"""End to end: from the socket through the durable log to settled outcomes, beside a Collector.

Both get the same bytes from the same client. The exporter gets the business events too, and is
measured until the last trace is settled and the last outcome known; the Collector until it took
the last request. What counts is the CPU time of the process: on a machine of few cores the client
takes its share of the wall time, all the more where it compresses.
"""

import gzip
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

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
WARM = 12
"""Requests before the clock runs."""
REQUESTS = 125
"""Of 8,000 spans: a million."""
ROUNDS = 3
CHECKOUTS = -(-load.TRACES // load.CHECKOUT_EVERY)
"""Of each request."""
PROTOCOLS = {
    "grpc": "gRPC",
    "grpc-gzip": "gRPC, gzip",
    "http": "HTTP, protobuf",
    "http-gzip": "HTTP, gzip",
}


def write(folder: Path, payloads: Iterable[bytes], events: Iterable[bytes] = ()) -> None:
    """Lays requests out for `tests.bench.send`."""
    folder.mkdir(parents=True)
    for number, payload in enumerate(payloads):
        (folder / f"{number:05d}.pb").write_bytes(payload)
        (folder / f"{number:05d}.pb.gz").write_bytes(gzip.compress(payload, 6))
    for number, batch in enumerate(events):
        (folder / f"{number:05d}.json").write_bytes(batch)


def prepare(folder: Path, requests: int) -> None:
    """Synthetic requests of now, some to warm up with and those that are measured."""
    made = list(load.synthetic(WARM + requests, began=time.time_ns(), apart=load.SECOND // 100))
    for name, part in (("warm", made[:WARM]), ("load", made[WARM:])):
        write(folder / name, [r.payload for r in part], [r.events for r in part])


def all_settled(peer: peers.Peer) -> bool:
    """Whether no span waits for its trace any more."""
    return peer.value("outcome_exporter_pending_spans") == 0


def exporter_run(folder: Path, protocol: str) -> tuple[float, float]:
    """Seconds that sending took, and CPU seconds of the exporter until everything was settled."""
    with tempfile.TemporaryDirectory() as home, peers.exporter(Path(home), CONFIG) as peer:
        peers.send(folder / "warm", peer, protocol, events=True)
        peer.wait(lambda: all_settled(peer), "not settled", 0.5)
        begun = peer.cpu_seconds()
        said = peers.send(folder / "load", peer, protocol, events=True)
        peer.wait(lambda: all_settled(peer), "not settled", 0.5)
        used = peer.cpu_seconds() - begun
        requests = sum(1 for _ in folder.glob("*/*.pb"))
        assert peer.value("outcome_attempts_total") == CHECKOUTS * requests, "outcomes are missing"
    return said["seconds"], used


def collector_run(program: str, folder: Path, protocol: str) -> tuple[float, float]:
    """Likewise of a Collector."""
    with tempfile.TemporaryDirectory() as home, peers.collector(program, Path(home)) as peer:
        peers.send(folder / "warm", peer, protocol)
        begun = peer.cpu_seconds()
        said = peers.send(folder / "load", peer, protocol)
        return said["seconds"], peer.cpu_seconds() - begun


def figures(collector: str | None) -> Iterator[Figure]:
    """Every protocol; medians of pairs of runs."""
    spans = REQUESTS * load.SPANS
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "requests"
        prepare(folder, REQUESTS)
        for protocol, name in PROTOCOLS.items():
            ours, theirs = [], []
            for _ in range(ROUNDS):
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
                f"end to end: {name}, a million spans and their events",
                f"{cpu / spans * 1e6:.2f} CPU s ({spans / seconds:,.0f} spans/s)",
                beside,
                ratio,
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

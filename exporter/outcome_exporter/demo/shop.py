"""The shop as a process of its own: ``python -m outcome_exporter.demo.shop --help``.

It sends to a running exporter and writes lines of JSON to standard output: ``{"tell": …}`` when
something happens that a spectator should know, and at the end ``{"expected": …}``, the series that
the exporter must show when it has counted everything. It ends early, cleanly, on SIGTERM and
SIGINT, and with `--attached` when its standard input is closed: then whoever started it is gone.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from outcome_exporter.demo import settings
from outcome_exporter.demo.clock import World
from outcome_exporter.demo.faults import SCRIPT_SECONDS, script
from outcome_exporter.demo.sending import LiveWire
from outcome_exporter.demo.traffic import Traffic
from outcome_exporter.units import SECOND


def main() -> None:
    """Runs the shop until closing time."""
    parser = argparse.ArgumentParser(description="A small shop that sends to outcome-exporter.")
    parser.add_argument("--config", type=Path, help="the exporter's configuration file")
    parser.add_argument("--seconds", type=float, default=SCRIPT_SECONDS, help="opening hours")
    parser.add_argument("--seed", type=int, default=1, help="determines everything that happens")
    parser.add_argument("--attached", action="store_true", help="end when stdin is closed")
    arguments = parser.parse_args()
    config = settings.load(arguments.config)
    closing = threading.Event()

    def close(_signal: int, _frame: FrameType | None) -> None:
        closing.set()

    signal.signal(signal.SIGTERM, close)
    signal.signal(signal.SIGINT, close)
    if arguments.attached:
        threading.Thread(target=_watch, args=(closing,), daemon=True).start()

    world = World(time.time_ns(), seed=arguments.seed)
    otlp = config.receivers.otlp
    wire = LiveWire(grpc=otlp.grpc.listen, http=otlp.http.listen)
    traffic = Traffic(
        world,
        wire,
        seconds=arguments.seconds,
        faults=script(arguments.seconds),
        within=settings.within_words(config),
        tell=lambda announcement: _say({"tell": asdict(announcement)}),
        seeded_ids=False,
    )
    finished = run(world, closing.wait)
    world.close()
    traffic.shutdown()
    wire.close()
    if finished:
        _say({"expected": [row._asdict() for row in traffic.ledger.expected(config)]})


def run(world: World, wait: Callable[[float], bool]) -> bool:
    """Lets the world's time pass with the wall clock's.

    Args:
        world: What happens.
        wait: Waits for so many seconds; returns True at once if it is to end early.

    Returns:
        Whether it came to its end.
    """
    return not any(wait(max(0.0, (at - time.time_ns()) / SECOND)) for at in world.steps())


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _watch(closing: threading.Event) -> None:
    # Not through sys.stdin: a thread that is blocked in there disturbs the interpreter's end.
    while os.read(0, 1024):
        pass
    closing.set()


if __name__ == "__main__":
    main()

"""`demo --fast`: the whole demo in simulated time, through the exporter's pipeline in this process.

No ports, no files, no waiting, and the same numbers on every run.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from rich.console import Console

from outcome_exporter.config import Config
from outcome_exporter.demo import screen, settings
from outcome_exporter.demo.faults import Announcement, script
from outcome_exporter.demo.simulate import START_UNIX_NANO, simulate
from outcome_exporter.model import Encoding, Record, Snapshot
from outcome_exporter.units import SECOND


class Judge(Protocol):
    """The exporter's pipeline, as far as the demo needs it."""

    def ingest(self, record: Record) -> object:
        """Takes the next record of the log."""

    def advance(self, now_unix_nano: int) -> object:
        """Moves the clock on without an arrival."""


AnyJudge = TypeVar("AnyJudge", bound=Judge)


def run(
    out: Console,
    config: Config,
    pipeline: Callable[[Config], AnyJudge],
    snapshot: Callable[[AnyJudge], Snapshot],
    *,
    seconds: float,
    seed: int,
) -> bool:
    """Runs the demo.

    Args:
        out: Where to show it.
        config: The shop's.
        pipeline: Makes the judge of what the shop sends.
        snapshot: Every series of a judge as of now.
        seconds: How long the shop is open, in simulated time.
        seed: Determines what its customers do.

    Returns:
        Whether the exporter counted what the shop knows.
    """
    screen.introduce(
        out, "This is the quick tour: minutes of simulated time, shown as they would pass."
    )
    judge = pipeline(config)

    compiling = out.status("The first time it compiles, for about a minute …")

    def tell(announcement: Announcement) -> None:
        compiling.stop()
        for line in screen.lines(
            config, screen.read_snapshot(snapshot(judge)), announcement.elapsed
        ):
            out.print(f"[dim]{line}[/]")
        out.print()
        screen.tell(out, announcement)

    simulation = simulate(
        seed=seed,
        seconds=seconds,
        faults=script(seconds),
        within=settings.within_words(config),
        tell=tell,
    )
    arrival = START_UNIX_NANO
    with compiling:
        for offset, (arrival, kind, payload) in enumerate(simulation):
            judge.ingest(Record(offset, arrival, kind, Encoding.NONE, payload))
    out.print("The shop has closed. The last verdicts fall when the last deadlines have passed.\n")
    # Second by second, as the wall clock does it for a server.
    for second in range(1, 1 + int(settings.settle_seconds(config))):
        judge.advance(arrival + second * SECOND)
    reading = screen.read_snapshot(snapshot(judge))
    out.print(screen.tables(config, reading))
    out.print()
    agrees = screen.summarise(out, simulation.ledger.expected(config), reading)
    screen.explain_budget(out)
    return agrees

"""`outcome-exporter demo`: a small shop that breaks on purpose, and the exporter watching it.

    faults       what breaks, when, in which words: data
    clock        time that can be made up
    services     six services on the real OpenTelemetry SDK
    traffic      customers; the ledger of what they went through
    simulate     the shop in simulated time, as bytes: for `--fast` and for tests
    shop         the shop in a process of its own, over OTLP and HTTP
    quick, live  the two ways to run the demo
    ahead        compiles beside them, the first time
    screen       words and tables, from the exporter's own series

For tests: `simulate(seed=…, seconds=…, faults=…)` yields `(arrival_unix_nano, kind, payload)`, and
its `ledger.expected(config)` says what the exporter must have counted.
"""

from rich.console import Console
from rich.markup import escape

from outcome_exporter.demo import live, quick, screen, settings
from outcome_exporter.demo.ahead import compiling_ahead
from outcome_exporter.demo.faults import SCRIPT_SECONDS, Fault, Kind
from outcome_exporter.demo.simulate import simulate

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def run(
    *, fast: bool, seconds: int | None = None, seed: int = 1, out: Console | None = None
) -> int:
    """Runs the demo.

    Args:
        fast: In simulated time, within this process; else live, with ports and processes.
        seconds: How long the shop is open; its faults are stretched or squeezed to fit.
        seed: Determines what its customers do.
        out: Where to show it; standard output by default.

    Returns:
        Exit code: 0 if the exporter counted what the shop knows, 1 if it did not or something
        does not run, 130 after Ctrl-C.
    """
    out = screen.console() if out is None else out
    try:
        with compiling_ahead():
            agrees = _run(out, fast=fast, seconds=seconds or SCRIPT_SECONDS, seed=seed)
    except KeyboardInterrupt:
        out.print("\nEnded early. Everything is stopped, and nothing is left behind.")
        return INTERRUPTED
    except live.DemoError as error:
        out.print(f"[bold red]The demo does not run:[/] {escape(str(error))}")
        return 1
    return 0 if agrees else 1


def _run(out: Console, *, fast: bool, seconds: int, seed: int) -> bool:
    if not fast:
        return live.run(out, seconds=seconds, seed=seed)
    # Only here: it loads numba, which the shop's process and the live screen do without.
    from outcome_exporter.pipeline import Pipeline  # noqa: PLC0415
    from outcome_exporter.snapshot import snapshot  # noqa: PLC0415

    return quick.run(out, settings.load(), Pipeline, snapshot, seconds=seconds, seed=seed)


__all__ = ["INTERRUPTED", "SCRIPT_SECONDS", "Fault", "Kind", "run", "simulate"]

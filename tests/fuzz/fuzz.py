"""Fuzzes every way in for as long as asked, guided by coverage: `make fuzz ARGS=600`.

Prints executions, crashes and memory; a sixth of the time is for memory alone. What makes it fail
is kept in `.cache/fuzz/found`: fix it, then put it beside the seeds, where the tests run it for
good. The compiled kernels are not guided (only Python's byte code is); they are reached through
inputs that are built to mean harm.
"""

import argparse
import importlib
import pkgutil
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import outcome_exporter
from outcome_exporter import kernels

if TYPE_CHECKING:
    from tests.fuzz.harness import Eater

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "fuzz"
CHECK_EVERY = 2_000
SAY_EVERY_SECONDS = 20.0
GROWTH_BYTES_MAX = 16 << 20
"""Of the exporter, once every table has found its size."""
GUIDED = ("outcome_exporter.events", "outcome_exporter.strict_json", "outcome_exporter.receive")
"""What reads a request. atheris never lets go of what a traced comparison gave, which is nothing
for the truth values here, but a gigabyte in four minutes where arrays are compared."""


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def worker(arguments: list[str]) -> None:
    """Runs until libFuzzer ends the process."""
    import atheris

    # What is compiled must not be instrumented: numba would have to compile the tracing too.
    for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
        importlib.import_module(module.name)
    package = outcome_exporter.__name__
    modules = pkgutil.walk_packages(outcome_exporter.__path__, f"{package}.")
    unguided = [module.name for module in modules if not module.name.startswith(GUIDED)]
    with atheris.instrument_imports(include=[package], exclude=[package, *unguided]):
        from tests.fuzz.harness import Eater
    eater = Eater()
    for seed in (HERE / "seeds").iterdir():  # compiles what is not compiled yet
        eater.eat(seed.read_bytes())
    eater.settle()
    eater.check()
    count = 0
    said = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal count, said
        count += 1
        eater.eat(data)
        if count % CHECK_EVERY == 0:
            eater.settle()
            eater.check()
        if time.monotonic() - said > SAY_EVERY_SECONDS:
            said = time.monotonic()
            print(
                f"@ {count} {eater.accepted} {eater.refused} {resident_bytes()}",
                file=sys.stderr,
                flush=True,
            )

    atheris.Setup(["fuzz", *arguments], one)
    atheris.Fuzz()


def soak(seconds: float, eater: "Eater") -> int:
    """Memory that the exporter grows by, in bytes; measured alone, since libFuzzer grows too."""
    rng = random.Random(seconds)
    began = time.monotonic()
    base = count = 0
    while time.monotonic() - began < seconds:
        for _ in range(CHECK_EVERY):
            eater.eat(bytes([0x80 + rng.randrange(127), rng.randrange(256)]) + rng.randbytes(6))
        eater.settle()
        eater.check()
        count += CHECK_EVERY
        if not base and time.monotonic() - began > seconds / 4:
            base = resident_bytes()
    growth = resident_bytes() - (base or resident_bytes())
    print(
        f"soak: {seconds:.0f} s, {count} executions, memory {resident_bytes() >> 20} MiB, "
        f"grown by {growth / 2**20:.1f} MiB since a quarter of it"
    )
    return growth


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=int, nargs="?", default=600)
    asked = parser.parse_args().seconds
    seconds = asked * 5 // 6
    found, corpus = CACHE / "found", CACHE / "corpus"
    for folder in (found, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    libfuzzer = [
        f"-max_total_time={seconds}",
        "-timeout=30",
        "-rss_limit_mb=1024",
        "-max_len=8192",
        "-verbosity=0",
        f"-artifact_prefix={found}/",
        str(corpus),
        str(HERE / "seeds"),
    ]
    command = [sys.executable, "-m", "tests.fuzz.fuzz", "--worker", *libfuzzer]
    began = time.monotonic()
    lines: list[tuple[float, list[int]]] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=HERE.parents[1]) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith("@ "):
                lines.append((time.monotonic() - began, [int(part) for part in line.split()[1:]]))
            else:
                sys.stderr.write(line)
    took = time.monotonic() - began
    if not lines:
        print("fuzz: it ended before it said anything; give it more time")
        return run.returncode or 1
    count, accepted, refused, memory = lines[-1][1]
    print(
        f"fuzz: {took:.0f} s, {count} executions ({accepted} accepted, {refused} refused), "
        f"{'no crash' if run.returncode == 0 else f'FAILED with {run.returncode}, see {found}'}, "
        f"memory {memory >> 20} MiB, what libFuzzer remembers included"
    )
    from tests.fuzz.harness import Eater

    return run.returncode or int(soak(asked - seconds, Eater()) > GROWTH_BYTES_MAX)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2:])
    else:
        sys.exit(main())

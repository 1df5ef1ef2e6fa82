"""Everything that can go wrong on purpose, and what follows from it.

    OutcomeExporterError
    ├── ConfigError          exit 2: every problem on a line of its own, no traceback
    ├── InputError           one request is refused, nobody else's data is touched
    │   ├── DecodeError      HTTP 400, gRPC INVALID_ARGUMENT: not what it says it is
    │   ├── TooLarge         HTTP 413, gRPC RESOURCE_EXHAUSTED: above a configured size
    │   └── Overloaded       HTTP 503 + Retry-After, gRPC UNAVAILABLE + RetryInfo: send it again
    ├── MissingExtra         exit 1: a command needs packages that were not installed
    ├── OutputError          exit 1: a file that was asked for cannot be written
    ├── GrafanaError         exit 1: Grafana did not take a dashboard
    ├── ExplainError         exit 1: a running exporter cannot say why an attempt was bad
    ├── SourceError          a Prometheus does not answer: asked again, nothing is lost
    ├── ListenError          exit 3: an address cannot be listened on
    └── StorageError         the exporter stops and says how to go on: exit 3
        ├── LogCorrupt       the log is damaged at an offset
        └── StateCorrupt     the checkpoint is damaged, or of a newer version

A message says what, where and what to do. Broken invariants are assertions, not errors.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal


class OutcomeExporterError(Exception):
    """The root of the tree."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration."""

    path: str
    """Where, e.g. ``journeys[0].slos[1].objective``; empty for the file as a whole."""
    problem: str
    """What is wrong."""
    remedy: str
    """What to do about it; may be empty where the problem says it."""
    severity: Literal["error", "warning"] = "error"
    """An error keeps the exporter from starting; a warning is only told."""
    line: int = 0
    """Line of the file, from 1; 0 where there is none."""

    def at_line(self, line: int) -> "Problem":
        """The same, in a line of the file."""
        return replace(self, line=line)

    def in_file(self, file: str) -> str:
        """One line for a terminal or a log: ``checkout.yaml:12: journeys[0].name: is missing``."""
        place = f"{file}:{self.line}" if self.line else file
        return f"{place}: {'warning: ' if self.severity == 'warning' else ''}{self}"

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.problem}" + (f"; {self.remedy}" if self.remedy else "")


class ConfigError(OutcomeExporterError):
    """The configuration cannot work. `problems` may hold warnings beside the errors."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        super().__init__("\n".join(problem.in_file(file) for problem in problems))


class InputError(OutcomeExporterError):
    """A request is refused."""


class DecodeError(InputError):
    """The bytes are not what their sender says they are.

    `offset` is the place in the decompressed payload, in bytes; -1 where a format has none.
    """

    def __init__(self, problem: str, *, offset: int = -1) -> None:
        self.problem = problem
        self.offset = offset
        super().__init__(problem if offset < 0 else f"{problem} at byte {offset}")


class TooLarge(InputError):
    """A request is larger than configured, as sent or after decompression."""

    def __init__(self, what: str, *, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"{what} is larger than {limit_bytes} bytes; send smaller batches")


class Overloaded(InputError):
    """No room now; the sender is asked to try again."""

    def __init__(self, why: str, *, retry_after_seconds: int = 5) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{why}; try again in {retry_after_seconds} s")


class MissingExtra(OutcomeExporterError):
    """A command needs packages that a plain installation leaves out."""

    def __init__(self, extra: str, what: str) -> None:
        # No registry has the package: its name there would be somebody else's.
        super().__init__(f"{what} needs more; in a checkout: pip install '.[{extra}]'")


class OutputError(OutcomeExporterError):
    """A command cannot write its files where it is told to, or compare them with those there."""

    def __init__(self, place: Path, error: OSError) -> None:
        why = error.strerror or str(error)
        super().__init__(f"{place}: {why}; name a place with --output that this user may write")


class GrafanaError(OutcomeExporterError):
    """Grafana cannot be reached, or does not take what it is given."""


class ExplainError(OutcomeExporterError):
    """A running exporter cannot be asked, or does not know."""


class SourceError(OutcomeExporterError):
    """What is to be read from elsewhere cannot be read now."""


class ListenError(OutcomeExporterError):
    """A receiver cannot listen where it is configured to."""

    def __init__(self, address: str, problem: str) -> None:
        self.address = address
        super().__init__(
            f"cannot listen on {address}: {problem}; free the address or configure another one"
        )


class StorageError(OutcomeExporterError):
    """The storage does not do what it must."""


class LogCorrupt(StorageError):
    """The durable log cannot be read from an offset on."""

    def __init__(self, problem: str, *, offset: int) -> None:
        self.offset = offset
        super().__init__(f"log is damaged at offset {offset}: {problem}")


class StateCorrupt(StorageError):
    """The checkpoint cannot be read, or was written by a newer version."""

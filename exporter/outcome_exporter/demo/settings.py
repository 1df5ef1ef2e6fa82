"""The demo's configuration file and what follows from it."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from outcome_exporter.config import Config
from outcome_exporter.units import SECOND


def read() -> dict[str, Any]:
    """The file as it is, for changing ports and places in it."""
    text = resources.files(__package__).joinpath("demo.yaml").read_text(encoding="utf-8")
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings


def load(path: Path | None = None) -> Config:
    """The configuration of a file; without one, the demo's own."""
    settings = read() if path is None else yaml.safe_load(path.read_text(encoding="utf-8"))
    return Config.model_validate(settings)


def within(config: Config) -> int:
    """The longest time that a journey's event may take, in nanoseconds."""
    return max((j.outcome.within for j in config.journeys if j.outcome is not None), default=0)


def within_words(config: Config) -> str:
    """The same for reading, in seconds."""
    return f"{within(config) / SECOND:g} s"


def settle_seconds(config: Config) -> float:
    """Seconds after the last attempt until every verdict is final and every series shows it."""
    return (
        5
        + sum(
            (
                within(config),
                config.time.lateness,
                config.time.grace,
                config.traces.quiet,
                config.exposition.birth,
            )
        )
        / SECOND
    )

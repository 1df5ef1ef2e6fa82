"""What a configuration adds to dashboards that work without one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from outcome_exporter.config import Config


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of the journeys; nothing, for dashboards that serve every configuration."""

    titles: Mapping[str, str] = field(default_factory=dict)
    """Journeys with a title, by name."""
    currencies: frozenset[str] = frozenset()
    trace_url: str = ""
    """Where a trace is found, with `{trace_id}`."""


def read(config: Config) -> Knowledge:
    """What a configuration knows."""
    return Knowledge(
        titles={j.name: j.title for j in config.journeys if j.title is not None},
        currencies=frozenset(j.value.currency for j in config.journeys if j.value is not None),
        trace_url=config.trace_url or "",
    )

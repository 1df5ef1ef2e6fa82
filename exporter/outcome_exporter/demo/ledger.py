"""The shop's own books: what its customers went through, noted where it happens.

They are the truth that the exporter's numbers are held against. Deliberately plain and independent
of the exporter: verdicts are given once, at the end, from complete knowledge, by the glossary's
words. Money is in millionths.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from outcome_exporter import series
from outcome_exporter.config import Config
from outcome_exporter.config.journeys import Good, Journey
from outcome_exporter.units import MILLIONTHS

REASONS = ("ok", "recovered", "slow", "missed", "error")
"""Every reason, from bliss to pain."""


class Expected(NamedTuple):
    """What a sum of series must read."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """A customer's try at a journey."""

    journey: str
    key: str
    """What the try is about, e.g. the order: the same for a retry."""
    start: int
    end: int
    failed: bool = False
    value: int = 0


@dataclass(slots=True)
class Ledger:
    """Everything that happened in the shop."""

    attempts: list[Attempt] = field(default_factory=list)
    achieved: dict[tuple[str, str], int] = field(default_factory=dict)
    """When a journey's goal was reached, by journey and key."""

    def expected(self, config: Config) -> list[Expected]:
        """What the exporter must have counted once everything is settled."""
        rows: list[Expected] = []
        for journey in config.journeys:
            judged = [
                _Judged(journey, attempt, self._when(journey, attempt))
                for attempt in self.attempts
                if attempt.journey == journey.name
            ]
            rows += _reasons(journey, judged)
            rows += _money(journey, judged)
            for slo in journey.slos:
                rows += _slo(slo.name, (each.meets(slo.good) for each in judged))
        return rows

    def _when(self, journey: Journey, attempt: Attempt) -> int | None:
        when = self.achieved.get((attempt.journey, attempt.key))
        if when is None or journey.outcome is None:
            return None
        return when if when <= attempt.start + journey.outcome.within else None


@dataclass(frozen=True, slots=True)
class _Judged:
    """An attempt, seen from its end."""

    journey: Journey
    attempt: Attempt
    when: int | None
    """When its goal was reached in time."""

    @property
    def duration(self) -> int:
        return self.attempt.end - self.attempt.start

    @property
    def reached(self) -> bool:
        return self.when is not None or self.journey.outcome is None

    @property
    def reason(self) -> str:
        if self.attempt.failed:
            return "recovered" if self.when is not None else "error"
        if not self.reached:
            return "missed"
        above = self.journey.slow_above
        return "slow" if above is not None and self.duration > above else "ok"

    def meets(self, good: Good) -> bool:
        return (
            (good.achieved is None or self.reached)
            and (good.error is None or not self.attempt.failed)
            and (good.duration_below is None or self.duration < good.duration_below)
            and (
                good.within is None
                or (self.when is not None and self.when - self.attempt.start <= good.within)
            )
        )


def _reasons(journey: Journey, judged: list[_Judged]) -> list[Expected]:
    counts = Counter(each.reason for each in judged)
    return [
        Expected(series.ATTEMPTS.name, {"journey": journey.name, "reason": reason}, counts[reason])
        for reason in REASONS
    ]


def _money(journey: Journey, judged: list[_Judged]) -> list[Expected]:
    if journey.value is None:
        return []
    # What an order is worth counts once, however often its customer had to try.
    worth = {each.attempt.key: each.attempt.value for each in judged}
    reached = {each.attempt.key for each in judged if each.when is not None}
    states = {
        "achieved": sum(worth[key] for key in reached),
        "at_risk": sum(each.attempt.value for each in judged if each.reason != "ok"),
        "lost": sum(value for key, value in worth.items() if key not in reached),
    }
    return [
        Expected(
            series.VALUE.name,
            {"journey": journey.name, "currency": journey.value.currency, "state": state},
            value / MILLIONTHS,
        )
        for state, value in states.items()
    ]


def _slo(name: str, good: Iterable[bool]) -> list[Expected]:
    counts = Counter(good)
    return [
        Expected(series.SLO_EVENTS.name, {"slo": name, "result": "good"}, counts[True]),
        Expected(series.SLO_EVENTS.name, {"slo": name, "result": "bad"}, counts[False]),
    ]

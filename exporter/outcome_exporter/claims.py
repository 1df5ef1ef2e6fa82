"""What a business event means to each journey: it begins an attempt, or achieves some.

Input: events with their arrival. Output: ATTEMPT rows of the journeys that it begins, CLAIM rows
of those that it achieves. Stateless but for the codes of label values, which the caller gives.
Keys, values and users are read as those of spans are, so that both sides meet.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from outcome_exporter.config import JoinKey
from outcome_exporter.events import lookup, text_of
from outcome_exporter.kernels.attributes import (
    decimal,
    decimal_of_float,
    text_key,
    trace_key,
    user_hash,
)
from outcome_exporter.kernels.hashing import combine
from outcome_exporter.model import ATTEMPT, CLAIM, NO_VALUE, BusinessEvent, Row, Table
from outcome_exporter.plan import Plan, event_hash
from outcome_exporter.units import MILLIONTHS

Key = tuple[np.uint64, np.uint64]

_NO_KEY: Key = (np.uint64(0), np.uint64(0))


class Claims(NamedTuple):
    """What some events mean."""

    attempts: Table
    """ATTEMPT."""
    claims: Table
    """CLAIM, those of one event side by side."""


class Reader:
    """Reads events for the journeys of a plan."""

    def __init__(self, plan: Plan, pack_labels: Callable[[int, list[str]], int]) -> None:
        """`pack_labels` gives the code of a journey's label values."""
        self._plan = plan
        self._pack_labels = pack_labels
        self._begins: dict[str, list[int]] = {}
        self._achieves: dict[str, list[int]] = {}
        for j, journey in enumerate(plan.journeys):
            if journey.attempt.event:
                self._begins.setdefault(journey.attempt.event, []).append(j)
            if journey.outcome:
                self._achieves.setdefault(journey.outcome.event, []).append(j)

    def read(self, events: Sequence[BusinessEvent], times: Sequence[int]) -> Claims:
        """What events mean, each at its time in `times`."""
        begun = [
            self._attempt(j, event, time)
            for event, time in zip(events, times, strict=True)
            for j in self._begins.get(event.type, ())
        ]
        claims = [
            self._claim(j, event, time)
            for event, time in zip(events, times, strict=True)
            for j in self._achieves.get(event.type, ())
        ]
        return Claims(
            attempts=np.concatenate([np.empty(0, ATTEMPT), *begun]),
            claims=np.concatenate([np.empty(0, CLAIM), *claims]),
        )

    def _attempt(self, j: int, event: BusinessEvent, time: int) -> Table:
        journey = self._plan.journeys[j]
        rows = np.zeros(1, ATTEMPT)
        row = rows[0]
        # The attempt's side of a rule is a path into the event that began it.
        self._common(row, j, event, [_side(rule, "attribute") for rule in journey.join])
        row["identity"] = combine(event_hash(event), self._plan.spans.identity[j])
        row["start"] = row["end"] = time
        row["trace_hi"], row["trace_lo"] = _trace(event)
        row["weight"] = MILLIONTHS
        row["value"] = _value(event, journey.value.attribute if journey.value else None)
        row["user"] = _user(event, journey.user.attribute if journey.user else None)
        texts = [text_of(lookup(event.fields, path)) for path in journey.labels.values()]
        row["labels"] = self._pack_labels(j, texts)
        row["origin"] = row["slowest"] = -1
        return rows

    def _claim(self, j: int, event: BusinessEvent, time: int) -> Table:
        journey = self._plan.journeys[j]
        rows = np.zeros(1, CLAIM)
        row = rows[0]
        self._common(row, j, event, [_side(rule, "event") for rule in journey.join])
        row["identity"] = event_hash(event)
        row["time"] = time
        row["value"] = _value(event, journey.value.event if journey.value else None)
        row["user"] = _user(event, journey.user.event if journey.user else None)
        row["type"] = self._plan.event_types.index(event.type)
        return rows

    def _common(self, row: Row, j: int, event: BusinessEvent, paths: list[str | None]) -> None:
        row["journey"] = j
        for k, path in enumerate(paths):
            salt = self._plan.spans.salts[j, k]
            if path is None:
                row["keys"][k] = trace_key(*_trace(event), salt) if event.trace_id else _NO_KEY
            else:
                source = _bytes(text_of(lookup(event.fields, path)))
                row["keys"][k] = text_key(source, 0, source.size, salt)


def _side(rule: JoinKey | str, side: str) -> str | None:
    """Path of a join rule on one side; None for the trace id."""
    return getattr(rule, side) if isinstance(rule, JoinKey) else None


def _trace(event: BusinessEvent) -> Key:
    if event.trace_id is None:
        return _NO_KEY
    hi, lo = np.frombuffer(event.trace_id, ">u8").astype(np.uint64)
    return hi, lo


def _value(event: BusinessEvent, path: str | None) -> int:
    """Millionths of the number at a path; NO_VALUE where there is none."""
    value = lookup(event.fields, path) if path else None
    match value:
        case float():
            return decimal_of_float(value)
        case bool() | None:
            return NO_VALUE
        case _:
            source = _bytes(text_of(value))
            return decimal(source, 0, source.size)


def _user(event: BusinessEvent, path: str | None) -> np.uint64:
    source = _bytes(text_of(lookup(event.fields, path)) if path else "")
    return user_hash(source, 0, source.size)


def _bytes(text: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(text.encode(errors="replace"), np.uint8)

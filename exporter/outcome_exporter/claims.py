"""What a business event means to each journey: it begins an attempt, or achieves some.

Input: events with their arrival. Output: ATTEMPT rows of the journeys that it begins, CLAIM rows
of those that it achieves. Stateless but for the codes of label values, which the caller gives.
Keys, values and users are read as those of spans are, so that both sides meet.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.config.journeys import JoinKey, Journey
from outcome_exporter.events import lookup, text_of
from outcome_exporter.kernels import events as k
from outcome_exporter.kernels.hashing import combine
from outcome_exporter.model import ATTEMPT, CLAIM, JOIN_KEYS_MAX, BusinessEvent, Table
from outcome_exporter.plan import Plan
from outcome_exporter.units import MILLIONTHS

_NO_TRACE = bytes(16)
_NAN = float("nan")


class Claims(NamedTuple):
    """What some events mean."""

    attempts: Table
    """ATTEMPT."""
    claims: Table
    """CLAIM, those of one event side by side."""


class _Meaning(NamedTuple):
    """What events of a type are to a journey: where in them it looks."""

    journey: int
    keys: tuple[str | None, ...]
    """Paths, JOIN_KEYS_MAX of them; None for the trace id, and where there is no key."""
    value: str | None
    user: str | None


class _Fact(NamedTuple):
    """An event, and what it is to one journey."""

    meaning: _Meaning
    event: BusinessEvent
    time: int
    identity: int


def identities(events: Sequence[BusinessEvent]) -> npt.NDArray[np.uint64]:
    """64-bit hash of what identifies each event: its source and id. Shape (events,)."""
    found = np.empty(len(events), np.uint64)
    k.identities(_joined(text for event in events for text in (event.source, event.id)), found)
    return found


class Reader:
    """Reads events for the journeys of a plan."""

    def __init__(self, plan: Plan, pack_labels: Callable[[int, list[str]], int]) -> None:
        """`pack_labels` gives the code of a journey's label values."""
        self._plan = plan
        self._pack_labels = pack_labels
        self._begins: dict[str, list[_Meaning]] = {}
        self._achieves: dict[str, list[_Meaning]] = {}
        self._by_trace = np.zeros((len(plan.journeys), JOIN_KEYS_MAX), np.bool_)
        for j, journey in enumerate(plan.journeys):
            for place, rule in enumerate(journey.join):
                self._by_trace[j, place] = not isinstance(rule, JoinKey)
            if journey.attempt.event:
                # The attempt's side of a rule is a path into the event that began it.
                meaning = _meaning(j, journey, "attribute")
                self._begins.setdefault(journey.attempt.event, []).append(meaning)
            if journey.outcome:
                meaning = _meaning(j, journey, "event")
                self._achieves.setdefault(journey.outcome.event, []).append(meaning)

    def read(
        self,
        events: Sequence[BusinessEvent],
        times: Sequence[int],
        identities: npt.NDArray[np.uint64],
    ) -> Claims:
        """What events mean, each at its time in `times`, with its identity."""
        known = list(zip(events, times, identities.tolist(), strict=True))
        begun, achieving = (
            [_Fact(meaning, *each) for each in known for meaning in means.get(each[0].type, ())]
            for means in (self._begins, self._achieves)
        )
        return Claims(self._attempts(begun), self._claims(achieving))

    def _attempts(self, facts: list[_Fact]) -> Table:
        rows = self._rows(ATTEMPT, facts)
        for row, fact in zip(rows, facts, strict=True):
            journey, event = fact.meaning.journey, fact.event
            row["identity"] = combine(row["identity"], self._plan.spans.identity[journey])
            row["start"] = row["end"] = fact.time
            row["weight"] = MILLIONTHS
            paths = self._plan.journeys[journey].labels.values()
            texts = [text_of(lookup(event.fields, path)) for path in paths]
            row["labels"] = self._pack_labels(journey, texts)
            row["origin"] = row["slowest"] = -1
        rows["trace_hi"], rows["trace_lo"] = _traces(facts).T
        return rows

    def _claims(self, facts: list[_Fact]) -> Table:
        rows = self._rows(CLAIM, facts)
        rows["time"] = [fact.time for fact in facts]
        types = self._plan.event_types
        rows["type"] = [types.index(fact.event.type) for fact in facts]
        return rows

    def _rows(self, dtype: np.dtype[np.void], facts: list[_Fact]) -> Table:
        """Rows with what both kinds have: journey, identity, keys, value and user."""
        rows = np.zeros(len(facts), dtype)
        rows["journey"] = [fact.meaning.journey for fact in facts]
        rows["identity"] = np.array([fact.identity for fact in facts], np.uint64)
        found = [_texts(fact.meaning, fact.event.fields) for fact in facts]
        k.read(
            rows,
            _joined(itertools.chain.from_iterable(texts for texts, _ in found)),
            np.array([number for _, number in found], np.float64),
            _traces(facts),
            self._by_trace,
            self._plan.spans.salts,
        )
        return rows


def _meaning(j: int, journey: Journey, side: str) -> _Meaning:
    """`side` of the join rules, of the value and of the user is where to look."""
    paths = [getattr(rule, side) if isinstance(rule, JoinKey) else None for rule in journey.join]
    value, user = (getattr(each, side, None) for each in (journey.value, journey.user))
    unused = (None,) * (JOIN_KEYS_MAX - len(paths))
    return _Meaning(j, (*paths, *unused), value, user)


def _texts(meaning: _Meaning, fields: Any) -> tuple[list[str], float]:  # noqa: ANN401 - as JSON is
    """What an event says to a journey: its texts, and its value where that is a fraction."""
    texts = [text_of(lookup(fields, path)) if path else "" for path in meaning.keys]
    value = lookup(fields, meaning.value) if meaning.value else None
    number = value if isinstance(value, float) else _NAN
    texts.append("" if isinstance(value, float | bool) else text_of(value))
    texts.append(text_of(lookup(fields, meaning.user)) if meaning.user else "")
    return texts, number


def _joined(texts: Iterable[str]) -> k.Texts:
    encoded = [text.encode(errors="replace") for text in texts]
    ends = itertools.accumulate(map(len, encoded), initial=0)
    return k.Texts(np.frombuffer(b"".join(encoded), np.uint8), np.fromiter(ends, np.int64))


def _traces(facts: list[_Fact]) -> npt.NDArray[np.uint64]:
    """Trace ids as (hi, lo); 0, 0 where there is none. Shape (facts, 2)."""
    ids = b"".join(fact.event.trace_id or _NO_TRACE for fact in facts)
    return np.frombuffer(ids, ">u8").astype(np.uint64).reshape(-1, 2)

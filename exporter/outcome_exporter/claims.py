"""What a business event means to each journey: it begins an attempt, or achieves some.

Input: events with their arrival. Output: ATTEMPT rows of the journeys that it begins, CLAIM rows
of those that it achieves. Stateless but for the codes of label values, which the caller gives.
Keys, values and users are read as those of spans are, so that both sides meet.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.config.journeys import JoinKey, Journey
from outcome_exporter.events import Lookup, lookup, text_of
from outcome_exporter.kernels import events as k
from outcome_exporter.kernels.hashing import combine
from outcome_exporter.model import ATTEMPT, CLAIM, JOIN_KEYS_MAX, BusinessEvent, Table
from outcome_exporter.plan import Plan
from outcome_exporter.units import MILLIONTHS

_NO_TRACE = bytes(16)


class Claims(NamedTuple):
    """What some events mean."""

    attempts: Table
    """ATTEMPT."""
    claims: Table
    """CLAIM, those of one event side by side."""


class _Meaning(NamedTuple):
    """What events of a type are to a journey: where in them it looks."""

    journey: int
    texts: tuple[tuple[int, Lookup], ...]
    """Each with its place among the `TEXTS` of a row; nothing where nobody looks."""
    labels: tuple[Lookup, ...]


class _Facts(NamedTuple):
    """Events, each as often as it means something; those of one event side by side."""

    meanings: list[_Meaning]
    events: list[BusinessEvent]
    times: npt.NDArray[np.int64]
    identities: npt.NDArray[np.uint64]


def identities(events: Sequence[BusinessEvent]) -> npt.NDArray[np.uint64]:
    """64-bit hash of what identifies each event: its source and id. Shape (events,)."""
    found = np.empty(len(events), np.uint64)
    k.identities(_joined([text for event in events for text in (event.source, event.id)]), found)
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
        said = (events, np.array(times, np.int64), identities)
        attempts = self._attempts(_facts(self._begins, *said))
        return Claims(attempts, self._claims(_facts(self._achieves, *said)))

    def _attempts(self, facts: _Facts) -> Table:
        rows = self._rows(ATTEMPT, facts)
        if not rows.size:
            return rows
        rows["start"] = rows["end"] = facts.times
        for row, meaning, event in zip(rows, facts.meanings, facts.events, strict=True):
            row["identity"] = combine(row["identity"], self._plan.spans.identity[meaning.journey])
            row["weight"] = MILLIONTHS
            texts = [text_of(find(event.fields)) for find in meaning.labels]
            row["labels"] = self._pack_labels(meaning.journey, texts)
            row["origin"] = row["slowest"] = -1
        rows["trace_hi"], rows["trace_lo"] = _traces(facts.events).T
        return rows

    def _claims(self, facts: _Facts) -> Table:
        rows = self._rows(CLAIM, facts)
        rows["time"] = facts.times
        types = self._plan.event_types
        rows["type"] = [types.index(event.type) for event in facts.events]
        return rows

    def _rows(self, dtype: np.dtype[np.void], facts: _Facts) -> Table:
        """Rows with what both kinds have: journey, identity, keys, value and user."""
        rows = np.zeros(len(facts.events), dtype)
        if not rows.size:
            return rows
        rows["journey"] = [meaning.journey for meaning in facts.meanings]
        rows["identity"] = facts.identities
        texts, numbers = _read(facts)
        traces = _traces(facts.events)
        k.read(rows, _joined(texts), numbers, traces, self._by_trace, self._plan.spans.salts)
        return rows


def _facts(
    means: Mapping[str, list[_Meaning]],
    events: Sequence[BusinessEvent],
    times: npt.NDArray[np.int64],
    identities: npt.NDArray[np.uint64],
) -> _Facts:
    found = [
        (place, meaning)
        for place, event in enumerate(events)
        for meaning in means.get(event.type, ())
    ]
    places = [place for place, _ in found]
    meanings = [meaning for _, meaning in found]
    return _Facts(meanings, [events[n] for n in places], times[places], identities[places])


def _meaning(j: int, journey: Journey, side: str) -> _Meaning:
    """`side` of the join rules, of the value and of the user is where to look."""
    paths = dict(enumerate(getattr(rule, side, None) for rule in journey.join))
    paths[k.VALUE] = getattr(journey.value, side, None)
    paths[k.USER] = getattr(journey.user, side, None)
    texts = tuple((place, lookup(path)) for place, path in paths.items() if path)
    return _Meaning(j, texts, tuple(map(lookup, journey.labels.values())))


def _read(facts: _Facts) -> tuple[list[str], npt.NDArray[np.float64]]:
    """What events say: `TEXTS` texts each, and its value where that is a fraction, else NaN."""
    texts = [""] * (k.TEXTS * len(facts.events))
    numbers = np.full(len(facts.events), np.nan)
    for row, (meaning, event) in enumerate(zip(facts.meanings, facts.events, strict=True)):
        for place, find in meaning.texts:
            found = find(event.fields)
            if place == k.VALUE and isinstance(found, float):
                numbers[row] = found
            elif place != k.VALUE or not isinstance(found, bool):
                texts[k.TEXTS * row + place] = text_of(found)
    return texts, numbers


def _joined(texts: Sequence[str]) -> k.Texts:
    together = "".join(texts)
    encoded = together.encode(errors="replace")
    lengths = list(map(len, texts))
    if len(encoded) != len(together):  # some character takes several bytes
        lengths = [len(text.encode(errors="replace")) for text in texts]
    ends = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return k.Texts(np.frombuffer(encoded, np.uint8), ends)


def _traces(events: Sequence[BusinessEvent]) -> npt.NDArray[np.uint64]:
    """Trace ids as (hi, lo); 0, 0 where there is none. Shape (events, 2)."""
    ids = [event.trace_id for event in events]
    if not any(ids):
        return np.zeros((len(ids), 2), np.uint64)
    joined = b"".join([trace_id or _NO_TRACE for trace_id in ids])
    return np.frombuffer(joined, ">u8").astype(np.uint64).reshape(-1, 2)

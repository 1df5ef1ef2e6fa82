"""The configuration compiled to arrays: what the stages look at instead of text.

Rows are journeys and SLOs in the order of the file. Texts to match are places in one array of
patterns; attributes are indices into `wanted`, which is also what the decoder extracts.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.config import Config
from outcome_exporter.config.journeys import JoinKey, Journey, SpanSelector
from outcome_exporter.config.slos import StandaloneSlo
from outcome_exporter.kernels.hashing import KNOWN_SEED, SEED_HI, Seed, hash_bytes
from outcome_exporter.model import JOIN_KEYS_MAX, LABELS_MAX, Bytes

SERVICE, VERSION, PEER, DB, DB_OLD, ADDRESS, STATUS, STATUS_OLD = range(8)
"""Indices of the attributes that every configuration wants."""
_ALWAYS = (
    "service.name",
    "service.version",
    "peer.service",
    "db.system.name",
    "db.system",
    "server.address",
    "http.response.status_code",
    "http.status_code",
)
_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")

NO_KEY = -2
TRACE_KEY = -1
NO_ATTRIBUTE = -1
ANY_KIND = 255

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


Arrays = dict[str, npt.NDArray[Any]]
"""State as a checkpoint keeps it."""


def part(arrays: Arrays, name: str) -> Arrays:
    """The arrays whose names begin with `name.`, without that."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


class SpanPlan(NamedTuple):
    """Which spans begin attempts, and what is read from them."""

    patterns: Bytes
    selectors: Longs
    """Shape (selectors, 8): journey, service at, end, name at, end, kind, first and last
    condition."""
    conditions: Longs
    """Shape (conditions, 3): attribute, pattern at, end."""
    keys: Ints
    """Shape (journeys, JOIN_KEYS_MAX): attribute, TRACE_KEY or NO_KEY."""
    salts: npt.NDArray[np.uint64]
    """Shape (journeys, JOIN_KEYS_MAX): what makes a key that of one journey and rule."""
    value: Ints
    user: Ints
    labels: Ints
    """Shape (journeys, LABELS_MAX)."""
    identity: npt.NDArray[np.uint64]
    """Shape (journeys,): what makes an attempt's identity that of one journey."""


class JoinPlan(NamedTuple):
    """When attempts are good."""

    within: Longs
    """Shape (journeys,): ns from start to event; -1 where a journey has no outcome event."""
    slow_above: Longs
    """Shape (journeys,): ns; -1 where nothing is slow."""
    has_value: npt.NDArray[np.bool_]
    first_slo: Longs
    """Shape (journeys + 1,): the SLOs of a journey are consecutive; those without one follow."""
    slo_error: npt.NDArray[np.bool_]
    """Shape (slos of journeys,): an error is bad."""
    slo_below: Longs
    """Likewise: ns that an attempt must stay below; -1: any duration."""
    slo_within: Longs
    """Likewise: ns from start to event; -1: no event is needed."""


class Plan:
    """Everything the stages need to know of a configuration."""

    def __init__(self, config: Config, seed: Seed = KNOWN_SEED) -> None:
        """Compiles a configuration that has been checked; `seed` is that of every table."""
        self.config = config
        self.seed = seed
        self.journeys = config.journeys
        self.slos = config.slos
        self.wanted: list[str] = list(_ALWAYS)
        self._patterns = bytearray()
        self.spans = self._spans()
        self.dimensions = self._dimensions()
        """Shape (wanted,): number of the dimension that an attribute is, else -1; (0,) where
        nothing is compared."""
        self.joins = self._joins()
        self.salts = np.array(
            [
                text_hash(slo.model_dump_json(include={"name", "sli"}, exclude_unset=True))
                for _, slo in self.slos
            ],
            np.uint64,
        )
        """Shape (slos,): what makes an SLO another one for who keeps streams of it."""
        self.event_types: tuple[str, ...] = tuple(
            dict.fromkeys(
                type_
                for journey in self.journeys
                for type_ in (journey.attempt.event, journey.outcome and journey.outcome.event)
                if type_
            )
        )

    def standalone(self) -> Iterable[tuple[int, StandaloneSlo]]:
        """The SLOs without a journey, by number."""
        first = int(self.joins.first_slo[-1])
        return enumerate(self.config.standalone, first)

    def names(self) -> dict[str, Any]:
        """What the numbers of journeys and SLOs stand for, as JSON."""
        return {
            "journeys": [[journey.name, list(journey.labels)] for journey in self.journeys],
            "currencies": {j.name: j.value.currency for j in self.journeys if j.value is not None},
            "slos": [slo.name for _, slo in self.slos],
            "polled": [slo.name for _, slo in self.standalone() if slo.sli.prometheus is not None],
            "first_slo": self.joins.first_slo.tolist(),
            "event_types": list(self.event_types),
            "dimensions": [
                *self.config.causes.dimensions,
                self.config.limits.attribute_values,
            ],
        }

    def _attribute(self, name: str | None) -> int:
        if name is None:
            return NO_ATTRIBUTE
        if name not in self.wanted:
            self.wanted.append(name)
        return self.wanted.index(name)

    def _pattern(self, text: str) -> tuple[int, int]:
        at = len(self._patterns)
        self._patterns += text.encode()
        return at, len(self._patterns)

    def _spans(self) -> SpanPlan:
        count = len(self.journeys)
        selectors: list[tuple[int, ...]] = []
        conditions: list[tuple[int, ...]] = []
        keys = np.full((count, JOIN_KEYS_MAX), NO_KEY, np.int32)
        salts = np.zeros((count, JOIN_KEYS_MAX), np.uint64)
        labels = np.full((count, LABELS_MAX), NO_ATTRIBUTE, np.int32)
        value = np.full(count, NO_ATTRIBUTE, np.int32)
        user = np.full(count, NO_ATTRIBUTE, np.int32)
        for j, journey in enumerate(self.journeys):
            span = journey.attempt.span
            for k, rule in enumerate(journey.join):
                keys[j, k] = TRACE_KEY if rule == "trace_id" else self._rule_attribute(span, rule)
                salts[j, k] = salt(journey, rule)
            if span is None:
                continue
            first = len(conditions)
            conditions += [
                (self._attribute(name), *self._pattern(glob))
                for name, glob in span.attributes.items()
            ]
            kind = ANY_KIND if span.kind is None else _KINDS.index(span.kind)
            texts = (*self._pattern(span.service), *self._pattern(span.name))
            selectors.append((j, *texts, kind, first, len(conditions)))
            for n, attribute in enumerate(journey.labels.values()):
                labels[j, n] = self._attribute(attribute)
            value[j] = self._attribute(journey.value.attribute if journey.value else None)
            user[j] = self._attribute(journey.user.attribute if journey.user else None)
        return SpanPlan(
            patterns=np.frombuffer(bytes(self._patterns) or b"\0", np.uint8),
            selectors=np.array(selectors, np.int64).reshape(-1, 8),
            conditions=np.array(conditions, np.int64).reshape(-1, 3),
            keys=keys,
            salts=salts,
            value=value,
            user=user,
            labels=labels,
            identity=np.array([text_hash(j.name) for j in self.journeys], np.uint64),
        )

    def _dimensions(self) -> npt.NDArray[np.int16]:
        names = self.config.causes.dimensions
        if not names:
            return np.empty(0, np.int16)
        attributes = [self._attribute(name) for name in names]
        numbers = np.full(len(self.wanted), NO_ATTRIBUTE, np.int16)
        numbers[attributes] = np.arange(len(names))
        return numbers

    def _rule_attribute(self, span: SpanSelector | None, rule: object) -> int:
        if span is None or not isinstance(rule, JoinKey):
            return NO_KEY
        return self._attribute(rule.attribute)

    def _joins(self) -> JoinPlan:
        journeys = self.journeys
        slos = [slo for journey in journeys for slo in journey.slos]
        counts = [len(journey.slos) for journey in journeys]
        return JoinPlan(
            within=_longs(-1 if j.outcome is None else j.outcome.within for j in journeys),
            slow_above=_longs(-1 if j.slow_above is None else j.slow_above for j in journeys),
            has_value=np.array([j.value is not None for j in journeys], np.bool_),
            first_slo=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            slo_error=np.array([slo.good.error is False for slo in slos], np.bool_),
            slo_below=_longs(
                -1 if slo.good.duration_below is None else slo.good.duration_below for slo in slos
            ),
            slo_within=_longs(_event_within(journey, i) for journey, i in self._slo_places()),
        )

    def _slo_places(self) -> Iterable[tuple[Journey, int]]:
        return ((journey, i) for journey in self.journeys for i in range(len(journey.slos)))


class Moved(NamedTuple):
    """Where journeys and SLOs of an earlier configuration stand in this one."""

    journeys: Longs
    """New number of each old journey; -1 where it is gone."""
    same_labels: npt.NDArray[np.bool_]
    """Whether a journey that stays has the same labels, in whatever order."""
    label_places: Longs
    """Shape (old journeys, LABELS_MAX): new place of each label of those that have the same ones,
    -1 otherwise."""
    same_currency: npt.NDArray[np.bool_]
    """Whether its money is in the same currency."""
    slos: Longs
    """New number of each old SLO; -1 where it is gone."""
    now_polled: Longs
    """New numbers of those that are read from Prometheus now, and were counted otherwise."""
    first_slo: Longs
    """Shape (old journeys + 1,): old SLOs of each old journey."""
    same_dimensions: bool
    """Whether attempts are compared by the same attributes, and as many of their values."""

    @classmethod
    def between(cls, old: dict[str, Any], new: dict[str, Any]) -> "Moved":
        """From one `Plan.names()` to another."""
        journeys = [name for name, _ in new["journeys"]]
        labels = dict(new["journeys"])
        same = [n in labels and sorted(labels[n]) == sorted(named) for n, named in old["journeys"]]
        places = np.full((len(same), LABELS_MAX), -1, np.int64)
        for j, (name, named) in enumerate(old["journeys"]):
            if same[j]:
                places[j, : len(named)] = [labels[name].index(label) for label in named]
        now = new["currencies"]
        was = old.get("currencies", now)  # a state of before does not say
        polled = {*new["polled"]} - {*old.get("polled", new["polled"])}  # nor this
        return cls(
            journeys=_longs(journeys.index(n) if n in labels else -1 for n, _ in old["journeys"]),
            same_labels=np.array(same, np.bool_),
            label_places=places,
            same_currency=np.array(
                [now.get(n) == was.get(n) for n, _ in old["journeys"]], np.bool_
            ),
            slos=_longs(new["slos"].index(n) if n in new["slos"] else -1 for n in old["slos"]),
            now_polled=_longs(new["slos"].index(n) for n in old["slos"] if n in polled),
            first_slo=_longs(old["first_slo"]),
            same_dimensions=old["dimensions"] == new["dimensions"],
        )


def salt(journey: Journey, rule: JoinKey | str) -> np.uint64:
    """What makes a join key that of one journey and rule, also after a reload."""
    text = rule if isinstance(rule, str) else f"{rule.attribute}\0{rule.event}"
    return text_hash(f"{journey.name}\0{text}")


def text_hash(text: str, seed: np.uint64 = SEED_HI) -> np.uint64:
    """64-bit hash of a text."""
    source = np.frombuffer(text.encode(errors="replace"), np.uint8)
    return np.uint64(hash_bytes(source, 0, source.size, seed))


def _event_within(journey: Journey, index: int) -> int:
    good = journey.slos[index].good
    if journey.outcome is None or not (good.achieved or good.within is not None):
        return -1
    return journey.outcome.within if good.within is None else good.within


def _longs(values: Iterable[int]) -> Longs:
    return np.fromiter(values, np.int64)

"""Suspects: what bad attempts have in common and good ones have not.

State: for every journey, how many good and bad attempts of each of the last 60 minutes had which
traits (an allow-listed attribute's value at a service, see `kernels.traits`). Input: settled
traces with their attempts; attempts as they become good or bad. Output: values that stand out.
Without `causes.dimensions` there is no state, and nothing costs anything.

An attempt has a trait if any span of its trace has it, above, below or beside the attempt's own:
what its journey's other requests met counts too. Attempts in one trace share their traits.

A value is named where, over the shortest of `WINDOWS` in which any is,

    score   p(value | bad) - p(value | good), of those attempts whose trace has the service
    z       (p_bad - p_good) / sqrt(p (1 - p) (1 / n_bad + 1 / n_good)), pooled p
    z^2  >= 3^2 + 2 ln m, m the values that were compared: m tests yield no more than one would
    bad  >= `SUPPORT_MIN`, and at least a fifth of all bad attempts

The condition on the service matters: a failed payment is followed by a refund, whose pods would
otherwise all be suspects, and every pod of what is never reached would look innocent. Attempts
count one each, also sampled ones.

A suspect is no cause: it says where to look. Values that always come together (a pod, its node,
its version) are named together. Failures that hit all values alike show nothing here, and what
makes more requests (a retry) meets more values.

Limits: attempts that begin with an event have no trace, so no traits. The traits of the last
`limits.compared` attempts or so are kept for their verdict; one that waits longer is not counted.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels import suspects as k
from outcome_exporter.kernels.pool import NIL
from outcome_exporter.kernels.traits import NO_TRAIT, THERE, Traits
from outcome_exporter.model import SUPPORT_MIN, Table
from outcome_exporter.plan import Arrays, Moved, Plan

WINDOWS = (5, 60)
"""Minutes that are looked at, the one that runs included; the shortest that shows anything."""
Z_MIN = 3.0
COVERED_MIN = 0.2
"""Share of the bad attempts that a value must be found in."""
SUSPECTS_MAX = 10
"""Values that are named for a journey."""
_TRACE_WORDS = 32
"""Of the ring, for each attempt that it is to hold."""


class Suspect(NamedTuple):
    """A value that bad attempts have more often than good ones."""

    service: int
    """Text code; of all services together where the value is `other`."""
    dimension: int
    trait: int
    score: float
    """0 to 1."""
    bad: int
    """Bad attempts that have it."""
    all_bad: int
    """Of so many whose trace has the service."""
    good: int
    all_good: int
    minutes: int
    """Length of the window."""


class Suspects:
    """The stage's state."""

    def __init__(self, plan: Plan, traits: Traits) -> None:
        """Nothing is known. `traits` are those that the spans refer to."""
        self._traits = traits
        limits, journeys = plan.config.limits, len(plan.journeys)
        self._on = bool(plan.config.causes.dimensions)
        pairs = 2 * limits.attribute_values if self._on else 0
        words = _TRACE_WORDS * limits.compared if self._on else 1
        rows = traits.arrays.rows.size
        self.state = k.State(
            ring=np.zeros(1 << (words - 1).bit_length(), np.uint16),
            index=np.full((journeys if self._on else 0, rows), NIL, np.int32),
            pairs=np.zeros(pairs, k.PAIR),
            seen=np.zeros((pairs, k.MINUTES, 2), np.uint32),
            totals=np.zeros((journeys, k.MINUTES, 2), np.int64),
            counts=np.zeros(k.COUNTS, np.int64),
        )
        self.state.counts[k.HEAD] = self.state.counts[k.VALID_FROM] = 1
        self._minute = 0

    def observe(
        self,
        spans: Table,
        starts: npt.NDArray[np.int64],
        attempts: Table,
        places: npt.NDArray[np.int64],
        second: int,
    ) -> None:
        """Keeps what settled traces say of their attempts."""
        if self._on and attempts.size:
            k.observe(self.state, self._traits.arrays, spans, starts, attempts, places, second)

    def give(self, good: Table, bad: Table) -> None:
        """Counts ATTEMPT rows that became good, and that became bad."""
        for verdict, attempts in ((k.GOOD, good), (k.BAD, bad)):
            if self._on and attempts.size:
                k.count(self.state, self._traits.arrays, attempts, verdict, self._minute)

    def advance(self, second: int) -> None:
        """Moves the clock on."""
        minute = second // 60
        if not self._on or minute <= self._minute:
            return
        passed = np.arange(max(self._minute, minute - k.MINUTES) + 1, minute + 1) % k.MINUTES
        self.state.seen[: self._used, passed] = 0
        self.state.totals[:, passed] = 0
        self._minute = minute
        if self._used == self.state.pairs.size:
            self.forget()

    def forget(self) -> None:
        """Makes room: what no attempt of the last hour had goes."""
        k.forget_pairs(self.state)

    @property
    def _used(self) -> int:
        return int(self.state.counts[k.PAIRS])

    @property
    def _written(self) -> int:
        """Words of the ring that ever held something; one that is larger by now holds them too."""
        return min(int(self.state.counts[k.HEAD]), self.state.ring.size)

    def suspects(self, journey: int) -> list[Suspect]:
        """The values that stand out now, those that differ most first."""
        if not self._on:
            return []
        return next((found for w in WINDOWS if (found := self._over(journey, w))), [])

    def _over(self, journey: int, minutes: int) -> list[Suspect]:
        slots = (self._minute - np.arange(minutes)) % k.MINUTES
        total = self.state.totals[journey, slots].sum(axis=0)
        if total[k.BAD] < SUPPORT_MIN:
            return []
        pairs = self.state.pairs[: self._used]
        rows = self._traits.arrays.rows
        known = rows[pairs["trait"]]
        places = np.flatnonzero(
            (pairs["journey"] == journey) & (known["born"] == pairs["born"]) & (known["alive"] == 1)
        )
        pairs, known = pairs[places], known[places]
        counts = self.state.seen[places][:, slots].sum(axis=1, dtype=np.int64)
        # What is there of its service; of what has none, all.
        of = np.broadcast_to(total, counts.shape).copy()
        there = np.flatnonzero(known["there"] != NO_TRAIT)
        base = self.state.index[journey, known["there"][there]]
        there, base = there[base >= 0], base[base >= 0]
        of[there] = self.state.seen[base][:, slots].sum(axis=1, dtype=np.int64)
        compared = (known["dimension"] != THERE) & (of > 0).all(axis=1)
        z = _z(counts, of)
        tests = int(np.count_nonzero(compared & (counts > 0).any(axis=1)))
        named = np.flatnonzero(
            compared
            & (z >= math.sqrt(Z_MIN**2 + 2 * math.log(max(tests, 1))))
            & (counts[:, k.BAD] >= max(SUPPORT_MIN, COVERED_MIN * total[k.BAD]))
        )
        found = [
            Suspect(
                service=int(known["service"][row]),
                dimension=int(known["dimension"][row]),
                trait=int(pairs["trait"][row]),
                score=float(counts[row, k.BAD] / of[row, k.BAD])
                - float(counts[row, k.GOOD] / of[row, k.GOOD]),
                bad=int(counts[row, k.BAD]),
                all_bad=int(of[row, k.BAD]),
                good=int(counts[row, k.GOOD]),
                all_good=int(of[row, k.GOOD]),
                minutes=minutes,
            )
            for row in named.tolist()
        ]
        found.sort(key=lambda one: (-one.score, -one.bad, one.dimension, one.trait))
        return found[:SUSPECTS_MAX]

    @property
    def overflow(self) -> dict[str, int]:
        """What did not fit, by what."""
        counts = self.state.counts
        left_out = counts[k.PAIRS_OVERFLOW] + counts[k.TRAITS_OVERFLOW]
        return {
            "attribute_value": self._traits.overflow + int(left_out),
            "compared_attempts": int(counts[k.KEPT_OVERFLOW]),
        }

    # Checkpoints

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        return {
            "ring": self.state.ring[: self._written],
            "pairs": self.state.pairs[: self._used],
            "seen": self.state.seen[: self._used],
            "totals": self.state.totals,
            "counts": self.state.counts,
            "clock": np.array([self._minute], np.int64),
        }

    def restore(self, arrays: Arrays, moved: Moved) -> None:
        """Takes over what `dump` gave; compares anew where the dimensions or limits changed."""
        state = self.state
        self._minute = int(arrays["clock"][0])
        # What waits refers to places in the ring: they are counted on in any case.
        state.counts[:] = arrays["counts"]
        state.counts[k.VALID_FROM] = state.counts[k.HEAD]
        state.counts[k.PAIRS] = 0
        if not moved.same_dimensions:
            return
        if arrays["ring"].size == self._written:
            state.ring[: self._written] = arrays["ring"]
            state.counts[k.VALID_FROM] = arrays["counts"][k.VALID_FROM]
        stays = moved.journeys >= 0
        state.totals[moved.journeys[stays]] = arrays["totals"][stays]
        pairs = arrays["pairs"]
        keep = np.flatnonzero(stays[pairs["journey"]]) if stays.size else np.empty(0, np.int64)
        keep = keep[: state.pairs.size]
        kept = pairs[keep].copy()
        kept["journey"] = moved.journeys[kept["journey"]]
        state.counts[k.PAIRS] = kept.size
        state.pairs[: kept.size] = kept
        state.seen[: kept.size] = arrays["seen"][keep]
        state.index[kept["journey"], kept["trait"]] = np.arange(kept.size)


def _z(counts: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """By how many standard deviations two proportions differ; 0 where they cannot.

    Args:
        counts: Shape (values, 2): good and bad attempts that have it.
        of: Likewise: of so many.
    """
    share = counts / np.maximum(of, 1)
    pooled = counts.sum(axis=1) / np.maximum(of.sum(axis=1), 1)
    spread = pooled * (1 - pooled) * (1 / np.maximum(of, 1)).sum(axis=1)
    more = share[:, k.BAD] - share[:, k.GOOD]
    z: npt.NDArray[np.float64] = more / np.sqrt(np.maximum(spread, 1e-12))
    return np.where(spread > 0, z, 0.0)

"""The join: attempts and business events into outcomes.

State: attempts and events that wait for each other; attempts and events seen lately; counters by
journey, label values and reason; money by what became of it. Input: attempts as their traces
settle, events as they arrive, the clock. Output: verdicts for the SLOs, and the attempts that
became bad, as soon as that is certain.

An attempt waits for its event until start + `within`, and `lateness` more for an event that was
late on its way. An event waits as long as an attempt could still become known.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels import joining as k
from outcome_exporter.kernels.hashing import Seed
from outcome_exporter.kernels.labels import relabel
from outcome_exporter.kernels.pool import NIL, Pool, collect, next_busy, schedule
from outcome_exporter.kernels.recent import Recent, remember_all
from outcome_exporter.kernels.waiting import Heaps, Side, relink
from outcome_exporter.model import (
    ATTEMPT,
    CLAIM,
    JOIN_KEYS_MAX,
    NO_VALUE,
    OK,
    SLOW,
    VERDICT,
    Table,
)
from outcome_exporter.plan import Arrays, Moved, Plan, part
from outcome_exporter.units import MILLIONTHS, SECOND

COMBINATIONS_MAX = 10_000
"""Combinations of label values, over all journeys; beyond it every label reads `other`."""


class Settled(NamedTuple):
    """What became certain."""

    verdicts: Table
    """VERDICT."""
    bad: Table
    """ATTEMPT: those that became bad, with `end` the outcome time, `error` the reason then."""
    users: Table
    """ATTEMPT: those whose user only their event knew, `error` whether they are bad."""
    good: Table
    """ATTEMPT: those that are good for good, with `end` the outcome time; none where attempts are
    not compared."""
    recovered: Table
    """ATTEMPT: those that were told as bad for an error, and whose event came."""


class Outcomes:
    """The stage's state."""

    def __init__(self, plan: Plan) -> None:
        """Nobody waits."""
        config = plan.config
        journeys = len(plan.journeys)
        self._plan = plan
        self._most_slos = max((len(journey.slos) for journey in plan.journeys), default=0)
        self._dedupe = -(-config.traces.dedupe // SECOND)
        until_known = config.traces.max_age + config.traces.quiet + config.time.lateness
        self._wait = np.array(
            [max(within, 0) // SECOND + until_known // SECOND + 1 for within in plan.joins.within],
            np.int64,
        )
        self.attempts = Pool(ATTEMPT)
        self.claims = Pool(CLAIM)
        self._attempt_heaps = _empty_heaps(self.attempts.rows.size, plan.seed)
        self._claim_heaps = _empty_heaps(self.claims.rows.size, plan.seed)
        self._settled = Recent(config.limits.remembered, plan.seed)
        self._events = Recent(config.limits.remembered, plan.seed)
        self.grace_until = 0
        self._make_room(0)
        self.durations = np.zeros((journeys, len(k.DURATION_BOUNDS_MS) + 1), np.int64)
        self.duration_sum = np.zeros(journeys, np.int64)
        self.latency = np.zeros(len(k.LATENCY_BOUNDS_SECONDS) + 1, np.int64)
        self.latency_sum = np.zeros(1, np.int64)
        self.value = np.zeros((journeys, 3), np.int64)
        self.mean = np.zeros(journeys, np.int64)
        self.pending = np.zeros(journeys, np.int64)
        self.unmatched = np.zeros(len(plan.event_types), np.int64)
        self.counts = np.zeros(k.COUNTS, np.int64)
        self._plant()

    def _make_room(self, kept: int) -> None:
        room = max(COMBINATIONS_MAX, kept) + 64 * len(self._plan.journeys)
        self._combinations = np.zeros(room, k.COMBINATION)
        self._slots = np.full(1 << (2 * room).bit_length(), NIL, np.int32)

    def _plant(self) -> None:
        """Every journey without labels shows its reasons at 0 from the start."""
        state = self._state()
        for j, journey in enumerate(self._plan.journeys):
            if not journey.labels:
                k.combination(state, j, np.uint64(0), 0)

    def _state(self) -> k.Outcomes:
        return k.Outcomes(
            attempts=_side(self.attempts, self._attempt_heaps),
            claims=_side(self.claims, self._claim_heaps),
            settled=self._settled.arrays,
            combinations=self._combinations,
            combination_slots=self._slots,
            durations=self.durations,
            duration_sum=self.duration_sum,
            latency=self.latency,
            latency_sum=self.latency_sum,
            value=self.value,
            mean=self.mean,
            pending=self.pending,
            unmatched=self.unmatched,
            counts=self.counts,
        )

    def _moment(self, second: int) -> k.Moment:
        return k.Moment(second, self.grace_until, self._plan.config.time.lateness, self._dedupe)

    def _output(self, attempts: int) -> k.Output:
        return k.Output(
            verdicts=np.empty(attempts * self._most_slos, VERDICT),
            bad=np.empty(attempts, ATTEMPT),
            users=np.empty(attempts, ATTEMPT),
            good=np.empty(attempts if self._plan.dimensions.size else 0, ATTEMPT),
            recovered=np.empty(attempts, ATTEMPT),
            counts=np.zeros(5, np.int64),
        )

    # What arrives

    def add_attempts(self, attempts: Table, second: int) -> Settled:
        """Takes ATTEMPT rows that became known; writes their bookkeeping."""
        self.attempts.reserve(attempts.size)
        self._attempt_heaps = _room(self._attempt_heaps, self.attempts)
        self._settled.reserve(attempts.size)
        out = self._output(attempts.size)
        k.add_attempts(self._plan.joins, self._state(), attempts, self._moment(second), out)
        return _written(out)

    def add_claims(self, claims: Table, second: int) -> Settled:
        """Takes CLAIM rows; those of one event follow one another."""
        self.claims.reserve(claims.size)
        self._claim_heaps = _room(self._claim_heaps, self.claims)
        state = self._state()
        achieved = k.take_achieved(self._plan.joins, state, claims)
        out = self._output(achieved[0].size)
        k.add_claims(
            self._plan.joins, state, claims, achieved, self._wait, self._moment(second), out
        )
        return _written(out)

    def are_new(self, identities: npt.NDArray[np.uint64], second: int) -> npt.NDArray[np.bool_]:
        """Which events were not seen before, by their identities; remembers them."""
        self._events.reserve(identities.size)
        new = np.empty(identities.size, np.bool_)
        remember_all(self._events.arrays, identities, second, self._dedupe, new)
        self.counts[k.DUPLICATE_EVENTS] += identities.size - np.count_nonzero(new)
        return new

    # What does not arrive

    def next_due(self, after: int, until: int) -> int:
        """First second in (after, until] at which somebody may have waited enough, else `until`."""
        until = int(next_busy(self.attempts.wheel, after, until))
        return int(next_busy(self.claims.wheel, after, until))

    def expire(self, second: int) -> Settled:
        """Judges what waited long enough at a second."""
        state, moment = self._state(), self._moment(second)
        rows = collect(self.attempts.wheel, second)
        out = self._output(rows.size)
        if rows.size:
            k.expire_attempts(self._plan.joins, state, rows, moment, out)
        rows = collect(self.claims.wheel, second)
        if rows.size:
            k.expire_claims(state, rows, moment)
        return _written(out)

    # What is shown

    @property
    def combinations(self) -> Table:
        """COMBINATION rows."""
        return self._combinations[: self.counts[k.COMBINATIONS]]

    @property
    def overflow(self) -> dict[str, int]:
        """What did not fit, by what."""
        return {
            "label_combinations": int(self.counts[k.COMBINATIONS_OVERFLOW]),
            "remembered_attempts": self._settled.overflow,
            "remembered_events": self._events.overflow,
        }

    def mean_value(self, journey: int) -> float:
        """A journey's recent mean value, in its currency."""
        return float(self.mean[journey]) / MILLIONTHS

    # Checkpoints

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        arrays: Arrays = {
            "attempts": self.attempts.rows[: self.attempts.used],
            "claims": self.claims.rows[: self.claims.used],
            "attempts_due": self.attempts.wheel.due[: self.attempts.used],
            "claims_due": self.claims.wheel.due[: self.claims.used],
            "combinations": self.combinations,
            "grace_until": np.array([self.grace_until], np.int64),
            "latency": self.latency,
            "latency_sum": self.latency_sum,
            "unmatched": self.unmatched,
            "counts": self.counts,
            "tells_slow": np.ones(1, np.bool_),
        }
        arrays |= {f"journey_{name}": getattr(self, name) for name in _BY_JOURNEY}
        arrays |= {f"settled.{name}": value for name, value in self._settled.dump().items()}
        arrays |= {f"events.{name}": value for name, value in self._events.dump().items()}
        return arrays

    def restore(self, arrays: Arrays, moved: Moved, event_types: list[str]) -> None:
        """Takes over what `dump` gave; who waits for a journey that is gone waits no more."""
        limits, seed = self._plan.config.limits, self._plan.seed
        self.grace_until = int(arrays["grace_until"][0])
        self.latency[:] = arrays["latency"]
        self.latency_sum[:] = arrays["latency_sum"]
        self._settled = Recent.restore(limits.remembered, part(arrays, "settled"), seed)
        self._events = Recent.restore(limits.remembered, part(arrays, "events"), seed)
        stays = moved.journeys >= 0
        for name in _BY_JOURNEY:
            # Money of one currency is none of another.
            kept = stays & moved.same_currency if name in _MONEY else stays
            getattr(self, name)[moved.journeys[kept]] = arrays[f"journey_{name}"][kept]
        for old, name in enumerate(event_types):
            if name in self._plan.event_types:
                new = self._plan.event_types.index(name)
                self.unmatched[new] = arrays["unmatched"][old]
        self._restore_combinations(arrays["combinations"], moved)
        combinations = self.counts[k.COMBINATIONS]
        self.counts[:] = arrays["counts"]
        self.counts[k.COMBINATIONS] = combinations
        self._attempt_heaps = self._restore_side(self.attempts, arrays, "attempts", moved)
        claims = arrays["claims"].copy()
        self._renumber_types(claims, event_types)
        self._claim_heaps = self._restore_side(
            self.claims, arrays | {"claims": claims}, "claims", moved
        )
        self._recount_pending()

    def _restore_combinations(self, rows: Table, moved: Moved) -> None:
        keep = (moved.journeys >= 0) & moved.same_labels
        rows = rows[keep[rows["journey"]]].copy()
        relabel(rows, np.arange(rows.size), moved.label_places)
        rows["journey"] = moved.journeys[rows["journey"]]
        self._make_room(rows.size)
        self._combinations[: rows.size] = rows
        self.counts[k.COMBINATIONS] = rows.size
        k.reindex_combinations(self._state())
        self._plant()

    def _restore_side(self, pool: Pool, arrays: Arrays, name: str, moved: Moved) -> Heaps:
        pool.load(arrays[name])
        rows = pool.rows[: pool.used]
        alive = rows["alive"] == 1
        if name == "attempts":
            # Changed criteria of an SLO hold from now on; a bit may stand for another one.
            self._renumber_pending(rows, moved)
            relabel(rows, np.flatnonzero(alive), moved.label_places)
        if moved.journeys.size:
            same_money = moved.same_currency[np.where(alive, rows["journey"], 0)]
            rows["value"][alive & ~same_money] = 0 if name == "attempts" else NO_VALUE
        journeys = (
            moved.journeys[np.where(alive, rows["journey"], 0)]
            if moved.journeys.size
            else (np.full(rows.size, -1, np.int64))
        )
        alive &= journeys >= 0
        rows["alive"] = alive
        rows["journey"][alive] = journeys[alive]
        if name == "attempts" and "tells_slow" not in arrays:
            self._mark_slow(rows, np.flatnonzero(alive))
        pool.release(alive)
        if name == "claims":
            _mend_rings(rows)
        for row in np.flatnonzero(alive).tolist():
            schedule(pool.wheel, row, int(arrays[f"{name}_due"][row]))
        heaps = _empty_heaps(pool.rows.size, self._plan.seed)
        relink(_side(pool, heaps))
        return heaps

    def _mark_slow(self, rows: Table, waiting: npt.NDArray[np.int64]) -> None:
        """Says of attempts whether they were slow, for a state of before, which does not."""
        found = rows[waiting]
        limits = self._plan.joins.slow_above[found["journey"]]
        is_slow = (found["error"] == OK) & (limits >= 0) & (found["end"] - found["start"] > limits)
        rows["error"][waiting[is_slow]] = SLOW

    def _renumber_types(self, rows: Table, event_types: list[str]) -> None:
        """Events of a type that no journey listens to any more wait no more."""
        now = self._plan.event_types
        numbers = [now.index(name) if name in now else -1 for name in event_types] or [-1]
        moved = np.array(numbers, np.int64)[np.where(rows["alive"] == 1, rows["type"], 0)]
        rows["alive"] &= moved >= 0
        rows["type"][moved >= 0] = moved[moved >= 0]

    def _renumber_pending(self, rows: Table, moved: Moved) -> None:
        old_first = moved.first_slo
        pending = np.zeros(rows.size, np.uint64)
        for old, new in enumerate(moved.slos.tolist()):
            if new < 0 or old >= old_first[-1]:
                continue
            journey = int(np.searchsorted(old_first, old, side="right")) - 1
            now = int(moved.journeys[journey])
            if not self._is_slo_of(new, now):
                continue
            bit = np.uint64(1) << np.uint64(old - old_first[journey])
            held = (rows["journey"] == journey) & (rows["pending"] & bit != 0)
            pending[held] |= np.uint64(1) << np.uint64(new - self._plan.joins.first_slo[now])
        rows["pending"] = pending

    def _is_slo_of(self, slo: int, journey: int) -> bool:
        first_slo = self._plan.joins.first_slo
        return journey >= 0 and bool(first_slo[journey] <= slo < first_slo[journey + 1])

    def _recount_pending(self) -> None:
        rows = self.attempts.rows[: self.attempts.used]
        journeys = rows["journey"][rows["alive"] == 1]
        self.pending[:] = np.bincount(journeys, minlength=self.pending.size)[: self.pending.size]


_MONEY = ("value", "mean")
_BY_JOURNEY = ("durations", "duration_sum", *_MONEY)


def _written(out: k.Output) -> Settled:
    verdicts, bad, users, good, recovered = out.counts
    return Settled(
        out.verdicts[:verdicts],
        out.bad[:bad],
        out.users[:users],
        out.good[:good],
        out.recovered[:recovered],
    )


def _side(pool: Pool, heaps: Heaps) -> Side:
    # An event wants the attempts that began last, an attempt the earliest event.
    of_attempts = pool.rows.dtype == ATTEMPT
    times, sign = (pool.rows["start"], -1) if of_attempts else (pool.rows["time"], 1)
    return Side(pool.rows, pool.free, pool.wheel, heaps, times, sign)


def _mend_rings(claims: Table) -> None:
    """Takes what waits no more out of the rings of claims."""
    # Not made anew by identity: an event that came again after `dedupe` has the same one.
    rows = np.flatnonzero(claims["alive"])
    following = claims["sibling"][rows]
    while (gone := claims["alive"][following] == 0).any():
        following[gone] = claims["sibling"][following[gone]]
    claims["sibling"][rows] = following


def _empty_heaps(rows: int, seed: Seed) -> Heaps:
    nodes = rows * JOIN_KEYS_MAX
    return Heaps(
        tops=np.full(1 << nodes.bit_length(), NIL, np.int32),
        children=np.empty(nodes, np.int32),
        following=np.empty(nodes, np.int32),
        previous=np.empty(nodes, np.int32),
        seed=seed,
    )


def _room(heaps: Heaps, pool: Pool) -> Heaps:
    """Heaps for as many rows as the pool has now."""
    if heaps.following.size >= pool.rows.size * JOIN_KEYS_MAX:
        return heaps
    heaps = _empty_heaps(pool.rows.size, heaps.seed)
    relink(_side(pool, heaps))
    return heaps


def claim_rows(count: int) -> npt.NDArray[np.void]:
    """Empty CLAIM rows."""
    return np.zeros(count, CLAIM)

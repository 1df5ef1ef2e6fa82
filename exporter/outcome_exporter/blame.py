"""Blame: who is responsible for each bad outcome, and the few causes that explain the burn.

State: for every journey its steps (an operation of a service, in one version) with a decayed
history and the last minutes; causes with their counters. Input: settled traces with their
attempts, the attempts that became bad, the clock. Output: one cause for each bad attempt
(`unattributed` included, so blame sums to the bad outcomes), and a verdict for each journey.

**One attempt.** It failed: the failed span below which nothing failed. It was slow: the step
whose own time on the critical path is furthest above its history, and unusual for it. Its event
never came: the first step that attempts usually go through and this one did not.

**The verdict** compares the last minutes with history, in attempts that were hurt:

    error     (e - n * p0) * (1 - 1 / z)     where two proportions differ, z > 2.5
    latency   n * dms / D * (1 - 1 / t)      where Welch's t on log(1 + ms) > 3, among attempts
                                             that have the step; D is the journey's mean duration
    stop      (k - n * p0) * (1 - 1 / z)     only in journeys whose spans never fail: the step after
                                             which a service now goes on no more, z > 8

What is beyond history counts less one deviation of it, so that much that is certain goes before
more that is not. A slow step weighs at most one failed attempt, so that drifting latency never
outvotes errors. What a service's steps are held responsible for adds up; it is named with its
worst operation if it explains `SHARE_MIN` of the bad outcomes and at least `SUPPORT_MIN` of them
show it. Beside it stand those that explain less, down to `_FLOOR`, as alternatives.

Of a service that was saturated within the last minutes half of the evidence is enough (`t`, `z`,
attempts that show it, pain): its resources are a second witness, yet never the only one.

An attempt that stands for several (sampling) counts as all of them, and as one where it is asked
whether something is chance (Kish's effective sample size).

Minutes become history once they are `SLOTS` old (sooner while there is none), unless the
journey was hurt in them: a fault never becomes its own yardstick. Half of history is forgotten
after a day of traffic. Memory: O(steps + causes), both capped. Time: O(1) a span below an
attempt; every `EVERY_SECONDS` O(steps) of the journeys in which enough went bad, O(journeys)
otherwise.

Each version of a service has steps of its own. Those of versions that are gone are forgotten once
there is hardly room for new ones: what they taught is in the history of the first version's.

Limits: what fails in no trace cannot be named. A step without history has no usual time, so a
fault in the first minute is blamed by its errors only. An attempt whose trace never came, or that
began with an event, is unattributed.

What `explain` tells of single attempts, the last `limits.explained` bad ones, is kept in memory
alone: it begins anew when the process starts or the configuration is reloaded. Of attempts that
wait for their event the spans of a sample are kept; of the others, which steps they reached.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.config.journeys import Journey
from outcome_exporter.kernels import blame as k
from outcome_exporter.kernels import steps, verdicts
from outcome_exporter.kernels.pool import NIL
from outcome_exporter.kernels.texts import NONE, OTHER
from outcome_exporter.kernels.verdicts import EVERY_SECONDS
from outcome_exporter.model import SUPPORT_MIN, Table
from outcome_exporter.plan import Arrays, Moved, Plan
from outcome_exporter.units import HOUR, MILLIONTHS, MINUTE, SECOND

SHARE_MIN = 0.3
"""Share of the bad outcomes that a cause must explain to be named."""
JUDGED = (MINUTE, 5 * MINUTE)
"""Windows whose verdict compares with history."""
WINDOWS = (*JUDGED, 30 * MINUTE, HOUR, 6 * HOUR)
"""Windows of `outcome_cause_share`, in nanoseconds."""
_LENGTHS = (3, 6, 9)
"""Of how many of the last slots each is compared with all before them."""
_OF_WINDOW = ((0,), (0, 1, 2))
"""Which of them each of `JUDGED` takes; where there are several the one that differs most, so that
a fault is not diluted by what was before it."""

CHANGES_SECONDS = 86_400
"""How long a new version is told."""
_NEARLY = 0.9
"""Share of the room for steps from which on those of versions that are gone make room."""
_WORTH = 0.05
"""Share of the room that must come free: what `explain` remembers of paths goes with them."""
_STEPS_MAX = (steps.SLOTS + 1) * steps.SLOT_SECONDS // EVERY_SECONDS
_PATH_SPANS = 32
"""Spans that there is room for, for each attempt that is remembered."""
_WAITING = 4
"""Attempts that are remembered, for each one that is watched while it waits for its event."""
LIMITS = verdicts.Limits(
    t=3.0,
    z=2.5,
    stop_z=8.0,
    drift=0.25,
    visits=3.0,
    support=SUPPORT_MIN,
    share=SHARE_MIN,
    floor=0.05,
    harm=1.0,
    saturated=0.5,
)
"""What is enough. Chosen on the recorded streams that tests/bench/bench_rca.py measures, from the
middle of what does equally well there; its `--robust` says how far from there they may be, and
what they do on a day that had no say."""

Floats = npt.NDArray[np.float64]


class Finding(NamedTuple):
    """A cause that a verdict names."""

    service: int
    """Text code, as the others."""
    operation: int
    version: int
    kind: int
    share: float
    """Of the journey's bad outcomes in the window, 0 to 1."""


class Change(NamedTuple):
    """A new version of a service."""

    service: int
    """Text code, as the others."""
    version: int
    previous: int
    second: int
    """When its first span was settled."""


Saturated = Callable[[Iterable[int], int], list[int]]
"""Which of some services, as text codes, were saturated in the minutes before one."""


def _nobody(services: Iterable[int], minute: int) -> list[int]:
    del services, minute
    return []


class Blame:
    """The stage's state."""

    def __init__(
        self, plan: Plan, code: Callable[[str], int], saturated: Saturated = _nobody
    ) -> None:
        """Nothing is known.

        Args:
            plan: What the configuration says.
            code: Gives the code of a text.
            saturated: Says which services were saturated.
        """
        self._plan = plan
        self._code = code
        self._saturated = saturated
        self._saturated_now = np.empty(0, np.int64)
        limits, count = plan.config.limits, len(plan.journeys)
        room = limits.steps + 2 * count
        causes, cause_slots, ring = _room_for(limits.causes, count)
        self.state = steps.State(
            steps=np.zeros(room, steps.STEP),
            recent=np.zeros((room, steps.SLOTS, steps.COLUMNS)),
            base=np.zeros((room, steps.COLUMNS)),
            score=np.zeros((room, 2)),
            slots=np.full(1 << (2 * room).bit_length(), NIL, np.int32),
            journeys=np.zeros((count, steps.SLOTS, steps.JOURNEY_COLUMNS)),
            past=np.zeros((count, steps.JOURNEY_COLUMNS)),
            bits=np.full((count, steps.BITS), NIL, np.int32),
            causes=causes,
            cause_slots=cause_slots,
            ring=ring,
            counts=np.zeros(steps.COUNTS, np.int64),
            events=np.zeros(count, np.uint32),
            clock=np.zeros(1, np.int64),
            seed=plan.seed,
            below=np.array([j.attempt.errors_below for j in plan.journeys], np.bool_),
        )
        self.memory = k.Memory(
            told=np.zeros(limits.explained, k.TOLD),
            paths=np.zeros(limits.explained, k.PATH),
            spans=np.zeros(_PATH_SPANS * limits.explained, k.PATH_SPAN),
            recovered=np.zeros(limits.explained, np.uint64),
            counts=np.zeros(4, np.int64),
            waiting=np.zeros(limits.explained // _WAITING, k.PATH),
            waiting_spans=np.zeros(limits.explained // _WAITING * k.WAITING_SPANS, k.PATH_SPAN),
            waits=np.array([_waits(plan, journey) for journey in plan.journeys], np.int64),
            slow=np.array([_slow_from(journey) for journey in plan.journeys], np.int64),
        )
        self._spent = np.empty(room)
        self._marked = np.zeros(room, np.uint8)
        self._budget = np.array(
            [max((slo.budget_ratio for slo in j.slos), default=1.0) for j in plan.journeys]
        )
        self.limits = LIMITS
        self._hurt = np.zeros((count, steps.SLOTS), np.bool_)
        self._lengths = np.array(_LENGTHS, np.int64)
        lengths, rows = len(_LENGTHS), 2 * room * len(_LENGTHS)
        self._sums = verdicts.Sums(
            now=np.empty((lengths, room, steps.COLUMNS)),
            past=np.empty((lengths, room, steps.COLUMNS)),
            begun=np.empty(room),
            journeys_now=np.empty((lengths, count, steps.JOURNEY_COLUMNS)),
            journeys_past=np.empty((lengths, count, steps.JOURNEY_COLUMNS)),
            burns=np.zeros(count, np.bool_),
            seen=np.zeros(room, np.bool_),
            wanted=np.zeros(room, np.bool_),
        )
        self._evidence = verdicts.Evidence(
            np.zeros(lengths, np.int64), *np.empty((2, rows), np.int64), *np.empty((3, rows))
        )
        windows = len(JUDGED)
        self._verdicts = verdicts.Verdicts(
            named=np.zeros((count, windows, verdicts.TOP), verdicts.NAMED),
            counts=np.zeros((count, windows), np.int64),
            of_window=np.array([[i in of for i in range(lengths)] for of in _OF_WINDOW], np.bool_),
            strongest=np.empty(windows),
            opinions=np.zeros((lengths, verdicts.TOP), verdicts.NAMED),
            whos=np.empty(room, np.int64),
            marked=np.zeros(room, np.bool_),
            hurt=np.empty(room),
            support=np.empty(room),
            worst=np.empty(room, np.int64),
        )
        self._step = 0
        self._fresh = False
        self.minute = 0
        self.slot = 0
        self._plant()

    def _plant(self) -> None:
        """Every journey shows what is unattributed from the start."""
        for j, journey in enumerate(self._plan.journeys):
            steps.cause(self.state, j, 0, 0, 0, steps.UNATTRIBUTED, 0)
            if journey.outcome is not None:
                self.state.events[j] = self._code(journey.outcome.event)

    # What comes in

    def observe(
        self,
        spans: Table,
        starts: npt.NDArray[np.int64],
        attempts: Table,
        places: npt.NDArray[np.int64],
    ) -> None:
        """Learns from settled traces; writes to their attempts who could be to blame."""
        if attempts.size:
            self._make_room()
            k.observe(
                self.state,
                spans,
                starts,
                attempts,
                places,
                self.slot,
                self.memory,
                self._spent,
                self._marked,
            )
            self._fresh = True

    def give(self, bad: Table, second: int) -> None:
        """Counts attempts that became bad under their causes."""
        if bad.size:
            k.give(self.state, bad, second, self.memory)
            self._fresh = True

    def recover(self, recovered: Table) -> None:
        """Remembers that the event of attempts that had failed came; their blame stays."""
        if recovered.size:
            k.recover(recovered, self.memory)

    def advance(self, second: int) -> None:
        """Moves the clock on: slots become history, verdicts are given.

        Both happen at fixed seconds, however the clock is moved there.
        """
        self.state.clock[0] = second
        step, target = self._step, second // EVERY_SECONDS
        if target == step:
            return
        if step == 0:
            step = target - 1
        # Once all slots have passed there is nothing left to compare.
        last = min(target, step + _STEPS_MAX)
        while step < last:
            step = self._move(step + 1, last)
        self._step = target
        minute = second // 60
        for passed in range(max(self.minute + 1, minute - steps.RING), minute + 1):
            self.state.ring[: self.causes.size, passed % steps.RING] = 0
        self.minute, self.slot = minute, second // steps.SLOT_SECONDS

    def _move(self, step: int, last: int) -> int:
        """Takes the steps of a minute, `last` at most; returns the one that was the last."""
        minute = step * EVERY_SECONDS // 60
        last = min(last, ((minute + 1) * 60 - 1) // EVERY_SECONDS)
        slot = last * EVERY_SECONDS // steps.SLOT_SECONDS
        if minute > self.minute:
            saturated = self._saturated(self._services(), minute)
            if saturated != self._saturated_now.tolist():
                self._saturated_now = np.array(saturated, np.int64)
                self._fresh = True
        if minute > self.minute or slot > self.slot or self._fresh:
            # All in one call: handing the arrays over takes as long as opening a slot.
            verdicts.move(
                self.state,
                step,
                last,
                self.slot,
                self.minute,
                self._fresh,
                self._lengths,
                self._hurt,
                self._budget,
                self.limits,
                self._saturated_now,
                self._sums,
                self._evidence,
                self._verdicts,
            )
            self._fresh = False
        self.minute, self.slot = minute, slot
        return last

    # History

    @property
    def _used(self) -> int:
        return int(self.state.counts[steps.STEPS])

    def _services(self) -> Iterator[int]:
        """Those that have steps, ascending."""
        known = self.state.steps[: self._used]
        yield from np.unique(known["first"][known["version"] != steps.STOP]).tolist()

    def _make_room(self) -> None:
        """Forgets steps of versions that are gone, where there is hardly room for new ones."""
        state, used = self.state, self._used
        room = state.steps.size - 2 * state.past.shape[0]
        if used < _NEARLY * room:
            return
        gone = self._gone()
        if np.count_nonzero(gone) < _WORTH * room:
            return
        old = state.steps[:used].copy()
        keep = np.flatnonzero(~gone)
        rows = self._place_steps(old, {name: getattr(state, name) for name in _BY_STEP}, keep)
        for name in _BY_STEP:
            getattr(state, name)[rows.size : used] = 0
        places = np.full(used, NIL, np.int64)
        places[keep] = np.arange(keep.size)
        # Stops name rows, of first versions, which stay.
        stops = (rows["version"] == steps.STOP) & ~_are_others(rows)
        for name in ("first", "second"):
            rows[name][stops] = places[rows[name][stops]]
        for name in ("after", "stop"):
            known = rows["after"] >= 0
            rows[name][known] = places[rows[name][known]]
        for row in np.flatnonzero(rows["who"] < 0).tolist():
            same = np.ones(rows.size, np.bool_)
            for name in ("journey", "first", "version"):
                same &= rows[name] == rows[name][row]
            rows["who"][row] = np.flatnonzero(same)[0]
        steps.reindex_steps(state)
        # Paths name rows, too.
        self.memory.counts[[k.PATHS, k.PATH_SPANS]] = 0
        self.memory.waiting[:] = 0

    def _gone(self) -> npt.NDArray[np.bool_]:
        """Which steps nothing needs any more. Shape (steps,).

        Nothing is compared with them, they were seen in no slot, and their version was followed by
        another one more than a day ago: what came since still has the one before it.
        """
        known = self.state.steps[: self._used]
        rows = np.arange(known.size)
        gone = (known["version"] > 0) & (known["base"] != rows) & (known["seen"] == 0)
        gone &= known["latest"][known["base"]] != rows
        which = known["first"] << 32 | known["version"]
        versions, places = np.unique(which[known["version"] > 0], return_inverse=True)
        born = np.full(versions.size, np.iinfo(np.int64).max)
        np.minimum.at(born, places, known["born"][known["version"] > 0])
        order = np.lexsort((versions, born, versions >> 32))
        before, after = order[:-1], order[1:]
        followed = versions[before] >> 32 == versions[after] >> 32
        followed &= born[after] < self.state.clock[0] - CHANGES_SECONDS
        spare: npt.NDArray[np.bool_] = gone & np.isin(which, versions[before[followed]])
        return spare

    # Verdicts

    def _window(self, rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
        """Millionths of bad outcomes that some causes had in so many minutes until now."""
        minutes = (self.minute - np.arange(count)) % steps.RING
        sums: npt.NDArray[np.int64] = self.state.ring[np.ix_(rows, minutes)].sum(axis=1)
        return sums

    # What is shown

    @property
    def causes(self) -> Table:
        """CAUSE rows."""
        return self.state.causes[: self.state.counts[steps.CAUSES]]

    @property
    def overflow(self) -> dict[str, int]:
        """What did not fit, by what."""
        return {
            "step": int(self.state.counts[steps.STEPS_OVERFLOW]),
            "cause": int(self.state.counts[steps.CAUSES_OVERFLOW]),
        }

    def findings(self, journey: int, window: int) -> list[Finding]:
        """The causes that explain a journey's bad outcomes in one of `WINDOWS`, top first.

        Short windows have the verdict, which compares with history; longer ones count whom the
        attempts in them were laid to.
        """
        if window in JUDGED:
            place = journey, JUDGED.index(window)
            named = self._verdicts.named[place][: self._verdicts.counts[place]]
            return [Finding(*cause) for cause in named.tolist()]
        rows = self.causes
        which = np.flatnonzero(rows["journey"] == journey)
        counts = self._window(which, window // MINUTE) / MILLIONTHS
        total = counts.sum()
        named = (
            (counts >= SUPPORT_MIN)
            & (counts >= SHARE_MIN * total)
            & (rows["kind"][which] != steps.UNATTRIBUTED)
        )
        order = np.argsort(-counts[named], kind="stable")
        return [
            Finding(*_who(rows[row]), share=count / total)
            for row, count in zip(
                which[named][order].tolist(), counts[named][order].tolist(), strict=True
            )
        ]

    def since(self, journey: int, finding: Finding) -> int | None:
        """When a cause that hurts now began to, in ns; None where no attempt was laid to it."""
        row = steps.cause_slot(
            self.state, journey, finding.service, finding.operation, finding.version, finding.kind
        )
        place = int(self.state.cause_slots[row])
        return int(self.state.causes["since"][place]) if place >= 0 else None

    def changes(self) -> list[Change]:
        """Versions that appeared beside or after another one within `CHANGES_SECONDS`."""
        known = self.state.steps[: self._used]
        known = known[(known["version"] > 0) & (known["first"] > 1)]
        first_seen: dict[int, dict[int, int]] = {}
        for service, version, born in zip(
            *(known[name].tolist() for name in ("first", "version", "born")), strict=True
        ):
            versions = first_seen.setdefault(service, {})
            versions[version] = min(versions.get(version, born), born)
        now = int(self.state.clock[0])
        found = []
        for service, versions in first_seen.items():
            by_time = sorted(versions, key=lambda version: (versions[version], version))
            for previous, version in itertools.pairwise(by_time):
                if versions[version] > now - CHANGES_SECONDS:
                    found.append(Change(service, version, previous, versions[version]))
        return found

    # Checkpoints

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        state, used = self.state, self._used
        arrays: Arrays = {name: getattr(state, name)[:used] for name in _BY_STEP}
        arrays |= {name: getattr(state, name) for name in _BY_JOURNEY}
        arrays |= {
            "causes": self.causes,
            "ring": state.ring[: self.causes.size],
            "counts": state.counts,
            "hurt": self._hurt,
            "named": self._verdicts.named,
            "named_counts": self._verdicts.counts,
            "saturated": self._saturated_now,
            "clock": np.array([self.minute, self.slot, self._step, self._fresh], np.int64),
        }
        return arrays

    def restore(self, arrays: Arrays, moved: Moved, second: int) -> None:
        """Takes over what `dump` gave; journeys that stay keep their causes and their history.

        Where journeys came or went, what happens after which step is learned anew.
        """
        state, journeys = self.state, moved.journeys
        stays = journeys >= 0
        same = stays.all() and np.array_equal(journeys, np.arange(len(self._plan.journeys)))
        self.minute, self.slot, self._step = (int(n) for n in arrays["clock"][:3])
        self._fresh = bool(arrays["clock"][3])
        state.clock[0] = second
        self._saturated_now = arrays["saturated"].copy()
        state.counts[:] = arrays["counts"]
        for name in _BY_JOURNEY:
            getattr(state, name)[journeys[stays]] = arrays[name][stays]
        self._hurt[journeys[stays]] = arrays["hurt"][stays]
        self._restore_steps(arrays, journeys, same=bool(same))
        old = arrays["causes"]
        keep = _staying(old, journeys)
        # They are counters: a lower limit than before takes none away.
        most = max(self._plan.config.limits.causes, keep.size)
        rows, slots, ring = _room_for(most, len(self._plan.journeys))
        state = self.state = state._replace(causes=rows, cause_slots=slots, ring=ring)
        causes = old[keep].copy()
        # Money of one currency is none of another.
        causes["value"][~moved.same_currency[causes["journey"]]] = 0
        causes["journey"] = journeys[causes["journey"]]
        state.counts[steps.CAUSES] = causes.size
        state.causes[: causes.size] = causes
        state.ring[: causes.size] = arrays["ring"][keep]
        steps.reindex_causes(state)
        self._verdicts.named[journeys[stays]] = arrays["named"][stays]
        self._verdicts.counts[journeys[stays]] = arrays["named_counts"][stays]
        self._plant()

    def _restore_steps(
        self, arrays: Arrays, journeys: npt.NDArray[np.int64], *, same: bool
    ) -> None:
        state, old = self.state, arrays["steps"]
        room = state.steps.size - 2 * state.past.shape[0]
        others = _are_others(old)
        keep = _staying(old, journeys)
        if not same or np.count_nonzero(~others[keep]) > room:
            # Rows move, and stops name rows: they are learned anew.
            keep = keep[old["version"][keep] != steps.STOP]
            same = False
        keep = _fitting(keep, others, room)
        rows = self._place_steps(old, arrays, keep)
        rows["journey"] = journeys[rows["journey"]]
        if not same:
            rows["after"] = NIL
        steps.reindex_steps(state)

    def _place_steps(self, old: Table, arrays: Arrays, keep: npt.NDArray[np.int64]) -> Table:
        """Puts the steps of some rows one after the other; they name each other's new rows.

        Returns:
            Where they are now, without an index.
        """
        state = self.state
        places = np.full(old.size, NIL, np.int64)
        places[keep] = np.arange(keep.size)
        state.counts[steps.STEPS] = keep.size
        for name in ("recent", "base", "score"):
            getattr(state, name)[: keep.size] = arrays[name][keep]
        state.steps[: keep.size] = old[keep]
        rows = state.steps[: keep.size]
        for name in ("base", "latest", "who"):
            rows[name] = places[rows[name]]
        used = state.bits >= 0
        state.bits[used] = places[state.bits[used]]
        return rows


_BY_STEP = ("steps", "recent", "base", "score")
_BY_JOURNEY = ("journeys", "past", "bits")


def _slow_from(journey: Journey) -> int:
    """The shortest duration that may make an attempt bad, in ns; -1 where none does."""
    limits = [slo.good.duration_below for slo in journey.slos] + [journey.slow_above]
    return min((limit for limit in limits if limit is not None), default=-1)


def _waits(plan: Plan, journey: Journey) -> int:
    """Seconds for which an attempt may wait for its event once its trace has settled."""
    if journey.outcome is None:
        return 0
    return -(-(journey.outcome.within + plan.config.time.lateness) // SECOND) + 1


def _staying(rows: Table, journeys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of the rows whose journey stays."""
    if not journeys.size:
        return np.empty(0, np.int64)
    return np.flatnonzero(journeys[rows["journey"]] >= 0)


def _are_others(rows: Table) -> npt.NDArray[np.bool_]:
    """Which steps stand for everything that there was no room for: they have room of their own."""
    named = (rows["first"] == OTHER) & (rows["second"] == OTHER)
    is_other: npt.NDArray[np.bool_] = named & (rows["version"].astype(np.int64) <= NONE)
    return is_other


def _room_for(
    causes: int, journeys: int
) -> tuple[Table, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Empty causes, slots and ring; behind the limit each journey has room for every kind."""
    rows = causes + 4 * journeys
    return (
        np.zeros(rows, steps.CAUSE),
        np.full(1 << (2 * rows).bit_length(), NIL, np.int32),
        np.zeros((rows, steps.RING), np.int64),
    )


def _fitting(
    keep: npt.NDArray[np.int64], others: npt.NDArray[np.bool_], room: int
) -> npt.NDArray[np.int64]:
    """The `others` among some rows, and the first of the rest that there is room for."""
    of_room = ~others[keep]
    return keep[~of_room | (np.cumsum(of_room) <= room)]


def _who(row: Any) -> tuple[int, int, int, int]:  # noqa: ANN401 - a row of a table
    return int(row["service"]), int(row["operation"]), int(row["version"]), int(row["kind"])

"""Who is to blame now: the last slots of every step against all before them.

`move` makes history of the slots that have passed, finds which steps hurt more attempts than their
history explains, and names the few that explain what goes wrong.

Cost: O(steps seen lately) a verdict.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.jit import kernel
from outcome_exporter.kernels.pool import NIL
from outcome_exporter.kernels.steps import (
    ATTEMPTS,
    BAD,
    CAUSES,
    COLUMNS,
    DURATION,
    ERRORS,
    FAILED,
    FAILURE,
    HISTORY_MIN,
    JOURNEY_COLUMNS,
    LATENCY,
    LOG,
    MISSING,
    MS,
    RING,
    SLOT_SECONDS,
    SLOTS,
    SPANS,
    SQUARES,
    STEPS,
    STOP,
    TRIES,
    VARIANCE_FLOOR,
    State,
    stands_for,
)
from outcome_exporter.kernels.texts import NONE
from outcome_exporter.model import Table
from outcome_exporter.units import MILLIONTHS

EVERY_SECONDS = 10
"""Between two verdicts."""
_KEEP = 0.5 ** (SLOT_SECONDS / 86_400)
"""Share of history that is not forgotten when a slot passes."""


@kernel
def _open_slot(
    state: State,
    place: int,
    hurt: npt.NDArray[np.bool_],
    budget: npt.NDArray[np.float64],
    support: float,
) -> None:
    """A new slot begins; the one that it displaces becomes history, unless the journey was hurt."""
    for j in range(budget.size):
        seen = state.journeys[j, place]
        # Until the end of this, `hurt` says of which journeys the slot does not become history.
        hurt[j, place] |= seen[TRIES] == 0 or (
            seen[BAD] >= support * stands_for(seen) and seen[BAD] > budget[j] * seen[TRIES]
        )
        for c in range(JOURNEY_COLUMNS):
            if not hurt[j, place]:
                state.past[j, c] = state.past[j, c] * _KEEP + seen[c]
            seen[c] = 0.0
    # A base comes before its other versions: what they add is forgotten from the next slot on.
    for row in range(state.counts[STEPS]):
        known = state.steps[row]
        history = not hurt[known.journey, place]
        if history:
            for c in range(COLUMNS):
                state.base[row, c] *= _KEEP
        if known.seen >> place & 1:
            known.seen ^= 1 << place
            seen = state.recent[row, place]
            for c in range(COLUMNS):
                if history:
                    state.base[known.base, c] += seen[c]
                seen[c] = 0.0
    for j in range(budget.size):
        hurt[j, place] = False


NAMED = np.dtype(
    [
        ("service", np.int64),
        ("operation", np.int64),
        ("version", np.int64),
        ("kind", np.int64),
        ("share", np.float64),
    ],
    align=True,
)
"""A cause that a verdict names, and its share of the bad outcomes."""
TOP = 5
"""Causes that a verdict names at most."""


class Limits(NamedTuple):
    """What evidence must be."""

    t: float
    z: float
    stop_z: float
    drift: float
    """Deviation of log(1 + ms) between times without any fault."""
    visits: float
    """Attempts of the last slots that a step must have been in to be called slow."""
    support: float
    """Bad attempts that a cause must explain."""
    share: float
    """Of the bad attempts, that the first cause must explain."""
    floor: float
    """The same for those beside it."""
    harm: float
    """Attempts' worth of pain below which nothing is named."""
    saturated: float
    """Share of `t`, `z`, `stop_z`, `support` and `harm` that is enough of a saturated service."""


class Sums(NamedTuple):
    """Room for evidence: the last slots, and all before them, by length."""

    now: npt.NDArray[np.float64]
    """Shape (lengths, steps, COLUMNS)."""
    past: npt.NDArray[np.float64]
    begun: npt.NDArray[np.float64]
    """Shape (steps,): spans of a base's versions in the last slots."""
    journeys_now: npt.NDArray[np.float64]
    """Shape (lengths, journeys, JOURNEY_COLUMNS)."""
    journeys_past: npt.NDArray[np.float64]
    burns: npt.NDArray[np.bool_]
    """Shape (journeys,): enough went bad in the last slots for a verdict."""
    seen: npt.NDArray[np.bool_]
    """Shape (steps,): which ones were seen in the last slots, of those journeys."""
    wanted: npt.NDArray[np.bool_]
    """Shape (steps,): with whose history one of them is compared."""


class Evidence(NamedTuple):
    """Attempts hurt by each step more than history explains, from the front. Shape (rows,)."""

    ends: npt.NDArray[np.int64]
    """Shape (lengths,): where that of each length ends; it begins where the one before does."""
    rows: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    hurt: npt.NDArray[np.float64]
    support: npt.NDArray[np.float64]
    """Attempts that show it, each counted once whatever it stands for."""
    strength: npt.NDArray[np.float64]
    """Its test statistic, as a multiple of what it must be."""


class Verdicts(NamedTuple):
    """What is named, and room to find out."""

    named: Table
    """NAMED, shape (journeys, windows, TOP), top first."""
    counts: npt.NDArray[np.int64]
    """Shape (journeys, windows): how many are."""
    of_window: npt.NDArray[np.bool_]
    """Shape (windows, lengths): which lengths it takes the one from that differs most."""
    strongest: npt.NDArray[np.float64]
    """Shape (windows,)."""
    opinions: Table
    """NAMED, shape (lengths, TOP)."""
    whos: npt.NDArray[np.int64]
    """Shape (steps,): the services in their versions that were found, from the front."""
    marked: npt.NDArray[np.bool_]
    """By `who`, as the rest: whether it is among them."""
    hurt: npt.NDArray[np.float64]
    support: npt.NDArray[np.float64]
    worst: npt.NDArray[np.int64]
    """Place in the evidence of what it is held responsible for most."""


@kernel
def _z(hits: float, of: float, hits_before: float, of_before: float) -> float:
    """How many deviations a proportion is above what it was before."""
    pooled = (hits + hits_before + 0.5) / (of + of_before + 1)
    spread = pooled * (1 - pooled) * (1 / (of + 1) + 1 / (of_before + 1))
    more = (hits + 0.5) / (of + 1) - (hits_before + 0.5) / (of_before + 1)
    return more / np.sqrt(max(spread, 1e-12))


@kernel
def _t(
    now: npt.NDArray[np.float64],
    n: float,
    past: npt.NDArray[np.float64],
    m: float,
    drift: float,
    least: float,
) -> float:
    """Welch's t of log(1 + ms), with room for drift; of so many attempts now and before.

    0 where it is surely not above `least`.
    """
    mean, before = now[LOG] / now[ATTEMPTS], past[LOG] / past[ATTEMPTS]
    # The root below is at least the drift: of most steps that is enough to know.
    if mean - before <= least * drift:
        return 0.0
    spread = max(now[SQUARES] / now[ATTEMPTS] - mean * mean, 0.0) + VARIANCE_FLOOR
    spread_before = max(past[SQUARES] / past[ATTEMPTS] - before * before, 0.0) + VARIANCE_FLOOR
    return (mean - before) / np.sqrt(spread / n + spread_before / m + drift * drift)


@kernel
def _sum_journeys(
    state: State,
    newest: int,
    lengths: npt.NDArray[np.int64],
    hurt: npt.NDArray[np.bool_],
    support: float,
    sums: Sums,
) -> bool:
    """Adds the slots of journeys up; returns whether any has enough bad attempts."""
    found = False
    for j in range(state.past.shape[0]):
        for i in range(lengths.size):
            for c in range(JOURNEY_COLUMNS):
                sums.journeys_now[i, j, c] = 0.0
                sums.journeys_past[i, j, c] = state.past[j, c]
        for age in range(SLOTS):
            place = (newest - age) % SLOTS
            for i in range(lengths.size):
                if age < lengths[i]:
                    for c in range(JOURNEY_COLUMNS):
                        sums.journeys_now[i, j, c] += state.journeys[j, place, c]
                elif not hurt[j, place]:
                    for c in range(JOURNEY_COLUMNS):
                        sums.journeys_past[i, j, c] += state.journeys[j, place, c]
        longest = sums.journeys_now[lengths.size - 1, j]
        sums.burns[j] = longest[BAD] >= support * stands_for(longest)
        found |= sums.burns[j]
    return found


@kernel
def _sum_steps(
    state: State,
    newest: int,
    lengths: npt.NDArray[np.int64],
    hurt: npt.NDArray[np.bool_],
    sums: Sums,
) -> None:
    """Adds up the slots of the steps of journeys that burn, where they were seen of late.

    Says which ones were in `sums.seen`; of the others, and of the history that none of them is
    compared with, nothing is written.
    """
    lately = _slots_of(newest, 0, lengths[lengths.size - 1])
    for row in range(state.counts[STEPS]):
        sums.seen[row] = sums.wanted[row] = False
    for row in range(state.counts[STEPS]):
        known = state.steps[row]
        if known.seen & lately == 0 or not sums.burns[known.journey]:
            continue
        # Where spans failed in the shortest they did in all, and nobody asks who stopped.
        if known.version == STOP and sums.journeys_now[0, known.journey, FAILED] > 0:
            continue
        sums.seen[row] = sums.wanted[known.base] = True
    for row in range(state.counts[STEPS]):
        if sums.wanted[row]:
            for i in range(lengths.size):
                for c in range(COLUMNS):
                    sums.past[i, row, c] = state.base[row, c]
    for row in range(state.counts[STEPS]):
        known = state.steps[row]
        base = np.int64(known.base)
        if not sums.wanted[base]:
            continue
        # Of a stop nothing but attempts is known.
        columns = 1 if known.version == STOP else COLUMNS
        seen, journey = known.seen, np.int64(known.journey)
        if sums.seen[row]:
            begin = 0
            for i in range(lengths.size):
                for c in range(columns):
                    sums.now[i, row, c] = sums.now[i - 1, row, c] if i > 0 else 0.0
                for age in range(begin, lengths[i]):
                    place = (newest - age) % SLOTS
                    if seen >> place & 1:
                        for c in range(columns):
                            sums.now[i, row, c] += state.recent[row, place, c]
                begin = lengths[i]
        for age in range(lengths[0], SLOTS):
            place = (newest - age) % SLOTS
            if seen >> place & 1 == 0 or hurt[journey, place]:
                continue
            for i in range(lengths.size):
                if age >= lengths[i]:
                    for c in range(columns):
                        sums.past[i, base, c] += state.recent[row, place, c]


@kernel
def _slots_of(newest: int, begin: int, end: int) -> int:
    """The bits in `seen` of the slots of some ages."""
    bits = 0
    for age in range(begin, end):
        bits |= 1 << (newest - age) % SLOTS
    return bits


@kernel
def _note(
    state: State,
    out: Evidence,
    count: int,
    row: int,
    kind: int,
    hurt: float,
    support: float,
    strength: float,
) -> int:
    """Writes evidence; returns how much there is then."""
    out.rows[count], out.kind[count] = row, kind
    out.hurt[count], out.support[count], out.strength[count] = hurt, support, strength
    state.score[row, kind] = max(state.score[row, kind], hurt)
    return count + 1


@kernel
def _enough(limits: Limits, saturated: npt.NDArray[np.int64], service: int) -> float:
    """Share of the evidence that is enough for a service."""
    for code in saturated:
        if code == service:
            return limits.saturated
    return 1.0


@kernel
def _weigh(
    state: State,
    newest: int,
    lengths: npt.NDArray[np.int64],
    hurt: npt.NDArray[np.bool_],
    limits: Limits,
    saturated: npt.NDArray[np.int64],
    sums: Sums,
    out: Evidence,
) -> bool:
    """Compares the last slots with all before them, and says who is known to hurt.

    Only steps of journeys in which enough went bad are looked at: without them it costs nothing
    but a look at each journey.

    Args:
        state: The stage's; `score` is written.
        newest: The slot it is.
        lengths: How many of the last slots are compared with all before them, ascending.
        hurt: Shape (journeys, SLOTS): which ones are no history.
        limits: What differs enough.
        saturated: Text codes of the services of which less is enough.
        sums: Room.
        out: Room for two rows a step and length.

    Returns:
        Whether enough went bad in any journey.
    """
    used = state.counts[STEPS]
    for row in range(used):
        state.score[row, LATENCY] = state.score[row, FAILURE] = 0.0
    if not _sum_journeys(state, newest, lengths, hurt, limits.support, sums):
        return False
    _sum_steps(state, newest, lengths, hurt, sums)
    count = 0
    for i in range(lengths.size):
        now, past, begun = sums.now[i], sums.past[i], sums.begun
        tries, each, each_past = sums.journeys_past[i, 0], 1.0, 1.0
        for row in range(used):
            begun[row] = 0.0
        for row in range(used):
            if sums.seen[row]:
                begun[state.steps[row].base] += now[row, SPANS]
        journey = NIL
        for row in range(used):
            if not sums.seen[row]:
                continue
            known = state.steps[row]
            base = known.base
            if known.journey != journey:
                journey = np.int64(known.journey)
                tries = sums.journeys_past[i, journey]
                # What one attempt stands for: chance goes by attempts, harm by what they stand for.
                each = stands_for(sums.journeys_now[i, journey])
                each_past = stands_for(tries)
            if known.version == STOP:
                parent = known.first
                hits, before, of = now[row, ATTEMPTS], past[row, ATTEMPTS], past[parent, SPANS]
                failed = sums.journeys_now[i, journey, FAILED] > 0 or tries[FAILED] > 0
                if failed or hits == 0 or of < HISTORY_MIN * each_past:
                    continue
                z = _z(hits / each, begun[parent] / each, before / each_past, of / each_past)
                excess = hits - begun[parent] * (before + 0.5 * each_past) / (of + each_past)
                step_ = np.int64(known.second)
                least = limits.stop_z * _enough(limits, saturated, state.steps[step_].first)
                if z > least and excess > 0:
                    strength, harm = z / least, excess * (1 - 1 / z)
                    count = _note(state, out, count, step_, FAILURE, harm, hits / each, strength)
                continue
            enough = _enough(limits, saturated, known.first)
            n, m = now[row, ATTEMPTS] / each, past[base, ATTEMPTS] / each_past
            if n >= limits.visits and m >= HISTORY_MIN:
                least = limits.t * enough
                t = _t(now[row], n, past[base], m, limits.drift, least)
                more_ms = now[row, MS] / now[row, ATTEMPTS] - past[base, MS] / past[base, ATTEMPTS]
                if t > least and more_ms > 0:
                    usual_ms = tries[DURATION] / max(tries[TRIES], 1.0)
                    harm = now[row, ATTEMPTS] * more_ms / max(usual_ms, 1e-6) * (1 - 1 / t)
                    count = _note(state, out, count, row, LATENCY, harm, n, t / least)
            hits, of = now[row, ERRORS], past[base, SPANS]
            if hits > 0 and of >= HISTORY_MIN * each_past:
                begun_here, before = now[row, SPANS], past[base, ERRORS]
                z = _z(hits / each, begun_here / each, before / each_past, of / each_past)
                excess = hits - begun_here * (before + 0.5 * each_past) / (of + each_past)
                least = limits.z * enough
                if z > least and excess > 0:
                    harm = excess * (1 - 1 / z)
                    count = _note(state, out, count, row, FAILURE, harm, hits / each, z / least)
        out.ends[i] = count
    return True


@kernel
def _name(
    named: Table,
    count: int,
    service: int,
    operation: int,
    version: int,
    kind: int,
    hurt: float,
) -> int:
    """Puts a cause in its place among the top ones; returns how many there are then."""
    place = count
    while place > 0:
        other = named[place - 1]
        if other.share > hurt:
            break
        if other.share == hurt and (
            (other.service, other.operation, other.version, other.kind)
            < (service, operation, version, kind)
        ):
            break
        if place < TOP:
            named[place] = other
        place -= 1
    if place < TOP:
        mine = named[place]
        mine.service, mine.operation, mine.version = service, operation, version
        mine.kind, mine.share = kind, hurt
    return min(count + 1, TOP)


@kernel
def _opinion(
    state: State,
    journey: int,
    length: int,
    minutes: int,
    minute: int,
    limits: Limits,
    saturated: npt.NDArray[np.int64],
    sums: Sums,
    found: Evidence,
    out: Verdicts,
) -> tuple[int, float]:
    """The causes that explain enough of what went bad in the last slots, top first.

    Writes them to `out.opinions`; returns how many there are, and how much the clearest differs.
    """
    now, past = sums.journeys_now[length, journey], sums.journeys_past[length, journey]
    each = stands_for(now)
    if now[BAD] < limits.support * each:
        return 0, 0.0
    begin, end = found.ends[length - 1] if length > 0 else 0, found.ends[length]
    strength, slow, slow_support = 0.0, 0.0, 0.0
    for n in range(begin, end):
        if state.steps[found.rows[n]].journey == journey:
            strength = max(strength, found.strength[n])
            if found.kind[n] == LATENCY:
                slow += found.hurt[n]
                slow_support = max(slow_support, found.support[n])
    # All slowness together weighs no more than as many failures as attempts show it.
    share = min(1.0, slow_support * each / slow) if slow > 0 else 1.0
    whos = 0
    for n in range(begin, end):
        step_ = state.steps[found.rows[n]]
        if step_.journey != journey:
            continue
        who = np.int64(step_.who)
        hurt = found.hurt[n] * share if found.kind[n] == LATENCY else found.hurt[n]
        if not out.marked[who]:
            out.marked[who] = True
            out.hurt[who] = out.support[who] = 0.0
            out.worst[who] = n
            out.whos[whos] = who
            whos += 1
        worst = out.worst[who]
        least = found.hurt[worst] * share if found.kind[worst] == LATENCY else found.hurt[worst]
        if hurt > least:
            out.worst[who] = n
        out.hurt[who] += hurt
        out.support[who] = max(out.support[who], found.support[n])
    named, count, total = out.opinions[length], 0, 0.0
    for n in range(whos):
        who = out.whos[n]
        out.marked[who] = False
        worst = out.worst[who]
        step_ = state.steps[found.rows[worst]]
        if out.support[who] < limits.support * _enough(limits, saturated, step_.first):
            continue
        kind, hurt = found.kind[worst], out.hurt[who]
        count = _name(named, count, step_.first, step_.second, step_.version, kind, hurt)
        total += hurt
    if state.events[journey] != NONE:
        for row in range(state.counts[CAUSES]):
            cause_ = state.causes[row]
            if cause_.journey != journey or cause_.kind != MISSING:
                continue
            hurt = 0.0
            for n in range(minutes):
                hurt += state.ring[row, (minute - n) % RING] / MILLIONTHS
            if hurt >= limits.support * each:
                service, operation = np.int64(cause_.service), np.int64(cause_.operation)
                version = np.int64(cause_.version)
                count = _name(named, count, service, operation, version, MISSING, hurt)
                total += hurt
    unusual = now[BAD] - now[TRIES] * past[BAD] / max(past[TRIES], 1.0)
    explained = max(total, unusual)
    if count == 0:
        return 0, strength
    least = limits.harm * each * _enough(limits, saturated, named[0].service)
    if named[0].share < max(limits.share * explained, least):
        return 0, strength
    while named[count - 1].share < max(limits.floor * explained, least):
        count -= 1
    for n in range(count):
        named[n].share = named[n].share / explained
    return count, strength


@kernel
def _judge(
    state: State,
    newest: int,
    minute: int,
    lengths: npt.NDArray[np.int64],
    hurt: npt.NDArray[np.bool_],
    limits: Limits,
    saturated: npt.NDArray[np.int64],
    sums: Sums,
    found: Evidence,
    out: Verdicts,
) -> None:
    """Says who is to blame now, journey by journey."""
    journeys, windows = out.counts.shape
    for j in range(journeys):
        for w in range(windows):
            out.counts[j, w] = 0
    if not _weigh(state, newest, lengths, hurt, limits, saturated, sums, found):
        return
    for j in range(journeys):
        if not sums.burns[j]:
            continue
        shortest = NIL
        for w in range(windows):
            out.strongest[w] = -1.0
        for i in range(lengths.size):
            # The minutes that the slots may lie in.
            minutes = (lengths[i] * SLOT_SECONDS + 59) // 60 + 1
            count, strength = _opinion(
                state, j, i, minutes, minute, limits, saturated, sums, found, out
            )
            if count == 0:
                continue
            if shortest < 0:
                shortest = i
            for w in range(windows):
                if out.of_window[w, i] and strength > out.strongest[w]:
                    out.strongest[w] = strength
                    out.counts[j, w] = count
                    for n in range(count):
                        out.named[j, w, n] = out.opinions[i, n]
        if shortest >= 0:
            # What is shortest began last: more would take good minutes out of history.
            for age in range(lengths[shortest]):
                hurt[j, (newest - age) % SLOTS] = True


@kernel
def move(
    state: State,
    step: int,
    last: int,
    slot: int,
    minute: int,
    fresh: bool,  # noqa: FBT001 - a kernel takes no keywords
    lengths: npt.NDArray[np.int64],
    hurt: npt.NDArray[np.bool_],
    budget: npt.NDArray[np.float64],
    limits: Limits,
    saturated: npt.NDArray[np.int64],
    sums: Sums,
    found: Evidence,
    out: Verdicts,
) -> None:
    """Moves the clock on by some steps: what begins begins, and verdicts are given.

    Args:
        state: The stage's; `score` is written.
        step: The first one, in units of `EVERY_SECONDS`.
        last: The last one.
        slot: The one it was before.
        minute: The one it was before.
        fresh: Whether there is more to judge by than at the last verdict.
        lengths: How many of the last slots are compared with all before them, ascending.
        hurt: Shape (journeys, SLOTS): which ones are no history; those that a cause is named for
            are none from now on.
        budget: Shape (journeys,): share of attempts that may be bad.
        limits: What is enough.
        saturated: Text codes of the services of which less is enough.
        sums: Room.
        found: Room for two rows a step and length.
        out: Where the verdicts are written.
    """
    for now in range(step, last + 1):
        before, slot = slot, now * EVERY_SECONDS // SLOT_SECONDS
        minute_before, minute = minute, now * EVERY_SECONDS // 60
        if minute > minute_before:
            for row in range(state.counts[CAUSES]):
                state.ring[row, minute % RING] = 0
        if slot > before:
            _open_slot(state, slot % SLOTS, hurt, budget, limits.support)
            # Without attempts a verdict fades once its slots have passed.
            for j in range(out.counts.shape[0]):
                for w in range(out.counts.shape[1]):
                    fresh |= out.counts[j, w] > 0
        if fresh:
            _judge(state, slot, minute, lengths, hurt, limits, saturated, sums, found, out)
            fresh = False

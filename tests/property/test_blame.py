"""The critical path and blame against a slow, obvious reference, on traces of every shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcome_exporter.blame import Blame
from outcome_exporter.config import Config
from outcome_exporter.kernels import steps
from outcome_exporter.kernels.critical_path import in_order, link_children, scratch, walk
from outcome_exporter.model import ATTEMPT, ERROR, MISSED, SETTLED_SPAN, SLOW
from outcome_exporter.plan import Moved, Plan

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

CONFIG = Config.model_validate(
    {
        "journeys": [
            {
                "name": "buy",
                "attempt": {"span": {"service": "a"}},
                "outcome": {"event": "bought"},
                "slow_above": "5ms",
                "value": {"event": "data.total", "currency": "USD"},
            }
        ]
    }
)


@st.composite
def traces(draw, most=12):
    """Spans by start, with any parents: missing, cyclic, of themselves, of skewed clocks."""
    count = draw(st.integers(1, most))
    rows = np.zeros(count, SETTLED_SPAN)
    starts = sorted(draw(st.integers(0, 40)) for _ in range(count))
    for i in range(count):
        rows[i]["span_id"] = i + 1
        rows[i]["start"] = START + starts[i] * 1_000_000
        rows[i]["end"] = rows[i]["start"] + draw(st.integers(0, 40)) * 1_000_000
        parent = draw(st.integers(-1, count - 1))
        rows[i]["parent"] = -1 if parent == i else parent
        rows[i]["service"] = draw(st.integers(2, 5))
        rows[i]["operation"] = draw(st.integers(6, 8))
        rows[i]["version"] = draw(st.integers(9, 10))
        rows[i]["peer"] = draw(st.sampled_from([0, 0, 11]))
        rows[i]["kind"] = draw(st.integers(0, 5))
        rows[i]["status"] = draw(st.sampled_from([0, 1, 2]))
    return rows


def own_times(rows, root):
    """The critical path by its definition: recursive, without a sort, a span at a time."""
    own = {}

    def visit(span, low, high, shift):
        children = [c for c in range(len(rows)) if rows[c]["parent"] == span and c != root]
        children.sort(key=lambda c: (int(rows[c]["end"]), c), reverse=True)
        own[span] = 0
        cursor = high
        for child in children:
            moved = shift + skew(rows[span], rows[child])
            start = max(int(rows[child]["start"]) + moved, low)
            end = min(int(rows[child]["end"]) + moved, high)
            if end > start and end <= cursor:
                own[span] += cursor - end
                cursor = start
                visit(child, start, end, moved)
            else:
                place = min(max(start, low), high)
                visit(child, place, place, moved)
        own[span] += cursor - low

    visit(root, int(rows[root]["start"]), int(rows[root]["end"]), 0)
    return own


def skew(parent, child):
    begin, end = int(parent["start"]), int(parent["end"])
    start, stop = int(child["start"]), int(child["end"])
    if parent["service"] == child["service"]:
        return 0
    if begin <= start and stop <= end:
        return 0
    if stop - start > end - begin:
        return 0
    if (start >= end or stop <= begin) and (parent["kind"], child["kind"]) != (3, 2):
        return 0
    return begin + (end - begin - (stop - start)) // 2 - start


@given(traces(), st.lists(st.integers(0, 11), min_size=1, max_size=3))
def test_the_critical_path_is_that_of_its_definition(rows, roots):
    room = scratch(rows.size)
    link_children(rows, 0, rows.size, room)
    for root in roots:
        size = walk(rows, 0, root % rows.size, room)
        inside = in_order(room, rows.size, size)
        found = {i: int(room.own[i]) for i in range(rows.size) if room.own[i] >= 0}
        assert found == own_times(rows, root % rows.size)
        assert inside.tolist() == sorted(found)


def test_the_critical_path_of_very_many_siblings_is_found_in_time():
    rows = np.zeros(20_001, SETTLED_SPAN)
    rows["parent"][0], rows["parent"][1:] = -1, 0
    rows["start"] = START + np.arange(rows.size)
    rows["end"] = START + 2 * rows.size - np.arange(rows.size)
    room = scratch(rows.size)
    link_children(rows, 0, rows.size, room)
    walk(rows, 0, 0, room)
    # They are nested: the one that ends last covers all others.
    assert room.own[0] == rows[0]["end"] - rows[1]["end"] + 1
    assert room.own[1] == rows[1]["end"] - rows[1]["start"]
    assert (room.own[2:] == 0).all()
    children = [int(room.head[0])]
    while room.following[children[-1]] >= 0:
        children.append(int(room.following[children[-1]]))
    assert children == list(range(1, rows.size))


@given(traces(), st.integers(0, 11))
def test_the_times_of_the_critical_path_add_up_to_the_attempt(rows, root):
    root %= rows.size
    room = scratch(rows.size)
    link_children(rows, 0, rows.size, room)
    walk(rows, 0, root, room)
    own = room.own[: rows.size]
    assert own[own >= 0].sum() == rows[root]["end"] - rows[root]["start"]
    assert (own >= -1).all()


@given(st.lists(traces(), min_size=1, max_size=6), st.data())
def test_blame_sums_to_the_bad_and_shares_are_shares(batch, data):
    codes = {"bought": 12}
    blame = Blame(Plan(CONFIG), codes.__getitem__)
    spans = np.concatenate(batch)
    starts = np.concatenate([[0], np.cumsum([rows.size for rows in batch])]).astype(np.int64)
    attempts = np.zeros(len(batch), ATTEMPT)
    places = starts[:-1].copy()
    for i, rows in enumerate(batch):
        places[i] += data.draw(st.integers(0, rows.size - 1))
        span = spans[places[i]]
        attempts[i]["start"], attempts[i]["end"] = span["start"], span["end"]
        attempts[i]["weight"] = data.draw(st.sampled_from([1_000_000, 2_500_000]))
        attempts[i]["value"] = data.draw(st.integers(0, 10**9))
    second = START // SECOND
    for _ in range(12):
        blame.advance(second)
        blame.observe(spans, starts, attempts, places)
        bad = attempts.copy()
        bad["error"] = [data.draw(st.sampled_from([ERROR, SLOW, MISSED])) for _ in batch]
        blame.give(bad, second)
        second += 10
    blame.advance(second)
    assert blame.causes["count"].sum() == 12 * attempts["weight"].sum()
    assert (blame.causes["count"] >= 0).all()
    for window in (60 * SECOND, 300 * SECOND, 1800 * SECOND):
        shares = [finding.share for finding in blame.findings(0, window)]
        assert all(0 < share <= 1 for share in shares)
        assert sum(shares) <= 1 + 1e-9
    assert np.isfinite(blame.state.base).all()
    # What says which slots of a step are not empty says so of exactly those.
    seen, recent = blame.state.steps["seen"][: blame._used], blame.state.recent[: blame._used]
    bits = seen[:, np.newaxis] >> np.arange(steps.SLOTS) & 1
    assert np.array_equal(bits == 1, (recent != 0).any(axis=2))


CULPRIT, OPERATION = 13, 14


def below(rows, root, *, failed):
    """A trace with one more span: what its attempt waits for in a service of its own."""
    more = np.zeros(rows.size + 1, SETTLED_SPAN)
    more[:-1] = rows
    for name in ("start", "end"):
        more[-1][name] = rows[root][name]
    more[-1]["span_id"] = rows.size + 1
    more[-1]["parent"] = root
    more[-1]["service"], more[-1]["operation"], more[-1]["version"] = CULPRIT, OPERATION, 9
    more[-1]["kind"] = 2
    more[-1]["status"] = 2 if failed else 1
    return more


def settled(batch, roots, *, failed):
    """What `observe` takes, of traces in which a service fails or does not."""
    batch = [below(rows, root, failed=failed) for rows, root in zip(batch, roots, strict=True)]
    spans = np.concatenate(batch)
    starts = np.concatenate([[0], np.cumsum([rows.size for rows in batch])]).astype(np.int64)
    places = starts[:-1] + roots
    attempts = np.zeros(len(batch), ATTEMPT)
    attempts["start"], attempts["end"] = spans[places]["start"], spans[places]["end"]
    attempts["weight"] = 1_000_000
    return spans, starts, attempts, places


def at(second, spans, starts, attempts, places):
    """The same at another time."""
    later = (second - START // SECOND) * SECOND
    spans, attempts = spans.copy(), attempts.copy()
    for rows in (spans, attempts):
        rows["start"] += later
        rows["end"] += later
    return spans, starts, attempts, places


@given(st.lists(traces(), min_size=2, max_size=6), st.data())
def test_a_fault_is_named_whatever_the_traces_around_it_look_like(batch, data):
    roots = np.array([data.draw(st.integers(0, rows.size - 1)) for rows in batch], np.int64)
    blame = Blame(Plan(CONFIG), {"bought": 12}.__getitem__)
    second = START // SECOND
    for failed, rounds in ((False, 36), (True, 6)):
        traces_then = settled(batch, roots, failed=failed)
        for _ in range(rounds):
            blame.advance(second)
            seen = at(second, *traces_then)
            blame.observe(*seen)
            if failed:
                bad = seen[2].copy()
                bad["error"] = ERROR
                blame.give(bad, second)
            second += 10
    blame.advance(second)
    for window in (60 * SECOND, 300 * SECOND):
        found = blame.findings(0, window)
        assert (CULPRIT, OPERATION, steps.FAILURE) in {
            (f.service, f.operation, f.kind) for f in found
        }
        assert all(0 < finding.share <= 1 for finding in found)
        assert sum(finding.share for finding in found) <= 1 + 1e-9
        assert found == sorted(found, key=lambda finding: -finding.share)


def failing(weights, **more):
    """Findings where so many attempts of each kind failed, each standing for several."""
    blame, _ = failed(weights, **more)
    return blame.findings(0, 60 * SECOND)


def failed(weights, *, failures=(20, 0), rounds=6, saturated=()):
    """The stage after so many failures within some rounds of 10 s, and the second it is."""

    def among(services, _minute):
        return [service for service in services if service in saturated]

    blame = Blame(Plan(CONFIG), {"bought": 12}.__getitem__, among)
    rows = np.zeros(2, SETTLED_SPAN)
    rows["parent"] = [-1, 0]
    rows["span_id"] = [1, 2]
    rows["start"], rows["end"] = START, START + 20 * 1_000_000
    rows["kind"], rows["operation"], rows["version"] = 2, 6, 9
    second = START // SECOND
    for n in range(36 + 6):
        blame.advance(second)
        for which, weight in enumerate(weights):
            rows["service"] = [2, 3 + which]
            each = -(-failures[which] // rounds) if n >= 36 + 6 - rounds else 0
            for fails in [True] * each + [False] * (5 - each):
                rows["status"] = 2 if fails else 1
                attempts = np.zeros(1, ATTEMPT)
                attempts["start"], attempts["end"] = rows[0]["start"], rows[0]["end"]
                attempts["weight"] = weight * 1_000_000
                seen = at(second, rows, np.array([0, 2]), attempts, np.zeros(1, np.int64))
                blame.observe(*seen)
                if fails:
                    bad = seen[2].copy()
                    bad["error"] = ERROR
                    blame.give(bad, second)
        second += 10
    blame.advance(second)
    return blame, second


def test_of_a_saturated_service_half_the_evidence_is_enough():
    # Three failures of each: too few, but for the one whose resources say so too.
    few = {"failures": (3, 3), "rounds": 3}
    assert failing((1, 1), **few) == []
    assert [finding.service for finding in failing((1, 1), saturated={3}, **few)] == [3]
    # Two are too few whatever its resources say, and none is no evidence.
    assert failing((1, 1), failures=(2, 4), rounds=2, saturated={3}) == []
    assert {f.service for f in failing((1, 1), failures=(0, 20), saturated={3})} == {4}


def test_a_verdict_is_given_anew_once_a_service_is_told_to_be_saturated():
    saturated = set()
    blame, second = failed((1, 1), failures=(3, 3), rounds=3, saturated=saturated)
    saturated.add(3)
    blame.advance(second + 60)
    assert [finding.service for finding in blame.findings(0, 300 * SECOND)] == [3]
    saturated.clear()
    blame.advance(second + 120)
    assert blame.findings(0, 300 * SECOND) == []


def test_what_attempts_stand_for_does_not_change_what_is_chance():
    one = failing((1, 1))
    assert [finding.service for finding in one] == [3]
    seven = failing((7, 7))
    assert [finding[:4] for finding in seven] == [finding[:4] for finding in one]
    assert seven[0].share == pytest.approx(one[0].share, rel=0.05)
    # Four attempts are too few, whatever they stand for.
    assert failing((100, 1), failures=(4, 0)) == []


def test_shares_count_what_attempts_stand_for():
    alike = failing((1, 1), failures=(30, 30))
    assert {finding.service for finding in alike} == {3, 4}
    assert alike[0].share == pytest.approx(alike[1].share)
    sampled = {f.service: f.share for f in failing((3, 1), failures=(30, 30))}
    assert sampled[3] / sampled[4] == pytest.approx(3, rel=0.1)


def test_a_verdict_looks_at_no_step_of_a_journey_that_does_not_burn():
    config = CONFIG.model_dump(mode="json", exclude_unset=True)
    two = [config["journeys"][0] | {"name": name} for name in ("buy", "sell")]
    blame = Blame(Plan(Config.model_validate({"journeys": two})), {"bought": 12}.__getitem__)
    rows = np.zeros(1, SETTLED_SPAN)
    rows["parent"], rows["service"], rows["status"] = -1, 2, 2
    rows["start"], rows["end"] = START, START + 1_000_000
    sums = blame._sums
    sums.now[:] = np.nan

    def burn(count):
        attempts = np.zeros(2, ATTEMPT)
        attempts["start"], attempts["end"] = rows[0]["start"], rows[0]["end"]
        attempts["weight"], attempts["journey"] = 1_000_000, (0, 1)
        blame.observe(rows, np.array([0, 1]), attempts, np.zeros(2, np.int64))
        bad = np.repeat(attempts[1:], count)
        bad["error"] = ERROR
        blame.give(bad, START // SECOND)

    blame.advance(START // SECOND)
    burn(4)
    blame.advance(START // SECOND + 10)
    assert np.isnan(sums.now).all()
    burn(4)
    blame.advance(START // SECOND + 20)
    looked_at = ~np.isnan(sums.now[0, : blame._used]).all(axis=1)
    assert set(blame.state.steps["journey"][: blame._used][looked_at]) == {1}


@given(st.lists(traces(), min_size=1, max_size=6))
def test_the_origin_of_an_error_failed_and_nothing_below_it_did(batch):
    blame = Blame(Plan(CONFIG), {"bought": 12}.__getitem__)
    for rows in batch:
        attempts = np.zeros(1, ATTEMPT)
        attempts["start"], attempts["end"] = rows[0]["start"], rows[0]["end"]
        blame.observe(rows, np.array([0, rows.size]), attempts, np.zeros(1, np.int64))
        inside = own_times(rows, 0)
        failed = {i for i in inside if rows[i]["status"] == 2}
        covered = set()
        for i in range(rows.size):
            if rows[i]["status"] == 2:
                parent = int(rows[i]["parent"])
                while parent >= 0 and parent not in covered:
                    covered.add(parent)
                    parent = int(rows[parent]["parent"])
        origins = failed - covered
        origin = int(attempts[0]["origin"])
        assert (origin >= 0) == bool(origins)
        if origin >= 0 and not any(rows[i]["kind"] in (0, 3) for i in origins):
            step = blame.state.steps[origin]
            assert (step["first"], step["second"]) in {
                (rows[i]["service"], rows[i]["operation"]) for i in origins
            }


@given(st.lists(traces(), min_size=2, max_size=8), st.integers(1, 7))
def test_a_restored_state_goes_on_as_the_one_that_was_saved(batch, cut):
    def feed(blame, rows, second):
        attempts = np.zeros(1, ATTEMPT)
        attempts["start"], attempts["end"] = rows[0]["start"], rows[0]["end"]
        attempts["weight"] = 1_000_000
        blame.advance(second)
        blame.observe(rows, np.array([0, rows.size]), attempts, np.zeros(1, np.int64))
        attempts["error"] = ERROR
        blame.give(attempts, second)

    plan = Plan(CONFIG)
    one = Blame(plan, {"bought": 12}.__getitem__)
    second = START // SECOND
    for i, rows in enumerate(batch):
        if i == cut % len(batch):
            other = Blame(plan, {"bought": 12}.__getitem__)
            saved = {name: array.copy() for name, array in one.dump().items()}
            other.restore(saved, moved_nowhere(plan), second)
            one = other
        feed(one, rows, second + 30 * i)
    whole = Blame(plan, {"bought": 12}.__getitem__)
    for i, rows in enumerate(batch):
        feed(whole, rows, second + 30 * i)
    for name, array in whole.dump().items():
        assert np.array_equal(array, one.dump()[name]), name


def moved_nowhere(plan):
    return Moved.between(plan.names(), plan.names())


def test_kinds_are_those_of_the_contract():
    assert set(steps.KINDS) == {"error", "latency", "missing", "unattributed"}


def test_a_straggler_of_long_ago_makes_no_pain_any_older():
    blame = Blame(Plan(CONFIG), {"bought": 12}.__getitem__)
    second = START // SECOND
    blame.advance(second)

    def since(*ends):
        bad = np.zeros(len(ends), ATTEMPT)
        bad["end"] = START + np.array(ends) * SECOND
        bad["error"], bad["origin"], bad["slowest"] = ERROR, -1, -1
        bad["weight"] = 1_000_000
        blame.give(bad, second)
        return (int(blame.causes["since"][0]) - START) // SECOND

    assert since(-100) == -100
    assert since(-90, -160) == -160, "what comes a little late belongs to it"
    assert since(-7200, -20) == -160
    assert since(-460) == -460
    assert since(281) == 281, "after five quiet minutes it begins anew"


OPERATIONS, DAYS = 6, 40


def test_new_versions_find_room_where_those_before_are_gone():
    """A deployment a day: 12 steps a version, and room for 8 of them."""
    data = CONFIG.model_dump(by_alias=True, exclude_unset=True) | {"limits": {"steps": 100}}
    blame = Blame(Plan(Config.model_validate(data)), {"bought": 12}.__getitem__)
    second = START // SECOND
    rows = np.zeros(1 + 2 * OPERATIONS, SETTLED_SPAN)
    rows["span_id"] = np.arange(rows.size) + 1
    rows["parent"][0], rows["parent"][1:] = -1, 0
    rows["kind"], rows["status"] = 2, 1
    rows["service"][0], rows["operation"][0], rows["version"][0] = 2, 3, 4
    for service in (0, 1):
        mine = slice(1 + service * OPERATIONS, 1 + (service + 1) * OPERATIONS)
        rows["service"][mine], rows["operation"][mine] = 20 + service, 30 + np.arange(OPERATIONS)
    attempt = np.zeros(1, ATTEMPT)
    attempt["weight"] = 1_000_000
    blamed = set()
    for day in range(DAYS):
        version = 100 + day
        rows["version"][1:] = version
        for minute in range(3):
            now = second + day * 86_400 + minute * 60
            blame.advance(now)
            rows["start"], rows["end"] = now * SECOND, now * SECOND + 10_000_000
            rows["start"][1:] += np.arange(1, rows.size) * 1000
            attempt["start"], attempt["end"] = rows["start"][0], rows["end"][0]
            # One service stops failing on the way: steps after which another one went no more.
            rows["status"][-1] = 2 if minute == 2 else 1
            attempt["error"] = ERROR if minute == 2 else 0
            blame.observe(rows, np.array([0, rows.size]), attempt, np.zeros(1, np.int64))
            if minute == 2:
                blame.give(attempt, now)
                cause = blame.causes[blame.causes["time"].argmax()]
                blamed.add((int(cause["service"]), int(cause["version"])))
        told = [change for change in blame.changes() if change.service == 20]
        assert [(c.version, c.previous) for c in told if c.version == version] == (
            [(version, version - 1)] if day else []
        )
        known, used = blame.state.steps, blame._used
        for row in range(used):
            assert known["base"][row] <= row
            assert known["version"][known["who"][row]] == known["version"][row]
            assert known["first"][known["who"][row]] == known["first"][row]
            names = (known[name][row] for name in ("journey", "first", "second", "version"))
            slot = steps.step_slot(known, blame.state.slots, blame.state.seed, *names)
            assert blame.state.slots[slot] == row
        stops = known[:used][known["version"][:used] == steps.STOP]
        assert stops.size
        for name in ("first", "second"):
            at = stops[name]
            assert (known["base"][at] == at).all()
            assert (known["version"][at] != steps.STOP).all()
        assert not blame.state.recent[used:].any()
    assert blame.overflow["step"] == 0
    assert blamed == {(21, 100 + day) for day in range(DAYS)}
    # History outlives the versions that it was learned from.
    first = blame.state.steps[: blame._used]["base"] == np.arange(blame._used)
    assert (blame.state.base[: blame._used][first, steps.SPANS].max()) > DAYS
